"""Which fleets need a file of the store: databases that share a configuration directory share its images."""

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from novactl.images.blocks import sync_directory


class Users:
    """The files `root/<sha256>`. Who brings one leaves the mark `root/.users/<sha256>.<fleet>`; a file goes
    with its last mark."""

    def __init__(self, root: Path, fleet: Callable[[], str]) -> None:
        """`fleet`: asked when a file is brought or dropped; "" leaves no mark."""
        self._root, self._fleet = root, fleet
        self._marks = root / ".users"

    def place(self, new: Path, sha256: str) -> None:
        """The new file is there as sha256, whole and needed by us, or is not."""
        with self._turn():
            self._leave([sha256])
            new.replace(self._root / sha256)
            sync_directory(self._root)

    def keep(self, sums: Iterable[str]) -> None:
        """We need those of these files that are there, whoever brought them."""
        with self._turn():
            there = {path.name for path in self._root.iterdir()}
            self._leave(sorted(there.intersection(sums)))

    def drop(self, sha256: str) -> None:
        """We do not need it any more; it goes unless another fleet does."""
        with self._turn():
            self._mark(sha256).unlink(missing_ok=True)
            if not any(self._marks.glob(f"{sha256}.*")):
                (self._root / sha256).unlink(missing_ok=True)
            with suppress(OSError):  # others' are in it, or it was never made
                self._marks.rmdir()

    def _leave(self, sums: list[str]) -> None:
        if not (sums and self._fleet()):
            return
        self._marks.mkdir(mode=0o700, exist_ok=True)
        for mark in map(self._mark, sums):
            if not mark.exists():
                mark.touch(mode=0o600)
        sync_directory(self._marks)

    def _mark(self, sha256: str) -> Path:
        return self._marks / f"{sha256}.{self._fleet()}"

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Nobody else brings or drops one meanwhile."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)
