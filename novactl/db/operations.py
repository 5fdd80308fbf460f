"""Operations as rows: named queries beside the journal's own writes."""

import json
from typing import Any

from novactl.db.session import Row, Tx
from novactl.engine.operation import Operation, OpState
from novactl.errors import NotFound

COUNTED = """
    SELECT o.*, COUNT(s.n) AS steps_total, SUM(CASE WHEN s.state = 'done' THEN 1 ELSE 0 END) AS steps_done,
        (SELECT c.step FROM steps c WHERE c.operation = o.id AND c.state NOT IN ('done', 'undone')
         ORDER BY c.n LIMIT 1) AS step
    FROM operations o LEFT JOIN steps s ON s.operation = o.id
"""


def listed(
    tx: Tx, *, active: bool = False, parent: str | None = None, limit: int = 1000
) -> list[tuple[Operation, int, int]]:
    """(operation without its steps, steps done, steps in all), newest first."""
    where, values = [], {}
    if active:
        where.append("o.state IN ('planned', 'running', 'undoing', 'incomplete')")
    if parent is not None:
        where.append("o.parent = :parent")
        values["parent"] = parent
    rows = tx.all(
        COUNTED
        + (f" WHERE {' AND '.join(where)}" if where else "")
        + " GROUP BY o.id ORDER BY o.started_at DESC, o.id DESC LIMIT :limit",
        limit=limit,
        **values,
    )
    return [_counted(row) for row in rows]


def one(tx: Tx, op_id: str) -> tuple[Operation, int, int]:
    """As listed() has it. Raises NotFound."""
    row = tx.one(f"{COUNTED} WHERE o.id = :id GROUP BY o.id", id=op_id)
    if row is None:
        raise NotFound(f"operation {op_id!r} does not exist", hint="novactl op list shows what exists")
    return _counted(row)


def _counted(row: Row) -> tuple[Operation, int, int]:
    return operation(row), int(row["steps_done"] or 0), row["steps_total"]


def states_of_children(tx: Tx, parent: str) -> list[tuple[str, OpState]]:
    """(id, state) of a parent operation's children, in the order they were made."""
    rows = tx.all(
        "SELECT id, state FROM operations WHERE parent = :parent ORDER BY started_at, id", parent=parent
    )
    return [(row["id"], OpState(row["state"])) for row in rows]


def asked_by(tx: Tx, mark: str) -> list[str]:
    """Operations that have not ended and were journaled for a step of another one; parents, not children."""
    rows = tx.all(
        "SELECT id, request FROM operations WHERE finished_at IS NULL AND parent IS NULL ORDER BY id"
    )
    return [row["id"] for row in rows if json.loads(row["request"]).get("asked_by") == mark]


def request_cancel(tx: Tx, op_id: str) -> None:
    """The owner of the operation, or of its children, sees it before the next step."""
    tx.run("UPDATE operations SET cancel_requested = 1 WHERE id = :id OR parent = :id", id=op_id)


def events(tx: Tx, target_uuid: str) -> list[Row]:
    """What happened to an instance, oldest first."""
    return tx.all("SELECT * FROM events WHERE target_uuid = :uuid ORDER BY id", uuid=target_uuid)


def tell(
    tx: Tx, uuid: str | None, target: str, action: str, result: str, words: str, *, user: str, now: str
) -> None:
    """An event that is no operation's end; without `uuid`: about what is no instance."""
    tx.insert(
        "events",
        time=now,
        target_uuid=uuid,
        target=target,
        action=action,
        operation=None,
        result=result,
        message=words,
        user=user,
    )


def count(tx: Tx, target_uuid: str, kind: str, since: str) -> int:
    """How many operations of this kind an instance has had since then."""
    row = tx.one(
        "SELECT COUNT(*) AS n FROM operations"
        " WHERE target_uuid = :uuid AND kind = :kind AND started_at >= :since",
        uuid=target_uuid,
        kind=kind,
        since=since,
    )
    return int(row["n"]) if row else 0


def owner(tx: Tx, op_id: str) -> tuple[dict[str, Any], bool]:
    """(the record of the process that owns it, whether its lease has run out)."""
    row = tx.one("SELECT owner_key, lease_until FROM operations WHERE id = :id", id=op_id)
    if row is None:
        return {}, True
    return dict(json.loads(row["owner_key"])), row["lease_until"] is None or row["lease_until"] < tx.now()


def runner(tx: Tx, op_id: str) -> str | None:
    """The process that owns it."""
    row = tx.one("SELECT runner FROM operations WHERE id = :id", id=op_id)
    return row["runner"] if row else None


def renew(tx: Tx, runner: str, seconds: float) -> None:
    """The lease of all that the process works on runs from now on."""
    tx.run(
        "UPDATE operations SET lease_until = :until WHERE runner = :runner AND finished_at IS NULL",
        until=tx.now() + seconds,
        runner=runner,
    )


def wishes(tx: Tx, runner: str) -> dict[str, bool]:
    """The process's active operations, and whether somebody wants their end."""
    rows = tx.all(
        "SELECT id, cancel_requested FROM operations WHERE runner = :runner AND finished_at IS NULL",
        runner=runner,
    )
    return {row["id"]: bool(row["cancel_requested"]) for row in rows}


def holding(tx: Tx, instance_uuid: str) -> str | None:
    """The operation that holds the instance, if one does."""
    row = tx.one(
        "SELECT operation FROM op_locks WHERE kind = 'instance' AND id = :uuid AND mode = 'X'",
        uuid=instance_uuid,
    )
    return str(row["operation"]) if row else None


def is_owned(tx: Tx, op_id: str, epoch: int, runner: str) -> bool:
    """Whether it is active and this process's."""
    row = tx.one(
        "SELECT 1 AS yes FROM operations"
        " WHERE id = :id AND epoch = :epoch AND runner = :runner AND finished_at IS NULL",
        id=op_id,
        epoch=epoch,
        runner=runner,
    )
    return row is not None


def is_cancelled(tx: Tx, op_id: str) -> bool:
    """Whether somebody wants its end."""
    row = tx.one("SELECT cancel_requested FROM operations WHERE id = :id", id=op_id)
    return bool(row and row["cancel_requested"])


def mark(serial: int, op_id: str) -> str:
    """What the hosts are told of an operation: by it they tell a database that has forgotten it."""
    return f"{serial:012d}.{op_id}"


COLUMNS = (
    "id kind target target_uuid project state attempt epoch parent owner user written_by started_at".split()
)
"""What is in the row as it is in the object."""


def operation(row: Row) -> Operation:
    """An operation without its steps."""
    plain = {column: row[column] for column in COLUMNS}
    return Operation(
        **{
            **plain,
            "state": OpState(row["state"]),
            "request": json.loads(row["request"]),
            "cancel_requested": bool(row["cancel_requested"]),
            "finished_at": row["finished_at"],
            "error": row["error"],
            "step": json.loads(row["step"])["type"] if row.get("step") else None,
        }
    )
