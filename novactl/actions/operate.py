"""Journal a change and carry it out: what every verb does after it is understood."""

import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from novactl.actions import batches, plans, second_copies
from novactl.actions.attempts import NEXT_ATTEMPTS, NextAttemptOf
from novactl.actions.outcome import Outcome, left_or_ended
from novactl.actions.sources import Sources
from novactl.actions.world import World
from novactl.db import instances, operations
from novactl.db.journal import DbJournal
from novactl.db.session import Tx
from novactl.engine.heartbeat import Heartbeat
from novactl.engine.operation import ACTIVE, Attempt, Operation, OpState, Plan
from novactl.engine.ports import Failpoints, Observer
from novactl.engine.runner import Runner, cancellation
from novactl.errors import Busy, NotFound, NovactlError, Refused
from novactl.objects.instance import Instance

ASK_AGAIN = 0.3  # seconds between two tries to get a lock
CHANGES = 3  # how often a record may change between check and plan

T = TypeVar("T")


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


class Alive(Protocol):
    """owner.alive: whether the process of an owner record may still work."""

    def __call__(self, key: dict[str, Any], *, expired: bool, shared: bool) -> bool: ...


class Operator:
    """Runs operations of this process."""

    def __init__(
        self,
        world: World,
        journal: DbJournal,
        *,
        failpoints: Failpoints,
        observe: Observer,
        alive: Alive,
        next_attempts: Mapping[str, NextAttemptOf] = NEXT_ATTEMPTS,
    ) -> None:
        self.world = world
        self.journal = journal
        self.failpoints = failpoints
        self.observe = observe
        self.alive = alive
        self.next_attempts = next_attempts
        self.sources = Sources(world)
        self.heartbeat = Heartbeat(journal)
        self.lock_wait = 0.0
        self._working = 0
        self._lock = threading.Lock()

    # --- showing ---

    def show(self, actions: Sequence[Action], *, partial: bool = False) -> list[dict[str, Any]]:
        """The plans as `--dry-run` prints them (docs/cli.md): made like the real ones, each seeing those
        before it, then rolled back. Nothing is sealed and no key is made for it. `partial` as in run(): one
        that is refused says `refused`."""
        world = replace(self.world, secrets=plans.Unsealed(), rehearsal=True)
        facts: list[Any] = []
        firsts: list[dict[str, Any] | None] = []

        def work(tx: Tx) -> list[dict[str, Any]]:
            shown: list[dict[str, Any]] = []
            for action, fact, first in zip(actions, facts, firsts, strict=True):
                try:
                    with plans.apart(tx, partial):
                        shown.append(first or self._shown(world, tx, action, fact))
                except Refused as error:
                    if not partial:
                        raise
                    shown.append({**plans.nothing(action), "refused": error.message})
            return shown

        def once() -> list[dict[str, Any]]:
            nonlocal facts, firsts
            firsts = [plans.first(self, action, world) for action in actions]
            facts = [first or action.check(world) for action, first in zip(actions, firsts, strict=True)]
            return self.world.db.rehearse(work)

        return self.sources.asked(once)

    def _shown(self, world: World, tx: Tx, action: Action, fact: Any) -> dict[str, Any]:
        op_id = self.world.ids.operation()
        plan = action.plan(world, tx, op_id, fact)
        return (
            plans.nothing(action)
            if plan is None
            else plans.describe(self.journal.insert(tx, op_id, self.sources.of_plan(plan)), plan)
        )

    # --- doing ---

    def run(
        self, actions: Sequence[Action], *, together: bool = False, partial: bool = False
    ) -> list[Outcome]:
        """Each action's outcome, in order. `together`: all are journaled in one transaction or none is
        (then the refusal is raised), with `partial` those that are not refused; else each for itself.
        Several get a parent operation."""
        outcomes = [Outcome(target=action.target) for action in actions]
        with self.working():
            parent = self.parent(actions)
            try:
                state = batches.first_state(parent)
                refused = outcomes if partial else None
                ops = self.submit_all(actions, parent, state, refused) if together else None

                def carry_out(index: int) -> None:
                    if outcomes[index].error is not None:
                        return
                    if ops is not None:
                        self.settle(outcomes[index], ops[index], actions[index].project)
                    else:
                        self._one(actions[index], outcomes[index], parent)

                batches.carry_out(self, parent, ops or [None] * len(actions), outcomes, carry_out)
            finally:
                self.end(parent)
        return outcomes

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Meanwhile a signal stops operations, and their leases are renewed."""
        with self._lock:
            self._working += 1
            self.world.interrupt.armed = True
        try:
            with self.heartbeat.beating():
                yield
        finally:
            with self._lock:
                self._working -= 1
                self.world.interrupt.armed = self._working > 0

    def in_threads(
        self, work: Callable[[int], None], indices: Sequence[int], most: int = batches.MOST
    ) -> None:
        with concurrent.futures.ThreadPoolExecutor(max_workers=min(most, len(indices) or 1)) as pool:
            for future in [pool.submit(work, index) for index in indices]:
                future.result()

    def _one(self, action: Action, outcome: Outcome, parent: Operation | None) -> None:
        try:
            op = self.submit(action, parent, OpState.RUNNING)
        except NovactlError as error:
            outcome.fail(error)
        else:
            self.settle(outcome, op, action.project)

    def submit(self, action: Action, parent: Operation | None, state: OpState) -> Operation | None:
        """Check and journal one action; None when there is nothing to do. While another operation holds
        what it needs it is tried again for `lock_wait` seconds; a delete has that one end, an evacuation one
        that was left. Then the operation returned may be that other one, which has ended."""
        stuck: Operation | None = None

        def once() -> Operation | None:
            nonlocal stuck
            facts = None
            proven = getattr(action, "proven", None)  # one whose host is down for certain: evacuate.Evacuate
            if proven is not None:
                from novactl.actions import recover

                ended = recover.give_up(self, proven(self.world))
                if ended is not None:
                    return ended
            try:
                facts = action.check(self.world)
                return self.world.db.write(lambda tx: self._submit(tx, action, facts, parent, state, stuck))
            except NotFound:
                if stuck is not None and (now := self.journal.load(stuck.id)).state not in ACTIVE:
                    return now  # undoing its boot has removed it, or another delete was finished
                raise
            except Busy as busy:
                if action.kind != "delete" or stuck is not None:
                    raise
                from novactl.actions import recover

                stuck = recover.make_way(self, busy, facts)
            return once()

        return self._patiently(once)

    def submit_all(
        self,
        actions: Sequence[Action],
        parent: Operation | None,
        state: OpState,
        refused: Sequence[Outcome] | None = None,
    ) -> list[Operation | None]:
        """All in one transaction, or none of them; given outcomes, those that are refused fail alone."""

        def once() -> list[Operation | None]:
            facts = [action.check(self.world) for action in actions]

            def work(tx: Tx) -> tuple[list[Operation | None], dict[int, Refused]]:
                _go_on(tx, parent)
                if refused is None:
                    tx.memo["together"] = True  # what all of them take may be counted at once
                made: list[tuple[str, Plan | None]] = []
                errors: dict[int, Refused] = {}
                for index, (action, fact) in enumerate(zip(actions, facts, strict=True)):
                    op_id = self.world.ids.operation()
                    try:
                        with plans.apart(tx, refused is not None):
                            made.append((op_id, action.plan(self.world, tx, op_id, fact)))
                    except Refused as error:
                        if refused is None:
                            raise
                        errors[index] = error
                        made.append((op_id, None))
                return self._journal(tx, made, parent, state), errors

            ops, errors = self.world.db.write(work)
            for index, error in errors.items():
                assert refused is not None
                refused[index].fail(error)
            return ops

        return self._patiently(once)

    def _patiently(self, once: Callable[[], T]) -> T:
        """once(), again when the record changed between its check and its plan, and for `lock_wait`
        seconds while another operation is in its way."""
        clock = self.world.clock
        patience, changes = clock.monotonic() + self.lock_wait, 0
        while True:
            self.world.interrupt.check()
            try:
                return self.sources.asked(once)
            except Busy as busy:
                changes += busy.operation is None
                if clock.monotonic() >= patience and (busy.operation is not None or changes > CHANGES):
                    raise
            if busy_pause := min(ASK_AGAIN, max(0.0, patience - clock.monotonic())):
                clock.sleep(busy_pause)

    def _submit(
        self,
        tx: Any,
        action: Action,
        facts: Any,
        parent: Operation | None,
        state: OpState,
        stuck: Operation | None = None,
    ) -> Operation | None:
        _go_on(tx, parent)
        if stuck is not None and stuck.state is OpState.INCOMPLETE:
            self.journal.abandon(tx, stuck, f"{action.kind} of {action.target} cleans up after it")
        op_id = self.world.ids.operation()
        plan = action.plan(self.world, tx, op_id, facts)
        return self._journal(tx, [(op_id, plan)], parent, state)[0]

    def _journal(
        self, tx: Tx, made: Sequence[tuple[str, Plan | None]], parent: Operation | None, state: OpState
    ) -> list[Operation | None]:
        """The operation of each plan, in order; None where there is nothing to do."""
        wanted = {op_id: self.sources.of_plan(plan) for op_id, plan in made if plan is not None}
        ops = iter(self.journal.insert_all(tx, wanted, parent.id if parent else None, state))
        return [None if plan is None else next(ops) for _, plan in made]

    def settle(self, outcome: Outcome, op: Operation | None, project: str) -> None:
        """Run a journaled operation and write down how it ended."""
        if op is None:
            outcome.result = "unchanged"
            outcome.uuid, outcome.instance = self._instance_named(outcome.target, project)
            return
        outcome.operation, outcome.uuid = op.id, op.target_uuid
        try:
            if op.state in ACTIVE:
                self.run_one(op)
            outcome.result = "done"
        except NovactlError as error:
            outcome.fail(left_or_ended(op, error))
        for record in op.records:
            outcome.takes_effect |= record.result.get("takes_effect", {})
        outcome.instance = self.instance(op.target_uuid)

    def run_one(self, op: Operation) -> None:
        """Carry out one journaled operation. Raises as Runner.run()."""
        self.world.reached(op.mark)
        try:
            self.runner().run(op)
        finally:
            second_copies.refresh(self.world, {record.step.host for record in op.records})

    def runner(self, gone: frozenset[str] = frozenset()) -> Runner:
        return Runner(
            self.journal,
            self.world,
            clock=self.world.clock,
            interrupt=self.world.interrupt,
            failpoints=self.failpoints,
            observe=self.observe,
            next_attempt=self._next_attempt,
            cancelled=self.heartbeat.cancelled,
            lost=self._lost,
            gone=gone,
        )

    def _lost(self, op: Operation) -> bool:
        """Whether another process was seen to have taken it over."""
        return self.heartbeat.missing(op.id) and not self.journal.owned(op)

    def _next_attempt(self, tx: Tx, op: Operation, failure: str) -> Attempt | None:
        again = self.next_attempts.get(op.kind)
        attempt = again(self.world, tx, op, failure) if again else None
        return attempt and self.sources.of_attempt(attempt)

    def instance(self, uuid: str | None) -> Instance | None:
        """The record, also of one that was deleted."""
        if uuid is None:
            return None
        return self.world.db.read(lambda tx: instances.get(tx, uuid))

    def _instance_named(self, name: str, project: str) -> tuple[str | None, Instance | None]:
        try:
            found = self.world.db.read(lambda tx: instances.find(tx, name, project))
        except NovactlError:
            return None, None
        return found.uuid, found

    # --- parents ---

    def parent(self, actions: Sequence[Action]) -> Operation | None:
        """The operation that several actions are children of; None for a single one."""
        if len(actions) < 2:
            return None
        leads = getattr(actions[0], "parent_of", None)  # an action may say more of the whole than its kind
        plan = (
            leads(actions)
            if leads
            else Plan(
                kind=actions[0].kind,
                target=f"{len(actions)} instances",
                target_uuid=None,
                project="",
                request={"targets": [action.target for action in actions]},
                locks=frozenset(),
            )
        )
        op = self.world.db.write(lambda tx: self.journal.insert(tx, self.world.ids.operation(), plan))
        self.journal.turn(op, OpState.RUNNING)
        return op

    def end(self, parent: Operation | None) -> None:
        """A parent ends as its children did: done when one is, undone when none is; while one is active
        it is incomplete, and resuming it resumes them."""
        if parent is None:
            return
        children = self.world.db.read(lambda tx: operations.states_of_children(tx, parent.id))
        states = [state for _, state in children]
        missed = len(parent.request["targets"]) - states.count(OpState.DONE)
        if any(state in ACTIVE for state in states):
            ended = OpState.INCOMPLETE
        else:
            ended = OpState.DONE if OpState.DONE in states or not missed else OpState.UNDONE
        self.journal.turn(
            parent, ended, f"{missed} of {len(parent.request['targets'])} not done" if missed else None
        )

    # --- owners ---

    def is_left(self, tx: Tx, op: Operation) -> bool:
        """Whether nobody works on an active operation any more."""
        key, expired = operations.owner(tx, op.id)
        return op.state is OpState.INCOMPLETE or not self.alive(
            key, expired=expired, shared=self.world.db.shared
        )


def _go_on(tx: Tx, parent: Operation | None) -> None:
    """Raises Interrupted when the whole, of which this is a part, was cancelled."""
    if parent is not None and operations.is_cancelled(tx, parent.id):
        raise cancellation(parent)
