"""What the engine needs of the world outside it; tests and the simulation bring their own."""

import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol

from novactl.engine.operation import Attempt, Operation, OpState, Record
from novactl.errors import Interrupted


class Clock(Protocol):
    def now(self) -> str:
        """RFC 3339 UTC."""
        ...

    def monotonic(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> str:
        return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Ids(Protocol):
    def uuid(self) -> str: ...
    def operation(self) -> str: ...


class RandomIds:
    """Random uuids; operation ids sort by the time they were made."""

    def uuid(self) -> str:
        return str(uuid.uuid4())

    def operation(self) -> str:
        return f"op-{time.time_ns() // 1_000_000:011x}{uuid.uuid4().hex[:8]}"


class Interrupt:
    """Set by the first Ctrl-C, SIGTERM or SIGHUP: operations stop at their next step and undo. `armed`
    while there is an operation to stop."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.armed = False

    def set(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raises Interrupted once set."""
        if self._event.is_set():
            raise Interrupted("interrupted")


class Failpoints(Protocol):
    def reach(self, point: str, record: Record) -> None:
        """Called at each instant a process could die at; a test may raise here."""
        ...


class NoFailpoints:
    def reach(self, point: str, record: Record) -> None:
        """Nothing happens outside tests."""


INSTANTS = (
    "before-intent",
    "after-intent",
    "after-act",
    "after-record",
    "before-undo",
    "after-undo",
    "after-undo-record",
)


class Journal(Protocol):
    """Where operations are written down. Each method is one transaction."""

    def load(self, op_id: str) -> Operation: ...
    def owned(self, op: Operation) -> bool: ...
    def refresh_cancel(self, op: Operation) -> bool: ...
    def started(self, op: Operation, record: Record) -> None: ...
    def done(self, op: Operation, record: Record, apply: Callable[[Any], None] | None = None) -> None: ...
    def failed(self, op: Operation, record: Record, error: str) -> None: ...
    def undone(self, op: Operation, record: Record, revert: Callable[[Any], None] | None = None) -> None: ...
    def stuck(self, op: Operation, record: Record, error: str) -> None: ...
    def turn(self, op: Operation, state: OpState, error: str | None = None) -> None: ...
    def append_attempt(self, op: Operation, plan: Callable[[Any], Attempt | None]) -> bool: ...


class Observer(Protocol):
    """Told of each change of a record; for progress lines and logs."""

    def __call__(self, op: Operation, record: Record, event: str, detail: str = "") -> None: ...
