"""Files on a host: the base files that all overlays there share, and each instance's own."""

import json
import re
import secrets
import threading
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from novactl.errors import UsageError
from novactl.version import __version__
from novactl.virt.calls import OPERATION, Calls, Feed, Shell, check_base, job_words

VERIFY_DEADLINE = 3600.0  # seconds in which all bytes of one base file are read
RAW_SUM = re.compile(r"^sparse:([0-9a-f]{64})$", re.MULTILINE)
STRAY = re.compile(rf"del|{OPERATION.pattern}")


@dataclass(frozen=True)
class Pruned:
    """A base file (or, `part`, what a transfer of it left) when it was pruned: the bytes it takes on disk,
    when it was last used (seconds since 1970), and what became of it: used-in-database, used-here, open,
    young, busy, removed, or unused (it would have been removed)."""

    name: str
    part: bool
    size_bytes: int
    last_used: int
    state: str


class BaseFiles(Calls):
    """What lies in _base."""

    def __init__(self, shell: Shell, fleet: str, instances_path: str) -> None:
        super().__init__(shell, fleet, instances_path)
        self._guards: dict[str, threading.Lock] = {}

    def base_guard(self, name: str) -> AbstractContextManager[bool]:
        """Held by the one thread of this process that fetches the base file; the host's own lock keeps
        other processes out."""
        return self._guards.setdefault(name, threading.Lock())

    def base_state(
        self, name: str, job: tuple[str, int] | None = None, *, made_as: str = "any"
    ) -> tuple[bool, int]:
        """(ready, how many bytes of the source are already there); when ready, what is left of the job
        that made it is forgotten. HostRefused when it was made of the same bytes as another format."""
        words = job_words(*job) if job else ()
        answer = self.shell.call("nv_base_state", self.base_path, name, made_as, *words).strip()
        return (True, 0) if answer == "ready" else (False, self._number(answer))

    def base_receive(self, name: str, size: int, start: int, feed: Feed) -> None:
        """The source's bytes from `start` on are there; `feed` sends extents (see images/transfer)."""
        self.shell.stream("nv_base_receive", self.base_path, name, str(size), str(start), feed=feed)

    def base_finish(self, name: str, source_format: str, virtual_size: int) -> str:
        """The received bytes were hashed, made RAW and published with their sidecar. What it says is for
        raw_sum_of()."""
        return self.shell.call(*self.base_finish_words(name, source_format, virtual_size), deadline=3600)

    def base_finish_words(self, name: str, source_format: str, virtual_size: int) -> list[str]:
        """base_finish() as the words of a job."""
        version = f"novactl {__version__}"
        return ["nv_base_finish", self.base_path, name, source_format, version, str(virtual_size)]

    def remove_part(self, name: str) -> None:
        """What a transfer of the base file left is gone. Busy while one is under way."""
        self._ours("nv_remove_part", self.base_path, check_base(name))

    def prune(self, keep: Iterable[str], seconds: int, *, remove: bool) -> list[Pruned]:
        """Base files that are none of `keep`, that no file beside _base names, that nobody has open, and that
        were last used longer ago are gone with what transfers left; not `remove`: only looked at. HostFault
        when not all files could be read: then nothing is gone."""
        data = "".join(f"{check_base(name)}\n" for name in sorted(keep)) or "\n"
        mode = "remove" if remove else "look"
        words = ("nv_prune", secrets.token_hex(16), self.instances_path, str(seconds), mode)
        found = [line.split(" ") for line in self._ours(*words, data=data.encode()).splitlines() if line]
        return [
            Pruned(name.removeprefix("."), name.startswith("."), int(size), int(used), state)
            for name, size, used, state in found
        ]

    def bases(self) -> dict[str, int]:
        """The base files of images that are there, and how long each is."""
        lines = self._ours("nv_base_list", self.base_path).splitlines()
        return {name: int(size) for name, _, size in (line.partition(" ") for line in lines) if name}

    def verify_base(self, name: str, keep: Iterable[str], *, act: bool) -> str:
        """What all of its bytes say of a base file: ok, gone, unmarked (without its sum: the next fetch
        replaces it), corrupt-used or corrupt-unused. `act`: a corrupt one is ready for nobody any more, and
        lies aside unless it is used: one of `keep`, named by a file of an instance, or open."""
        data = "".join(f"{check_base(one)}\n" for one in sorted(keep)) or "\n"
        words = ("nv_base_verify", secrets.token_hex(16), self.instances_path, check_base(name))
        said = self._ours(*words, "act" if act else "look", data=data.encode(), deadline=VERIFY_DEADLINE)
        return said.strip().replace(" ", "-")

    def base_blank(self, name: str, size: int, kind: str) -> None:
        """An empty base file of `size` bytes, ext4 or swap."""
        self.shell.call("nv_base_blank", self.base_path, name, str(size), kind)

    def blank_sum(self, name: str) -> str:
        """What tells an empty base file from another host's of the same name; "" when there is none."""
        words = ("nv_blank_sum", self.base_path, check_base(name))
        return self._ours(*words, deadline=VERIFY_DEADLINE).strip()


