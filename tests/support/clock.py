"""Time and names that tests can foretell."""

import random
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


class SimClock:
    """engine.ports.Clock whose time passes only by sleeping (and a microsecond for each look, so that
    times sort). `on_sleep` is what the world does meanwhile."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._lock = threading.Lock()
        self.on_sleep: list[Callable[[float], None]] = []

    def now(self) -> str:
        with self._lock:
            self._seconds += 1e-6
            moment = BEGINNING + timedelta(seconds=self._seconds)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def monotonic(self) -> float:
        return self._seconds

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self._seconds += seconds
        for act in self.on_sleep:
            act(seconds)


class SeededIds:
    """engine.ports.Ids that a seed decides."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._count = 0
        self._lock = threading.Lock()

    def uuid(self) -> str:
        with self._lock:
            return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def operation(self) -> str:
        with self._lock:
            self._count += 1
            return f"op-{self._count:011x}{self._random.getrandbits(32):08x}"
