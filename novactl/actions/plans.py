"""Plans for people and scripts, as `--dry-run` prints them, and what making one must not do."""

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

from novactl.db.session import Tx
from novactl.engine.operation import TOUCHED, Operation, Plan, Record, StepState
from novactl.errors import Refused


class Named(Protocol):
    """What is needed of operate.Action."""

    @property
    def kind(self) -> str: ...
    @property
    def target(self) -> str: ...


@contextlib.contextmanager
def apart(tx: Tx, wanted: bool) -> Iterator[None]:
    """What is done within can be taken back alone: it is when the block raises."""
    if not wanted:
        yield
        return
    tx.run("SAVEPOINT one")
    try:
        yield
    except Refused:
        tx.run("ROLLBACK TO SAVEPOINT one")
        raise
    tx.run("RELEASE SAVEPOINT one")


class Unsealed:
    """Stands for Secrets in a dry run."""

    def seal(self, tx: Any, secret_id: str, owner: str, content: bytes) -> str:
        return f"secret:{secret_id}"

    def open(self, tx: Any, reference: str) -> bytes:
        raise Refused(f"{reference}: a dry run opens no secrets")

    def unseal(self, row: dict[str, Any]) -> bytes:
        return b""


def nothing(action: Named) -> dict[str, Any]:
    """The plan of an action whose target state holds already."""
    return {
        "kind": action.kind,
        "target": action.target,
        "host": None,
        "alternates": [],
        "steps": [],
        "changes": {},
    }


def first(operator: Any, action: Named, world: Any) -> dict[str, Any] | None:
    """What has to end before an evacuation can be planned (recover.gives_up)."""
    proven = getattr(action, "proven", None)
    if proven is None:
        return None
    from novactl.actions import recover

    return recover.gives_up(operator, action, proven(world))


def step(record: Record) -> dict[str, Any]:
    """One of its steps."""
    return {
        "n": record.n,
        "name": record.name,
        "kind": record.kind,
        "host": record.step.host,
        "summary": record.step.summary(),
    }


def remaining(op: Operation, *, back: bool) -> list[dict[str, Any]]:
    """The steps that are still to be undone, or to be done."""
    current = (one for one in op.records if one.attempt in (0, op.attempt))
    undone = [one for one in reversed(op.records) if one.state in TOUCHED]
    return [step(one) for one in (undone if back else current) if back or one.state is not StepState.DONE]


def describe(op: Operation, plan: Plan) -> dict[str, Any]:
    """A plan for people and scripts: the very steps that are journaled."""
    return {
        "kind": plan.kind,
        "target": plan.target,
        "host": plan.host,
        "alternates": list(plan.alternates),
        "steps": [step(record) for record in op.records],
        "changes": plan.changes,
        **({"preflight": list(plan.preflight)} if plan.preflight else {}),
    }
