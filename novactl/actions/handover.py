"""Operations that another process of novactl carries out: journaled here, taken up there, watched here."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from novactl.actions import batches, recover
from novactl.actions.operate import Action, Operator
from novactl.actions.outcome import Outcome, left
from novactl.db import operations
from novactl.db.session import Tx
from novactl.engine.operation import ACTIVE, Operation, OpState
from novactl.errors import (
    Busy,
    Fenced,
    Interrupted,
    NovactlError,
    OperationFailed,
    Refused,
    TimedOut,
)

POLL = 0.1
WORKING = frozenset({OpState.PLANNED, OpState.RUNNING, OpState.UNDOING})


@dataclass
class Handed:
    """What is journaled and waits for its runner: `head` is the one operation or the parent of all; None
    when there is nothing left to do."""

    head: Operation | None
    outcomes: list[Outcome]
    ops: list[Operation | None]


def journal(
    operator: Operator, actions: Sequence[Action], *, together: bool, partial: bool = False
) -> Handed:
    """Check, claim and journal, as Operator.run() does, and run nothing: what is refused is refused
    here."""
    outcomes = [Outcome(target=action.target) for action in actions]
    with operator.working():
        parent = operator.parent(actions)
        try:
            ops = _submitted(operator, actions, outcomes, parent, together=together, partial=partial)
        except BaseException:
            operator.end(parent)
            raise
    for action, outcome, op in zip(actions, outcomes, ops, strict=True):
        if outcome.error is None and (op is None or op.state not in ACTIVE):
            operator.settle(outcome, op, action.project)
        elif op is not None:
            outcome.operation, outcome.uuid = op.id, op.target_uuid
    waiting = [op for op in ops if op is not None and op.state in ACTIVE]
    if not waiting:
        operator.end(parent)
    return Handed((parent or waiting[0]) if waiting else None, outcomes, ops)


def _submitted(
    operator: Operator,
    actions: Sequence[Action],
    outcomes: list[Outcome],
    parent: Operation | None,
    *,
    together: bool,
    partial: bool,
) -> list[Operation | None]:
    if together:
        return operator.submit_all(actions, parent, OpState.PLANNED, outcomes if partial else None)
    ops: list[Operation | None] = [None] * len(actions)

    def one(index: int) -> None:
        try:
            ops[index] = operator.submit(actions[index], parent, OpState.PLANNED)
        except NovactlError as error:
            outcomes[index].fail(error)

    operator.in_threads(one, range(len(actions)))
    return ops


def take_up(operator: Operator, op_id: str, giver: str | None) -> list[Operation]:
    """The operation with its children, ours from now on: from the process `giver` that hands them over,
    or from owners that are gone; children that another has are left to it. Raises Busy when another has
    the operation itself, Refused when it has ended."""

    def work(tx: Tx) -> list[Operation]:
        op = operator.journal.load_in(tx, op_id)
        if op.state not in ACTIVE:
            raise Refused(f"{op.id}: is {op.state} already")
        if not _free(operator, tx, op, giver):
            raise Busy(f"{op.id}: {op.owner} is working on it since {op.started_at}", operation=op.id)
        active = [child for child, state in operations.states_of_children(tx, op_id) if state in ACTIVE]
        children = [operator.journal.load_in(tx, child) for child in active]
        family = [op, *(child for child in children if _free(operator, tx, child, giver))]
        for one in family:
            recover.take(operator, tx, one)
        return family

    return operator.world.db.write(work)


def _free(operator: Operator, tx: Tx, op: Operation, giver: str | None) -> bool:
    return (giver is not None and operations.runner(tx, op.id) == giver) or operator.is_left(tx, op)


def carry_out(operator: Operator, family: Sequence[Operation]) -> list[Outcome]:
    """Run what take_up() gave: the outcomes of its operations."""
    head, *children = family
    parent = head if "targets" in head.request else None
    ops = children if parent else [head]
    outcomes = [Outcome(target=op.target) for op in ops]

    def one(index: int) -> None:
        try:
            recover.fence(operator, ops[index])
        except NovactlError as error:
            outcomes[index].fail(error)
        else:
            operator.settle(outcomes[index], ops[index], ops[index].project)

    with operator.working():
        try:
            batches.carry_out(operator, parent, ops, outcomes, one)
        finally:
            operator.end(parent)
    return outcomes


def take_back(operator: Operator, handed: Handed) -> None:
    """Nobody works on it: undo it here. What somebody does work on after all is left to that process."""
    parent = handed.head if handed.head and "targets" in handed.head.request else None
    with operator.working(), contextlib.suppress(Fenced):
        for op in filter(None, handed.ops):
            try:
                if op.state in ACTIVE:
                    operator.runner().roll_back(op)
            except Fenced:  # it was taken, and perhaps left again
                if recover.is_left(operator, op):
                    recover.take_over(operator, op.id, back=True)
        operator.end(parent)


def follow(operator: Operator, handed: Handed, timeout: float) -> None:
    """Wait for all that was handed over and write down how each ended. A signal asks for their end and
    goes on waiting. Raises TimedOut; then they go on."""
    clock = operator.world.clock
    deadline = clock.monotonic() + timeout
    asked = False
    with operator.working():
        for outcome, op in zip(handed.outcomes, handed.ops, strict=True):
            if op is None or op.state not in ACTIVE:
                continue
            while (now := operator.journal.load(op.id)).state in WORKING:
                if recover.is_left(operator, now) and operator.journal.load(op.id).state in WORKING:
                    break
                if clock.monotonic() >= deadline:
                    raise _timed_out(now, timeout)
                if operator.world.interrupt.is_set() and not asked:
                    asked = True
                    _ask_all_to_end(operator, handed)
                clock.sleep(POLL)
            _ended(operator, outcome, now, asked=asked)


def _timed_out(op: Operation, timeout: float) -> TimedOut:
    return TimedOut(
        f"{op.id}: {op.kind} of {op.target} is {op.state} after {timeout:g} s and goes on",
        hint=f"novactl op wait {op.id}",
        operation=op.id,
    )


def _ask_all_to_end(operator: Operator, handed: Handed) -> None:
    def work(tx: Tx) -> None:
        for op in filter(None, handed.ops):
            operations.request_cancel(tx, op.id)

    operator.world.db.write(work)


def _ended(operator: Operator, outcome: Outcome, op: Operation, *, asked: bool) -> None:
    outcome.instance = operator.instance(op.target_uuid)
    if op.state is OpState.DONE:
        outcome.result = "done"
    elif op.state in ACTIVE:
        outcome.fail(left(op))
    else:
        kind = Interrupted if asked else OperationFailed
        outcome.fail(kind(f"{op.kind} of {op.target}: {op.error or op.state}", operation=op.id))
