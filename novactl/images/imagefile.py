"""Reads of an image file that never pass its end, and the refusals that name it."""

import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from novactl.errors import ImageRefused, NotFound

MAX_VIRTUAL_SIZE = 64 << 40  # bytes
SECTOR = 512  # bytes
TABLE_BUDGET = (
    16 << 20
)  # bytes of second-level tables read to find a truncated file; a bigger image is read in part
CHUNK = 64 << 10  # bytes of a first-level table read at once


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor of the regular, non-empty file at `path`; follows links, never opens devices or pipes.

    Raises ImageRefused, or NotFound when there is nothing there.
    """
    try:
        _require_regular(path, path.stat())  # before opening: merely opening some devices acts on them
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise NotFound(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise ImageRefused(
            f"{path}: cannot be opened: {getattr(error, 'strerror', None) or error}"
        ) from error
    try:
        _require_regular(path, os.fstat(fd))
        yield fd
    finally:
        os.close(fd)


def _require_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ImageRefused(f"{path}: is not a regular file")
    if status.st_size == 0:
        raise ImageRefused(f"{path}: is empty")


class ImageFile:
    """Reads of one open file that never pass its end, and the refusals that name it."""

    def __init__(self, fd: int, name: str) -> None:
        status = os.fstat(fd)
        self._fd = fd
        self.name = name
        self.size = status.st_size
        self.allocated = status.st_blocks * 512

    def refuse(self, why: str, hint: str = "") -> NoReturn:
        raise ImageRefused(f"{self.name}: {why}", hint=hint)

    def check(self, holds: bool, otherwise: str, hint: str = "") -> None:
        if not holds:
            self.refuse(otherwise, hint)

    def require(self, offset: int, length: int, what: str) -> None:
        """The bytes lie in the file, or raise: it is truncated, or made up."""
        if offset + length > self.size:
            why = f"is truncated: {what} ends at byte {offset + length}, the file at {self.size}"
            self.refuse(why, "copy the whole file again and compare its sha256sum with the publisher's")

    def virtual(self, size: int) -> int:
        """`size` bytes as a disk's size, or raise."""
        self.check(0 < size <= MAX_VIRTUAL_SIZE, f"virtual size {size} is not within 1 to {MAX_VIRTUAL_SIZE}")
        return size

    def peek(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes: fewer at the end of the file."""
        return os.pread(self._fd, length, offset) if 0 <= offset < self.size else b""

    def read(self, offset: int, length: int, what: str) -> bytes:
        self.require(offset, length, what)
        data = self.peek(offset, length)
        self.check(len(data) == length, "changed while it was read", "stop what writes it, then try again")
        return data

    def entries(self, offset: int, count: int, code: str, what: str) -> Iterator[tuple[int, int]]:
        """(index, value) of the non-zero entries of a table; `code` is struct's, with its byte order."""
        width = struct.calcsize(code)
        for start in range(0, count * width, CHUNK):
            data = self.read(offset + start, min(CHUNK, count * width - start), what)
            if data.strip(b"\0"):
                entries = enumerate(struct.iter_unpack(code, data), start // width)
                yield from ((index, value) for index, (value,) in entries if value)


def convert_hint(source: str) -> str:
    return f"make one whole file of it: qemu-img convert -f {source} -O qcow2 FILE NEW.qcow2"
