"""While operations run: the lease is renewed, and a wish to cancel reaches those that wait."""

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Protocol

from novactl.errors import NovactlError

log = logging.getLogger(__name__)

LOOK = 1.0  # seconds between two looks for a wish to cancel


class Leases(Protocol):
    """The journal, as far as a heartbeat needs it."""

    lease: float

    def renew(self) -> None: ...
    def cancelled(self) -> set[str]: ...


class Heartbeat:
    """One thread for all that this process runs; it lives while beating() is entered."""

    def __init__(self, journal: Leases) -> None:
        self._journal = journal
        self._cancelled: set[str] = set()
        self._lock = threading.Lock()
        self._inside = 0
        self._over = threading.Event()

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._over = threading.Event()
                threading.Thread(target=self._beat, args=(self._over,), daemon=True).start()
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._over.set()

    def cancelled(self, op_id: str) -> bool:
        """Whether somebody was seen to want the operation's end."""
        return op_id in self._cancelled

    def _beat(self, over: threading.Event) -> None:
        pause = min(LOOK, self._journal.lease / 4)
        beats = max(1, int(self._journal.lease / 4 / pause))
        count = 0
        while not over.wait(pause):
            count += 1
            try:
                if count % beats == 0:
                    self._journal.renew()
                self._cancelled = self._journal.cancelled()
            except NovactlError as error:  # the epochs hold even when the lease runs out
                log.debug("heartbeat: %s", error)
