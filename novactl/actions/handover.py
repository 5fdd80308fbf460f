"""Operations that another process of novactl carries out: journaled here, taken up there, watched here."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from novactl.actions import recover
from novactl.actions.operate import Action, Operator
from novactl.actions.outcome import Outcome
from novactl.db import operations
from novactl.db.session import Tx
from novactl.engine.operation import ACTIVE, Operation, OpState
from novactl.errors import (
    Busy,
    NovactlError,
    OperationFailed,
    OperationIncomplete,
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


def journal(operator: Operator, actions: Sequence[Action], *, together: bool) -> Handed:
    """Check, claim and journal, as Operator.run() does, and run nothing: what is refused is refused
    here."""
    outcomes = [Outcome(target=action.target) for action in actions]
    with operator.working():
        parent = operator.parent(actions)
        ops: list[Operation | None] = [None] * len(actions)
        try:
            if together:
                ops = operator.submit_all(actions, parent)
            else:
                operator.in_threads(
                    lambda n: _one(operator, actions[n], outcomes[n], ops, n, parent), range(len(actions))
                )
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


def _one(
    operator: Operator,
    action: Action,
    outcome: Outcome,
    ops: list[Operation | None],
    index: int,
    parent: Operation | None,
) -> None:
    try:
        ops[index] = operator.submit(action, parent)
    except NovactlError as error:
        outcome.fail(error)


def take_up(operator: Operator, op_id: str, giver: str | None) -> list[Operation]:
    """The operation with its children, ours from now on: from the process `giver` that hands them over,
    or from an owner that is gone. Raises Busy when another has them, Refused when it has ended."""

    def work(tx: Tx) -> list[Operation]:
        op = operator.journal.load_in(tx, op_id)
        if op.state not in ACTIVE:
            raise Refused(f"{op.id}: is {op.state} already")
        if operations.runner(tx, op_id) != giver and not operator.is_left(tx, op):
            raise Busy(f"{op.id}: {op.owner} is working on it since {op.started_at}", operation=op.id)
        active = [child for child, state in operations.states_of_children(tx, op_id) if state in ACTIVE]
        family = [op, *(operator.journal.load_in(tx, child) for child in active)]
        for one in family:
            recover.take(operator, tx, one)
        return family

    return operator.world.db.write(work)


def carry_out(operator: Operator, family: Sequence[Operation]) -> list[Outcome]:
    """Run what take_up() gave: the outcomes of its operations."""
    head, *children = family
    parent = head if "targets" in head.request else None
    ops = children if parent else [head]
    outcomes = [Outcome(target=op.target) for op in ops]
    with operator.working():
        try:
            operator.in_threads(
                lambda n: operator.settle(outcomes[n], ops[n], ops[n].project), range(len(ops))
            )
        finally:
            operator.end(parent)
    return outcomes


def take_back(operator: Operator, handed: Handed) -> None:
    """Nobody took it up: undo it here. What was taken up after all is left to its runner (Fenced)."""
    parent = handed.head if handed.head and "targets" in handed.head.request else None
    with operator.working():
        for op in filter(None, handed.ops):
            if op.state in ACTIVE:
                operator.runner().roll_back(op)
        operator.end(parent)


def follow(operator: Operator, handed: Handed, timeout: float) -> None:
    """Wait for all that was handed over and write down how each ended. A signal asks for their end and
    goes on waiting. Raises TimedOut; then they go on."""
    deadline = time.monotonic() + timeout
    asked = False
    with operator.working():
        for outcome, op in zip(handed.outcomes, handed.ops, strict=True):
            if op is None or op.state not in ACTIVE:
                continue
            while (now := operator.journal.load(op.id)).state in WORKING:
                if time.monotonic() >= deadline:
                    raise TimedOut(
                        f"{op.id}: {op.kind} of {op.target} is {now.state} after {timeout:g} s and goes on",
                        hint=f"novactl op wait {op.id}",
                        operation=op.id,
                    )
                if operator.world.interrupt.is_set() and not asked:
                    asked = True
                    _ask_all_to_end(operator, handed)
                time.sleep(POLL)
            _ended(operator, outcome, now)


def _ask_all_to_end(operator: Operator, handed: Handed) -> None:
    def work(tx: Tx) -> None:
        for op in filter(None, handed.ops):
            operations.request_cancel(tx, op.id)

    operator.world.db.write(work)


def _ended(operator: Operator, outcome: Outcome, op: Operation) -> None:
    outcome.instance = operator.instance(op.target_uuid)
    if op.state is OpState.DONE:
        outcome.result = "done"
    elif op.state is OpState.INCOMPLETE:
        hint = f"novactl op resume {op.id} or novactl op rollback {op.id}"
        outcome.fail(OperationIncomplete(op.error or "was left half way", hint=hint, operation=op.id))
    else:
        outcome.fail(OperationFailed(f"{op.kind} of {op.target}: {op.error or op.state}", operation=op.id))
