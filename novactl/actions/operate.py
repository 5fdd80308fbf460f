"""Journal a change and carry it out: what every verb does after it is understood."""

import concurrent.futures
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from novactl.actions import boot
from novactl.actions.world import World
from novactl.db import instances
from novactl.db.journal import DbJournal, owner_key
from novactl.db.session import Rollback, Tx
from novactl.engine.operation import ACTIVE, Operation, OpState, Plan
from novactl.engine.ports import Failpoints, Observer
from novactl.engine.runner import Runner
from novactl.engine.step import Step
from novactl.errors import Busy, Fenced, NovactlError, OperationIncomplete, Refused
from novactl.objects.instance import Instance

PARALLEL = 16


class Action(Protocol):
    """One change of one target: check reads (it may ask hosts), plan decides inside the transaction that
    journals it, or returns None when the target state already holds."""

    @property
    def kind(self) -> str: ...
    @property
    def target(self) -> str: ...
    def check(self, world: World) -> Any: ...
    def plan(self, world: World, tx: Any, op_id: str, facts: Any) -> Plan | None: ...


@dataclass
class Outcome:
    """How one target ended."""

    target: str
    uuid: str | None = None
    result: str = "failed"
    code: int = 0
    operation: str | None = None
    instance: Instance | None = None
    error: NovactlError | None = field(default=None, repr=False)


