"""Operations that another process left, or that have to end: taken over, cancelled, given way to."""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from novactl.actions import batches, fencing, last_copy, plans, restored, second_copies
from novactl.actions.outcome import Outcome, left_or_ended
from novactl.actions.world import World
from novactl.db import hosts, instances, moves, operations
from novactl.db.journal import DbJournal
from novactl.db.session import Tx
from novactl.engine.operation import ACTIVE, TOUCHED, Operation, OpState, StepState
from novactl.engine.runner import Runner
from novactl.errors import (
    Busy,
    HostFault,
    HostUnreachable,
    Interrupted,
    NotFound,
    NovactlError,
    OperationFailed,
    OperationIncomplete,
    Refused,
)
from novactl.objects.instance import Instance
from novactl.objects.migration import Migration
from novactl.virt.hypervisor import Greeting

OPEN = frozenset({StepState.STARTED, StepState.FAILED, StepState.STUCK})
"""Intents without a result: the older process may still be at them."""


class Operating(Protocol):
    """What is needed of operate.Operator."""

    world: World
    journal: DbJournal
    lock_wait: float

    def working(self) -> AbstractContextManager[None]: ...
    def in_threads(self, work: Callable[[int], None], indices: Sequence[int], most: int = ...) -> None: ...
    def runner(self, gone: frozenset[str] = ...) -> Runner: ...
    def end(self, parent: Operation | None) -> None: ...
    def is_left(self, tx: Tx, op: Operation) -> bool: ...


PATIENCE = 120.0  # seconds that a delete waits for the operation that it has cancelled
POLL = 0.2


def take_over(
    operator: Operating,
    op_id: str,
    *,
    back: bool,
    gone: frozenset[str] = frozenset(),
    first: Callable[[Operation], None] = lambda op: None,
) -> Operation:
    """Finish (or with `back` undo) an operation whose owner is gone, a parent by its children. `gone`: hosts
    that are down for certain, by default those of its own that are fenced and give no answer. `first`: done
    when it is ours and no act of an older process can follow.
    Raises Busy while it lives, Refused when the operation has ended."""
    op, children = _ours(operator, op_id)
    with operator.working():
        try:
            if "targets" in op.request:  # a parent ends as its children do, also when none is active or there
                return _take_over_children(operator, op, children, back=back)
            gone = gone or _gone(operator, op)
            fence(operator, op, gone)
            first(op)
            runner = operator.runner(gone)
            return runner.roll_back(op) if back else runner.run(op)
        except Refused as error:  # past the pivot: nothing was changed, and nobody works on it now
            if op.state in ACTIVE:
                operator.journal.turn(op, OpState.INCOMPLETE, op.error or error.message)
            raise
        except NovactlError as error:
            raise left_or_ended(op, error) from error
        finally:
            second_copies.refresh(operator.world, {record.step.host for record in op.records})


def _gone(operator: Operating, op: Operation) -> frozenset[str]:
    """Hosts of it that are fenced and give no answer; an audit cleans them before they are used again."""
    named = {host for record in op.records for host in record.step.hosts}
    fenced = operator.world.db.read(hosts.fenced) & named
    return frozenset(name for name in fenced if not fencing.answers(operator.world, name))


def take_over_all(operator: Operating) -> list[Outcome]:
    """Finish every operation whose owner is gone, children with their parents; those whose owner lives
    are left alone. After a signal the rest is skipped: taken over it would be undone."""

    def work(tx: Tx) -> list[Operation]:
        active = [op for op, _, _ in operations.listed(tx, active=True) if op.parent is None]
        return [op for op in active if operator.is_left(tx, op)]

    left = operator.world.db.read(work)
    outcomes = []
    with operator.working():
        for op in reversed(left):
            outcome = Outcome(target=op.target, uuid=op.target_uuid, operation=op.id)
            outcomes.append(outcome)
            try:
                operator.world.interrupt.check()
            except Interrupted as error:
                outcome.fail(error)
                outcome.result = "skipped"
                continue
            try:
                if operator.journal.load(op.id).state in ACTIVE:  # else one before it has ended it (asked_by)
                    take_over(operator, op.id, back=False)
                outcome.result = "done"
            except NovactlError as error:
                outcome.fail(error)
    return outcomes


def cancel(operator: Operating, op_id: str) -> Operation:
    """Ask its owner to stop and undo at the next step; when the owner is gone, undo it here. Raises
    Refused when it has ended or is past its point of no return."""
    op = operator.journal.load(op_id)
    if op.state not in ACTIVE:
        raise Refused(f"{op.id}: is {op.state} already")
    if op.past_pivot:
        raise Refused(
            f"{op.id}: {op.kind} of {op.target} is past its point of no return",
            hint=f"novactl op wait {op.id}",
        )
    return take_over(operator, op_id, back=True) if _asked_to_end(operator, op) else op


