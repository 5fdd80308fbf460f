"""While operations run: the lease is renewed, and a wish to cancel, or the news that another process has
taken them over, reaches those that wait."""

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Protocol

log = logging.getLogger(__name__)

LOOK = 1.0  # seconds between two looks for a wish to cancel
LAST_LOOK = 5.0  # seconds that the last look is waited for: the database may be closed after it


class Leases(Protocol):
    """The journal, as far as a heartbeat needs it."""

    lease: float

    def renew(self) -> None: ...
    def wishes(self) -> dict[str, bool]: ...


class Heartbeat:
    """One thread for all that this process runs; it lives while beating() is entered."""

    def __init__(self, journal: Leases) -> None:
        self._journal = journal
        self._seen: dict[str, bool] | None = None
        self._lock = threading.Lock()
        self._inside = 0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._over = threading.Event()
                self._thread = threading.Thread(target=self._beat, args=(self._over,), daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            last = None
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._over.set()
                    last = self._thread
            if last is not None:
                last.join(LAST_LOOK)

    def cancelled(self, op_id: str) -> bool:
        """Whether somebody was seen to want the operation's end."""
        return bool(self._seen and self._seen.get(op_id))

    def missing(self, op_id: str) -> bool:
        """Whether the last look did not find the operation among ours; it may also be newer than that."""
        return self._seen is not None and op_id not in self._seen

    def _beat(self, over: threading.Event) -> None:
        pause = min(LOOK, self._journal.lease / 4)
        beats = max(1, int(self._journal.lease / 4 / pause))
        count = 0
        while not over.wait(pause):
            count += 1
            try:
                if count % beats == 0:
                    self._journal.renew()
                self._seen = self._journal.wishes()
            except Exception as error:  # noqa: BLE001 - the epochs hold even when the lease runs out
                log.debug("heartbeat: %s", error)
