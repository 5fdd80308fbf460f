"""Reading, hashing and writing files with holes, and what to say when a disk is full."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from novactl.errors import NovactlError, Refused
from novactl.images.imagefile import opened
from novactl.objects.image import MARGIN

BLOCK = 1 << 20  # bytes copied and hashed at once
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def sha256_of(path: Path) -> str:
    """Of the regular, non-empty file's bytes, all read. Raises ImageRefused or NotFound."""
    with opened(path) as fd:
        return sha256_of_fd(fd)


def sha256_of_fd(fd: int) -> str:
    """As `sha256_of`, of an open file."""
    hashed = hashlib.sha256()
    for _, data in blocks(fd, os.fstat(fd).st_size):
        hashed.update(data)
    return hashed.hexdigest()


class InOrder:
    """The SHA-256 of a file while it is written in order, what is left out being zeros."""

    def __init__(self) -> None:
        self._hashed, self._at = hashlib.sha256(), 0

    def add(self, offset: int, data: bytes | memoryview) -> bool:
        """These bytes are there; False when they are before others that were."""
        if offset < self._at:
            return False
        self._zeros(offset)
        self._hashed.update(data)
        self._at += len(data)
        return True

    def of(self, size: int) -> str | None:
        """Of the file of that length; None when it is shorter than what was written."""
        if size < self._at:
            return None
        self._zeros(size)
        return self._hashed.hexdigest()

    def _zeros(self, end: int) -> None:
        zeros = memoryview(bytes(BLOCK))
        while self._at < end:
            self._hashed.update(zeros[: end - self._at])
            self._at += len(zeros[: end - self._at])


def blocks(fd: int, size: int) -> Iterator[tuple[bool, bytes | memoryview]]:
    """The first `size` bytes as (is a hole, bytes), at most BLOCK at once; fewer if the file is shorter."""
    zeros = memoryview(bytes(BLOCK))
    at = 0
    while at < size:
        data_at = _seek(fd, at, os.SEEK_DATA, size)
        for start in range(at, data_at, BLOCK):
            yield True, zeros[: min(BLOCK, data_at - start)]
        at = data_at
        end = _seek(fd, at, os.SEEK_HOLE, size)
        while at < end:
            if not (data := os.pread(fd, min(BLOCK, end - at), at)):
                return
            yield False, data
            at += len(data)


def _seek(fd: int, at: int, whence: int, size: int) -> int:
    """The next data or hole from `at`; `size` when there is none before it."""
    try:
        return min(os.lseek(fd, at, whence), size)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return size


def write_at(fd: int, data: bytes | memoryview, at: int) -> None:
    """All of the bytes are in the file from `at` on."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        view, at = view[written:], at + written


def sync_directory(path: Path) -> None:
    """The names in the directory are there after a loss of power too."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def need_room(fd: int, size: int, source: object, root: Path) -> None:
    """Raises Refused when so many bytes more leave less than MARGIN where the open file is: the database may
    be there too."""
    found = os.fstatvfs(fd)
    room = found.f_bavail * found.f_frsize - MARGIN
    if size > room:
        why = f"{-(-size >> 20)} MiB are to come, {max(0, room) >> 20} MiB are free"
        raise Refused(f"{root}: no room for {source}: {why}", hint=_MORE_ROOM.format(root))


_MORE_ROOM = "free space under {}, or keep images elsewhere"


@contextmanager
def explained(source: object, root: Path) -> Iterator[None]:
    """Errors of the system as errors of ours."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise NovactlError(f"{root}: no room for {source}", hint=_MORE_ROOM.format(root)) from error
        raise NovactlError(f"{root}: cannot store {source}: {error.strerror}") from error
