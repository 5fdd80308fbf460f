"""A simulated world: hosts in memory that behave as remote/host.sh does, the real database, the real
actions. Processes of novactl come, die and are taken over; hosts outlive them."""

import contextlib
import copy
import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from xml.etree.ElementTree import fromstring

from novactl import resources
from novactl.actions import audit, recover
from novactl.actions.operate import Outcome
from novactl.actions.power import Start, Stop
from novactl.actions.steps import REGISTRY
from novactl.actions.steps.files import DRIVE
from novactl.actions.steps.images import QUICK
from novactl.actions.world import World
from novactl.db import backups, catalogue, groups, hosts, instances, projects
from novactl.db.journal import DbJournal, Owner
from novactl.db.operations import listed
from novactl.db.secrets import Secrets
from novactl.engine.operation import Operation
from novactl.engine.ports import Failpoints, Interrupt, NoFailpoints
from novactl.errors import (
    Busy,
    Fenced,
    HostFault,
    HostUnreachable,
    NovactlError,
    Refused,
    UsageError,
)
from novactl.images.store import LocalStore
from novactl.objects.backup import chain, unneeded
from novactl.objects.group import GroupPolicy, ServerGroup
from novactl.objects.host import Resources
from novactl.objects.image import MIB, Image
from novactl.objects.names import HOST_PATH, check_pattern, instance_dir
from novactl.objects.project import Project
from novactl.objects.states import PowerState
from novactl.objects.survey import SeenDirectory, Survey
from novactl.remote.shell import failure
from novactl.virt import survey
from novactl.virt.calls import BASE, Feed, check_base
from novactl.virt.commands import Commands
from novactl.virt.copies import Left
from novactl.virt.domain import NAMESPACE
from novactl.virt.files import STRAY, Pruned
from novactl.virt.hypervisor import Greeting, Look
from novactl.virt.jobs import JobState
from novactl.virt.states import Power, States
from tests.support import databases, scratch
from tests.support import fleet as records
from tests.support.clock import SeededIds, SimClock
from tests.support.databases import Place
from tests.support.life import Guard, Heart, Life, Mortal, SimOperator, Turns, mortal
from tests.support.sim_backups import SimBackups, backup_work
from tests.support.sim_live import LIVE_TAKES, Ends, SimLive, arrive, depart, stop_moving
from tests.support.sim_places import SimPlaces
from tests.support.sim_rescues import SimRescues
from tests.support.sim_sizes import Running, SimSizes, started
from tests.support.sim_snapshots import COPY_TAKES, EXTRACT_TAKES, SimSnapshots, file_sum, snapshot_work

OFF = frozenset({PowerState.SHUTDOWN, PowerState.CRASHED})
CONTENT = bytes(range(256)) * 64 + bytes(1 << 16) + b"the end"
KERNEL = b"kernel" * 100
INITRD = b"initrd" * 100
SHUTDOWN_TAKES = 3.0  # seconds from the ACPI request until the guest is off
SAVE_TAKES = 4.0  # seconds that saving or restoring a guest's memory takes
SEND_TAKES = 3.0  # seconds that a file takes from host to host
FACTS = {"arch": "x86_64", "odirect": True, "firmwares": ["bios", "uefi"]}
JOB_TAKES = 5.0  # seconds that a job of a base file works


# --- a host ---


@dataclass
class SimDomain:
    """What libvirt knows. `operation` and `epoch` are the marks in its metadata."""

    xml: str
    operation: str
    state: PowerState = PowerState.SHUTDOWN
    deaf: bool = False  # ignores ACPI
    off_at: float | None = None
    autostart: bool = False
    saved: bool = False  # libvirt keeps its memory
    saving_until: float | None = None  # a save is under way, in libvirtd: it needs nobody who waits for it
    moving: str | None = None  # the operation whose live migration of it is under way
    arriving: bool = False  # it stands still, and its source has not gone
    reason: str = ""  # of its state, as libvirt has it
    has: Running | None = None  # what its guest has, since it was started
    balloon: bool = True  # a driver in it gives memory back
    agent: bool = False  # answers in it
    refuses_copies: bool = False  # libvirt does not mirror its disks
    checkpoints: set[str] = field(default_factory=set)  # names of bitmaps in its disks


@dataclass
class SimJob:
    """A job: its effect comes at its end. Without `rc` and dead: a reboot ended it."""

    words: tuple[str, ...]
    ends_at: float
    rc: int | None = None
    log: str = ""
    dead: bool = False

    @property
    def running(self) -> bool:
        return self.rc is None and not self.dead


class SimJobs(dict[tuple[str, int], SimJob]):
    """The jobs of a host, which remembers what should never happen."""

    twice = False

    def __setitem__(self, key: tuple[str, int], job: SimJob) -> None:
        self.twice = self.twice or (key in self and self[key].running)
        super().__setitem__(key, job)


@dataclass
class SimDirectory:
    made_by: str
    files: dict[str, Any] = field(default_factory=lambda: {"console.log": b""})


