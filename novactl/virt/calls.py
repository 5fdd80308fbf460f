"""A call of a function of remote/host.sh: what every room of a hypervisor is built on.

Every act on an instance carries its uuid and epoch; the host compares epochs under the instance's lock
before it acts, libvirt's acts (virsh) included.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any, Protocol

from novactl.errors import HostFault, UsageError
from novactl.objects.names import UUID, domain_name, instance_dir

OPERATION = re.compile(r"op-[0-9a-f]+")
TRUST = re.compile(rf"{OPERATION.pattern}(-[0-9]{{1,6}})?")
BASE = re.compile(r"[0-9a-z][0-9a-z_]{0,63}")
MARK = re.compile(r"0[0-9]{11}\.op-[0-9a-f]+")
"""No fleet comes to the last nine tenths: a host that says so would have all others refuse theirs."""
NVRAM = "/var/lib/libvirt/qemu/nvram"
"""Nothing configures it."""

Feed = Callable[[Callable[[], bytes], Callable[[bytes], None]], None]
Take = Callable[[Callable[[int], bytes]], None]


class Shell(Protocol):
    """What a hypervisor needs of remote/."""

    host: str

    def call(self, *words: str, data: bytes | None = None, deadline: float = 180.0) -> str: ...
    def call_bytes(self, *words: str, data: bytes | None = None, deadline: float = 180.0) -> bytes: ...
    def stream(self, *words: str, feed: Feed) -> None: ...
    def fetch(self, *words: str, take: Take) -> None: ...
    def open_tunnel(self, address: str, port: int, timeout: float) -> Any: ...
    def answers(self) -> bool: ...
    def hang_up(self) -> None: ...
    def job_script(self, words: Sequence[str]) -> bytes: ...
    def receiver(self) -> bytes: ...
    def close(self) -> None: ...


class Calls:
    """Calls of one host, as a member of a fleet. `mark` is the fleet's newest that we know ("" or a serial
    of 12 digits, a dot and its operation); each call of ours tells it to the host."""

    def __init__(self, shell: Shell, fleet: str, instances_path: str) -> None:
        self.shell = shell
        self.fleet = fleet
        self.instances_path = instances_path
        self.base_path = str(PurePosixPath(instances_path) / "_base")
        self.mark = ""

    @property
    def name(self) -> str:
        return self.shell.host

    def directory(self, uuid: str) -> str:
        """Where the instance's files are there."""
        return instance_dir(self.instances_path, check_uuid(uuid))

    def nvram(self, uuid: str) -> str:
        """Where libvirt there keeps the variables of its UEFI."""
        return f"{NVRAM}/{domain_name(check_uuid(uuid))}_VARS.fd"

    def _fenced(self, uuid: str, epoch: int, *words: str, data: bytes | None = None) -> str:
        return self._ours("nv_fenced", check_uuid(uuid), str(epoch), *words, data=data)

    def _ours(self, *words: str, data: bytes | None = None, deadline: float = 180.0) -> str:
        """HostRefused when the host is (or has become) another fleet's."""
        return self.shell.call("nv_ours", self.fleet, self.mark, *words, data=data, deadline=deadline)

    def _number(self, answer: str) -> int:
        """A whole number that the host says. Raises HostFault for anything else."""
        if not re.fullmatch("[0-9]{1,18}", answer):
            raise HostFault(f"{self.name}: says {answer[:40]!r} where a number is due")
        return int(answer)

    def _ours_bytes(self, *words: str) -> bytes:
        """As _ours(), for output that need not be text."""
        return self.shell.call_bytes("nv_ours", self.fleet, self.mark, *words)


def check_uuid(value: str) -> str:
    """Raises UsageError for what is none."""
    if not UUID.fullmatch(value):
        raise UsageError(f"{value!r} is not a uuid")
    return value


def check_base(name: str) -> str:
    """Raises UsageError for what cannot be a base file's name."""
    if not BASE.fullmatch(name):
        raise UsageError(f"{name!r} is not a base file")
    return name


def trust_word(key: str) -> str:
    """A key between hosts, by its operation or step. Raises UsageError for what names none."""
    if not TRUST.fullmatch(key):
        raise UsageError(f"{key!r} is not an operation's key")
    return key


def job_words(op: str, n: int) -> tuple[str, str]:
    """How a job is named on a host. Raises UsageError for what is no operation."""
    if not OPERATION.fullmatch(op):
        raise UsageError(f"{op!r} is not an operation")
    return op, str(n)


def told_mark(host: str, mark: str) -> str:
    """What a host says that it was told, "" for nothing. Raises HostFault for what is no mark."""
    if mark and not MARK.fullmatch(mark):
        raise HostFault(f"{host}: remembers {mark[:40]!r}, which is no mark of a fleet")
    return mark
