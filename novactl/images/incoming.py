"""A file that comes into the store in pieces, in order; what stands of it outlives whoever sends it."""

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from novactl.errors import Busy, ImageRefused, NovactlError, UsageError
from novactl.images.blocks import InOrder, explained, need_room, sha256_of_fd, write_at
from novactl.images.inspector import ImageInfo, inspect_fd
from novactl.images.users import Users

_KEY = re.compile(r"[0-9a-z][0-9a-z.-]{0,99}")


@dataclass(frozen=True)
class StoredImage:
    """An image in the store; `size_bytes` is the file's length, holes counted."""

    sha256: str
    size_bytes: int
    info: ImageInfo


class Incoming:
    """The file `<key>.part`, ours while it is open. Its first `have` bytes stand: they are synced, and are
    there again after any death. What came after them is not, until `stands_at` says so.

    `note` is kept beside it: what the sender must know to go on (the ETag of a URL, say); `stored`: the
    SHA-256 under which it has come before (finish). A full disk ends it: then nothing is kept.
    """

    def __init__(self, users: Users, path: Path, fd: int) -> None:
        self._users, self._path, self._fd = users, path, fd
        self._state = path.with_suffix(".json")
        self.have, self.note, self.stored = self._remembered()
        self._end = self.have
        os.ftruncate(fd, self.have)
        self._sum = None if self.have else InOrder()

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """These bytes are in the file from `offset` on; zeros past its end stay a hole."""
        if offset >= self._end and data == bytes(len(data)):
            return
        with self._or_nothing():
            write_at(self._fd, data, offset)
        if self._sum is not None and not self._sum.add(offset, data):
            self._sum = None
        self._end = max(self._end, offset + len(data))

    def need_room(self, size: int) -> None:
        """Raises Refused when there is no room for so many bytes more."""
        need_room(self._fd, size, self.note.get("name", self._path.stem), self._path.parent.parent)

    def stands_at(self, offset: int) -> None:
        """All before `offset` has come, and is there after any death."""
        with self._or_nothing():
            self._reaches(offset)
            os.fdatasync(self._fd)
            self._remember(offset)
        self.have = offset

    def _remember(self, have: int) -> None:
        new = self._state.with_suffix(".new")
        new.write_text(json.dumps({"have": have, "note": self.note, "stored": self.stored}))
        new.replace(self._state)

    def restart(self, note: dict[str, str] | None = None) -> None:
        """Nothing has come yet; `note` is what is known of what will."""
        self._state.unlink(missing_ok=True)
        os.ftruncate(self._fd, 0)
        self.have, self._end, self.note = 0, 0, note or {}
        self._sum = InOrder()

    def finish(
        self,
        size: int,
        *,
        declared: str | None,
        expected_sha256: str | None = None,
        pinned: bool = False,
        noted: bool = False,
    ) -> StoredImage:
        """All `size` bytes have come: hashed, inspected (`pinned`: see there) and in the store. `noted`: that
        is known under its key (`stored`) until it is discarded.

        Raises ImageRefused for what it must not be, or for another hash than expected; then nothing is kept.
        """
        name = self.note.get("name", self._path.stem)
        with self._or_nothing():
            self._reaches(size)
            sha256 = (self._sum and self._sum.of(size)) or sha256_of_fd(self._fd)
            if expected_sha256 not in (None, sha256):
                why = f"SHA-256 is {sha256}, not {expected_sha256}"
                raise ImageRefused(f"{name}: {why}", hint="copy it again, or correct the expected sum")
            info = inspect_fd(self._fd, name, declared, pinned=pinned)
            os.fchmod(self._fd, 0o400)
            os.fsync(self._fd)
            if noted:
                self.stored = sha256
                self._remember(0)
            self._users.place(self._path, sha256)
        if not noted:
            self.discard()
        return StoredImage(sha256, size, info)

    def discard(self) -> None:
        """Nothing of it is there."""
        for path in (self._path, self._state, self._state.with_suffix(".new")):
            path.unlink(missing_ok=True)

    def _reaches(self, size: int) -> None:
        """The file is as long as what came of it, whose end may be a hole."""
        if os.fstat(self._fd).st_size < size:
            os.ftruncate(self._fd, size)

    @contextmanager
    def _or_nothing(self) -> Iterator[None]:
        try:
            with explained(self.note.get("name", self._path.stem), self._path.parent.parent):
                yield
        except NovactlError:
            self.discard()
            raise

    def _remembered(self) -> tuple[int, dict[str, str], str | None]:
        """What stood when it was last open, and what came of it before; nothing when that cannot be told."""
        try:
            said = json.loads(self._state.read_text())
            have, note, stored = int(said["have"]), dict(said["note"]), said.get("stored")
        except (OSError, ValueError, KeyError, TypeError):
            return 0, {}, None
        return (have, note, stored) if 0 <= have <= os.fstat(self._fd).st_size else (0, {}, stored)


def open_part(directory: Path, key: str) -> tuple[Path, int]:
    """`<key>.part` in the directory, and a descriptor that holds its lock; Busy when another has it."""
    if not _KEY.fullmatch(key):
        raise UsageError(f"{key!r} does not name an incoming file")
    path = directory / f"{key}.part"
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), path.stat()):
                return path, fd
        except BlockingIOError as error:
            os.close(fd)
            why = f"{path}: another command receives this file"
            raise Busy(why, hint="wait for it, then try again") from error
        except FileNotFoundError:  # finished or discarded between the two calls
            pass
        os.close(fd)


def in_use(path: Path) -> bool:
    """Whether a process has it open to receive it."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