@dataclass
class SimHost:
    """What is on a host; it survives every process of ours."""

    name: str
    fleet: str | None = None
    up: bool = True
    fencing: ClassVar[bool] = True  # False: the epoch check is removed (a planted fault)
    free: int = 1 << 40
    memory_mib: int = 1 << 20
    bridges: set[str] = field(default_factory=lambda: {"br0"})
    room_to_save: int = 1 << 40
    qemu: str = "7.2.17"
    epochs: dict[str, int] = field(default_factory=dict)
    directories: dict[str, SimDirectory] = field(default_factory=dict)
    strays: set[str] = field(default_factory=set)  # half made or half removed directories
    aside: dict[str, SimDirectory] = field(default_factory=dict)  # <uuid>_resize
    keys: set[str] = field(default_factory=set)  # operations whose key was made here
    lines: dict[str, list[str]] = field(default_factory=dict)  # and what they may do here
    peers: Callable[[], Mapping[str, "SimHost"]] = dict  # all hosts, itself too
    domains: dict[str, SimDomain] = field(default_factory=dict)
    bases: dict[str, int] = field(default_factory=dict)  # name: size
    sums: dict[str, str] = field(default_factory=dict)  # of those that were converted
    parts: dict[str, bytearray] = field(default_factory=dict)
    nvram: dict[str, bytes] = field(default_factory=dict)
    makes_blanks: str = "mke2fs 1.47"
    rotten: set[str] = field(default_factory=set)  # base files whose bytes have changed
    unmarked: set[str] = field(default_factory=set)  # those without their sum, which a fetch replaces
    stored: dict[tuple[str, str], float] = field(default_factory=dict)  # (where, file): when it came
    coming: dict[tuple[str, str], bytearray] = field(default_factory=dict)
    touched: dict[str, float] = field(default_factory=dict)  # when a base file or part was last used
    calls: list[str] = field(default_factory=list)
    mark: str = ""
    copy: tuple[int, bytes] = (0, b"")
    jobs: SimJobs = field(default_factory=SimJobs)
    pki: dict[str, str] = field(default_factory=dict)  # files of certificates
    crl_number: int = 0
    acted: list[tuple[str, str, int]] = field(default_factory=list)  # (call, uuid, epoch) that it let in
    boots: int = 1
    made: set[str] = field(default_factory=set)  # files by commands of playbooks
    put: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    reboots_at: float | None = None
    storage: str = ""  # "": its own
    leads_to: dict[str, str] = field(default_factory=dict)  # operation: the host that its key here opens
    sockets: set[str] = field(default_factory=set)  # operations whose guests may come in
    probes: set[str] = field(default_factory=set)
    cpu_differs: str = ""
    live_ends: Ends = Ends.ARRIVES

    def tick(self, clock: SimClock) -> None:
        """Guests that were asked to shut down do so in time, and jobs end."""
        for job in self.jobs.values():
            if job.running and clock.monotonic() >= job.ends_at - 1e-6:
                job.rc, job.log = self._work(job.words)
        for domain in self.domains.values():
            if domain.off_at is not None and clock.monotonic() >= domain.off_at:
                domain.state, domain.off_at = PowerState.SHUTDOWN, None
            if domain.saving_until is not None and clock.monotonic() >= domain.saving_until:
                domain.state, domain.saved, domain.saving_until = PowerState.SHUTDOWN, True, None
        if self.reboots_at is not None and clock.monotonic() >= self.reboots_at:
            self.reboots_at = None
            self.power_cycle()

    def power_cycle(self) -> None:
        """The host was switched off and on again."""
        self.up = True
        self.boots += 1
        self.sockets.clear()  # they are in /run
        for job in self.jobs.values():
            job.dead = job.rc is None
        for uuid, domain in list(self.domains.items()):
            stop_moving(self, uuid)
            if domain.moving:  # it was coming in
                del self.domains[uuid]
            domain.state, domain.off_at, domain.saving_until = PowerState.SHUTDOWN, None, None

    def _work(self, words: tuple[str, ...]) -> tuple[int, str]:
        """What a job does, and its exit status and log."""
        match words:
            case ("nv_fenced", uuid, epoch, *rest):
                return self._work_fenced(uuid, int(epoch), rest)
            case ("nv_base_finish", _, name, source_format, _, virtual_size):
                return self.finish_base(name, source_format, int(virtual_size))
            case ("nv_store_finish", _, where, name, _, _):
                return self._store(where, name)
            case ("nv_base_pull", op, _, name, _, source_format, _, virtual_size, how, *_):
                how = "source" if source_format == "raw" else how
                return self._pull(op, name, int(virtual_size), how)
            case ("nv_file_sum", directory, file):
                return file_sum(self, directory, file)
            case ("nv_die", status, message):
                return int(status), f"{message}\n"
            case ("true",) | ("sleep", _):
                return 0, ""
            case ("nv_run", _, _, count, *rest):
                unless, argv = rest[: int(count)], rest[int(count) :]
                if unless and self.command(unless) == 0:
                    return 0, "nv_run: unchanged\n"
                return 0, f"\nnv_run: ended {self.command(argv)}\n"
        return 127, f"{words[0]}: not found\n"

    def fence(self, uuid: str, epoch: int) -> None:
        """Raises Fenced for an older epoch than the host has seen."""
        seen = self.epochs.get(uuid, 0)
        if self.fencing and epoch < seen:
            message = f"this host has seen epoch {seen} of the instance, newer than ours ({epoch})"
            raise failure(self.name, 75, message)
        self.epochs[uuid] = max(epoch, seen)

    def files_of(self, uuid: str) -> dict[str, Any]:
        """The files of an instance; nothing that lasts when it has no directory."""
        return self.directories[uuid].files if uuid in self.directories else {}

    def _work_fenced(self, uuid: str, epoch: int, words: list[str]) -> tuple[int, str]:
        if words[0] == "nv_live":  # it looked at the epoch when it began, and let the lock go
            return arrive(self, uuid, words[3], words[5])
        try:
            self.fence(uuid, epoch)
        except Fenced as error:
            return 75, error.message.removeprefix(f"{self.name}: ")
        domain, files = self.domains.get(uuid), self.files_of(uuid)
        self.acted.append((words[0], uuid, epoch))
        match words[0]:
            case "nv_save":
                return self._save(domain, files, int(words[3]))
            case "nv_unsave":
                return self._unsave(domain, files)
            case "nv_restore":
                return self._restore(domain, files)
            case "nv_send":
                return self._send(uuid, words[1], words[3])
            case "nv_copy_live" | "nv_extract":
                return snapshot_work(self, uuid, words)
            case "nv_backup":
                return backup_work(self, uuid, words)
        return 127, f"{words[0]}: not found\n"

    def _save(self, domain: SimDomain | None, files: dict[str, Any], size: int) -> tuple[int, str]:
        if domain is not None and domain.saved:
            return 0, ""
        if self.room_to_save < size:
            free = self.room_to_save >> 20
            return 28, f"no space left in /save: {free} MiB free, its memory may take {size >> 20}"
        if domain is None or domain.state in OFF:
            return 1, "error: Requested operation is not valid: domain is not running"
        files["saved-by"] = f"{self.qemu}\n".encode()
        domain.state, domain.saved, domain.saving_until = PowerState.SHUTDOWN, True, None
        return 0, ""

    def _unsave(self, domain: SimDomain | None, files: dict[str, Any]) -> tuple[int, str]:
        if domain is not None and (domain.saved or domain.state not in OFF):
            domain.state, domain.saved, domain.saving_until = PowerState.RUNNING, False, None
        files.pop("saved-by", None)
        return 0, ""

    def _restore(self, domain: SimDomain | None, files: dict[str, Any]) -> tuple[int, str]:
        if domain is None or not (domain.saved or domain.state is PowerState.RUNNING):
            return 1, "its saved memory is gone"
        domain.state, domain.saved = PowerState.RUNNING, False
        files.pop("saved-by", None)
        return 0, ""

    def _pull(self, op: str, name: str, size: int, how: str) -> tuple[int, str]:
        if self.ready(name):
            return 0, ""
        givers = [host for host in self.peers().values() if host.lines.get(op, [""])[0].endswith("_serve")]
        if op not in self.keys or not givers or not givers[0].up:
            return 255, "Permission denied (publickey)."
        words = givers[0].lines[op]
        has = givers[0].ready(name) if words[0] == "nv_serve" else (words[2], name) in givers[0].stored
        if words[-1] != name or not has:
            return 4, "the other host: it has nothing of it yet"
        sum_ = givers[0].sums.get(name) if words[0] == "nv_serve" else None
        if sum_ is not None and how == "source":
            return 4, "the other host: it has only what was made of it"
        if sum_ is not None and how not in ("any", f"sparse:{sum_}"):
            return 4, "the other host: what was made of it there is not what was first made of it"
        self.parts.pop(name, None)
        self.bases[name] = size
        if sum_ is not None:
            self.sums[name] = sum_
        return 0, ""

    def _store(self, where: str, name: str) -> tuple[int, str]:
        if (where, name) in self.stored:
            return 0, ""
        part = self.coming.pop((where, name), b"")
        if hashlib.sha256(part).hexdigest() != name:
            return 1, "the file arrived damaged; it will be sent again"
        self.stored[where, name] = 0.0
        return 0, ""

    def _send(self, uuid: str, op: str, file: str) -> tuple[int, str]:
        targets = [host for host in self.peers().values() if op in host.lines]
        if op not in self.keys or not targets or not targets[0].up:
            return 255, "Permission denied (publickey)."
        there, aside = targets[0], self.aside.get(uuid)
        if aside is not None and file == "nvram" and file not in aside.files:
            return 0, ""
        if aside is None or file not in aside.files:
            return 1, f"{file}: No such file or directory"
        try:
            there.fence(uuid, int(there.lines[op][2]))
        except Fenced as error:
            return 75, error.message.removeprefix(f"{there.name}: ")
        if uuid not in there.directories:
            return 2, "cannot cd"
        if not any(bound.startswith(f"{file}=") for bound in there.lines[op][5:]):
            return 76, f"{file} is more than it can have"
        there.directories[uuid].files[file] = aside.files[file]
        return 0, ""

    def command(self, argv: Sequence[str]) -> int:
        """A few commands of any machine, and their exit statuses."""
        match list(argv):
            case ["touch", path]:
                self.made.add(path)
            case ["rm", "-f", path]:
                self.made.discard(path)
                self.put.pop(path, None)
            case ["test", "-e", path]:
                return 0 if path in self.made else 1
            case ["true"] | ["sleep", _]:
                return 0
            case ["false"]:
                return 1
            case _:
                return 127
        return 0

    def finish_base(self, name: str, source_format: str, virtual_size: int) -> tuple[int, str]:
        if self.ready(name):
            return 0, ""
        part = self.parts.pop(name, None)
        if part is None:
            return 1, f"cannot open .{name}.part"
        found = hashlib.sha256(part).hexdigest()
        if found != name:
            return 1, f"the base file arrived damaged (sha256 {found}); it will be sent again"
        self.bases[name] = virtual_size
        self.rotten.discard(name)
        self.unmarked.discard(name)
        if source_format not in ("qcow2", "vmdk"):
            return 0, ""
        self.sums[name] = hashlib.sha256(part + b"RAW").hexdigest()
        return 0, f"sparse:{self.sums[name]}\n"

    def ready(self, name: str) -> bool:
        return name in self.bases and name not in self.unmarked

    def names_base(self, name: str) -> bool:
        """Whether a file of an instance names it."""
        files = [file for directory in self.directories.values() for file in directory.files.values()]
        overlays = any(isinstance(file, tuple) and file[0] == name for file in files)
        return overlays or any(name in domain.xml for domain in self.domains.values())

    def running(self) -> set[str]:
        """Whose guests run, or would if they were not paused; one that stands still while its source has not
        gone is not counted."""
        alive = {uuid: domain for uuid, domain in self.domains.items() if domain.state not in OFF}
        return {uuid for uuid, domain in alive.items() if not domain.arriving}

    def everything(self) -> set[str]:
        """Whose things are here, the uuids; what lies on a storage that others share is nobody's alone."""
        own = () if self.storage else self.directories
        return {
            *own,
            *self.aside,
            *self.domains,
            *(stray.partition(".")[0] for stray in self.strays),
        }


@dataclass
class Fault:
    """Something that goes wrong at a call, `times` times. How: unreachable (nothing happens), lost (it
    happens, the reply does not come), cut (half of a transfer comes), reboots (the host; nothing else
    happens), fails, full, busy, dies (the process, after half of the act), dies-after (the process, after the
    act and before its record)."""

    call: str
    how: str
    host: str | None = None
    times: int = 1

    def matches(self, host: str, call: str) -> bool:
        return self.times > 0 and self.call in (call, "*") and self.host in (host, None)


def serial(mark: str) -> int:
    """The number in a mark."""
    return int(mark.partition(".")[0] or 0)


