"""What SQLite's write-ahead log is used for beside it: turns, and one wait for the disk for many commits.

A commit appends to the log. With `synchronous = NORMAL` SQLite does not wait until that is on the disk, which
takes longer than all else in a transaction and would keep every other writer waiting: whoever has committed
waits here, after its turn, together with all who do. SQLite itself syncs the log before it takes anything
from there into the database file, so the file is whole at any time.
"""

import contextlib
import fcntl
import os
import random
import sqlite3
import time
from collections.abc import Iterator

from novactl.errors import DatabaseError

PAUSES = (0.001, 0.02)
"""Seconds between two looks: an eighth of what was waited, within these. SQLite's own pauses grow to a tenth
of a second, with the lock free meanwhile."""


class WriteAheadLog:
    """That of a connection which is kept open: so long the file stays the same one."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        (row,) = connection.execute("PRAGMA database_list").fetchall()
        self._path = f"{row['file']}-wal"
        try:
            self._file = os.open(self._path, os.O_RDONLY)
        except OSError as error:
            raise DatabaseError(f"{self._path}: {error.strerror}") from error

    @contextlib.contextmanager
    def turn(self, seconds: float) -> Iterator[None]:
        """Nobody else who asks here is within; after so many seconds without a turn SQLite's own lock has to
        tell, which alone keeps writers apart."""
        began, least, most = time.monotonic(), *PAUSES
        while not self._locked() and (waited := time.monotonic() - began) < seconds:
            pause = min(max(least, waited / 8), most)
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - nothing to be guessed
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _locked(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def sync(self) -> None:
        """All that was committed before is on the disk. Raises DatabaseError when it may not be."""
        try:
            os.fdatasync(self._file)
        except OSError as error:
            raise DatabaseError(f"{self._path}: {error.strerror}: what was written may be lost") from error

    def close(self) -> None:
        os.close(self._file)
