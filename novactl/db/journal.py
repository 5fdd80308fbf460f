"""The operation journal: operations, steps, locks and events. Each method is one transaction."""

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from novactl.db import operations
from novactl.db.session import Database, Row, Tx, count_up, dumps
from novactl.engine.operation import (
    ACTIVE,
    Attempt,
    Lock,
    Mode,
    Operation,
    OpState,
    Plan,
    Record,
    StepState,
)
from novactl.engine.ports import Clock
from novactl.engine.step import Registry
from novactl.errors import Busy, Fenced, NotFound
from novactl.version import __version__

LEASE = 60.0


@dataclass(frozen=True)
class Owner:
    """Who runs operations: words for people, and what tells whether the process still lives. `asked_by`: the
    step of another operation that this process works for; what it journals says so."""

    words: str
    user: str
    key: dict[str, Any]
    runner: str = field(default_factory=lambda: uuid.uuid4().hex)
    asked_by: str | None = None


class DbJournal:
    """engine.ports.Journal on the database."""

    def __init__(
        self, db: Database, registry: Registry, clock: Clock, owner: Owner, lease: float = LEASE
    ) -> None:
        """`lease`: seconds that an operation is ours without another word of us."""
        self.db = db
        self.registry = registry
        self.clock = clock
        self.owner = owner
        self.lease = lease

    # --- inside the caller's transaction ---

    def insert(
        self,
        tx: Tx,
        op_id: str,
        plan: Plan,
        parent: str | None = None,
        state: OpState = OpState.PLANNED,
    ) -> Operation:
        """Journal a plan with its locks; RUNNING when this process goes on with it at once. Raises Busy,
        naming the holder, when a lock is taken."""
        now = self.clock.now()
        op = Operation(
            id=op_id,
            kind=plan.kind,
            target=plan.target,
            target_uuid=plan.target_uuid,
            project=plan.project,
            request=plan.request | ({"asked_by": self.owner.asked_by} if self.owner.asked_by else {}),
            state=state,
            attempt=0 if plan.deferred else 1,
            epoch=plan.epoch,
            parent=parent,
            owner=self.owner.words,
            user=self.owner.user,
            written_by=__version__,
            started_at=now,
            records=plan.records(),
            mark=self._mark(tx, op_id),
        )
        tx.insert(
            "operations",
            request=dumps(op.request),
            owner_key=dumps(self.owner.key),
            cancel_requested=0,
            finished_at=None,
            error=None,
            lease_until=tx.now() + self.lease,
            runner=self.owner.runner,
            **{column: getattr(op, column) for column in operations.COLUMNS},
        )
        self._lock(tx, op, plan.locks)
        self._insert_records(tx, op, op.records, now)
        return op

    def _lock(self, tx: Tx, op: Operation, locks: frozenset[Lock]) -> None:
        self._refuse_held(tx, locks)
        tx.insert_many(
            "op_locks",
            [
                {
                    "kind": lock.kind,
                    "id": lock.id,
                    "operation": op.id,
                    "mode": lock.mode,
                    "exclusive": f"{lock.kind}/{lock.id}" if lock.mode is Mode.EXCLUSIVE else None,
                }
                for lock in sorted(locks)
            ],
        )

    def _refuse_held(self, tx: Tx, locks: frozenset[Lock]) -> None:
        """One that is shared is only in the way of one who wants it alone: thousands may share it. Mostly
        none is held, which one statement tells."""
        if not self._any_held(tx, locks):
            return
        for lock in sorted(locks):
            sharing = lock.mode is Mode.SHARED
            where = "l.exclusive = :name" if sharing else "l.kind = :kind AND l.id = :id"
            values = {"name": f"{lock.kind}/{lock.id}"} if sharing else {"kind": lock.kind, "id": lock.id}
            holder = tx.one(
                f"SELECT o.* FROM op_locks l JOIN operations o ON o.id = l.operation WHERE {where} LIMIT 1",
                **values,
            )
            if holder is not None:
                raise self._busy(lock, holder)

    def _any_held(self, tx: Tx, locks: frozenset[Lock]) -> bool:
        names = {f"name{n}": f"{lock.kind}/{lock.id}" for n, lock in enumerate(sorted(locks))}
        tests = [f"exclusive IN ({', '.join(f':{name}' for name in names)})"] if names else []
        values: dict[str, Any] = dict(names)
        for n, lock in enumerate(sorted(lock for lock in locks if lock.mode is Mode.EXCLUSIVE)):
            tests.append(f"kind = :kind{n} AND id = :id{n}")
            values |= {f"kind{n}": lock.kind, f"id{n}": lock.id}
        looks = [f"SELECT 1 AS held FROM op_locks WHERE {test}" for test in tests]
        return bool(looks) and tx.one(f"{' UNION ALL '.join(looks)} LIMIT 1", **values) is not None

    def _busy(self, lock: Lock, holder: Row) -> Busy:
        began = datetime.fromisoformat(holder["started_at"])
        age = (datetime.fromisoformat(self.clock.now()) - began).total_seconds()
        return Busy(
            f"{lock.kind} is held by {holder['kind']} of {holder['target']}: operation {holder['id']},"
            f" {holder['state']}, of {holder['owner']}, {age:.0f} s old",
            hint=f"novactl op show {holder['id']}; if its owner is gone: novactl op resume {holder['id']}",
            operation=holder["id"],
        )

    def _insert_records(self, tx: Tx, op: Operation, records: Sequence[Record], now: str) -> None:
        for record in records:
            if record.state is StepState.DONE:
                record.started_at = record.finished_at = now
        tx.insert_many(
            "steps",
            [
                {
                    "operation": op.id,
                    "n": record.n,
                    "attempt": record.attempt,
                    "step": dumps(self.registry.dump(record.step)),
                    "state": record.state,
                    "started_at": record.started_at,
                    "finished_at": record.finished_at,
                    "error": None,
                    "result": dumps(record.result),
                }
                for record in records
            ],
        )

    def _mark(self, tx: Tx, op_id: str) -> str:
        """What the hosts are told of an operation: by it they tell a database that has forgotten it."""
        return f"{count_up(tx, 'serial'):012d}.{op_id}"

    def take(self, tx: Tx, op: Operation, epoch: int) -> None:
        """Make this process its owner, under a new epoch: the older owner can write no more."""
        op.owner, op.epoch, op.mark = self.owner.words, epoch, self._mark(tx, op.id)
        if op.state is OpState.INCOMPLETE:
            op.state = OpState.RUNNING
        tx.run(
            "UPDATE operations SET owner = :owner, owner_key = :key, runner = :runner, epoch = :epoch,"
            " lease_until = :until, state = :state WHERE id = :id",
            owner=self.owner.words,
            key=dumps(self.owner.key),
            runner=self.owner.runner,
            epoch=epoch,
            until=tx.now() + self.lease,
            state=op.state,
            id=op.id,
        )

    def abandon(self, tx: Tx, op: Operation, reason: str) -> None:
        """It ends as it stands, for one that cleans up all it may have left: its locks are free. Raises
        Fenced when somebody else has taken it over."""
        self._own(tx, op)
        self._turn_in(tx, op, OpState.ABANDONED, reason, self.clock.now())

    def renew(self) -> None:
        """engine.heartbeat: the lease of all that this process works on runs from now."""
        self.db.write(lambda tx: operations.renew(tx, self.owner.runner, self.lease), alone=False)

    def wishes(self) -> dict[str, bool]:
        """engine.heartbeat: the operations of this process, and whether somebody wants their end."""
        return self.db.read(lambda tx: operations.wishes(tx, self.owner.runner))

    def _own(self, tx: Tx, op: Operation) -> None:
        """Raises Fenced unless this process still owns the operation, which has not ended: checked by
        every write. Taking over is a decision, so it cannot happen before this transaction has ended."""
        if not operations.is_owned(tx, op.id, op.epoch, self.owner.runner):
            raise Fenced(f"{op.id}: another novactl has taken it over", hint=f"novactl op show {op.id}")

    def owned(self, op: Operation) -> bool:
        """Whether this process still owns it."""
        return self.db.read(lambda tx: operations.is_owned(tx, op.id, op.epoch, self.owner.runner))

    # --- engine.ports.Journal ---

    def load(self, op_id: str) -> Operation:
        """An operation with its steps. Raises NotFound."""
        return self.db.read(lambda tx: self.load_in(tx, op_id))

    def load_in(self, tx: Tx, op_id: str) -> Operation:
        row = tx.one("SELECT * FROM operations WHERE id = :id", id=op_id)
        if row is None:
            raise NotFound(f"operation {op_id!r} does not exist", hint="novactl op list shows what exists")
        op = operations.operation(row)
        for step in tx.all("SELECT * FROM steps WHERE operation = :id ORDER BY n", id=op_id):
            op.records.append(
                Record(
                    n=step["n"],
                    attempt=step["attempt"],
                    step=self.registry.load(json.loads(step["step"]), op.written_by),
                    state=StepState(step["state"]),
                    started_at=step["started_at"],
                    finished_at=step["finished_at"],
                    error=step["error"],
                    result=json.loads(step["result"]),
                )
            )
        return op

    def refresh_cancel(self, op: Operation) -> bool:
        row = self.db.read(
            lambda tx: tx.one("SELECT cancel_requested FROM operations WHERE id = :id", id=op.id)
        )
        op.cancel_requested = bool(row and row["cancel_requested"])
        return op.cancel_requested

    def started(self, op: Operation, record: Record) -> None:
        record.started_at = self.clock.now()
        self._save(op, record, StepState.STARTED)

    def done(self, op: Operation, record: Record, apply: Callable[[Any], None] | None = None) -> None:
        record.finished_at = self.clock.now()
        record.started_at = record.started_at or record.finished_at
        record.error = None
        self._save(op, record, StepState.DONE, apply)

    def failed(self, op: Operation, record: Record, error: str) -> None:
        record.finished_at, record.error = self.clock.now(), _clean(error)
        record.started_at = record.started_at or record.finished_at
        self._save(op, record, StepState.FAILED)

    def undone(self, op: Operation, record: Record, revert: Callable[[Any], None] | None = None) -> None:
        record.finished_at = self.clock.now()
        self._save(op, record, StepState.UNDONE, revert)

    def stuck(self, op: Operation, record: Record, error: str) -> None:
        record.finished_at, record.error = self.clock.now(), _clean(error)
        self._save(op, record, StepState.STUCK)

    def turn(self, op: Operation, state: OpState, error: str | None = None) -> None:
        """A new state; ending it frees its locks and leaves an event. The object follows the commit."""
        if op.state is state and op.error == error:
            return
        told = error if error is not None or state is OpState.DONE else op.error
        ended = state not in ACTIVE
        now = self.clock.now()

        def work(tx: Tx) -> None:
            self._own(tx, op)
            self._turn_in(tx, op, state, told, now)

        self.db.write(work, alone=False)
        op.state, op.error, op.finished_at = state, told, now if ended else None

    def append_attempt(self, op: Operation, plan: Callable[[Any], Attempt | None]) -> bool:
        """The next attempt's claim, locks and steps, in one transaction; False when there is none to
        try."""

        def work(tx: Tx) -> list[Record] | None:
            self._own(tx, op)
            attempt = plan(tx)
            return None if attempt is None else self._append(tx, op, attempt)

        records = self.db.write(work)
        if records is None:
            return False
        op.attempt, op.state = op.attempt + 1, OpState.RUNNING
        op.records.extend(records)
        return True

    def _append(self, tx: Tx, op: Operation, attempt: Attempt) -> list[Record]:
        number, now = op.attempt + 1, self.clock.now()
        held = {(row["kind"], row["id"]) for row in self._locks_of(tx, op)}
        self._lock(tx, op, frozenset(lock for lock in attempt.locks if (lock.kind, lock.id) not in held))
        numbered = [(0, step) for step in attempt.common] + [(number, step) for step in attempt.steps]
        records = [
            Record(
                n=n,
                attempt=at,
                step=step,
                state=StepState.DONE if step.type in attempt.applied else StepState.PENDING,
            )
            for n, (at, step) in enumerate(numbered, start=len(op.records) + 1)
        ]
        self._insert_records(tx, op, records, now)
        tx.run(
            "UPDATE operations SET attempt = :attempt, state = :state WHERE id = :id",
            attempt=number,
            state=OpState.RUNNING,
            id=op.id,
        )
        return records

    def _locks_of(self, tx: Tx, op: Operation) -> list[Row]:
        return tx.all("SELECT kind, id FROM op_locks WHERE operation = :id", id=op.id)

    def _save(
        self, op: Operation, record: Record, state: StepState, effect: Callable[[Any], None] | None = None
    ) -> None:

        def work(tx: Tx) -> None:
            self._own(tx, op)
            if effect is not None:
                effect(tx)
            tx.run(
                "UPDATE steps SET state = :state, started_at = :started, finished_at = :finished,"
                " error = :error, result = :result WHERE operation = :op AND n = :n",
                state=state,
                started=record.started_at,
                finished=record.finished_at,
                error=record.error,
                result=dumps(record.result),
                op=op.id,
                n=record.n,
            )

        self.db.write(work, alone=False)
        record.state = state

    def _turn_in(self, tx: Tx, op: Operation, state: OpState, error: str | None, now: str) -> None:
        ended = state not in ACTIVE
        tx.run(
            "UPDATE operations SET state = :state, error = :error, finished_at = :finished WHERE id = :id",
            state=state,
            error=error,
            finished=now if ended else None,
            id=op.id,
        )
        if ended:
            tx.run("DELETE FROM op_locks WHERE operation = :id", id=op.id)
        if (ended or state is OpState.INCOMPLETE) and op.target_uuid is not None:
            tx.insert(
                "events",
                time=now,
                target_uuid=op.target_uuid,
                target=op.target,
                action=op.kind,
                operation=op.id,
                result=state,
                message=error or "",
                user=op.user,
            )


def _clean(text: str) -> str:
    """What hosts and tools say may hold anything; PostgreSQL keeps no NUL."""
    return text.replace("\0", "\ufffd")
