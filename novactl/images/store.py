"""The local directory store: image files named by the SHA-256 of their bytes, written once, only read."""

import errno
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from novactl.errors import ImageRefused, NotFound, NovactlError, UsageError
from novactl.images.imagefile import opened
from novactl.images.inspector import ImageInfo, inspect_fd

BLOCK = 1 << 20  # bytes copied and hashed at once
STALE_SECONDS = 86400.0  # an incoming file not written for this long belongs to nobody
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Progress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass(frozen=True)
class StoredImage:
    """An image in the store; `size_bytes` is the file's length, holes counted."""

    sha256: str
    size_bytes: int
    info: ImageInfo


class LocalStore:
    """Images under one directory, private to its owner, made when first written to.

    A file is there under its hash whole and synced, or not at all: copies grow in `.incoming`.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / ".incoming"

    def add(
        self,
        source: Path,
        *,
        declared: str | None,
        expected_sha256: str | None = None,
        progress: Progress | None = None,
    ) -> StoredImage:
        """Copy `source` in and say what it is, or raise and leave nothing.

        The copy is inspected, not `source`, which may change: ImageRefused for what it must not be, or for
        another hash than expected; NovactlError when there is no room. Twice the same bytes are stored once.
        """
        expected = _valid(expected_sha256.lower()) if expected_sha256 else None
        with self._copied(source, progress) as (copy, sha256, size):
            if expected not in (None, sha256):
                why = f"SHA-256 is {sha256}, not {expected}"
                raise ImageRefused(f"{source}: {why}", hint="copy it again, or correct the expected sum")
            info = inspect_fd(copy, str(source), declared)
        return StoredImage(sha256, size, info)

    def add_blob(self, source: Path) -> tuple[str, int]:
        """Copy a kernel or an initrd in: (SHA-256, bytes). As `add`, but any non-empty file will do."""
        with self._copied(source, None) as (_, sha256, size):
            return sha256, size

    def path(self, sha256: str) -> Path:
        """Where the file is, or raise NotFound."""
        found = self._root / _valid(sha256)
        if not found.is_file():
            raise NotFound(f"image {sha256}: not in {self._root}")
        return found

    def has(self, sha256: str) -> bool:
        return (self._root / _valid(sha256)).is_file()

    def delete(self, sha256: str) -> None:
        """The file is not in the store."""
        (self._root / _valid(sha256)).unlink(missing_ok=True)

    def verify(self, sha256: str) -> bool:
        """Whether the bytes still have their hash, all read again; raises NotFound."""
        return sha256_of(self.path(sha256)) == sha256

    @contextmanager
    def _copied(self, source: Path, progress: Progress | None) -> Iterator[tuple[int, str, int]]:
        """A copy of `source` as (descriptor, SHA-256, bytes); it is kept, synced, unless the body raises."""
        with opened(source) as fd, _explained(source, self._root):
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._incoming.mkdir(mode=0o700, exist_ok=True)
            self._remove_stale()
            copy, name = tempfile.mkstemp(dir=self._incoming)
            try:
                sha256, size = _copy(fd, copy, source, progress or _silent)
                yield copy, sha256, size
                os.fchmod(copy, 0o400)
                os.fsync(copy)
                Path(name).replace(self._root / sha256)
                _sync_directory(self._root)
            finally:
                os.close(copy)
                Path(name).unlink(missing_ok=True)

    def _remove_stale(self) -> None:
        """What a killed process left is gone."""
        for left in self._incoming.iterdir():
            with suppress(FileNotFoundError):  # another process removed or finished it
                if time.time() - left.stat().st_mtime > STALE_SECONDS:
                    left.unlink()


def sha256_of(path: Path) -> str:
    """Of the regular, non-empty file's bytes, all read. Raises ImageRefused or NotFound."""
    hashed = hashlib.sha256()
    with opened(path) as fd:
        for _, data in _blocks(fd, os.fstat(fd).st_size):
            hashed.update(data)
    return hashed.hexdigest()


def _copy(source: int, copy: int, path: Path, progress: Progress) -> tuple[str, int]:
    """(SHA-256, bytes) of `source`, now in `copy` with its holes; ImageRefused if it changed meanwhile."""
    before = os.fstat(source)
    hashed = hashlib.sha256()
    os.ftruncate(copy, before.st_size)
    done = 0
    for hole, data in _blocks(source, before.st_size):
        hashed.update(data)
        if not hole:
            _write_at(copy, data, done)
        done += len(data)
        progress(done, before.st_size)
    after = os.fstat(source)
    if (done, after.st_size, after.st_mtime_ns) != (before.st_size, before.st_size, before.st_mtime_ns):
        raise ImageRefused(f"{path}: changed while it was copied", hint="stop what writes it, then try again")
    return hashed.hexdigest(), done


def _blocks(fd: int, size: int) -> Iterator[tuple[bool, bytes | memoryview]]:
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


def _write_at(fd: int, data: bytes | memoryview, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        view, at = view[written:], at + written


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _explained(source: Path, root: Path) -> Iterator[None]:
    """Errors of the system as errors of ours."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            hint = f"free space under {root}, or keep images elsewhere"
            raise NovactlError(f"{root}: no room for {source}", hint=hint) from error
        raise NovactlError(f"{root}: cannot store {source}: {error.strerror}") from error


def _valid(sha256: str) -> str:
    if not _SHA256.fullmatch(sha256):
        raise UsageError(f"{sha256!r}: not a SHA-256 sum", hint="64 hexadecimal digits, lower case")
    return sha256


def _silent(done: int, total: int) -> None:
    """Progress nobody asked for."""