class Operator:
    """Runs operations of this process."""

    def __init__(
        self,
        world: World,
        journal: DbJournal,
        *,
        failpoints: Failpoints,
        observe: Observer,
        alive: Callable[[dict[str, Any]], bool],
    ) -> None:
        self.world = world
        self.journal = journal
        self.failpoints = failpoints
        self.observe = observe
        self.alive = alive

    def show(self, action: Action) -> dict[str, Any]:
        """The plan as `--dry-run` prints it (docs/cli.md): made like the real one, then rolled back."""
        facts = action.check(self.world)
        shown: dict[str, Any] = {}
        with self.world.db.write() as tx:
            op_id = self.world.ids.operation()
            plan = action.plan(self.world, tx, op_id, facts)
            if plan is not None:
                shown = describe(self.journal.insert(tx, op_id, plan), plan)
            raise Rollback
        return shown or {
            "kind": action.kind,
            "target": action.target,
            "host": None,
            "alternates": [],
            "steps": [],
            "changes": {},
        }

    def run(self, actions: Sequence[Action], *, together: bool = False) -> list[Outcome]:
        """Each action's outcome, in order. `together`: all are journaled in one transaction or none is
        (then the refusal is raised); else each for itself. Several get a parent operation."""
        self.world.interrupt.armed = True
        outcomes = [Outcome(target=action.target) for action in actions]
        parent = self._parent(actions) if len(actions) > 1 else None
        ops: list[Operation | None] = []
        try:
            ops = self._submit_all(actions, outcomes, parent) if together else [None] * len(actions)
        except NovactlError as error:
            self._end(parent, str(error))
            raise

        def carry_out(index: int) -> None:
            if together:
                self._settle(outcomes[index], ops[index])
            else:
                self._one(actions[index], outcomes[index], parent)

        self._in_threads(carry_out, range(len(actions)))
        failed = sum(outcome.code != 0 for outcome in outcomes)
        self._end(parent, f"{failed} of {len(outcomes)} failed" if failed else None)
        return outcomes

    def _in_threads(self, work: Callable[[int], None], indices: Sequence[int]) -> None:
        with concurrent.futures.ThreadPoolExecutor(max_workers=min(PARALLEL, len(indices) or 1)) as pool:
            for future in [pool.submit(work, index) for index in indices]:
                future.result()

    def _one(self, action: Action, outcome: Outcome, parent: Operation | None) -> None:
        try:
            facts = action.check(self.world)
            with self.world.db.write() as tx:
                op = self._submit(tx, action, facts, parent)
        except NovactlError as error:
            outcome.error, outcome.code = error, error.code
        else:
            self._settle(outcome, op, action)

    def _submit_all(
        self, actions: Sequence[Action], outcomes: Sequence[Outcome], parent: Operation | None
    ) -> list[Operation | None]:
        facts = [action.check(self.world) for action in actions]
        with self.world.db.write() as tx:
            return [
                self._submit(tx, action, fact, parent) for action, fact in zip(actions, facts, strict=True)
            ]

    def _submit(self, tx: Any, action: Action, facts: Any, parent: Operation | None) -> Operation | None:
        op_id = self.world.ids.operation()
        plan = action.plan(self.world, tx, op_id, facts)
        return None if plan is None else self.journal.insert(tx, op_id, plan, parent.id if parent else None)

    def _settle(self, outcome: Outcome, op: Operation | None, action: Action | None = None) -> None:
        """Run a journaled operation and write down how it ended."""
        if op is None:
            outcome.result = "unchanged"
            outcome.uuid, outcome.instance = self._instance_named(outcome.target, action)
            return
        outcome.operation, outcome.uuid = op.id, op.target_uuid
        try:
            self.runner().run(op)
            outcome.result = "done"
        except NovactlError as error:
            outcome.error = _left_or_ended(op, error)
            outcome.code = outcome.error.code
        outcome.instance = self._instance(op.target_uuid)

    def runner(self) -> Runner:
        return Runner(
            self.journal,
            self.world,
            clock=self.world.clock,
            interrupt=self.world.interrupt,
            failpoints=self.failpoints,
            observe=self.observe,
            next_attempt=self._next_attempt,
        )

    def _next_attempt(
        self, tx: Tx, op: Operation, failure: str
    ) -> tuple[Sequence[Step], frozenset[str]] | None:
        return boot.next_attempt(self.world, tx, op, failure) if op.kind == "boot" else None

    def _instance(self, uuid: str | None) -> Instance | None:
        if uuid is None:
            return None
        with self.world.db.read() as tx:
            return instances.get(tx, uuid)

    def _instance_named(self, name: str, action: Action | None) -> tuple[str | None, Instance | None]:
        project = getattr(action, "project", None) or getattr(
            getattr(action, "request", None), "project", "default"
        )
        try:
            with self.world.db.read() as tx:
                found = instances.find(tx, name, str(project))
        except NovactlError:
            return None, None
        return found.uuid, found

    def _parent(self, actions: Sequence[Action]) -> Operation:
        plan = Plan(
            kind=actions[0].kind,
            target=f"{len(actions)} instances",
            target_uuid=None,
            project="",
            request={"targets": [action.target for action in actions]},
            locks=frozenset(),
        )
        with self.world.db.write() as tx:
            op = self.journal.insert(tx, self.world.ids.operation(), plan)
        self.journal.turn(op, OpState.RUNNING)
        return op

    def _end(self, parent: Operation | None, error: str | None) -> None:
        if parent is not None:
            self.journal.turn(parent, OpState.UNDONE if error else OpState.DONE, error)

    # --- operations that another process left ---

    def take_over(self, op_id: str, *, back: bool) -> Operation:
        """Finish (or with `back` undo) an operation whose owner is gone. Raises Busy while it lives,
        Refused when the operation has ended."""
        self.world.interrupt.armed = True
        op = self.journal.load(op_id)
        if op.state not in ACTIVE:
            raise Refused(f"{op.id}: is {op.state} already")
        with self.world.db.write() as tx:
            key = owner_key(tx, op_id)
            if op.state is not OpState.INCOMPLETE and self.alive(key):
                raise Busy(f"{op.id}: {op.owner} is working on it", operation=op.id)
            epoch = instances.raise_epoch(tx, op.target_uuid) if op.target_uuid else op.epoch
            self.journal.take(tx, op, epoch)
        runner = self.runner()
        return runner.roll_back(op) if back else runner.run(op)


def _left_or_ended(op: Operation, error: NovactlError) -> NovactlError:
    """The error that ended an operation; when the journal itself failed, the operation is left half way."""
    if op.state in ACTIVE and not isinstance(error, OperationIncomplete | Fenced):
        return OperationIncomplete(
            f"{op.kind} of {op.target} was left half way: {error.message}",
            hint=f"{error.hint + '; ' if error.hint else ''}then novactl op resume {op.id}",
            operation=op.id,
        )
    error.operation = op.id
    return error


def describe(op: Operation, plan: Plan) -> dict[str, Any]:
    """A plan for people and scripts: the very steps that are journaled."""
    return {
        "kind": plan.kind,
        "target": plan.target,
        "host": plan.host,
        "alternates": list(plan.alternates),
        "steps": [
            {
                "n": record.n,
                "name": record.name,
                "kind": record.kind,
                "host": record.step.host,
                "summary": record.step.summary(),
            }
            for record in op.records
        ],
        "changes": plan.changes,
    }
