"""The operation journal: operations, steps, locks and events. Each method is one transaction."""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from novactl.db import operations
from novactl.db.locks import any_held, clash, hold, name
from novactl.db.session import MANY, Database, Row, Tx, count_up, dumps
from novactl.db.step_words import words
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
SERIAL = "serial"  # the last operation's number: its name in session.meta


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
        """insert_all() of one."""
        return self.insert_all(tx, {op_id: plan}, parent, state)[0]

    def insert_all(
        self,
        tx: Tx,
        plans: Mapping[str, Plan],
        parent: str | None = None,
        state: OpState = OpState.PLANNED,
    ) -> list[Operation]:
        """Journal plans, by operation id, with their locks; RUNNING when this process goes on with them at
        once. Raises Busy, naming the holder, when a lock is taken, or wanted by two of them."""
        if not plans:
            return []
        now, until = self.clock.now(), tx.now() + self.lease
        serial = count_up(tx, SERIAL, len(plans)) - len(plans)
        key = dumps(self.owner.key)
        ops = []
        for n, (op_id, plan) in enumerate(plans.items(), start=1):
            op = self._operation(op_id, plan, parent, state, now)
            op.mark = operations.mark(serial + n, op_id)
            tx.insert(
                "operations",
                request=dumps(op.request),
                owner_key=key,
                cancel_requested=0,
                finished_at=None,
                error=None,
                lease_until=until,
                runner=self.owner.runner,
                **{column: getattr(op, column) for column in operations.COLUMNS},
            )
            self._insert_records(tx, op, op.records, now)
            ops.append(op)
        self._lock(tx, [(op, lock) for op in ops for lock in sorted(plans[op.id].locks)])
        return ops

    def _operation(self, op_id: str, plan: Plan, parent: str | None, state: OpState, now: str) -> Operation:
        return Operation(
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
        )

    def _lock(self, tx: Tx, wanted: Sequence[tuple[Operation, Lock]]) -> None:
        self._refuse_held(tx, sorted({lock for _, lock in wanted}))
        if (both := clash(wanted)) is not None:
            raise self._busy(both[0], vars(both[1]))
        hold(tx, wanted)

    def _refuse_held(self, tx: Tx, locks: Sequence[Lock]) -> None:
        """One that is shared is only in the way of one who wants it alone: thousands may share it. Mostly
        none is held, which one statement tells."""
        for start in range(0, len(locks), MANY):
            some = locks[start : start + MANY]
            if any_held(tx, some):
                self._refuse_one(tx, some)

    def _refuse_one(self, tx: Tx, locks: Sequence[Lock]) -> None:
        for lock in locks:
            sharing = lock.mode is Mode.SHARED
            where = "l.exclusive = :name" if sharing else "l.kind = :kind AND l.id = :id"
            values = {"name": name(lock)} if sharing else {"kind": lock.kind, "id": lock.id}
            holder = tx.one(
                f"SELECT o.* FROM op_locks l JOIN operations o ON o.id = l.operation WHERE {where} LIMIT 1",
                **values,
            )
            if holder is not None:
                raise self._busy(lock, holder)

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
                    "step": words(tx, record.step),
                    "state": record.state,
                    "started_at": record.started_at,
                    "finished_at": record.finished_at,
                    "error": None,
                    "result": dumps(record.result) if record.result else "{}",
                }
                for record in records
            ],
        )

    def take(self, tx: Tx, op: Operation, epoch: int) -> None:
        """Make this process its owner, under a new epoch: the older owner can write no more."""
        op.owner, op.epoch, op.mark = self.owner.words, epoch, operations.mark(count_up(tx, SERIAL), op.id)
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
        new = (lock for lock in sorted(attempt.locks) if (lock.kind, lock.id) not in held)
        self._lock(tx, [(op, lock) for lock in new])
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
