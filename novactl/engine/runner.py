"""Run an operation's steps, writing each one down before and after it happens."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from novactl.engine.operation import TOUCHED, Attempt, Operation, OpState, Record, StepState
from novactl.engine.ports import Clock, Failpoints, Interrupt, Journal, Observer
from novactl.engine.step import Answer, Kind, RecordStep, Step
from novactl.errors import (
    Busy,
    DatabaseError,
    Fenced,
    HostFault,
    HostUnreachable,
    Interrupted,
    NotFound,
    NovactlError,
    OperationFailed,
    OperationIncomplete,
    Refused,
)

log = logging.getLogger(__name__)

NextAttempt = Callable[[Any, Operation, str], Attempt | None]


@dataclass
class StepContext:
    """What one step sees of its operation."""

    world: Any
    op: Operation
    record: Record
    clock: Clock
    interrupt: Interrupt
    observe: Observer
    cancelled: Callable[[str], bool] = lambda _: False
    lost: Callable[[Operation], bool] = lambda _: False
    back: bool = False  # the operation is to be undone: a pivot in progress is ended, if that can be
    gone: frozenset[str] = frozenset()  # hosts that are down for certain

    @property
    def operation_id(self) -> str:
        return self.op.id

    @property
    def epoch(self) -> int:
        return self.op.epoch

    def result(self, step_type: str) -> dict[str, Any]:
        for record in self.op.records:
            if record.attempt in (0, self.record.attempt) and record.name == step_type:
                return record.result
        return {}

    def check(self) -> None:
        if self.lost(self.op):
            raise Fenced(f"{self.op.id}: another novactl has taken it over")
        self.interrupt.check()
        if not self.op.past_pivot and self.cancelled(self.op.id):
            raise cancellation(self.op)

    def pause(self, seconds: float) -> None:
        self.check()
        self.clock.sleep(seconds)
        self.check()

    def progress(self, done: int, total: int) -> None:
        self.check()
        self.observe(self.op, self.record, "progress", f"{done * 100 // total if total else 100} %")


class Runner:
    """Carries one operation to an end: done, undone, or left half way with the reason."""

    def __init__(
        self,
        journal: Journal,
        world: Any,
        *,
        clock: Clock,
        interrupt: Interrupt,
        failpoints: Failpoints,
        observe: Observer,
        next_attempt: NextAttempt,
        cancelled: Callable[[str], bool] = lambda _: False,
        lost: Callable[[Operation], bool] = lambda _: False,
        gone: frozenset[str] = frozenset(),
    ) -> None:
        """`gone`: hosts that are down for certain. Nothing is undone there, nor done past the pivot: that is
        for whoever cleans them before they are used again."""
        self.journal = journal
        self.world = world
        self.clock = clock
        self.interrupt = interrupt
        self.failpoints = failpoints
        self.observe = observe
        self.next_attempt = next_attempt
        self.cancelled = cancelled
        self.lost = lost
        self.gone = gone

    def run(self, op: Operation) -> Operation:
        """Go on from wherever the journal ends: forward, or back when it was being undone. Returns the
        operation when it is done; raises OperationFailed or Interrupted when it was undone,
        OperationIncomplete when it was left."""
        failure = self._begin(op) or _left_undoing(op)
        if failure is None:
            self.journal.turn(op, OpState.RUNNING)
        while failure is not None or (failure := self._forward(op)) is not None:
            self._undo(op, op.attempt, failure)
            if not self._again(op, failure):
                self._undo(op, 0, failure)
                self.journal.turn(op, OpState.UNDONE, str(failure))
                raise _undone(op, failure) from failure
            failure = None
        self.journal.turn(op, OpState.DONE)
        return op

    def roll_back(self, op: Operation) -> Operation:
        """Undo all that was ever started. Raises Refused past the pivot, OperationIncomplete when
        something cannot be undone."""
        reason = OperationFailed("rolled back")
        self._begin(op, reason)
        self._refuse_past_pivot(op)
        for attempt in range(op.attempt, -1, -1):
            self._undo(op, attempt, reason)
        self.journal.turn(op, OpState.UNDONE, op.error or "rolled back")
        return op

    def _begin(self, op: Operation, failure: NovactlError | None = None) -> NovactlError | None:
        """The steps of a deferred plan are written before anything else; given why it is to be undone, or
        when they cannot be planned, only those that were applied. Returns why, for the caller to undo."""
        if op.attempt:
            return failure
        words = str(failure) if failure else ""
        try:
            self.journal.append_attempt(op, lambda tx: self.next_attempt(tx, op, words))
        except (Fenced, DatabaseError):
            raise
        except NovactlError as error:
            if failure is not None:
                raise
            return self._begin(op, error)
        return failure

    def _refuse_past_pivot(self, op: Operation) -> None:
        refused = Refused(
            f"{op.id}: {op.kind} of {op.target} is past its point of no return",
            hint=f"novactl op resume {op.id}",
            operation=op.id,
        )
        if op.past_pivot:
            raise refused
        for record in op.records:
            if record.kind is Kind.PIVOT and record.state in TOUCHED:
                match self._ask(op, record, back=True):
                    case Answer.NO:
                        continue
                    case Answer.UNKNOWN:
                        raise self._leave(op, record, OperationFailed("its host gives no answer"))
                    case _:
                        raise refused

    def _again(self, op: Operation, failure: NovactlError) -> bool:
        """Whether another host was claimed and its steps appended."""
        if not isinstance(failure, HostFault | HostUnreachable):
            return False
        try:
            return self.journal.append_attempt(op, lambda tx: self.next_attempt(tx, op, str(failure)))
        except (Busy, Refused, NotFound):  # the next host is held or gone, or nothing may be decided now
            return False

    def _forward(self, op: Operation) -> NovactlError | None:
        """Do what is not done yet. Returns the failure that calls for undoing."""
        for record in op.records:
            if record.state is StepState.DONE or record.attempt not in (0, op.attempt):
                continue
            try:
                if not op.past_pivot:
                    self._may_go_on(op)
                self._do(op, record)
            except Fenced as error:
                raise self._fenced(op, record, error) from error
            except Exception as error:  # noqa: BLE001 - whatever a step raises must be journaled
                failure = self._failed(op, record, error)
                if failure is not None:
                    return failure
        return None

    def _may_go_on(self, op: Operation) -> None:
        self.interrupt.check()
        if self.journal.refresh_cancel(op):
            raise cancellation(op)

    def _do(self, op: Operation, record: Record) -> None:
        ctx = self._context(op, record)
        step = record.step
        if isinstance(step, RecordStep):
            self.failpoints.reach("before-intent", record)
            self.journal.done(op, record, lambda tx: step.apply(tx, ctx))
            self.observe(op, record, "done")
            self.failpoints.reach("after-record", record)
            return
        if step.kind is Kind.PIVOT and record.state in TOUCHED and self._settled(op, record):
            return
        if op.past_pivot and self._is_gone(step):
            self.journal.done(op, record)
            return
        self.failpoints.reach("before-intent", record)
        self.journal.started(op, record)
        self.observe(op, record, "started")
        self.failpoints.reach("after-intent", record)
        record.result = step.do(ctx) or {}
        self.failpoints.reach("after-act", record)
        self.journal.done(op, record)
        self.observe(op, record, "done")
        self.failpoints.reach("after-record", record)

    def _settled(self, op: Operation, record: Record) -> bool:
        """Whether a pivot that was started before us turns out to have happened."""
        match self._ask(op, record):
            case Answer.YES:
                self.journal.done(op, record)
                return True
            case Answer.UNKNOWN:
                raise HostUnreachable(f"{record.step.host}: gives no answer about {record.name}")
            case _:
                return False

    def _failed(self, op: Operation, record: Record, error: Exception) -> NovactlError | None:
        """What a failure means: None to go on, the failure to undo; or raises to leave it half way."""
        failure = _as_error(error)
        log.debug("%s: step %s failed", op.id, record.name, exc_info=error)
        if record.state in TOUCHED or not isinstance(failure, Interrupted):
            self.journal.failed(op, record, str(failure))
        self.observe(op, record, "failed", str(failure))
        if op.past_pivot:
            raise self._leave(op, record, failure) from error
        if record.kind is Kind.PIVOT and record.state in TOUCHED and not isinstance(record.step, RecordStep):
            match self._ask(op, record):
                case Answer.YES:
                    self.journal.done(op, record)
                    return None
                case Answer.NO:
                    return failure
                case _:
                    raise self._leave(op, record, failure) from error
        return failure

    def _ask(self, op: Operation, record: Record, *, back: bool = False) -> Answer:
        ctx = self._context(op, record)
        ctx.back = back
        try:
            return record.step.happened(ctx)
        except NovactlError:
            return Answer.UNKNOWN

    def _undo(self, op: Operation, attempt: int, reason: NovactlError) -> None:
        """Undo, newest first, every step of the attempt that was ever started. Stops at the first that
        cannot be undone: what stands below it may still be in use."""
        touched = [r for r in op.of_attempt(attempt) if r.state in TOUCHED]
        if touched:
            self.journal.turn(op, OpState.UNDOING, str(reason))
        for record in reversed(touched):
            try:
                self._undo_one(op, record)
            except Fenced as error:
                raise self._fenced(op, record, error) from error
            except Exception as error:
                failure = _as_error(error)
                log.debug("%s: undo of %s failed", op.id, record.name, exc_info=error)
                self.journal.stuck(op, record, str(failure))
                raise self._leave(op, record, failure) from error

    def _undo_one(self, op: Operation, record: Record) -> None:
        ctx = self._context(op, record)
        ctx.interrupt, ctx.cancelled = Interrupt(), lambda _: False  # undoing goes on
        step = record.step
        self.failpoints.reach("before-undo", record)
        if isinstance(step, RecordStep):
            self.journal.undone(op, record, lambda tx: step.revert(tx, ctx))
        else:
            if step.elsewhere or not self._is_gone(step):
                step.undo(ctx)
            self.failpoints.reach("after-undo", record)
            self.journal.undone(op, record)
        self.observe(op, record, "undone")
        self.failpoints.reach("after-undo-record", record)

    def _is_gone(self, step: Step) -> bool:
        """Whether all that it acts on is down for certain."""
        return bool(step.hosts) and self.gone.issuperset(step.hosts)

    def _fenced(self, op: Operation, record: Record, error: Fenced) -> NovactlError:
        """Another process has the operation. When by the database it is still ours, the host knows more
        than the database (which was restored from a backup): it is left half way."""
        return self._leave(op, record, error) if self.journal.owned(op) else error

    def _leave(self, op: Operation, record: Record, failure: NovactlError) -> OperationIncomplete:
        message = f"{op.kind} of {op.target} was left half way at {record.name}: {failure}"
        self.journal.turn(op, OpState.INCOMPLETE, message)
        return OperationIncomplete(
            message,
            hint=f"novactl op show {op.id}, then novactl op resume {op.id} or novactl op rollback {op.id}",
            operation=op.id,
        )

    def _context(self, op: Operation, record: Record) -> StepContext:
        return StepContext(
            self.world,
            op,
            record,
            self.clock,
            self.interrupt,
            self.observe,
            self.cancelled,
            self.lost,
            gone=self.gone,
        )


def _left_undoing(op: Operation) -> NovactlError | None:
    """Why an operation found half way was being undone; None when it was going forward. What was taken
    back, a claim above all, is not there any more: it can only be undone to the end."""
    current = [record for record in op.records if record.attempt in (0, op.attempt)]
    taken_back = any(record.state in (StepState.UNDONE, StepState.STUCK) for record in current)
    if op.state is not OpState.UNDOING and not taken_back:
        return None
    why = next((record.error for record in reversed(current) if record.error), op.error)
    return OperationFailed(why or "rolled back")


def cancellation(op: Operation) -> Interrupted:
    """What stops an operation that somebody else wants to end."""
    return Interrupted(f"{op.kind} of {op.target} was cancelled", operation=op.id)


def _as_error(error: Exception) -> NovactlError:
    if isinstance(error, NovactlError):
        return error
    return OperationFailed(f"{type(error).__name__}: {error}")


def _undone(op: Operation, failure: NovactlError) -> NovactlError:
    """What the user is told: the code says that all was undone, the words say why."""
    kind = Interrupted if isinstance(failure, Interrupted) else OperationFailed
    return kind(f"{op.kind} of {op.target}: {failure}", hint=failure.hint, operation=op.id)