class InstanceFiles(Calls):
    """What lies in an instance's directory."""

    def make_directory(self, uuid: str, epoch: int, operation: str) -> None:
        self._fenced(uuid, epoch, "nv_make_directory", self.directory(uuid), operation)

    def unmake_directory(self, uuid: str, epoch: int, operation: str) -> None:
        """Gone if this operation made it."""
        self._fenced(uuid, epoch, "nv_unmake_directory", self.directory(uuid), operation)

    def remove_directory(self, uuid: str, epoch: int) -> None:
        """Gone, and with it what a move has set aside."""
        self._fenced(uuid, epoch, "nv_remove_all", self.directory(uuid))

    def remove_stray(self, uuid: str, epoch: int, entry: str) -> None:
        """What was half made (`<uuid>.<operation>`) or half removed (`<uuid>.del`) is gone. UsageError for
        any other entry."""
        owner, _, ending = entry.partition(".")
        if owner != uuid or not STRAY.fullmatch(ending):
            raise UsageError(f"{entry!r} is not a left-over of {uuid}")
        self._fenced(uuid, epoch, "nv_remove_stray", self.directory(uuid), ending)

    def overlay(self, uuid: str, epoch: int, file: str, base: str, size: int) -> None:
        """A qcow2 overlay of `size` bytes over the RAW base file."""
        self._fenced(uuid, epoch, "nv_overlay", self.directory(uuid), file, base, str(size))

    def missing_files(self, uuid: str, files: Sequence[str]) -> list[str]:
        """Which of these are not in the instance's directory."""
        return self._ours("nv_missing", self.directory(uuid), *files).split()

    def held_files(self, uuid: str, files: Sequence[str]) -> list[str]:
        """Which of these qcow2 disks a process has open for writing, on whatever host; HostFault when one
        cannot be looked at."""
        return self._ours("nv_held", self.directory(uuid), *files).split()

    def put(self, uuid: str, epoch: int, file: str, mode: str, content: bytes) -> None:
        self._fenced(uuid, epoch, "nv_put", self.directory(uuid), file, mode, data=content)


def raw_sum_of(said: str) -> str | None:
    """The sum of the base file that a host has made of the image's own file, by what it said when it was
    done; None when it was there, or is not converted, or comes from another host."""
    found = RAW_SUM.search(said)
    return found[1] if found else None


def disk_info(directory: str, disks: list[tuple[str, str]]) -> bytes:
    """disk.info: every disk's format, pinned for ever (Nova's resolve_driver_format)."""
    return json.dumps({f"{directory}/{file}": format_ for file, format_ in disks}, indent=1).encode() + b"\n"
