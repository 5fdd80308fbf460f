"""The tasks of cron as rows: when each is due, and which process works on it now. Named queries."""

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from novactl.db.session import Row, Tx, dumps, meta, set_meta
from novactl.objects.moments import before

LONGEST_LEASE = 86400.0  # seconds; one that runs longer is of a clock that began anew


@dataclass(frozen=True)
class Runner:
    """The process that wants a task. `boot` begins the ids of all processes of this machine since it was
    started; `alone`: no other machine uses the database, so whoever has another boot is gone."""

    id: str
    boot: str
    alone: bool

    @classmethod
    def of(cls, runner: str, boot: str, *, shared: bool) -> "Runner":
        """`runner` is an owner's, `boot` the uuid of the machine's boot."""
        return cls(id=f"{boot[:8]}.{runner}", boot=f"{boot[:8]}.%", alone=not shared)


@dataclass
class Memory:
    """What is remembered of a task from run to run: when it last ended well and badly, and what has been told
    of its concerns ({key: {since, told, message}})."""

    succeeded_at: str | None = None
    failed_at: str | None = None
    told: dict[str, dict[str, str]] = field(default_factory=dict)


FREE = """(runner IS NULL OR lease_until < :now OR lease_until > :now + :longest
           OR (:alone = 1 AND runner NOT LIKE :boot))"""
DUE = "(due_at <= :now OR due_at > :now + :horizon)"
"""What lies further ahead than a task's interval was set by a clock that began anew (SQLite's counts from
the machine's start), or with another interval."""


def all_of(tx: Tx) -> dict[str, Row]:
    """Every task's row by its name, with `now` on the database's clock, `memory` and whether it is free."""
    now = tx.now()
    rows = {row["name"]: row for row in tx.all("SELECT * FROM tasks ORDER BY name")}
    told = tx.all("SELECT name, value FROM meta WHERE name LIKE 'cron.%'")
    memories = {row["name"].removeprefix("cron."): row["value"] for row in told}
    for name, row in rows.items():
        row["now"] = now
        row["memory"] = Memory(**json.loads(memories[name])) if name in memories else Memory()
    return rows


def is_due(row: Row | None, horizon: float) -> bool:
    """Whether its time has come; `horizon` is the longest that it may have to wait, in seconds."""
    return row is None or row["due_at"] <= row["now"] or row["due_at"] > row["now"] + horizon


def is_free(row: Row | None, runner: Runner) -> bool:
    """What take() asks of it, before anything is written: of many who look, few have to write."""
    if row is None or row["runner"] is None:
        return True
    held = row["now"] <= row["lease_until"] <= row["now"] + LONGEST_LEASE
    return not held or (runner.alone and not row["runner"].startswith(runner.boot.rstrip("%")))


def due_at(row: Row | None, now: str) -> str:
    """When it is due, as RFC 3339; `now` is the same instant as the row's."""
    ahead = max(0.0, row["due_at"] - row["now"]) if row else 0.0
    return before(now, -ahead)


def take(
    tx: Tx, name: str, runner: Runner, lease: float, *, horizon: float, due_or_not: bool, now: str
) -> bool:
    """It is this runner's for `lease` seconds, if it is due (or not, when that does not matter) and nobody's.
    One UPDATE decides: of many who try, one gets it."""
    values: dict[str, Any] = {"now": tx.now(), "longest": LONGEST_LEASE}
    if not tx.one("SELECT 1 AS yes FROM tasks WHERE name = :name", name=name):
        tx.insert("tasks", name=name, due_at=values["now"])
    if not due_or_not:
        values["horizon"] = horizon
    return bool(
        tx.run(
            f"UPDATE tasks SET runner = :runner, lease_until = :now + :lease, started_at = :started,"
            f" finished_at = NULL WHERE name = :name AND {FREE}" + ("" if due_or_not else f" AND {DUE}"),
            runner=runner.id,
            lease=lease,
            started=now,
            name=name,
            alone=int(runner.alone),
            boot=runner.boot,
            **values,
        )
    )


def renew(tx: Tx, runner: Runner, seconds: float) -> None:
    """The lease of the task that the process works on runs from now on."""
    tx.run(
        "UPDATE tasks SET lease_until = :until WHERE runner = :runner",
        until=tx.now() + seconds,
        runner=runner.id,
    )


def held(tx: Tx, runner: Runner) -> set[str]:
    """The tasks that the process works on."""
    rows = tx.all("SELECT name FROM tasks WHERE runner = :runner", runner=runner.id)
    return {row["name"] for row in rows}


def finish(
    tx: Tx, name: str, runner: Runner, *, wait: float, result: str, message: str, now: str, memory: Memory
) -> bool:
    """It ended, and is due again in `wait` seconds; False when it is another's by now."""
    if not tx.run(
        "UPDATE tasks SET runner = NULL, lease_until = NULL, due_at = :due, finished_at = :now,"
        " result = :result, message = :message WHERE name = :name AND runner = :runner",
        due=tx.now() + wait,
        now=now,
        result=result,
        message=message,
        name=name,
        runner=runner.id,
    ):
        return False
    set_meta(tx, f"cron.{name}", dumps(vars(memory)))
    return True


def let_go(tx: Tx, name: str, runner: Runner) -> None:
    """It was not done: it is as due as it was."""
    tx.run(
        "UPDATE tasks SET runner = NULL, lease_until = NULL WHERE name = :name AND runner = :runner",
        name=name,
        runner=runner.id,
    )


def slots(tx: Tx) -> dict[str, str]:
    """When each policy was last carried out: {policy: the time that it was due, RFC 3339}."""
    found: dict[str, str] = json.loads(meta(tx, "policies") or "{}")
    return found


def keep_slot(tx: Tx, policy: str, slot: str, known: Collection[str]) -> None:
    """The policy was carried out for this time; those that are not known any more are forgotten."""
    kept = {name: at for name, at in slots(tx).items() if name in known}
    set_meta(tx, "policies", dumps({**kept, policy: slot}))
