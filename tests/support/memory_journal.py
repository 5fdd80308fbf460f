"""engine.ports.Journal in memory, with the same locks and the same loading through the registry."""

import contextlib
import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

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

WRITTEN_BY = "0.0.0-memory"


class MemoryTx:
    """One table of names; enough of db.session.Tx for record steps. A name twice is an error, so that an
    effect applied twice is seen."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def insert(self, table: str, **values: Any) -> None:
        assert values["name"] not in self.names, f"{values['name']} was applied twice"
        self.names.add(values["name"])

    def run(self, sql: str, **values: Any) -> int:
        assert sql.startswith("DELETE")
        found = values["name"] in self.names
        self.names.discard(values["name"])
        return int(found)


class MemoryJournal:
    """What a process that dies leaves behind is only what is in `stored`, `names`, `locks`."""

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self.registry = registry
        self.clock = clock
        self.stored: dict[str, dict[str, Any]] = {}
        self.names: set[str] = set()
        self.locks: list[tuple[Lock, str]] = []
        self.ended: list[tuple[str, str]] = []  # (operation, state): what the events table is

    @contextlib.contextmanager
    def transaction(self) -> Iterator[MemoryTx]:
        before = copy.deepcopy((self.stored, self.names, self.locks, self.ended))
        try:
            yield MemoryTx(self.names)
        except BaseException:
            self.stored, self.names, self.locks, self.ended = before
            raise

    def insert(self, tx: MemoryTx, op_id: str, plan: Plan, parent: str | None = None) -> Operation:
        op = Operation(
            id=op_id,
            kind=plan.kind,
            target=plan.target,
            target_uuid=plan.target_uuid,
            project=plan.project,
            request=plan.request,
            epoch=plan.epoch,
            parent=parent,
            written_by=WRITTEN_BY,
            started_at=self.clock.now(),
            records=plan.records(),
        )
        self._lock(op_id, plan.locks)
        self._store(op)
        for record in op.records:
            self._store_record(op, record)
        return op

    def _lock(self, op_id: str, locks: frozenset[Lock]) -> None:
        for lock in sorted(locks):
            for held, holder in self.locks:
                same = (held.kind, held.id) == (lock.kind, lock.id)
                if same and Mode.EXCLUSIVE in (held.mode, lock.mode):
                    raise Busy(f"{lock.kind} is held by operation {holder}", operation=holder)
        self.locks += [(lock, op_id) for lock in locks]

    def take(self, tx: MemoryTx, op: Operation, epoch: int) -> None:
        op.epoch = epoch
        if op.state is OpState.INCOMPLETE:
            op.state = OpState.RUNNING
        self._store(op)

    def _own(self, op: Operation) -> None:
        if self.stored[op.id]["op"].epoch != op.epoch:
            raise Fenced(f"{op.id}: another novactl has taken it over")

    def owned(self, op: Operation) -> bool:
        now = self.stored[op.id]["op"]
        return bool(now.epoch == op.epoch and now.state in ACTIVE)

    def _store(self, op: Operation) -> None:
        kept = self.stored.setdefault(op.id, {"records": {}, "cancel": False})
        kept["op"] = replace(op, records=[])

    def _store_record(self, op: Operation, record: Record) -> None:
        kept = {**vars(record), "step": self.registry.dump(record.step), "result": record.result}
        self.stored[op.id]["records"][record.n] = json.dumps(kept)

    def load(self, op_id: str) -> Operation:
        if op_id not in self.stored:
            raise NotFound(f"operation {op_id!r} does not exist", hint="novactl op list shows what exists")
        kept = self.stored[op_id]
        op: Operation = replace(kept["op"], cancel_requested=kept["cancel"], records=[])
        for n in sorted(kept["records"]):
            fields = json.loads(kept["records"][n])
            step = self.registry.load(fields.pop("step"), op.written_by)
            op.records.append(Record(**{**fields, "step": step, "state": StepState(fields["state"])}))
        return op

    def request_cancel(self, op_id: str) -> None:
        self.stored[op_id]["cancel"] = True

    def held(self) -> set[tuple[str, str]]:
        return {(f"{lock.kind}/{lock.id}/{lock.mode}", holder) for lock, holder in self.locks}

    # --- engine.ports.Journal ---

    def refresh_cancel(self, op: Operation) -> bool:
        op.cancel_requested = self.stored[op.id]["cancel"]
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
        record.error = error
        self._save(op, record, StepState.FAILED)

    def undone(self, op: Operation, record: Record, revert: Callable[[Any], None] | None = None) -> None:
        self._save(op, record, StepState.UNDONE, revert)

    def stuck(self, op: Operation, record: Record, error: str) -> None:
        record.error = error
        self._save(op, record, StepState.STUCK)

    def _save(
        self, op: Operation, record: Record, state: StepState, effect: Callable[[Any], None] | None = None
    ) -> None:
        with self.transaction() as tx:
            self._own(op)
            if effect is not None:
                effect(tx)
            record.state = state
            self._store_record(op, record)

    def turn(self, op: Operation, state: OpState, error: str | None = None) -> None:
        if op.state is state and op.error == error:
            return
        self._own(op)
        op.state = state
        if error is not None or state is OpState.DONE:
            op.error = error
        ended = state not in ACTIVE
        op.finished_at = self.clock.now() if ended else None
        self._store(op)
        if ended:
            self.locks = [(lock, holder) for lock, holder in self.locks if holder != op.id]
        if (ended or state is OpState.INCOMPLETE) and op.target_uuid is not None:
            self.ended.append((op.id, str(state)))

    def append_attempt(self, op: Operation, plan: Callable[[Any], Attempt | None]) -> bool:
        with self.transaction() as tx:
            self._own(op)
            attempt = plan(tx)
            if attempt is None:
                return False
            held = {(lock.kind, lock.id) for lock, holder in self.locks if holder == op.id}
            self._lock(op.id, frozenset(lock for lock in attempt.locks if (lock.kind, lock.id) not in held))
            op.attempt += 1
            op.state = OpState.RUNNING
            for n, step in enumerate(attempt.steps, start=len(op.records) + 1):
                state = StepState.DONE if step.type in attempt.applied else StepState.PENDING
                op.records.append(Record(n=n, attempt=op.attempt, step=step, state=state))
                self._store_record(op, op.records[-1])
            self._store(op)
        return True
