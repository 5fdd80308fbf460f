"""Sending a file of the store to a host: only what is not a hole, from where it stopped."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

EXTENT = 4 << 20  # bytes in one piece: how much is sent again after a cut, at most
BLOCK = 1 << 18


def extents(descriptor: int, size: int, start: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of the data of a file from `start` on, holes left out."""
    position = start
    while position < size:
        try:
            begin = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole up to the end
            return
        end = min(os.lseek(descriptor, begin, os.SEEK_HOLE), size)
        while begin < end:
            length = min(EXTENT, end - begin)
            yield begin, length
            begin += length
        position = end


def header(offset: int, length: int) -> bytes:
    """What stands before each extent: 64 bytes, so that the host can read it with a time limit."""
    return f"{offset} {length} ".encode().ljust(63) + b"\n"


def feed(
    path: Path, start: int, progress: Callable[[int, int], None]
) -> Callable[[Callable[[], bytes], Callable[[bytes], None]], None]:
    """What HostShell.stream() is given to send `path` to nv_base_receive from byte `start` on."""

    def send(readline: Callable[[], bytes], write: Callable[[bytes], None]) -> None:
        if not readline().startswith(b"send"):
            return  # it is there already, or the host says on stderr what is wrong
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            for offset, length in extents(file.fileno(), size, start):
                write(header(offset, length))
                for at in range(offset, offset + length, BLOCK):
                    write(os.pread(file.fileno(), min(BLOCK, offset + length - at), at))
                progress(offset + length, size)
            write(header(0, 0))
            progress(size, size)

    return send
