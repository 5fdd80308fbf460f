"""The order of a parent's children: all at once, or in the batches that its request names, further ones only
while not too many have failed. It is in the journal, so whoever takes the parent over keeps to it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from novactl.actions.outcome import Outcome
from novactl.actions.world import World
from novactl.db import operations
from novactl.db.journal import DbJournal
from novactl.db.session import Tx
from novactl.engine.operation import ACTIVE, Operation, OpState

MOST = 128
"""Targets that are worked on at a time. Most of them wait, for a guest to shut down for instance, and cost a
thread; what acts on hosts is bounded there, to shell.CHANNELS at a time on each."""


class Operating(Protocol):
    """What is needed of operate.Operator."""

    world: World
    journal: DbJournal

    def working(self) -> AbstractContextManager[None]: ...
    def in_threads(self, work: Callable[[int], None], indices: Sequence[int], most: int = ...) -> None: ...


def request(targets: Sequence[str], serial: int | None, max_fail_percentage: int) -> dict[str, Any]:
    """What a parent's request says of its children; each child's says `target`."""
    size = serial or max(1, len(targets))
    return {
        "targets": list(targets),
        "batches": [list(targets[n : n + size]) for n in range(0, len(targets), size)],
        "max_fail_percentage": max_fail_percentage,
    }


def at_a_time(parent: Operation | None) -> int:
    """How many of its children are worked on at a time."""
    return int(parent.request.get("parallel", MOST)) if parent is not None else MOST


def first_state(parent: Operation | None) -> OpState:
    """What a child is journaled as: one that has to wait for its batch is planned."""
    return OpState.PLANNED if parent is not None and "batches" in parent.request else OpState.RUNNING


def carry_out(
    operator: Operating,
    parent: Operation | None,
    ops: Sequence[Operation | None],
    outcomes: Sequence[Outcome],
    one: Callable[[int], None],
) -> None:
    """one(index) for each of the operations, which are ours."""
    if parent is None or "batches" not in parent.request:
        operator.in_threads(one, range(len(ops)), at_a_time(parent))
        return
    at = {op.request["target"]: index for index, op in enumerate(ops) if op is not None}
    for batch in parent.request["batches"]:
        chosen = [at[target] for target in batch if target in at]
        why = closed(operator, parent)
        if why is None:
            operator.in_threads(one, chosen)
            continue
        for index in chosen:
            outcomes[index].result = "skipped"
            if (op := ops[index]) is not None:
                outcomes[index].operation = op.id
                skip(operator, parent, op, why)


def closed(operator: Operating, parent: Operation) -> str | None:
    """Why no further child may begin; None while they may. One that was cancelled or interrupted runs on:
    all that is left of it ends at once."""

    def work(tx: Tx) -> tuple[list[OpState], bool]:
        states = [state for _, state in operations.states_of_children(tx, parent.id)]
        return states, operations.is_cancelled(tx, parent.id)

    states, cancelled = operator.world.db.read(work)
    if "batches" not in parent.request or cancelled or operator.world.interrupt.is_set():
        return None
    failed = sum(state not in ACTIVE and state is not OpState.DONE for state in states)
    failed += states.count(OpState.INCOMPLETE)
    total, limit = len(parent.request["targets"]), parent.request["max_fail_percentage"]
    if failed * 100 <= limit * total:
        return None
    return f"was not started: {failed} of {total} failed (max_fail_percentage {limit})"


def skip(operator: Operating, parent: Operation, op: Operation, why: str) -> None:
    """A child that was not started, and is ours, ends so; it waits while one before it is half way, since
    resuming that may let it begin."""
    states = operator.world.db.read(lambda tx: operations.states_of_children(tx, parent.id))
    if all(state is not OpState.INCOMPLETE for _, state in states):
        operator.journal.turn(op, OpState.UNDONE, why)


def waves(operator: Operating, parent: Operation, children: Sequence[str]) -> list[list[Operation]]:
    """These children without their steps, by batches, earlier ones first; all at once without batches."""
    found = operator.world.db.read(lambda tx: [operations.one(tx, child)[0] for child in children])
    place = {target: n for n, batch in enumerate(parent.request.get("batches", ())) for target in batch}
    by_batch: dict[int, list[Operation]] = {}
    for op in found:
        by_batch.setdefault(place.get(op.request.get("target"), 0), []).append(op)
    return [by_batch[n] for n in sorted(by_batch)]