class SimHypervisor(SimLive, SimSizes, SimSnapshots, SimRescues, SimBackups, SimPlaces):
    """actions.world.Hypervisor on a SimHost, for one process. Promises and errors are those of
    virt.hypervisor.Hypervisor; tests/virt/test_hypervisor.py holds both to the same contract."""

    def __init__(
        self, host: SimHost, fleet: str, clock: SimClock, faults: list[Fault], life: Life | None = None
    ) -> None:
        self.host = host
        self.life = life or Life(0)
        self.fleet = fleet
        self.clock = clock
        self.faults = faults
        self.name = host.name
        self.instances_path = "/var/lib/novactl/instances"
        self.base_path = f"{self.instances_path}/_base"
        self.mark = ""
        self.copy_seen: int | None = None
        self.host_mark = ""  # what the host knew before the call
        self._guards: dict[str, Guard] = {}

    # --- what goes wrong ---

    def _due(self, call: str, *hows: str) -> Fault | None:
        for fault in self.faults:
            if fault.how in hows and fault.matches(self.name, call):
                fault.times -= 1
                return fault
        return None

    @contextlib.contextmanager
    def _call(self, call: str) -> Iterator[None]:
        self.life.check()
        self.host.calls.append(call)
        if self._due(call, "reboots"):
            self.host.power_cycle()
            raise HostUnreachable(f"{self.name}: the connection was reset")
        if not self.host.up or self._due(call, "unreachable"):
            raise HostUnreachable(f"{self.name}: no answer in time")
        if self._due(call, "fails"):
            raise failure(self.name, 1, f"{call} failed")
        if self._due(call, "full"):
            raise failure(self.name, 28, f"{call}: no space left on {self.instances_path}")
        if self._due(call, "busy"):
            raise failure(self.name, 77, f"{call}: another command works here")
        self.host.tick(self.clock)
        yield
        if self._due(call, "dies-after", "dies"):
            self.life.end(f"{self.name}: after {call}")
        if self._due(call, "lost"):
            raise HostUnreachable(f"{self.name}: the shell on the host ended")

    def _half(self, call: str) -> None:
        """The process dies here, in the middle of the act."""
        if self._due(call, "dies"):
            self.life.end(f"{self.name}: in {call}")

    def _die(self, status: int, message: str) -> None:
        raise failure(self.name, status, message)

    def _ours(self) -> None:
        if self.host.fleet != self.fleet:
            self._die(76, "this host is not enrolled in this fleet")
        self.host_mark, self.host.mark = self.host.mark, max(self.host.mark, self.mark, key=serial)

    @contextlib.contextmanager
    def _fenced(self, call: str, uuid: str, epoch: int) -> Iterator[None]:
        with self._call(call):
            self._ours()
            self._wait_for_jobs(uuid)
            self.host.fence(uuid, epoch)
            self.host.acted.append((call, uuid, epoch))
            yield

    def _wait_for_jobs(self, uuid: str) -> None:
        """A job that acts on the instance holds its lock."""
        for job in list(self.host.jobs.values()):
            if job.running and job.words[:2] == ("nv_fenced", uuid) and job.words[3] != "nv_live":
                self.clock.sleep(max(0.0, job.ends_at - self.clock.monotonic()))
                self.host.tick(self.clock)

    # --- the host ---

    def enrol(self, *, takeover: bool) -> str:
        with self._call("enrol"):
            if self.host.fleet not in (None, self.fleet) and not takeover:
                self._die(76, f"this host belongs to fleet {self.host.fleet}")
            if self.host.fleet != self.fleet:
                self.host.mark, self.host.copy = "", (0, b"")
            self.host.fleet = self.fleet
            return self.host.storage or self.name

    def storage(self) -> str:
        with self._call("storage"):
            self._ours()
            return self.host.storage or self.name

    def leave(self) -> None:
        with self._call("leave"):
            if self.host.fleet == self.fleet:
                if self.host.directories or self.host.aside:
                    self._die(76, f"{min(self.host.directories)} still has files here")
                self.host.fleet = None
                self.host.mark, self.host.copy = "", (0, b"")

    def look(self, uuid: str, bridges: list[str]) -> Look:
        with self._call("look"):
            self._ours()
            self.copy_seen = self.host.copy[0]
            return Look(
                mark=self.host_mark,
                copy=self.host.copy[0],
                disk_free=self.host.free,
                memory_available_mib=self.host.memory_mib,
                domain=uuid in self.host.domains,
                missing_bridges=[bridge for bridge in bridges if bridge not in self.host.bridges],
            )

    def power_state(self, uuid: str) -> PowerState:
        with self._call("power_state"):
            self._ours()
            domain = self.host.domains.get(uuid)
            return PowerState.NOSTATE if domain is None else domain.state

    def greet(self, uuid: str) -> Greeting:
        with self._call("greet"):
            self._ours()
            domain = self.host.domains.get(uuid)
            power = PowerState.NOSTATE if domain is None else domain.state
            self.copy_seen = self.host.copy[0]
            saved = domain is not None and domain.saved
            return Greeting(power, self.host_mark, self.host.epochs.get(uuid, 0), self.copy_seen, saved)

    def fence(self, uuid: str, epoch: int) -> None:
        with self._fenced("fence", uuid, epoch):
            pass

    def settled_state(self, uuid: str, epoch: int) -> PowerState:
        with self._fenced("settled_state", uuid, epoch):
            domain = self.host.domains.get(uuid)
            return PowerState.NOSTATE if domain is None else domain.state

    def route_device(self, address: str) -> str:
        with self._call("route_device"):
            return "br0"

    def ensure_bridges(self, wanted: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        with self._call("ensure_bridges"):
            self._ours()
            self._half("ensure_bridges")
            made: dict[str, list[str]] = {name: [] for name in wanted if name not in self.host.bridges}
            self.host.bridges |= set(wanted)
            return made

    def survey(self) -> Survey:
        with self._call("survey"):
            host = self.host
            found = [SeenDirectory(entry=entry) for entry in host.strays]
            aside = {f"{uuid}_resize": directory for uuid, directory in host.aside.items()}
            for uuid, directory in {**host.directories, **aside}.items():
                files = tuple(sorted([*directory.files, ".made-by"]))
                found.append(SeenDirectory(entry=uuid, made_by=directory.made_by, files=files))
            return Survey(
                fleet=host.fleet,
                mark=host.mark,
                boot_id=f"{host.name}-{host.boots}",
                storage=host.storage or host.name,
                domains=tuple(
                    survey.domain(uuid, domain.state, domain.autostart, domain.xml, saved=domain.saved)
                    for uuid, domain in sorted(host.domains.items())
                ),
                directories=tuple(sorted(found, key=lambda one: one.entry)),
                bases=tuple(sorted(host.bases)),
                parts=tuple(sorted(host.parts)),
                epochs=dict(host.epochs),
                trusts=tuple(sorted({*host.keys, *host.lines})),
                jobs=tuple((*key, job.running) for key, job in sorted(host.jobs.items())),
            )

    def states(self, deadline: float = 30.0) -> States:
        with self._call("states"):
            self._ours()
            host = self.host
            self.copy_seen = host.copy[0]
            return States(
                boot_id=f"{host.name}-{host.boots}",
                disk_free=host.free,
                memory_available_mib=host.memory_mib,
                mark=self.host_mark,
                copy=host.copy[0],
                domains={uuid: Power(domain.state, domain.saved) for uuid, domain in host.domains.items()},
            )

    def answers(self) -> bool:
        """Also when every call of it fails."""
        self.life.check()
        self.host.calls.append("answers")
        return self.host.up

    def hang_up(self) -> None:
        """There is no connection."""

    # --- the second copy ---

    def put_copy(self, version: int, content: bytes) -> None:
        with self._call("put_copy"):
            self._ours()
            self._half("put_copy")
            if version > self.host.copy[0]:
                self.host.copy = (version, content)
            self.copy_seen = max(version, self.copy_seen or 0)

    def get_copy(self) -> tuple[int, bytes]:
        with self._call("get_copy"):
            self.copy_seen = self.host.copy[0]
            return self.host.copy

    def sealed(self, uuid: str) -> bytes | None:
        with self._call("sealed"):
            found = self.host.directories.get(uuid)
            return found.files.get("user-data.sealed") if found else None

    # --- certificates ---

    def pki_where(self) -> str:
        with self._call("pki_where"):
            self._ours()
            return "/etc/pki/qemu"

    def pki_place(self, crl_number: int, files: Mapping[str, str]) -> None:
        with self._call("pki_place"):
            self._ours()
            kept = {}
            if self.host.pki.get("ca-cert.pem") == files["ca-cert.pem"] and self.host.crl_number > crl_number:
                kept, crl_number = {"ca-crl.pem": self.host.pki["ca-crl.pem"]}, self.host.crl_number
            self.host.pki, self.host.crl_number = {**files, **kept}, crl_number

    def pki_publish(self, crl_number: int, crl: str) -> int:
        with self._call("pki_publish"):
            self._ours()
            if not self.host.pki:
                self._die(1, "novactl's certificates are no longer in /etc/pki/qemu")
            if crl_number > self.host.crl_number:
                self.host.pki["ca-crl.pem"], self.host.crl_number = crl, crl_number
            return self.host.crl_number

    # --- jobs ---

    def job_start(self, op: str, n: int, *words: str) -> None:
        with self._call("job_start"):
            self._ours()
            found = self.host.jobs.get((op, n))
            if found is None or found.dead:
                seconds = float(words[-1]) if "sleep" in words[-2:-1] else None
                takes = {"nv_base_finish": JOB_TAKES, "nv_base_pull": JOB_TAKES, "nv_run": JOB_TAKES}
                takes |= {"nv_save": SAVE_TAKES, "nv_restore": SAVE_TAKES}
                takes |= {"nv_send": SEND_TAKES, "nv_live": LIVE_TAKES}
                takes |= {"nv_copy_live": COPY_TAKES, "nv_extract": EXTRACT_TAKES, "nv_backup": COPY_TAKES}
                what = words[3] if words[0] == "nv_fenced" else words[0]
                ends_at = self.clock.monotonic() + (takes.get(what, 0) if seconds is None else seconds)
                domain = self.host.domains.get(words[1]) if what == "nv_save" else None
                begins = domain is not None and int(words[2]) >= self.host.epochs.get(words[1], 0)
                if domain and begins and domain.state not in OFF and self.host.room_to_save >= int(words[6]):
                    domain.saving_until = ends_at
                if what == "nv_live" and int(words[2]) >= self.host.epochs.get(words[1], 0):
                    depart(self.host, words[1], words[6])
                elif what == "nv_live":
                    words, ends_at = (*words[:3], "nv_fenced"), self.clock.monotonic()
                self.host.jobs[op, n] = SimJob(words, ends_at)

    def job_wait(self, op: str, n: int, seconds: float) -> JobState:
        with self._call("job_wait"):
            self._ours()
            job = self.host.jobs.get((op, n))
            if job is not None and job.running:
                self.clock.sleep(min(seconds, max(0.0, job.ends_at - self.clock.monotonic())))
                self.host.tick(self.clock)
            if job is None or job.dead:
                return JobState("none")
            return JobState("running") if job.running else JobState("ended", job.rc, "", job.log)

    def job_end(self, op: str, n: int) -> None:
        with self._call("job_end"):
            self._ours()
            if job := self.host.jobs.get((op, n)):
                job.dead = job.rc is None
                if job.dead and "nv_live" in job.words:
                    stop_moving(self.host, job.words[1])
                self._half("job_end")
                del self.host.jobs[op, n]

    def job_forget(self, op: str, n: int) -> None:
        with self._call("job_forget"):
            self._ours()
            self._forget(op, n)

    def _forget(self, op: str, n: int) -> None:
        job = self.host.jobs.get((op, n))
        if job is not None and job.running:
            self._die(77, f"the job {op}.{n} still runs on this host")
        self.host.jobs.pop((op, n), None)

    # --- playbooks ---

    run_words = Commands.run_words

    def holds(self, argv: Sequence[str], seconds: int) -> bool:
        with self._call("holds"):
            self._ours()
            return self.host.command(argv) == 0

    def put_file(self, path: str, mode: str, content: bytes) -> bool:
        check_pattern(path, HOST_PATH, "path")
        with self._call("put_file"):
            self._ours()
            changed = self.host.put.get(path) != (mode, content)
            self._half("put_file")
            self.host.put[path] = (mode, content)
            return changed

    def boot(self) -> tuple[str, bool]:
        with self._call("boot"):
            self._ours()
            return f"{self.name}-{self.host.boots}", True

    def reboot(self, boot_id: str, argv: Sequence[str]) -> None:
        with self._call("reboot"):
            self._ours()
            if boot_id != f"{self.name}-{self.host.boots}":
                return
            self._half("reboot")
            if list(argv) == ["reboot"]:
                self.host.reboots_at = self.clock.monotonic() + 1
            else:
                self.host.command(argv)

    def facts(self) -> dict[str, Any]:
        with self._call("facts"):
            plain = {"arch": "x86_64", "hostname": self.name, "cpus": "4", "memory_kib": "8388608"}
            return {**plain, "fleet": self.host.fleet or "", "bridge": ["br0"], "missing": [], "tool": []}

    # --- base files ---

    def base_guard(self, name: str) -> AbstractContextManager[bool]:
        return self._guards.setdefault(name, Guard(self.clock))

    def base_state(
        self, name: str, job: tuple[str, int] | None = None, *, made_as: str = "any"
    ) -> tuple[bool, int]:
        with self._call("base_state"):
            self.host.touched[name] = self.clock.monotonic()
            if not self.host.ready(name):
                return False, len(self.host.parts.get(name, b""))
            was = "qcow2" if name in self.host.sums else "raw"
            if made_as not in ("any", was):
                self._die(76, f"its base file of these bytes was made of them as {was}, not {made_as}")
            if job:
                self._forget(*job)
            return True, 0

    def base_receive(self, name: str, size: int, start: int, feed: Feed) -> None:
        with self._call("base_receive"):
            part = self.host.parts.setdefault(name, bytearray())
            if start != len(part):
                self._die(77, f"the transfer stands at byte {len(part)} by now")
            receiver = _Receiver(self, part, size, ready=self.host.ready(name))
            feed(receiver.readline, receiver.write)
            if not receiver.finished:
                self._die(1, "the transfer was cut")

    def receiver(self, part: bytearray, size: int, *, ready: bool) -> "_Receiver":
        return _Receiver(self, part, size, ready=ready)

    def base_finish(self, name: str, source_format: str, virtual_size: int) -> str:
        with self._call("base_finish"):
            self._half("base_finish")
            status, message = self.host.finish_base(name, source_format, virtual_size)
            if status:
                self._die(status, message)
            return message

    def base_finish_words(self, name: str, source_format: str, virtual_size: int) -> list[str]:
        return ["nv_base_finish", self.base_path, name, source_format, "sim", str(virtual_size)]

    def remove_part(self, name: str) -> None:
        if not BASE.fullmatch(name):
            raise UsageError(f"{name!r} is not a base file")
        with self._call("remove_part"):
            self._ours()
            working = [job.words[2] for job in self.host.jobs.values() if job.running and len(job.words) == 6]
            if name in working:
                self._die(77, "another command fetches this base file")
            self.host.parts.pop(name, None)

    def bases(self) -> dict[str, int]:
        with self._call("bases"):
            self._ours()
            return {name: size for name, size in self.host.bases.items() if len(name) == 64}

    def verify_base(self, name: str, keep: Iterable[str], *, act: bool) -> str:
        host = self.host
        for one in (name, *keep):
            check_base(one)
        with self._call("verify_base"):
            self._ours()
            if name not in host.bases:
                return "gone"
            if name in host.unmarked:
                return "unmarked"
            if name not in host.rotten:
                return "ok"
            used = name in set(keep) or host.names_base(name)
            if act and used:
                host.unmarked.add(name)
            elif act:
                host.rotten.discard(name)
                del host.bases[name]
            return f"corrupt-{'used' if used else 'unused'}"

    def base_blank(self, name: str, size: int, kind: str) -> None:
        with self._call("base_blank"):
            self._half("base_blank")
            self.host.bases.setdefault(name, size)
            self.host.touched[name] = self.clock.monotonic()

    def blank_sum(self, name: str) -> str:
        check_base(name)
        with self._call("blank_sum"):
            self._ours()
            return f"{self.host.makes_blanks} {name}" if name in self.host.bases else ""

    def prune(self, keep: Iterable[str], seconds: int, *, remove: bool) -> list[Pruned]:
        host, known = self.host, set(keep)
        for name in known:
            check_base(name)
        with self._call("prune"):
            self._ours()
            working = {job.words[2] for job in host.jobs.values() if job.running and len(job.words) == 6}
            found = []
            for part, files in ((False, host.bases), (True, host.parts)):
                for name in sorted(files):
                    used = host.touched.get(name, 0.0)
                    state = "unused"
                    if name in known and not part:
                        state = "used-in-database"
                    elif not part and host.names_base(name):
                        state = "used-here"
                    elif self.clock.monotonic() - used < seconds:
                        state = "young"
                    elif remove:
                        state = "busy" if name in working else "removed"
                    if state.startswith("used") and remove:
                        host.touched[name] = used = self.clock.monotonic()
                    content = files[name]
                    size = content if isinstance(content, int) else len(content)
                    found.append(Pruned(name, part, size, int(used), state))
            self._half("prune")
            for one in found:
                if one.state == "removed":
                    del (host.parts if one.part else host.bases)[one.name]
            return found

    # --- an instance's files ---

    def directory(self, uuid: str) -> str:
        return instance_dir(self.instances_path, uuid)

    def make_directory(self, uuid: str, epoch: int, operation: str) -> None:
        with self._fenced("make_directory", uuid, epoch):
            if found := self.host.directories.get(uuid):
                if found.made_by != operation:
                    self._die(76, f"{self.directory(uuid)} exists and is not of this operation")
                return
            self.host.strays.add(f"{uuid}.{operation}")
            self._half("make_directory")
            self.host.strays.discard(f"{uuid}.{operation}")
            self.host.directories[uuid] = SimDirectory(operation)

    def unmake_directory(self, uuid: str, epoch: int, operation: str) -> None:
        with self._fenced("unmake_directory", uuid, epoch):
            self.host.strays.discard(f"{uuid}.{operation}")
            found = self.host.directories.get(uuid)
            if found is None or found.made_by == operation:
                self._remove(uuid, "unmake_directory")

    def remove_directory(self, uuid: str, epoch: int) -> None:
        with self._fenced("remove_directory", uuid, epoch):
            self._remove(uuid, "remove_directory")
            self.host.aside.pop(uuid, None)

    def remove_stray(self, uuid: str, epoch: int, entry: str) -> None:
        owner, _, ending = entry.partition(".")
        if owner != uuid or not STRAY.fullmatch(ending):
            raise UsageError(f"{entry!r} is not a left-over of {uuid}")
        with self._fenced("remove_stray", uuid, epoch):
            self._half("remove_stray")
            self.host.strays.discard(entry)

    def _remove(self, uuid: str, call: str) -> None:
        if self.host.directories.pop(uuid, None):
            self.host.strays.add(f"{uuid}.del")
            self._half(call)
        self.host.strays.discard(f"{uuid}.del")

    def _files(self, uuid: str) -> dict[str, Any]:
        if uuid not in self.host.directories:
            self._die(2, f"cd: can't cd to {self.directory(uuid)}")
        return self.host.directories[uuid].files

    def overlay(self, uuid: str, epoch: int, file: str, base: str, size: int) -> None:
        with self._fenced("overlay", uuid, epoch):
            files = self._files(uuid)
            if base not in self.host.bases:
                self._die(1, f"base file {base} is not here")
            if file not in files:
                files[f".{file}.new"] = b""
                self._half("overlay")
                files[file] = (base, size)
                del files[f".{file}.new"]

    def missing_files(self, uuid: str, files: Sequence[str]) -> list[str]:
        with self._call("missing_files"):
            self._ours()
            directory = self.host.directories.get(uuid)
            return [file for file in files if directory is None or file not in directory.files]

    def held_files(self, uuid: str, files: Sequence[str]) -> list[str]:
        with self._call("held_files"):
            self._ours()
            held = self._files(uuid).get("held", b"")
            for file in (*files, *DRIVE):
                self._alone(self._files(uuid), file)
            return list(files) if held else []

    def put(self, uuid: str, epoch: int, file: str, mode: str, content: bytes) -> None:
        with self._fenced("put", uuid, epoch):
            self._put(uuid, file, content, "put")

    def _put(self, uuid: str, file: str, content: bytes, call: str) -> None:
        files = self._files(uuid)
        files[f".{file}.new"] = content[: len(content) // 2]
        self._half(call)
        files[file] = content
        del files[f".{file}.new"]

    # --- its domain ---

    def define(self, uuid: str, epoch: int, xml: str) -> None:
        with self._fenced("define", uuid, epoch):
            self._put(uuid, "libvirt.xml", xml.encode(), "define")
            mark = fromstring(xml).find(f"metadata/{{{NAMESPACE}}}instance")
            operation = "" if mark is None else mark.get("operation", "")
            if domain := self.host.domains.get(uuid):
                domain.xml, domain.operation = xml, operation
            else:
                self.host.domains[uuid] = SimDomain(xml, operation)

    def undefine_if_made_by(self, uuid: str, epoch: int, operation: str) -> None:
        with self._fenced("undefine_if_made_by", uuid, epoch):
            domain = self.host.domains.get(uuid)
            if domain is not None and domain.operation == operation:
                self._undefine(uuid, "undefine_if_made_by")

    def start(self, uuid: str, epoch: int) -> None:
        with self._fenced("start", uuid, epoch):
            domain = self.host.domains.get(uuid)
            if domain is None:
                raise HostFault(f"{self.name}: the guest does not start: failed to get domain '{uuid}'")
            for file in ("disk", "disk.config"):
                if file not in self.host.directories[uuid].files:
                    raise HostFault(f"{self.name}: the guest does not start: no {file}")
            self._half("start")
            if domain.state in OFF and not domain.saved:
                domain.has = started(domain.xml)
            if 'firmware="efi"' in domain.xml:  # libvirt makes new ones only where there are none
                self.host.nvram.setdefault(uuid, f"born on {self.name}".encode())
            domain.state, domain.saved = PowerState.RUNNING, False

    def pause(self, uuid: str, epoch: int) -> None:
        with self._fenced("pause", uuid, epoch):
            self._turn(uuid, PowerState.PAUSED)

    def unpause(self, uuid: str, epoch: int) -> None:
        with self._fenced("unpause", uuid, epoch):
            self._turn(uuid, PowerState.RUNNING)

    def _turn(self, uuid: str, state: PowerState) -> None:
        domain = self.host.domains.get(uuid)
        if domain is None:
            self._die(1, f"failed to get domain '{uuid}'")
        elif domain.state in OFF:
            self._die(1, "Requested operation is not valid: domain is not running")
        else:
            domain.state = state

    def shutdown(self, uuid: str, epoch: int) -> None:
        with self._fenced("shutdown", uuid, epoch):
            domain = self.host.domains.get(uuid)
            if domain is not None and domain.state is PowerState.RUNNING and not domain.deaf:
                domain.off_at = self.clock.monotonic() + SHUTDOWN_TAKES

    def destroy(self, uuid: str, epoch: int) -> None:
        with self._fenced("destroy", uuid, epoch):
            if domain := self.host.domains.get(uuid):
                domain.state, domain.off_at = PowerState.SHUTDOWN, None

    def autostart_off(self, uuid: str, epoch: int) -> None:
        with self._fenced("autostart_off", uuid, epoch):
            if domain := self.host.domains.get(uuid):
                domain.autostart = False

    def drop_domain(self, uuid: str, epoch: int) -> None:
        with self._fenced("drop_domain", uuid, epoch):
            self._undefine(uuid, "drop_domain")
            self.host.files_of(uuid).pop("saved-by", None)

    def remove_domain(self, uuid: str, epoch: int) -> None:
        with self._fenced("remove_domain", uuid, epoch):
            self._undefine(uuid, "remove_domain")

    def _undefine(self, uuid: str, call: str) -> None:
        if domain := self.host.domains.get(uuid):
            domain.state, domain.off_at = PowerState.SHUTDOWN, None
            self._half(call)
            del self.host.domains[uuid]

    # --- its memory ---

    def room_to_save(self) -> int:
        with self._call("room_to_save"):
            self._ours()
            return self.host.room_to_save

    def qemu_versions(self, uuid: str) -> tuple[str, str]:
        with self._call("qemu_versions"):
            self._ours()
            directory = self.host.directories.get(uuid)
            saved = directory.files.get("saved-by", b"") if directory else b""
            return saved.decode().strip(), self.host.qemu

    def save_words(self, uuid: str, epoch: int, size: int) -> list[str]:
        return ["nv_fenced", uuid, str(epoch), "nv_save", self.directory(uuid), uuid, str(size), "/save"]

    def unsave_words(self, uuid: str, epoch: int) -> list[str]:
        return ["nv_fenced", uuid, str(epoch), "nv_unsave", self.directory(uuid), uuid]

    def restore_words(self, uuid: str, epoch: int) -> list[str]:
        return ["nv_fenced", uuid, str(epoch), "nv_restore", self.directory(uuid), uuid]

    # --- moves ---

    def trust_key(self, op: str, address: str) -> tuple[str, str]:
        with self._call("trust_key"):
            self._ours()
            self.host.keys.add(op)
            return "192.0.2.9", f"ssh-ed25519 AAAA novactl {op}"

    def trust_to(self, op: str, address: str, port: int, host_keys: Sequence[str]) -> None:
        with self._call("trust_to"):
            self._ours()
            name, _, rest = address.partition(".")
            self.host.leads_to[op] = f"kvm{rest[-1]}" if name.isdecimal() else name  # 192.0.2.N is kvmN

    def trust_try(self, op: str) -> None:
        with self._call("trust_try"):
            self._ours()
            if not any(op in host.lines for host in self.host.peers().values()):
                self._die(1, "the target does not let it in: Permission denied (publickey).")

    def trust_allow(
        self, op: str, key: str, came_from: str, seconds: int, *, receives: Sequence[str] = ()
    ) -> None:
        with self._call("trust_allow"):
            self._ours()
            self.host.lines[op] = list(receives)

    def trust_end(self, op: str) -> None:
        with self._call("trust_end"):
            self._ours()
            self.host.lines.pop(op, None)
            self._half("trust_end")
            self.host.keys.discard(op)

    def trusts(self) -> list[str]:
        with self._call("trusts"):
            self._ours()
            return sorted({*self.host.keys, *self.host.lines})

    def leave_domain(self, uuid: str, epoch: int) -> None:
        with self._fenced("leave_domain", uuid, epoch):
            self._leave(uuid, "leave_domain")

    def _leave(self, uuid: str, call: str) -> None:
        domain = self.host.domains.get(uuid)
        if domain is not None and domain.state not in OFF:
            self._die(1, f"the guest is {domain.state}")
        self._undefine(uuid, call)

    def set_aside(self, uuid: str, epoch: int) -> None:
        with self._fenced("set_aside", uuid, epoch):
            self._leave(uuid, "set_aside")
            if uuid in self.host.directories:
                if uuid in self.host.aside:
                    self._die(76, f"{self.directory(uuid)}_resize is there already")
                aside = self.host.aside[uuid] = self.host.directories.pop(uuid)
                if uuid in self.host.nvram:
                    aside.files["nvram"] = self.host.nvram[uuid]

    def bring_back(self, uuid: str, epoch: int) -> None:
        with self._fenced("bring_back", uuid, epoch):
            if uuid in self.host.aside:
                if uuid in self.host.directories:
                    self._die(76, f"{self.directory(uuid)} is there already")
                self.host.directories[uuid] = self.host.aside.pop(uuid)
            elif uuid not in self.host.directories:
                self._die(1, f"cannot stat '{self.directory(uuid)}_resize'")

    def clean_up(self, uuid: str, epoch: int, left: Left) -> None:
        with self._fenced("clean_up", uuid, epoch):
            if uuid in self.host.domains:
                self._die(1, "its domain is still defined here")
            self._half("clean_up")
            self.host.nvram.pop(uuid, None)
            if left == "directory":
                self._remove(uuid, "clean_up")
            elif left == "aside":
                self.host.aside.pop(uuid, None)

    def copy_nvram(self, uuid: str, epoch: int) -> None:
        with self._fenced("copy_nvram", uuid, epoch):
            self._half("copy_nvram")
            if uuid in self.host.nvram:
                self._files(uuid)["nvram"] = self.host.nvram[uuid]

    def place_nvram(self, uuid: str, epoch: int) -> None:
        with self._fenced("place_nvram", uuid, epoch):
            if "nvram" in self._files(uuid):
                self.host.nvram[uuid] = self._files(uuid)["nvram"]
                self._half("place_nvram")
                del self._files(uuid)["nvram"]

    def grow(self, uuid: str, epoch: int, file: str, size: int) -> None:
        with self._fenced("grow", uuid, epoch):
            base, before = self._files(uuid)[file]
            self._half("grow")
            self._files(uuid)[file] = (base, max(size, before))

    def remake(self, uuid: str, epoch: int, file: str, base: str | None, size: int) -> None:
        with self._fenced("remake", uuid, epoch):
            self._files(uuid).pop(file, None)
            self._half("remake")
            if base is not None:
                self._files(uuid)[file] = (base, size)

    def disk_sizes(self, uuid: str, files: Sequence[str]) -> dict[str, tuple[int, int]]:
        with self._call("disk_sizes"):
            self._ours()
            return {file: (MIB, MIB) for file in files if file in self.host.files_of(uuid)}

    def send_words(self, uuid: str, epoch: int, op: str, file: str) -> list[str]:
        return ["nv_fenced", uuid, str(epoch), "nv_send", op, f"{self.directory(uuid)}_resize", file]

    def pull_words(
        self,
        key: str,
        name: str,
        size: int,
        source_format: str,
        virtual_size: int,
        *,
        proven: bool,
        raw_sum: str | None,
        waits: bool,
    ) -> list[str]:
        how = "source" if proven else f"sparse:{raw_sum}" if raw_sum else "any"
        what = (name, str(size), source_format, "sim", str(virtual_size), how)
        return ["nv_base_pull", key, self.base_path, *what, *(["wait"] if waits else [])]

    def serve_words(self, name: str) -> list[str]:
        return ["nv_serve", self.base_path, name]

    def receive_words(self, uuid: str, most: Mapping[str, int]) -> list[str]:
        bounds = [f"{file}={size}" for file, size in most.items()]
        return ["nv_fenced", uuid, "@epoch", "nv_receive", self.directory(uuid), *bounds]

    # --- consoles ---

    def console_tail(self, uuid: str, lines: int) -> tuple[int, bytes]:
        with self._call("console_tail"):
            directory = self.host.directories.get(uuid)
            log = directory.files["console.log"] if directory else b""
            kept = b"".join(log.splitlines(keepends=True)[-lines:]) if lines else log
            return len(log), kept

    def console_from(self, uuid: str, offset: int) -> tuple[int, bytes]:
        with self._call("console_from"):
            directory = self.host.directories.get(uuid)
            log = directory.files["console.log"] if directory else b""
            start = 0 if len(log) < offset else offset
            return len(log), log[start:]

    def banner(self, address: str, port: int, timeout: float) -> bytes:
        with self._call("banner"):
            return b"SSH-2.0-sim\r\n"


class _Receiver:
    """The other end of images.transfer.feed: nv_base_receive."""

    def __init__(self, hypervisor: SimHypervisor, part: bytearray, size: int, *, ready: bool) -> None:
        self.hypervisor = hypervisor
        self.part = part
        self.size = size
        self.finished = ready
        self._answers = [b"ready\n" if ready else f"send {len(part)}\n".encode()]
        self._expect = 0
        self._header = b""

    def readline(self) -> bytes:
        return self._answers.pop(0)

    def write(self, data: bytes) -> None:
        if self._expect:
            assert len(data) <= self._expect
            self.part += data
            self._expect -= len(data)
            self.hypervisor._half("base_receive")
            return
        offset, length, *_ = map(int, data.split())
        if length == 0:
            self.part += bytes(self.size - len(self.part))
            self.finished = True
            return
        self.part += bytes(offset - len(self.part))
        self._expect = length


# --- the fleet ---


def store(directory: Path) -> LocalStore:
    """The image store of a fleet, with a few files."""
    root = directory / "images"
    root.mkdir(parents=True, exist_ok=True)
    for content in (CONTENT, KERNEL, INITRD):
        (root / hashlib.sha256(content).hexdigest()).write_bytes(content)
    return LocalStore(root)


TEMPLATE = resources.template("domain.xml", Path("/nonexistent"))


def images() -> list[Image]:
    """tiny (a raw disk), direct (with kernel and initrd), large (a job of its host finishes it)."""
    sha256, kernel, initrd = (hashlib.sha256(c).hexdigest() for c in (CONTENT, KERNEL, INITRD))
    sizes = {"size_bytes": len(CONTENT), "virtual_size_bytes": MIB}
    tiny = records.image("tiny", sha256=sha256, **sizes)
    kernels = {"kernel_sha256": kernel, "kernel_size_bytes": len(KERNEL)}
    initrds = {"initrd_sha256": initrd, "initrd_size_bytes": len(INITRD), "cmdline": "a=b"}
    large = records.image("large", sha256=sha256, size_bytes=len(CONTENT), virtual_size_bytes=QUICK)
    uefi = records.image("uefi", sha256=sha256, **sizes, properties={"hw_firmware_type": "uefi"})
    return [tiny, records.image("direct", sha256=sha256, **sizes, **kernels, **initrds), large, uefi]


APART = "aaaaaaaa-0000-4000-8000-00000000000a"


class SimFleet:
    """Hosts, one database, and the processes that work on them. A process is gone when its life is not
    `living`; one that is `asleep` lives and does nothing: only its lease tells. `turns`: whose threads and
    processes mix is decided there."""

    def __init__(
        self, directory: Path, *, hosts_: int = 3, seed: int = 0, place: Place | None = None, **values: Any
    ) -> None:
        self.directory, self.path = directory, directory / "novactl.db"
        self.place = place or databases.place("sqlite")
        self.clock = SimClock()
        self.ids = SeededIds(seed)
        self.store = store(directory)
        self.secrets = Secrets(directory / "secret.key")
        self.faults: list[Fault] = []
        self.told: list[str] = []
        self.other_store: LocalStore | None = None
        """Of another operator, when not None: his processes are those that come."""
        self._lives = 0
        self.turns: Turns | None = None
        self._nobody()
        self.hosts = {f"kvm{n}": SimHost(f"kvm{n}", scratch.FLEET) for n in range(1, hosts_ + 1)}
        self._introduce()
        self.db = self.place.fresh(directory)
        self._furnish(values)

    def _introduce(self) -> None:
        for host in self.hosts.values():
            host.peers = lambda: self.hosts

    def limit(self) -> None:
        """The project counts what it uses, and has a group whose members are on hosts of their own."""
        group = ServerGroup(id=APART, name="apart", project="default", policy=GroupPolicy.ANTI_AFFINITY)
        with self.db.writing() as tx:
            groups.create(tx, group)
            projects.create(tx, Project(name="default", limits={"instances": 1000, "cores": 2000}))

    def _nobody(self) -> None:
        """No process of ours is there."""
        self.living: set[int] = set()
        self.asleep: set[int] = set()
        self.beats: dict[int, Heart] = {}
        self.clock.on_sleep = [self._pass_time]

    def _pass_time(self, seconds: float) -> None:
        for heart in list(self.beats.values()):
            heart.beat()
        if self.turns is not None:
            self.turns.switch(yields=True)

    def _furnish(self, host_values: dict[str, Any]) -> None:
        with self.db.writing() as tx:
            for name in self.hosts:
                hosts.add(tx, records.host(name, **{"facts": FACTS, **host_values}))
            for image in images():
                catalogue.add_image(tx, image)
            catalogue.add_flavor(tx, records.flavor("small"))
            catalogue.add_flavor(tx, records.flavor("disks", ephemeral_gib=1, swap_mib=64))
            catalogue.add_flavor(tx, records.flavor("large", vcpus=2, disk_gib=20, swap_mib=64))
            room = {"hw:max_vcpus": "4"}
            catalogue.add_flavor(tx, records.flavor("lean", memory_mib=256, extra_specs=room))
            catalogue.add_flavor(tx, records.flavor("wide", vcpus=4, memory_mib=512))
            catalogue.add_network(tx, records.network("lan"))

    def clone(self, directory: Path) -> "SimFleet":
        """The same fleet somewhere else, for another future."""
        twin = copy.copy(self)
        twin.directory, twin.path = directory, directory / "novactl.db"
        twin.db = self.place.twin(self.db, directory)
        twin.clock, twin.ids = copy.copy(self.clock), copy.copy(self.ids)
        twin.clock._lock, twin.ids._lock = threading.Lock(), threading.Lock()
        twin.ids._random = copy.copy(self.ids._random)
        shutil.copytree(self.directory / "images", directory / "images")
        twin.store = store(directory)
        twin.hosts = copy.deepcopy(self.hosts)
        twin._introduce()
        twin.faults, twin.told, twin.turns = [], [], None
        twin._nobody()
        return twin

    def close(self) -> None:
        self.place.release(self.db)

    # --- processes ---

    @contextlib.contextmanager
    def process(
        self,
        name: str = "a",
        failpoints: Failpoints | None = None,
        dies_at: tuple[str, int] | None = None,
        asked_by: str | None = None,
    ) -> Iterator["Process"]:
        """One run of novactl; it is gone after the block, however that ends."""
        self._lives += 1
        life = Life(self._lives, dies_at)
        self.living.add(life.number)
        process = Process(self, name, life, failpoints or NoFailpoints(), asked_by)
        try:
            yield process
        finally:
            life.over = True
            self.living.discard(life.number)
            process.db.close()

    def run(self, action: Any, *, name: str = "a", failpoints: Failpoints | None = None) -> Outcome:
        """One action in a process of its own. Died comes through."""
        with self.process(name, failpoints) as process:
            (outcome,) = process.operator.run([action])
            return outcome

    def take_over(
        self,
        op_id: str,
        *,
        back: bool,
        name: str = "b",
        failpoints: Failpoints | None = None,
        dies_at: tuple[str, int] | None = None,
    ) -> Operation:
        """`op resume` or `op rollback` in a process of its own."""
        with self.process(name, failpoints, dies_at) as process:
            return recover.take_over(process.operator, op_id, back=back)

    def active(self) -> list[str]:
        """Operations that have not ended, oldest first."""
        with self.db.reading() as tx:
            return [op.id for op, _, _ in listed(tx, active=True)][::-1]


class Process:
    """What one run of novactl has."""

    def __init__(
        self, fleet: SimFleet, name: str, life: Life, failpoints: Failpoints, asked_by: str | None = None
    ) -> None:
        self.life = life
        self.interrupt = Interrupt()
        self.db = fleet.place.again(fleet.db)
        known: dict[str, SimHypervisor] = {}

        marks = [""]

        def hypervisor(host: str) -> SimHypervisor:
            if host not in known:
                known[host] = SimHypervisor(fleet.hosts[host], scratch.FLEET, fleet.clock, fleet.faults, life)
                known[host].mark = marks[0]
            return known[host]

        def reached(mark: str) -> None:
            marks[0] = max(marks[0], mark)
            for each in known.values():
                each.mark = marks[0]

        self.world = World(
            db=mortal(self.db, life, fleet.clock),
            hypervisor=hypervisor,
            store=fleet.other_store or fleet.store,
            secrets=fleet.secrets,
            clock=fleet.clock,
            ids=fleet.ids,
            interrupt=self.interrupt,
            fleet=scratch.FLEET,
            template=lambda _: TEMPLATE,
            tell=fleet.told.append,
            reached=reached,
            novactl=SimNovactl(fleet),
            drive=lambda hosts, move, *, begin, check, tell: hypervisor(hosts[0]).drive(
                fleet.hosts[hosts[1]], move, begin
            ),
            newcomer=lambda place: hypervisor(place["name"]),
        )
        owner = Owner(
            words=f"{name}@sim (life {life.number})",
            user=name,
            key={"life": life.number},
            asked_by=asked_by,
        )
        self.journal = DbJournal(self.world.db, REGISTRY, fleet.clock, owner)
        self.operator = SimOperator(
            self.world,
            self.journal,
            failpoints=Mortal(life, failpoints, fleet.turns),
            observe=lambda op, record, event, detail="": None,
            alive=lambda key, *, expired, shared: key.get("life") in fleet.living and not expired,
        )
        self.operator.turns = fleet.turns
        self.operator.heartbeat = Heart(self.journal, life, fleet.clock, fleet.beats, fleet.asleep)


class SimNovactl:
    """actions.world.Novactl: a process of its own on the same fleet, that knows a few command lines. It ends
    with the one that started it when that one dies."""

    def __init__(self, fleet: SimFleet) -> None:
        self.fleet = fleet

    def __call__(
        self, words: Sequence[str], *, asked_by: str, check: Callable[[], None]
    ) -> tuple[int, str, str]:
        check()
        with self.fleet.process("sub", asked_by=asked_by) as process:
            try:
                code, answer = self._carry_out(process, list(words))
            except NovactlError as error:
                return error.code, "", json.dumps({"error": error.as_dict()})
        return code, json.dumps(answer), ""

    def _carry_out(self, process: Process, words: list[str]) -> tuple[int, Any]:
        match words:
            case ["host", "set", name, "--disable" | "--enable" as how]:
                process.db.write(lambda tx: hosts.update(tx, name, enabled=int(how == "--enable")))
                return 0, {"name": name}
            case ["list"]:
                return 0, [{"uuid": one.uuid} for one in process.db.read(instances.everything)]
            case ["op", "resume", op_id]:
                recover.take_over(process.operator, op_id, back=False)
                return 0, None
            case ["op", "cancel", op_id]:
                recover.cancel(process.operator, op_id)
                return 0, None
            case ["start" | "stop" as verb, *names]:
                made = {"start": Start, "stop": Stop}[verb]
                outcomes = process.operator.run([made(name=name, project="default") for name in names])
                items = [
                    {"target": one.target, "code": one.code, "error": one.error and one.error.as_dict()}
                    for one in outcomes
                ]
                return max(one.code for one in outcomes), items
        raise UsageError(f"no such command: {words}")


# --- what must always be so, and what must be so in the end ---


def _rows(fleet: SimFleet) -> dict[str, list[dict[str, Any]]]:
    tables = ("hosts", "holds", "instances", "ports", "operations", "steps", "op_locks", "secrets")
    tables += ("migrations",)
    with fleet.db.reading() as tx:
        return {table: tx.all(f"SELECT * FROM {table}") for table in tables}


CLAIMS = """
    SELECT name, 'used is not what is held' AS what FROM hosts h WHERE
        vcpus_used <> (SELECT COALESCE(SUM(vcpus), 0) FROM holds WHERE host = h.name)
        OR memory_mib_used <> (SELECT COALESCE(SUM(memory_mib), 0) FROM holds WHERE host = h.name)
        OR disk_gib_used <> (SELECT COALESCE(SUM(disk_gib), 0) FROM holds WHERE host = h.name)
    UNION ALL SELECT name, 'is overcommitted' FROM hosts WHERE
        vcpus_used > (vcpus - reserved_vcpus - foreign_vcpus - dedicated_vcpus) * cpu_ratio
        OR memory_mib_used
            > (memory_mib - reserved_memory_mib - foreign_memory_mib - huge_memory_mib) * memory_ratio
        OR disk_gib_used > (disk_gib - reserved_disk_gib - foreign_disk_gib) * disk_ratio
    UNION ALL SELECT name, 'counts other instances than it has' FROM projects p WHERE instances_used
        <> (SELECT COUNT(*) FROM instances WHERE project = p.name AND deleted_at IS NULL)
    UNION ALL SELECT MIN(g.name), 'has more than it may on one host' FROM server_groups g
        JOIN instances i ON i.group_id = g.id AND i.deleted_at IS NULL AND i.host IS NOT NULL
        WHERE g.policy = 'anti-affinity' GROUP BY g.id, i.host HAVING COUNT(*) > MIN(g.max_per_host)
    UNION ALL SELECT name, 'is deleted and keeps its name' FROM instances
        WHERE deleted_at IS NOT NULL AND live_name IS NOT NULL
    UNION ALL SELECT MIN(target), 'has several operations at once' FROM operations
        WHERE finished_at IS NULL AND target_uuid IS NOT NULL GROUP BY target_uuid HAVING COUNT(*) > 1
"""


def fenced(fleet: SimFleet) -> set[str]:
    """Hosts that take no claim: what is on them counts when an audit has found nothing wrong there."""
    with fleet.db.reading() as tx:
        return {row["name"] for row in tx.all("SELECT name FROM hosts WHERE state = 'fenced'")}


def lost(fleet: SimFleet) -> set[str]:
    """Hosts that are fenced and off."""
    return {name for name in fenced(fleet) if not fleet.hosts[name].up}


def always(fleet: SimFleet) -> list[str]:
    """What is wrong now, though an operation may be half way."""
    gone = fenced(fleet)
    with fleet.db.reading() as tx:
        wrong = [f"{row['name']}: {row['what']}" for row in tx.all(CLAIMS)]
        holds = {(row["instance_uuid"], row["host"]) for row in tx.all("SELECT * FROM holds")}
        rows = tx.all("SELECT uuid, epoch, deleted_at FROM instances")
    instances = {row["uuid"]: row for row in rows}
    for name, found in fleet.hosts.items():
        if found.jobs.twice:
            wrong.append(f"{name}: a job was started twice")
        for uuid in sorted(found.everything() if name not in gone else ()):
            if (uuid, name) not in holds:
                wrong.append(f"{name}: {uuid} has things here and no claim")
            if uuid not in instances or instances[uuid]["deleted_at"]:
                wrong.append(f"{name}: {uuid} has things here and is deleted")
        for uuid, epoch in found.epochs.items():
            if uuid in instances and epoch > instances[uuid]["epoch"]:
                wrong.append(f"{name}: {uuid} has epoch {epoch}, the database {instances[uuid]['epoch']}")
    wrong += _more_than_claimed(fleet)
    everywhere = [uuid for found in fleet.hosts.values() for uuid in found.running()]
    wrong += [f"{uuid} runs twice" for uuid in sorted(set(everywhere)) if everywhere.count(uuid) > 1]
    return wrong


def _more_than_claimed(fleet: SimFleet) -> list[str]:
    """Guests that run with more than is claimed for them on their host."""
    with fleet.db.reading() as tx:
        rows = tx.all(
            "SELECT instance_uuid, host, SUM(vcpus) AS vcpus, SUM(memory_mib) AS memory_mib FROM holds"
            " GROUP BY instance_uuid, host"
        )
    held = {(row["host"], row["instance_uuid"]): row for row in rows}
    return [
        f"{name}: {uuid} has more than is claimed: {domain.has}"
        for name, host in fleet.hosts.items()
        for uuid, domain in host.domains.items()
        if domain.has is not None and domain.state not in OFF and (row := held.get((name, uuid)))
        if domain.has.vcpus > row["vcpus"] or domain.has.memory_mib > row["memory_mib"]
    ]


def settled(fleet: SimFleet) -> list[str]:
    """What is wrong when nothing is under way."""
    rows, wrong, gone = _rows(fleet), always(fleet), lost(fleet)
    noted = {one.checkpoint for one in fleet.db.read(backups.everything)}
    wrong += _backups_wrong(fleet)
    living = {row["uuid"]: row for row in rows["instances"] if not row["deleted_at"]}
    wrong += [
        f"{row['id']}: {row['kind']} of {row['target']} is {row['state']}"
        for row in rows["operations"]
        if row["state"] not in ("done", "undone", "abandoned")
    ]
    wrong += [f"{row['operation']}: keeps {row['kind']} {row['id']}" for row in rows["op_locks"]]
    states = {row["id"]: row["state"] for row in rows["operations"]}
    attempts = {row["id"]: row["attempt"] for row in rows["operations"]}
    for step in rows["steps"]:
        state, name = states[step["operation"]], f"{step['operation']}: step {step['n']}"
        if state == "undone" and step["state"] not in ("undone", "pending"):
            wrong.append(f"{name} is {step['state']} in an operation that was undone")
        current = step["attempt"] in (0, attempts[step["operation"]])
        if state == "done" and (step["state"] == "done") != current:
            wrong.append(f"{name} is {step['state']} in an operation that is done")
    waiting = {(r["instance_uuid"], r["source"]) for r in rows["migrations"] if r["status"] == "finished"}
    wrong += [
        f"{r['instance_uuid']}: its move is open" for r in rows["migrations"] if r["status"] == "migrating"
    ]
    wrong += _moves_wrong(rows, living) + _claimed_wrong(fleet, rows["holds"])
    for row in rows["holds"]:
        owner = living.get(row["instance_uuid"])
        left = row["role"] == "move-source" and (row["instance_uuid"], row["host"]) in waiting
        if not left and (owner is None or owner["host"] != row["host"]):
            wrong.append(f"{row['host']}: {row['instance_uuid']} is claimed for and does not live here")
    for table, column in (("ports", "instance_uuid"), ("secrets", "owner")):
        wrong += [f"{table}: {r[column]} is gone" for r in rows[table] if r[column] not in living]
    for row in living.values():
        wrong += _instance_wrong(fleet, row, rows["holds"])
    for name, host in fleet.hosts.items():
        left = sorted(host.strays | host.sockets)
        left += [
            f for d in host.directories.values() for f in d.files if f.startswith("migrate") or "op-" in f
        ]
        left += [c for d in host.domains.values() for c in d.checkpoints if c not in noted]
        wrong += [f"{name}: {one} was left" for one in left]
        wrong += [
            f"{name}: {uuid} is not here by the record"
            for uuid in sorted(host.everything())
            if (uuid not in living or living[uuid]["host"] != name)
            and (uuid, name) not in waiting
            and name not in gone
        ]
        if not any(f"{name}: keeps the operation's key" in line for line in fleet.told):
            wrong += [f"{name}: {op} may still log in" for op in sorted({*host.keys, *host.lines})]
        wrong += [
            f"{name}: {uuid} is aside"
            for uuid in host.aside
            if (uuid, name) not in waiting and name not in gone
        ]
    return wrong + _images_wrong(fleet) + audited(fleet)


def _images_wrong(fleet: SimFleet) -> list[str]:
    """Images that have no files, files that have no image."""
    root = fleet.directory / "images"
    there = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    with fleet.db.reading() as tx:
        kept = {
            f"shelved/{one.uuid}.json"
            for one in instances.everything(tx)
            if one.shelved_image and not one.host
        }
    seeds = {hashlib.sha256(content).hexdigest() for content in (CONTENT, KERNEL, INITRD)}
    with fleet.db.reading() as tx:
        kept |= {f"backups/{one.id}.json" for one in backups.everything(tx)}
        used = catalogue.stored_files_in_use(tx) | kept
        wrong = [
            f"image {one.name}: is {one.status}" for one in catalogue.images(tx) if one.status != "active"
        ]
    wrong += [f"store: {file} is missing" for file in sorted(used - there)]
    return wrong + [f"store: {file} was left" for file in sorted(there - used - seeds)]


def _backups_wrong(fleet: SimFleet) -> list[str]:
    """Backups whose files are gone, and those that nobody needs and that are kept."""
    every = fleet.db.read(backups.everything)
    wrong = [f"backup {one.name}: is kept and not needed" for one in unneeded(every)]
    by_id = {one.id: one for one in every}
    for one in every:
        parts = chain(one, by_id)
        if not parts or not all(fleet.store.has(sum_) for part in parts for sum_ in part.sums):
            wrong.append(f"backup {one.name}: is not whole")
    kept = fleet.db.read(catalogue.stored_files_in_use)
    files = {path.name for path in (fleet.directory / "images").iterdir() if path.is_file()}
    return wrong + [f"the store keeps {file[:12]} for nobody" for file in sorted(files - kept)]


def _moves_wrong(rows: Mapping[str, Any], living: Mapping[str, Any]) -> list[str]:
    """Instances that wait to be confirmed, or do not, unlike their record; counts that are not the larger."""
    waiting = {r["instance_uuid"]: r for r in rows["migrations"] if r["status"] == "finished"}
    wrong = [f"{uuid}: is deleted and its move waits" for uuid in waiting if uuid not in living]
    return wrong + [
        f"{row['name']}: is {row['vm_state']}, and its move {'waits' if uuid in waiting else 'does not wait'}"
        for uuid, row in living.items()
        if (row["vm_state"] == "resized") != (uuid in waiting)
    ]


def _claimed_wrong(fleet: SimFleet, holds: list[dict[str, Any]]) -> list[str]:
    """Instances that hold less of their host than they need."""
    held = {hold["instance_uuid"]: hold for hold in holds if hold["role"] == "instance"}
    wrong = []
    for one in fleet.db.read(instances.everything):
        for size, needs in vars(one.resources).items():
            has = held[one.uuid][size] if one.uuid in held else 0
            if has < needs and one.vm_state != "shelved_offloaded":
                wrong.append(f"{one.name}: claims {has} {size} and needs {needs}")
    return wrong


def _instance_wrong(fleet: SimFleet, row: dict[str, Any], holds: list[dict[str, Any]]) -> list[str]:
    name, wrong = row["name"], []
    if row["vm_state"] not in (*POWER_OF, "error", "resized", "rescued", "shelved_offloaded"):
        wrong.append(f"{name}: is {row['vm_state']}")
    if row["task_state"] is not None:
        wrong.append(f"{name}: shows {row['task_state']}")
    held = [h["host"] for h in holds if h["instance_uuid"] == row["uuid"] and h["role"] == "instance"]
    if row["vm_state"] == "shelved_offloaded":
        return wrong + ([f"{name}: is offloaded, on {row['host']}"] if held or row["host"] else [])
    if held != [row["host"]]:
        wrong.append(f"{name}: is on {row['host']} and claims something else")
    if row["host"] in lost(fleet):
        return wrong
    here = fleet.hosts.get(row["host"] or "")
    if here is None or row["uuid"] not in here.directories or row["uuid"] not in here.domains:
        return [*wrong, f"{name}: is not on {row['host']}"]
    domain = here.domains[row["uuid"]]
    power, saved = POWER_OF.get(row["vm_state"], (domain.state, domain.saved))
    if (domain.state, domain.saved) != (power, saved) or domain.saving_until is not None:
        wrong.append(f"{name}: is {row['vm_state']} and {domain.state}{', saved' if domain.saved else ''}")
    if row["power_state"] != power:
        wrong.append(f"{name}: the record says {row['power_state']}")
    files = here.directories[row["uuid"]].files
    rescued = row["vm_state"] == "rescued"
    if {row["rescue_image"] is not None, "disk.rescue" in files, "disk.rescue" in domain.xml} != {rescued}:
        wrong.append(f"{name}: is {row['vm_state']} by image {row['rescue_image']}, and has {sorted(files)}")
    wrong += [f"{name}: {file} was left" for file in files if file.endswith(".old")]
    if saved != ("saved-by" in here.directories[row["uuid"]].files):
        wrong.append(f"{name}: {'nothing says' if saved else 'something says'} which QEMU saved it")
    return wrong


POWER_OF = {
    "active": (PowerState.RUNNING, False),
    "stopped": (PowerState.SHUTDOWN, False),
    "paused": (PowerState.PAUSED, False),
    "suspended": (PowerState.SHUTDOWN, True),
    "shelved": (PowerState.SHUTDOWN, False),
}


class _Still(SimClock):
    """Looking takes no time."""

    def monotonic(self) -> float:
        return float("-inf")


def surveys(fleet: SimFleet) -> dict[str, Survey]:
    """What is on every host, also on those that do not answer; nothing notices the look."""
    found = {}
    for name, host in fleet.hosts.items():
        calls, up = len(host.calls), host.up
        host.up = True
        found[name] = SimHypervisor(host, scratch.FLEET, _Still(), []).survey()
        host.up = up
        del host.calls[calls:]
    return found


def audited(fleet: SimFleet) -> list[str]:
    """What an audit finds that is more than information."""
    with fleet.db.reading() as tx:
        believed = audit.believed(tx, scratch.FLEET, lambda tx, op: True)
    seen: dict[str, Survey | HostUnreachable] = {**surveys(fleet)}
    seen |= {name: HostUnreachable(f"{name}: no answer in time") for name in lost(fleet)}
    copies = {name: host.copy[0] for name, host in fleet.hosts.items() if name not in lost(fleet)}
    found = audit.findings(believed, seen, copies=copies)
    gone = lost(fleet)
    return [
        f"audit: {one.finding}: {one.message}"
        for one in found
        if one.severity != "info" and one.host not in gone
    ]


Watch = Callable[[], None]


@dataclass
class Watching:
    """Failpoints that look at every instant whether all is as it must always be."""

    fleet: SimFleet
    inner: Failpoints = field(default_factory=NoFailpoints)
    wrong: list[str] = field(default_factory=list)

    def reach(self, point: str, record: Any) -> None:
        self.wrong += [f"{point} {record.name}: {what}" for what in always(self.fleet)]
        self.inner.reach(point, record)


EXPECTED = (Busy, Fenced, HostFault, HostUnreachable, Refused)
AMOUNTS = Resources(vcpus=1, memory_mib=512, disk_gib=1)