def make_way(operator: Operating, busy: Busy, facts: Any) -> Operation:
    """Have the operation end that keeps an instance (`facts`) from being deleted: a live owner is asked
    and waited for, a dead one's is undone here, or finished past its point of no return. Returns it as it
    is then; one that can be neither is left INCOMPLETE, and the delete cleans up after it. Raises `busy`
    when it is not the instance that is held, or when its owner is deleting it already."""
    if busy.operation is None or not isinstance(facts, Instance):
        raise busy
    op = operator.journal.load(busy.operation)
    if op.target_uuid != facts.uuid:
        raise busy
    clock = operator.world.clock
    deadline, asked = clock.monotonic() + max(PATIENCE, operator.lock_wait), False
    while op.state in ACTIVE:
        if is_left(operator, op):
            op = _ended_here(operator, op)
            if op.state is OpState.INCOMPLETE or op.state not in ACTIVE:
                return op
        elif op.kind == "delete" or clock.monotonic() >= deadline:
            raise busy
        elif not asked:
            asked = not _asked_to_end(operator, op)
        operator.world.interrupt.check()
        clock.sleep(POLL)
        op = operator.journal.load(op.id)
    return op


def give_up(operator: Operating, instance: Instance) -> Operation | None:
    """What was left half way of an instance whose host is fenced makes way for its evacuation.

    It is undone, or finished past its point of no return, but for what is on fenced hosts: they take nothing
    until an audit has cleaned them. One that would remove all that is left of the instance makes way too: its
    move waits to be reverted. One that can be neither is abandoned when it is about such hosts alone.
    Returns it when it has brought the instance to another host. Raises Busy while its owner lives, and when
    it has to stay."""
    op = _left_of(operator, instance)
    if op is None:
        return None
    gone = operator.world.db.read(lambda tx: frozenset(hosts.fenced(tx)))
    try:
        op = _ended_without(operator, op, gone)
    except OperationIncomplete as error:
        move = last_copy.found(operator.world, instance, gone)
        if move is None:
            _abandon(operator, op.id, instance, gone, error.message)
        else:
            _wait(operator, op.id, move, error.message)
        return None
    now = operator.world.db.read(lambda tx: instances.get(tx, instance.uuid))
    return op if now.host != instance.host else None


def gives_up(operator: Operating, action: plans.Named, instance: Instance) -> dict[str, Any] | None:
    """What give_up would do before this evacuation, which is planned after it, as `--dry-run` prints it; None
    when nothing was left. Raises Busy like that."""
    op = _left_of(operator, instance)
    if op is None:
        return None
    first = {"operation": op.id, "kind": op.kind, "course": "finish" if op.past_pivot else "undo"}
    gone = operator.world.db.read(hosts.fenced) | {str(instance.host)}
    if last_copy.found(operator.world, instance, frozenset(gone)) is not None:
        return {**plans.nothing(action), "first": {**first, "course": "wait"}}
    steps = plans.remaining(op, back=not op.past_pivot)
    return {**plans.nothing(action), "first": first, "steps": steps}


def _left_of(operator: Operating, instance: Instance) -> Operation | None:
    """What holds it, of an owner that is gone. Raises Busy while he lives."""
    held = operator.world.db.read(lambda tx: operations.holding(tx, instance.uuid))
    if held is None:
        return None
    op = operator.journal.load(held)
    if op.kind == "delete" or not is_left(operator, op):
        raise Busy(f"{instance.name}: is held by {op.kind} ({op.id}) of {op.owner}", operation=op.id)
    return op


def _ended_without(operator: Operating, op: Operation, gone: frozenset[str]) -> Operation:
    """Undone; finished when it turns out to be past its point of no return."""
    if not op.past_pivot:
        with contextlib.suppress(Refused):
            return take_over(operator, op.id, back=True, gone=gone)
    return take_over(operator, op.id, back=False, gone=gone)


def _wait(operator: Operating, op_id: str, move: Migration, why: str) -> None:
    """The move waits to be reverted, and nobody works on it."""
    op = operator.journal.load(op_id)
    last_copy.tidy(operator.world, move, op.id, op.epoch)

    def work(tx: Tx) -> None:
        last_copy.wait(tx, move, operator.world.clock.now())
        operator.journal.abandon(tx, op, f"{why}: the move waits to be reverted")

    operator.world.db.write(work)


def _abandon(operator: Operating, op_id: str, instance: Instance, gone: frozenset[str], why: str) -> None:
    """Raises Busy when it is about other hosts than those, or moves the instance."""
    op = operator.journal.load(op_id)
    moves_it = operator.world.db.read(lambda tx: moves.open_of(tx, instance.uuid)) is not None
    if moves_it or not gone.issuperset(one for record in op.records for one in record.step.hosts):
        raise Busy(
            f"{instance.name}: is held by {op.kind} ({op.id}), which cannot be ended: {why}", operation=op.id
        )
    reason = f"{instance.host} is down, and {instance.name} is evacuated: {why}"
    operator.world.db.write(lambda tx: operator.journal.abandon(tx, op, reason))


