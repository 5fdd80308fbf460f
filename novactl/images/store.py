"""The local directory store: image files named by the SHA-256 of their bytes, written once, only read."""

import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from novactl.errors import ImageRefused, NotFound, UsageError
from novactl.images.blocks import (
    blocks,
    explained,
    need_room,
    sha256_of,
    sha256_of_fd,
    sync_directory,
    write_at,
)
from novactl.images.imagefile import opened
from novactl.images.incoming import Incoming, StoredImage, in_use, open_part
from novactl.images.inspector import inspect_fd
from novactl.images.users import Users
from novactl.objects.names import UUID, check_pattern

STALE_SECONDS = 86400.0  # an incoming file not written for this long belongs to nobody
_SHA256 = re.compile(r"[0-9a-f]{64}")

Progress = Callable[[int, int], None]  # bytes done, bytes in all


class LocalStore:
    """Images under one directory, private to its owner, made when first written to.

    A file is there under its hash whole and synced, or not at all: copies grow in `.incoming`.
    """

    def __init__(self, root: Path, fleet: Callable[[], str] = str) -> None:
        """`fleet`: whose files ours are (users.Users)."""
        self._root = root
        self._users = Users(root, fleet)
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
        another hash than expected; Refused when there is no room. Twice the same bytes are stored once.
        """
        expected = _valid(expected_sha256.lower()) if expected_sha256 else None
        with self._copied(source, progress) as (copy, sha256, size):
            if expected not in (None, sha256):
                why = f"SHA-256 is {sha256}, not {expected}"
                raise ImageRefused(f"{source}: {why}", hint="copy it again, or correct the expected sum")
            info = inspect_fd(copy, str(source), declared)
        return StoredImage(sha256, size, info)

    def take(self, made: Path, *, declared: str) -> StoredImage:
        """A file of scratch() that we made ourselves, in a format that is known, is in the store: nothing is
        copied. Raises as `add`."""
        with opened(made) as fd, explained(made, self._root):
            info = inspect_fd(fd, str(made), declared, pinned=True)
            sha256, size = sha256_of_fd(fd), os.fstat(fd).st_size
            os.fchmod(fd, 0o400)
            os.fsync(fd)
            self._users.place(made, sha256)
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

    def room(self) -> int:
        """Free bytes where it is, or will be."""
        there = next(path for path in (self._root, *self._root.parents) if path.exists())
        return shutil.disk_usage(there).free

    def delete(self, sha256: str) -> None:
        """The file is not in the store, unless another fleet needs it."""
        self._users.drop(_valid(sha256))

    def keep(self, sums: Iterable[str]) -> None:
        """We need those of these files that are in the store: no other fleet takes them away."""
        self._users.keep(sums)

    def put_record(self, uuid: str, content: bytes, kind: str = "shelved") -> None:
        """What is known of something that only its files here are left of: of an instance that is on no host,
        or (`backups`) of a backup."""
        path = self._record(uuid, kind)
        with explained(uuid, self._root):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd, name = tempfile.mkstemp(dir=path.parent, suffix=".new")
            try:
                write_at(fd, content, 0)
                os.fsync(fd)
                Path(name).replace(path)
                sync_directory(path.parent)
            finally:
                os.close(fd)
                Path(name).unlink(missing_ok=True)

    def drop_record(self, uuid: str, kind: str = "shelved") -> None:
        """Nothing is kept of it."""
        self._record(uuid, kind).unlink(missing_ok=True)

    def records(self, kind: str = "shelved") -> dict[str, bytes]:
        """What put_record() has kept, by uuid."""
        return {path.stem: path.read_bytes() for path in sorted((self._root / kind).glob("*.json"))}

    def _record(self, uuid: str, kind: str) -> Path:
        return self._root / kind / f"{check_pattern(uuid, UUID, 'uuid')}.json"

    def verify(self, sha256: str) -> bool:
        """Whether the bytes still have their hash, all read again; raises NotFound."""
        return sha256_of(self.path(sha256)) == sha256

    def set_aside(self, sha256: str) -> None:
        """The file is not in the store; its bytes are kept until the sweep, for who wants to look."""
        self._incoming.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileNotFoundError):
            aside = self._incoming / f"{_valid(sha256)}.corrupt"
            (self._root / sha256).replace(aside)
            os.utime(aside)

    @contextmanager
    def incoming(self, key: str) -> Iterator[Incoming]:
        """The file that comes in pieces under this key: what stood when it was last sent is there.

        Raises Busy while another process receives it. It stays until `finish`, `discard` or the sweep."""
        with explained(key, self._root):
            self._prepare()
            path, fd = open_part(self._incoming, key)
        try:
            yield Incoming(self._users, path, fd)
        finally:
            os.close(fd)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A path beside what comes in, for another program to write to; gone afterwards."""
        with explained("a file", self._root):
            self._prepare()
            fd, name = tempfile.mkstemp(dir=self._incoming)
            os.close(fd)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    @contextmanager
    def _copied(self, source: Path, progress: Progress | None) -> Iterator[tuple[int, str, int]]:
        """A copy of `source` as (descriptor, SHA-256, bytes); it is kept, synced, unless the body raises."""
        with opened(source) as fd, explained(source, self._root):
            self._prepare()
            copy, name = tempfile.mkstemp(dir=self._incoming)
            try:
                need_room(copy, _data(fd), source, self._root)
                sha256, size = _copy(fd, copy, source, progress or _silent)
                yield copy, sha256, size
                os.fchmod(copy, 0o400)
                os.fsync(copy)
                self._users.place(Path(name), sha256)
            finally:
                os.close(copy)
                Path(name).unlink(missing_ok=True)

    def _prepare(self) -> None:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._incoming.mkdir(mode=0o700, exist_ok=True)
        self._remove_stale()

    def _remove_stale(self) -> None:
        """What a killed process left is gone, and what nobody went on with."""
        for left in self._incoming.iterdir():
            with suppress(FileNotFoundError):  # another process removed or finished it
                if time.time() - left.stat().st_mtime > STALE_SECONDS and not in_use(left):
                    left.unlink()


def _data(fd: int) -> int:
    """Bytes that a copy of the file takes."""
    status = os.fstat(fd)
    return min(status.st_size, status.st_blocks * 512)


def _copy(source: int, copy: int, path: Path, progress: Progress) -> tuple[str, int]:
    """(SHA-256, bytes) of `source`, now in `copy` with its holes; ImageRefused if it changed meanwhile."""
    before = os.fstat(source)
    hashed = hashlib.sha256()
    os.ftruncate(copy, before.st_size)
    done = 0
    for hole, data in blocks(source, before.st_size):
        hashed.update(data)
        if not hole:
            write_at(copy, data, done)
        done += len(data)
        progress(done, before.st_size)
    after = os.fstat(source)
    if (done, after.st_size, after.st_mtime_ns) != (before.st_size, before.st_size, before.st_mtime_ns):
        raise ImageRefused(f"{path}: changed while it was copied", hint="stop what writes it, then try again")
    return hashed.hexdigest(), done


def _valid(sha256: str) -> str:
    if not _SHA256.fullmatch(sha256):
        raise UsageError(f"{sha256!r}: not a SHA-256 sum", hint="64 hexadecimal digits, lower case")
    return sha256


def _silent(done: int, total: int) -> None:
    """Progress nobody asked for."""
