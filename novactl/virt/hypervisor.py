"""One host as its instances see it: typed calls to the functions of remote/host.sh.

Every act on an instance carries its uuid and epoch; the host compares epochs under the instance's lock
before it acts, libvirt's acts (virsh) included.
"""

import json
import re
import secrets
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal, Protocol

from novactl.errors import HostFault, UsageError
from novactl.objects.names import UUID, instance_dir
from novactl.objects.states import PowerState
from novactl.objects.survey import Survey
from novactl.version import __version__
from novactl.virt import survey

OPERATION = re.compile(r"op-[0-9a-f]+")
STRAY = re.compile(rf"del|{OPERATION.pattern}")
BASE = re.compile(r"[0-9a-z][0-9a-z_]{0,63}")

Feed = Callable[[Callable[[], bytes], Callable[[bytes], None]], None]


class Shell(Protocol):
    """What a hypervisor needs of remote/."""

    host: str

    def call(self, *words: str, data: bytes | None = None, deadline: float = 180.0) -> str: ...
    def call_bytes(self, *words: str, data: bytes | None = None, deadline: float = 180.0) -> bytes: ...
    def stream(self, *words: str, feed: Feed) -> None: ...
    def open_tunnel(self, address: str, port: int, timeout: float) -> Any: ...
    def job_script(self, words: Sequence[str]) -> bytes: ...


@dataclass
class Look:
    """What the chosen host says of itself just before it is used. `mark` is the highest of the fleet's that
    it was told before this call, "" for none; `copy` the version of the catalogue copy there, 0 for none."""

    disk_free: int = 0
    memory_available_mib: int = 0
    domain: bool = False
    missing_bridges: list[str] = field(default_factory=list)
    mark: str = ""
    copy: int = 0


@dataclass(frozen=True)
class Greeting:
    """What a host says of an instance and of itself, in one call; mark and copy as in Look, and the newest
    epoch it saw of the instance, 0 for none."""

    power: PowerState
    mark: str
    epoch: int
    copy: int


@dataclass(frozen=True)
class JobState:
    """A job on a host. "none": there is no such job, or it died (a reboot) without an exit status; `log`
    is the end of what it said, 4 KiB at most."""

    state: Literal["running", "ended", "none"]
    rc: int | None = None
    progress: str = ""
    log: str = ""