def is_left(operator: Operating, op: Operation) -> bool:
    """Whether nobody works on it any more."""
    return operator.world.db.read(lambda tx: operator.is_left(tx, op))


def _ended_here(operator: Operating, op: Operation) -> Operation:
    """Ours, and ended if that can be; somebody else's when they were quicker."""
    forward = op.past_pivot or op.kind == "delete"
    try:
        return take_over(operator, op.id, back=not forward)
    except OperationIncomplete:
        if op.kind == "delete":  # what keeps the older delete from ending would keep ours
            raise
    except (Busy, Refused, OperationFailed, Interrupted):
        operator.world.interrupt.check()
    return operator.journal.load(op.id)


def _asked_to_end(operator: Operating, op: Operation) -> bool:
    """Its owner will see the wish; whether the owner is gone."""

    def work(tx: Tx) -> bool:
        operations.request_cancel(tx, op.id)
        return operator.is_left(tx, op)

    return operator.world.db.write(work)


def _ours(operator: Operating, op_id: str) -> tuple[Operation, list[str]]:
    return operator.world.db.write(lambda tx: _taken(operator, tx, op_id))


def _taken(operator: Operating, tx: Tx, op_id: str) -> tuple[Operation, list[str]]:
    """The operation, ours from now on, and its children that have not ended."""
    op = operator.journal.load_in(tx, op_id)
    if op.state not in ACTIVE:
        raise Refused(f"{op.id}: is {op.state} already")
    if not operator.is_left(tx, op):
        raise Busy(f"{op.id}: {op.owner} is working on it since {op.started_at}", operation=op.id)
    children = [child for child, state in operations.states_of_children(tx, op_id) if state in ACTIVE]
    take(operator, tx, op)
    return op, children


def take(operator: Operating, tx: Tx, op: Operation) -> None:
    """Ours under a new epoch."""
    epoch = instances.raise_epoch(tx, op.target_uuid) if op.target_uuid else op.epoch + 1
    operator.journal.take(tx, op, epoch)


def fence(operator: Operating, op: Operation, gone: frozenset[str] = frozenset()) -> None:
    """No act of an older process is under way or can follow on any host where one may be: what an intent
    without a result names, and all that was touched when it was being undone. Raises OperationIncomplete
    when one of them does not answer, since nothing that could start the guest elsewhere may be done;
    Refused when a host knows more than the database."""
    operator.world.reached(op.mark)
    if op.target_uuid is None:
        return
    touched = TOUCHED if op.state is OpState.UNDOING else OPEN
    for host in _hosts(op, TOUCHED):
        try:
            hypervisor = operator.world.hypervisor(host)
            _check_host(operator, op, host, hypervisor.greet(op.target_uuid))
            hypervisor.fence(op.target_uuid, op.epoch)
        except (HostUnreachable, HostFault, Busy, NotFound) as error:
            if host in gone or host not in _hosts(op, touched):
                continue  # nothing is under way there; a step that needs it will say so
            message = f"{op.kind} of {op.target} is left half way: {error.message}"
            operator.journal.turn(op, OpState.INCOMPLETE, message)
            hint = f"when {host} answers again: novactl op resume {op.id}"
            raise OperationIncomplete(message, hint=hint, operation=op.id) from error


def _hosts(op: Operation, states: frozenset[StepState]) -> list[str]:
    return sorted({host for record in op.records if record.state in states for host in record.step.hosts})


def _check_host(operator: Operating, op: Operation, host: str, greeting: Greeting) -> None:
    """Raises Refused when what the host has seen is newer than this operation."""
    restored.check_mark(operator.world, host, greeting.mark)
    if greeting.epoch >= op.epoch:
        restored.refuse(operator.world, f"host {host} has seen epoch {greeting.epoch} of {op.target}")


def _take_over_children(
    operator: Operating, parent: Operation, children: Sequence[str], *, back: bool
) -> Operation:
    """Those of a batch together, as they would have been carried out."""
    failures: list[NovactlError] = []
    waves = batches.waves(operator, parent, children)
    family = [child for wave in waves for child in wave]

    def one(index: int) -> None:
        child = family[index]
        try:
            operator.world.interrupt.check()
            waits = not back and child.state is OpState.PLANNED
            if waits and (why := batches.closed(operator, parent)):
                batches.skip(operator, parent, _ours(operator, child.id)[0], why)
            else:
                take_over(operator, child.id, back=back)
        except NovactlError as error:
            failures.append(error)

    first = 0
    for wave in waves:
        operator.in_threads(one, range(first, first + len(wave)), batches.at_a_time(parent))
        first += len(wave)
    operator.end(parent)
    if failures:
        raise failures[0]
    return parent
