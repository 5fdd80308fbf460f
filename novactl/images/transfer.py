"""A file between the store and a host, either way: only what is not a hole, from where it stopped."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from novactl.errors import HostFault
from novactl.images.imagefile import MAX_VIRTUAL_SIZE

EXTENT = 16 << 20  # bytes in one piece: how much is sent again after a cut, at most
PACKET = (32 << 10) - 64  # bytes that sshd takes in one; of a longer write paramiko copies the rest again
BLOCK = 2 * PACKET  # bytes read and sent at once
TAKEN = 4 << 20  # bytes received and written at once
HEADER = 64  # bytes before each extent, so that a host can read them with a time limit


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


def header(offset: int, length: int, *left: int) -> bytes:
    """What stands before each extent; `left`: the bytes that come from there on, of which a host has room."""
    return f"{' '.join(map(str, (offset, length, *left)))} ".encode().ljust(HEADER - 1) + b"\n"


def feed(
    path: Path, start: int, progress: Callable[[int, int], None]
) -> Callable[[Callable[[], bytes], Callable[[bytes], None]], None]:
    """What HostShell.stream() is given to send `path` to nv_base_receive from byte `start` on."""

    def send(readline: Callable[[], bytes], write: Callable[[bytes], None]) -> None:
        if not readline().startswith(b"send"):
            return  # it is there already, or the host says on stderr what is wrong
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            pieces = list(extents(file.fileno(), size, start))
            left = sum(length for _, length in pieces)
            for offset, length in pieces:
                write(header(offset, length, left))
                left -= length
                for at in range(offset, offset + length, BLOCK):
                    write(os.pread(file.fileno(), min(BLOCK, offset + length - at), at))
                progress(offset + length, size)
            write(header(0, 0))
            progress(size, size)

    return send


class Growing(Protocol):
    """A file that comes in; images.store.Incoming."""

    def need_room(self, size: int) -> None: ...
    def write_at(self, offset: int, data: bytes) -> None: ...
    def stands_at(self, offset: int) -> None: ...


def take(
    growing: Growing, progress: Callable[[int, int], None], limit: int = MAX_VIRTUAL_SIZE
) -> Callable[[Callable[[int], bytes]], None]:
    """What HostShell.fetch() is given to receive from nv_file_send. EOFError when that ends early, or sends
    other pieces than those that come next, within what it said; HostFault for more than `limit` bytes;
    Refused without room for the next ones: a database may be on the same disk."""

    def receive(read: Callable[[int], bytes]) -> None:
        size, end = int(_exactly(read, HEADER)), 0
        if size > limit:
            raise HostFault(f"the host sends {size} bytes, where {limit} are the most that there can be")
        with _behind() as written:
            while True:
                offset, length = map(int, _exactly(read, HEADER).split())
                if length == 0:
                    break
                if not end <= offset < offset + length <= size <= MAX_VIRTUAL_SIZE:
                    raise EOFError("the transfer is damaged")
                end = offset + length
                for at in range(offset, end, TAKEN):
                    if (at - offset) % EXTENT == 0:
                        written(growing.need_room, min(EXTENT, end - at))
                    written(growing.write_at, at, _exactly(read, min(TAKEN, end - at)))
                    progress(at, size)
                written(growing.stands_at, end)
        growing.stands_at(size)
        progress(size, size)

    return receive


@contextmanager
def _behind() -> Iterator[Callable[..., None]]:
    """A call that is carried out by another thread while this one reads on: one at a time, in order. What one
    raises is raised by the next, or at the end, when all have been carried out."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        last: Future[None] | None = None

        def carry_out(call: Callable[..., None], *words: object) -> None:
            nonlocal last
            if last is not None:
                last.result()
            last = pool.submit(call, *words)

        try:
            yield carry_out
        finally:
            if last is not None:
                last.result()


def _exactly(read: Callable[[int], bytes], count: int) -> bytes:
    data = read(count)
    if len(data) < count:
        raise EOFError("the transfer was cut")
    return data