class Hypervisor:
    """Acts on one host. Raises HostUnreachable, HostFault, Fenced, Busy or Refused (shell.failure).

    `mark` is the fleet's newest that we know ("" or a serial of 12 digits, a dot and its operation); each
    call of ours tells it to the host. `copy_seen` is the
    version of the catalogue copy when the host last spoke of it."""

    def __init__(self, shell: Shell, fleet: str, instances_path: str) -> None:
        self.shell = shell
        self.fleet = fleet
        self.instances_path = instances_path
        self._guards: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._domains: frozenset[str] | None = None
        self.mark = ""
        self.copy_seen: int | None = None
        self.base_path = str(PurePosixPath(instances_path) / "_base")

    @property
    def name(self) -> str:
        return self.shell.host

    # --- the host ---

    def enrol(self, *, takeover: bool) -> None:
        """Our directories and the fleet's mark are there. Refused when another fleet's mark is."""
        self.shell.call("nv_enrol", self.fleet, self.instances_path, "yes" if takeover else "no")

    def leave(self) -> None:
        """The fleet's mark is gone; Refused while instances have files there."""
        self.shell.call("nv_leave", self.fleet, self.instances_path)

    def probe_kvm(self, sector: bytes) -> tuple[bool, str]:
        """Whether a guest really ran under KVM, and what was seen."""
        verdict, _, reason = self.shell.call("nv_probe_kvm", data=sector, deadline=30).strip().partition(" ")
        return verdict == "kvm", reason

    def facts(self) -> dict[str, Any]:
        """What preflight wants to know; the keys of nv_facts, with tool, missing and bridge as lists."""
        found: dict[str, Any] = {"tool": [], "missing": [], "bridge": []}
        for line in self.shell.call("nv_facts", self.instances_path).splitlines():
            key, _, value = line.partition(" ")
            if isinstance(found.get(key), list):
                found[key].append(value)
            elif key:
                found[key] = value
        return found

    def look(self, uuid: str, bridges: list[str]) -> Look:
        """What boot must know of the host it chose; Refused when it is not enrolled in this fleet."""
        seen = Look()
        for line in self._ours("nv_look", self.instances_path, *bridges).splitlines():
            key, _, value = line.partition(" ")
            match key:
                case "disk_free":
                    seen.disk_free = int(value)
                case "available_kib":
                    seen.memory_available_mib = int(value) // 1024
                case "no_bridge":
                    seen.missing_bridges.append(value)
                case "mark":
                    seen.mark = value
                case "copy":
                    seen.copy = self.copy_seen = int(value)
        seen.domain = uuid in self._domains_at_first()
        return seen

    def _domains_at_first(self) -> frozenset[str]:
        """The uuids that the host's libvirt had when this process first asked (of many boots, one asks)."""
        with self._lock:
            if self._domains is None:
                self._domains = frozenset(self.shell.call("nv_domains").split())
            return self._domains

    def power_state(self, uuid: str) -> PowerState:
        """What libvirt says of the domain now; NOSTATE when there is none."""
        return self._state(self._ours("nv_domain_state", _uuid(uuid)))

    def _state(self, answer: str) -> PowerState:
        return survey.power_state(self.name, answer.strip())

    def greet(self, uuid: str) -> Greeting:
        """power_state(), and what the host remembers: one call, no process more than that one's."""
        state, _, rest = self._ours("nv_greet", _uuid(uuid)).strip().rpartition("\n")
        epoch, copy, mark = f"{rest} ".split(" ", 2)
        self.copy_seen = int(copy)
        return Greeting(self._state(state), mark.strip(), int(epoch), self.copy_seen)

    def fence(self, uuid: str, epoch: int) -> None:
        """Every act of an older process has ended and none can follow."""
        self._fenced(uuid, epoch, ":")

    def settled_state(self, uuid: str, epoch: int) -> PowerState:
        """As power_state(), but after any act of an older process has ended and none can follow."""
        return self._state(self._fenced(uuid, epoch, "nv_domain_state", _uuid(uuid)))

    def route_device(self, address: str) -> str:
        """The device an address is reached by from the host; "default" when only by its default route."""
        return self.shell.call("nv_route", address).strip()

    def survey(self) -> Survey:
        """All that is there, of any fleet or none. HostUnreachable when libvirt does not answer."""
        mark = secrets.token_hex(16)
        answer = self.shell.call_bytes("nv_survey", mark, self.instances_path, deadline=600)
        return survey.parse(self.name, answer, mark)

    # --- the second copy of the catalogue ---

    def put_copy(self, version: int, content: bytes) -> None:
        """The copy there is this one, or one that is as new or newer."""
        self._ours("nv_put_copy", str(version), data=content)
        self.copy_seen = max(version, self.copy_seen or 0)

    def get_copy(self) -> tuple[int, bytes]:
        """(version, content) of the copy, whosever the host is; (0, b"") when there is none. HostFault
        when it is damaged."""
        answer = self.shell.call_bytes("nv_get_copy")
        try:
            version, content = _offset(answer) if answer else (0, b"")
        except ValueError as error:
            raise HostFault(f"{self.name}: the catalogue copy there is damaged") from error
        self.copy_seen = version
        return version, content

    def sealed(self, uuid: str) -> bytes | None:
        """The instance's user-data as WriteConfigDrive left it sealed, whosever the host is; None when there
        is none. Its key is not there."""
        return self.shell.call_bytes("nv_sealed", self.directory(uuid)) or None

    # --- jobs: work that survives the link and us ---

    def job_start(self, op: str, n: int, *words: str) -> None:
        """The function of host.sh runs there as the job of that step, or ran before. What acts on an
        instance begins with nv_fenced, as a call does."""
        self._ours("nv_job_start", *_job(op, n), data=self.shell.job_script(words))

    def job_wait(self, op: str, n: int, seconds: float) -> JobState:
        """How it is, at its end or after so many seconds (less than 100)."""
        first, _, said = self._ours("nv_job_wait", *_job(op, n), str(seconds)).partition("\n")
        match first.split(" ", 1):
            case ["running", text]:
                return JobState("running", None, text.strip(), said)
            case ["ended", rc]:
                return JobState("ended", int(rc), "", said)
            case _:
                return JobState("none", None, "", said)

    def job_end(self, op: str, n: int) -> None:
        """It does not run any more, nor anything it started, and its exit status is forgotten."""
        self._ours("nv_job_end", *_job(op, n))

    def job_forget(self, op: str, n: int) -> None:
        """Nothing is left of the job, which has ended. Busy when it still runs."""
        self._ours("nv_job_forget", *_job(op, n))

    # --- base files ---

    def base_guard(self, name: str) -> AbstractContextManager[bool]:
        """Held by the one thread of this process that fetches the base file; the host's own lock keeps
        other processes out."""
        return self._guards.setdefault(name, threading.Lock())

    def base_state(self, name: str, job: tuple[str, int] | None = None) -> tuple[bool, int]:
        """(ready, how many bytes of the source are already there); when ready, what is left of the job
        that made it is forgotten."""
        words = _job(*job) if job else ()
        answer = self.shell.call("nv_base_state", self.base_path, name, *words).strip()
        return (True, 0) if answer == "ready" else (False, int(answer))

    def base_receive(self, name: str, size: int, start: int, feed: Feed) -> None:
        """The source's bytes from `start` on are there; `feed` sends extents (see images/transfer)."""
        self.shell.stream("nv_base_receive", self.base_path, name, str(size), str(start), feed=feed)

    def base_finish(self, name: str, source_format: str, virtual_size: int) -> None:
        """The received bytes were hashed, made RAW and published with their sidecar."""
        self.shell.call(*self.base_finish_words(name, source_format, virtual_size), deadline=3600)

    def base_finish_words(self, name: str, source_format: str, virtual_size: int) -> list[str]:
        """base_finish() as the words of a job."""
        version = f"novactl {__version__}"
        return ["nv_base_finish", self.base_path, name, source_format, version, str(virtual_size)]

    def remove_part(self, name: str) -> None:
        """What a transfer of the base file left is gone. Busy while one is under way."""
        if not BASE.fullmatch(name):
            raise UsageError(f"{name!r} is not a base file")
        self._ours("nv_remove_part", self.base_path, name)

    def base_blank(self, name: str, size: int, kind: str) -> None:
        """An empty base file of `size` bytes, ext4 or swap."""
        self.shell.call("nv_base_blank", self.base_path, name, str(size), kind)

    # --- an instance's files ---

    def directory(self, uuid: str) -> str:
        return instance_dir(self.instances_path, _uuid(uuid))

    def make_directory(self, uuid: str, epoch: int, operation: str) -> None:
        self._fenced(uuid, epoch, "nv_make_directory", self.directory(uuid), operation)

    def unmake_directory(self, uuid: str, epoch: int, operation: str) -> None:
        """Gone if this operation made it."""
        self._fenced(uuid, epoch, "nv_unmake_directory", self.directory(uuid), operation)

    def remove_directory(self, uuid: str, epoch: int) -> None:
        self._fenced(uuid, epoch, "nv_remove_directory", self.directory(uuid))

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

    def put(self, uuid: str, epoch: int, file: str, mode: str, content: bytes) -> None:
        self._fenced(uuid, epoch, "nv_put", self.directory(uuid), file, mode, data=content)

    # --- its domain ---

    def define(self, uuid: str, epoch: int, xml: str) -> None:
        self._fenced(uuid, epoch, "nv_define", self.directory(uuid), uuid, data=xml.encode())

    def undefine_if_made_by(self, uuid: str, epoch: int, operation: str) -> None:
        self._fenced(uuid, epoch, "nv_undefine_if_made_by", uuid, operation)

    def start(self, uuid: str, epoch: int) -> None:
        """Running. HostFault with QEMU's words when the guest dies at start."""
        try:
            self._fenced(uuid, epoch, "nv_start", uuid)
        except HostFault as error:
            raise HostFault(_start_failure(self.name, error.message)) from error

    def shutdown(self, uuid: str, epoch: int) -> None:
        """The guest was asked to power off (ACPI); it may take its time or ignore it."""
        self._fenced(uuid, epoch, "nv_shutdown", uuid)

    def destroy(self, uuid: str, epoch: int) -> None:
        """Powered off."""
        self._fenced(uuid, epoch, "nv_destroy", uuid)

    def autostart_off(self, uuid: str, epoch: int) -> None:
        """libvirt does not start it when the host boots; no domain is fine."""
        self._fenced(uuid, epoch, "nv_autostart_off", uuid)

    def remove_domain(self, uuid: str, epoch: int) -> None:
        """Powered off and no longer defined, its saved state and NVRAM with it."""
        self._fenced(uuid, epoch, "nv_remove_domain", uuid)

    # --- consoles ---

    def console_tail(self, uuid: str, lines: int) -> tuple[int, bytes]:
        """(offset where the log ends, its last lines; 0 lines: all, 1 MiB at most)."""
        return _offset(self.shell.call_bytes("nv_console_tail", self.directory(uuid), str(lines)))

    def console_from(self, uuid: str, offset: int) -> tuple[int, bytes]:
        """(offset reached, what came after `offset`)."""
        return _offset(self.shell.call_bytes("nv_console_from", self.directory(uuid), str(offset)))

    def banner(self, address: str, port: int, timeout: float) -> bytes:
        """What a server in a guest says first, asked for from this host; OSError when it does not."""
        channel = self.shell.open_tunnel(address, port, timeout)
        try:
            channel.settimeout(timeout)
            answer: bytes = channel.recv(255)
            return answer
        finally:
            channel.close()

    def _fenced(self, uuid: str, epoch: int, *words: str, data: bytes | None = None) -> str:
        return self._ours("nv_fenced", _uuid(uuid), str(epoch), *words, data=data)

    def _ours(self, *words: str, data: bytes | None = None) -> str:
        """HostRefused when the host is (or has become) another fleet's."""
        return self.shell.call("nv_ours", self.fleet, self.mark, *words, data=data)


def disk_info(directory: str, disks: list[tuple[str, str]]) -> bytes:
    """disk.info: every disk's format, pinned for ever (Nova's resolve_driver_format)."""
    return json.dumps({f"{directory}/{file}": format_ for file, format_ in disks}, indent=1).encode() + b"\n"


def _uuid(value: str) -> str:
    if not UUID.fullmatch(value):
        raise UsageError(f"{value!r} is not a uuid")
    return value


def _job(op: str, n: int) -> tuple[str, str]:
    if not OPERATION.fullmatch(op):
        raise UsageError(f"{op!r} is not an operation")
    return op, str(n)


def _offset(answer: bytes) -> tuple[int, bytes]:
    first, _, rest = answer.partition(b"\n")
    return int(first), rest


def _start_failure(host: str, text: str) -> str:
    """QEMU's own words out of libvirt's, in one line, without virsh's last word on the state."""
    words = re.sub(r"\s+", " ", text.removeprefix(f"{host}: ")).removesuffix("; shut off")
    return f"{host}: the guest does not start: {words}"
