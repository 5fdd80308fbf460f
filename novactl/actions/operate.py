"""Journal a change and carry it out: what every verb does after it is understood."""

import concurrent.futures
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from novactl.actions import boot
from novactl.actions.world import World
from novactl.db import instances
from novactl.db.journal import DbJournal, listed, owner_key, request_cancel, states_of_children
from novactl.db.session import Rollback, Tx
from novactl.engine.operation import ACTIVE, Attempt, Operation, OpState, Plan
from novactl.engine.ports import Failpoints, Observer
from novactl.engine.runner import Runner
from novactl.errors import Busy, Fenced, NovactlError, OperationIncomplete, Refused
from novactl.objects.instance import Instance

PARALLEL = 16

NextAttemptOf = Callable[[World, Any, Operation, str], Attempt | None]
NEXT_ATTEMPTS: Mapping[str, NextAttemptOf] = {"boot": boot.next_attempt}
"""Kinds of operation that try another host, and how they plan it."""


class Action(Protocol):
    """One change of one target: check reads (it may ask hosts), plan decides inside the transaction that
    journals it, or returns None when the target state already holds."""

    @property
    def kind(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def project(self) -> str: ...
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
        next_attempts: Mapping[str, NextAttemptOf] = NEXT_ATTEMPTS,
    ) -> None:
        self.world = world
        self.journal = journal
        self.failpoints = failpoints
        self.observe = observe
        self.alive = alive
        self.next_attempts = next_attempts

    def show(self, actions: Sequence[Action]) -> list[dict[str, Any]]:
        """The plans as `--dry-run` prints them (docs/cli.md): made like the real ones, each seeing those
        before it, then rolled back. Nothing is sealed and no key is made for it."""
        world = replace(self.world, secrets=Unsealed())
        facts = [action.check(world) for action in actions]
        shown: list[dict[str, Any]] = []
        with self.world.db.write() as tx:
            for action, fact in zip(actions, facts, strict=True):
                op_id = self.world.ids.operation()
                plan = action.plan(world, tx, op_id, fact)
                shown.append(
                    nothing(action) if plan is None else describe(self.journal.insert(tx, op_id, plan), plan)
                )
            raise Rollback
        return shown

    def run(self, actions: Sequence[Action], *, together: bool = False) -> list[Outcome]:
        """Each action's outcome, in order. `together`: all are journaled in one transaction or none is
        (then the refusal is raised); else each for itself. Several get a parent operation."""
        outcomes = [Outcome(target=action.target) for action in actions]
        parent = self._parent(actions) if len(actions) > 1 else None
        self.world.interrupt.armed = True
        try:
            ops = self._submit_all(actions, parent) if together else None

            def carry_out(index: int) -> None:
                if ops is not None:
                    self._settle(outcomes[index], ops[index], actions[index])
                else:
                    self._one(actions[index], outcomes[index], parent)

            self._in_threads(carry_out, range(len(actions)))
        finally:
            self.world.interrupt.armed = False
            self._end(parent)
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

    def _submit_all(self, actions: Sequence[Action], parent: Operation | None) -> list[Operation | None]:
        facts = [action.check(self.world) for action in actions]
        with self.world.db.write() as tx:
            return [
                self._submit(tx, action, fact, parent) for action, fact in zip(actions, facts, strict=True)
            ]

    def _submit(self, tx: Any, action: Action, facts: Any, parent: Operation | None) -> Operation | None:
        op_id = self.world.ids.operation()
        plan = action.plan(self.world, tx, op_id, facts)
        return None if plan is None else self.journal.insert(tx, op_id, plan, parent.id if parent else None)

    def _settle(self, outcome: Outcome, op: Operation | None, action: Action) -> None:
        """Run a journaled operation and write down how it ended."""
        if op is None:
            outcome.result = "unchanged"
            outcome.uuid, outcome.instance = self._instance_named(outcome.target, action.project)
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

    def _next_attempt(self, tx: Tx, op: Operation, failure: str) -> Attempt | None:
        again = self.next_attempts.get(op.kind)
        return again(self.world, tx, op, failure) if again else None

    def _instance(self, uuid: str | None) -> Instance | None:
        if uuid is None:
            return None
        with self.world.db.read() as tx:
            return instances.get(tx, uuid)

    def _instance_named(self, name: str, project: str) -> tuple[str | None, Instance | None]:
        try:
            with self.world.db.read() as tx:
                found = instances.find(tx, name, project)
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

    def _end(self, parent: Operation | None) -> None:
        """A parent ends as its children did: done when one is, undone when none is; while one is active
        it is incomplete, and resuming it resumes them."""
        if parent is None:
            return
        with self.world.db.read() as tx:
            states = [state for _, state in states_of_children(tx, parent.id)]
        missed = len(parent.request["targets"]) - states.count(OpState.DONE)
        if any(state in ACTIVE for state in states):
            ended = OpState.INCOMPLETE
        else:
            ended = OpState.DONE if OpState.DONE in states or not missed else OpState.UNDONE
        self.journal.turn(
            parent, ended, f"{missed} of {len(parent.request['targets'])} not done" if missed else None
        )

    # --- operations that another process left ---

    def take_over(self, op_id: str, *, back: bool) -> Operation:
        """Finish (or with `back` undo) an operation whose owner is gone, a parent by its children. Raises
        Busy while it lives, Refused when the operation has ended."""
        op, children = self._taken(op_id)
        self.world.interrupt.armed = True
        try:
            if "targets" in op.request:  # a parent ends as its children do, also when none is active or there
                return self._take_over_children(op, children, back=back)
            runner = self.runner()
            return runner.roll_back(op) if back else runner.run(op)
        except Refused as error:  # past the pivot: nothing was changed, and nobody works on it now
            if op.state in ACTIVE:
                self.journal.turn(op, OpState.INCOMPLETE, op.error or error.message)
            raise
        except NovactlError as error:
            raise _left_or_ended(op, error) from error
        finally:
            self.world.interrupt.armed = False

    def take_over_all(self) -> list[Outcome]:
        """Finish every operation whose owner is gone, children with their parents; those whose owner lives
        are left alone."""
        with self.world.db.read() as tx:
            active = [op for op, _, _ in listed(tx, active=True) if op.parent is None]
            left = [op for op in active if self._is_left(tx, op)]
        outcomes = []
        for op in reversed(left):
            outcome = Outcome(target=op.target, uuid=op.target_uuid, operation=op.id)
            try:
                self.take_over(op.id, back=False)
                outcome.result = "done"
            except NovactlError as error:
                outcome.error, outcome.code = error, error.code
            outcomes.append(outcome)
        return outcomes

    def _is_left(self, tx: Tx, op: Operation) -> bool:
        return op.state is OpState.INCOMPLETE or not self.alive(owner_key(tx, op.id))

    def cancel(self, op_id: str) -> Operation:
        """Ask its owner to stop and undo at the next step; when the owner is gone, undo it here. Raises
        Refused when it has ended or is past its point of no return."""
        op = self.journal.load(op_id)
        if op.state not in ACTIVE:
            raise Refused(f"{op.id}: is {op.state} already")
        if op.past_pivot:
            raise Refused(
                f"{op.id}: {op.kind} of {op.target} is past its point of no return",
                hint=f"novactl op wait {op.id}",
            )
        with self.world.db.write() as tx:
            request_cancel(tx, op_id)
            left = self._is_left(tx, op)
        return self.take_over(op_id, back=True) if left else op

    def _taken(self, op_id: str) -> tuple[Operation, list[str]]:
        """The operation, ours from now on, and its children that have not ended."""
        with self.world.db.write() as tx:
            op = self.journal.load_in(tx, op_id)
            if op.state not in ACTIVE:
                raise Refused(f"{op.id}: is {op.state} already")
            if op.state is not OpState.INCOMPLETE and self.alive(owner_key(tx, op_id)):
                raise Busy(f"{op.id}: {op.owner} is working on it since {op.started_at}", operation=op.id)
            children = [child for child, state in states_of_children(tx, op_id) if state in ACTIVE]
            epoch = instances.raise_epoch(tx, op.target_uuid) if op.target_uuid else op.epoch + 1
            self.journal.take(tx, op, epoch)
        return op, children

    def _take_over_children(self, parent: Operation, children: Sequence[str], *, back: bool) -> Operation:
        failures: list[NovactlError] = []
        for child in children:
            try:
                self.take_over(child, back=back)
            except NovactlError as error:
                failures.append(error)
        self._end(parent)
        if failures:
            raise failures[0]
        return parent


class Unsealed:
    """Stands for Secrets in a dry run."""

    def seal(self, tx: Any, secret_id: str, owner: str, content: bytes) -> str:
        return f"secret:{secret_id}"

    def open(self, tx: Any, reference: str) -> bytes:
        raise Refused(f"{reference}: a dry run opens no secrets")


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


def nothing(action: Action) -> dict[str, Any]:
    """The plan of an action whose target state holds already."""
    return {
        "kind": action.kind,
        "target": action.target,
        "host": None,
        "alternates": [],
        "steps": [],
        "changes": {},
    }


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
