"""One host as its instances see it: typed calls to the functions of remote/host.sh."""

import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from novactl.errors import HostFault
from novactl.objects.names import INTERFACE, check_pattern
from novactl.objects.states import PowerState
from novactl.objects.survey import Survey
from novactl.virt import states, survey
from novactl.virt.backups import Backups
from novactl.virt.calls import Shell, check_uuid, told_mark
from novactl.virt.commands import Commands
from novactl.virt.copies import Copies
from novactl.virt.distribution import Distribution
from novactl.virt.domains import Domains
from novactl.virt.files import BaseFiles, InstanceFiles
from novactl.virt.jobs import Jobs
from novactl.virt.live import Live
from novactl.virt.memory import Memory
from novactl.virt.pki import Pki
from novactl.virt.places import ImageStore
from novactl.virt.rescues import Rescues
from novactl.virt.shared import SharedLook
from novactl.virt.sizes import Sizes
from novactl.virt.snapshots import Snapshots
from novactl.virt.trust import Trust


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
    epoch it saw of the instance, 0 for none. `saved`: libvirt keeps its memory (managed save)."""

    power: PowerState
    mark: str
    epoch: int
    copy: int
    saved: bool = False


class Hypervisor(
    Jobs,
    Commands,
    BaseFiles,
    InstanceFiles,
    Domains,
    Memory,
    Trust,
    Copies,
    Distribution,
    ImageStore,
    Live,
    Pki,
    Sizes,
    Snapshots,
    Rescues,
    Backups,
):
    """Acts on one host. Raises HostUnreachable, HostFault, Fenced, Busy or Refused (shell.failure).

    `copy_seen` is the version of the catalogue copy when the host last spoke of it."""

    def __init__(self, shell: Shell, fleet: str, instances_path: str) -> None:
        super().__init__(shell, fleet, instances_path)
        self._lock = threading.Lock()
        self._domains: frozenset[str] | None = None
        self.copy_seen: int | None = None
        self._powers = SharedLook(self._power_of, self._all_powers)

    # --- the host ---

    def enrol(self, *, takeover: bool) -> str:
        """Our directories and the fleet's mark are there; returns the name of the storage, the same on all
        hosts that share it. Refused when another fleet's mark is there."""
        words = ("nv_enrol", self.fleet, self.instances_path, "yes" if takeover else "no")
        return self.shell.call(*words).strip()

    def storage(self) -> str:
        """The name of the storage that the instances are on."""
        return self._ours("nv_storage", self.instances_path).strip()

    def leave(self) -> None:
        """The fleet's mark is gone; Refused while instances have files there."""
        self.shell.call("nv_leave", self.fleet, self.instances_path)

    def probe_kvm(self, sector: bytes) -> tuple[bool, str]:
        """Whether a guest really ran under KVM, and what was seen."""
        verdict, _, reason = self.shell.call("nv_probe_kvm", data=sector, deadline=30).strip().partition(" ")
        return verdict == "kvm", reason

    def facts(self) -> dict[str, Any]:
        """What preflight wants to know; the keys of nv_facts, with tool, missing, bridge and port (BRIDGE
        INTERFACE) as lists."""
        found: dict[str, Any] = {"tool": [], "missing": [], "bridge": [], "port": []}
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
                    seen.mark = told_mark(self.name, value)
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
        seen = self._powers.ask(check_uuid(uuid))
        return self._power_of(uuid) if seen is None else seen

    def _power_of(self, uuid: str) -> PowerState:
        return self._state(self._ours("nv_domain_state", uuid))

    def _all_powers(self) -> Mapping[str, PowerState]:
        return {uuid: power.state for uuid, power in self.states(180.0).domains.items() if power is not None}

    def _state(self, answer: str) -> PowerState:
        return survey.power_state(self.name, answer.strip().partition("\n")[0])

    def greet(self, uuid: str) -> Greeting:
        """power_state(), and what the host remembers: one call, no process more than that one's."""
        state, _, rest = self._ours("nv_greet", check_uuid(uuid)).strip().rpartition("\n")
        epoch, copy, mark = f"{rest} ".split(" ", 2)
        self.copy_seen = self._number(copy)
        saved = state.endswith("\nsaved")
        told = told_mark(self.name, mark.strip())
        return Greeting(self._state(state), told, self._number(epoch), self.copy_seen, saved)

    def fence(self, uuid: str, epoch: int) -> None:
        """Every act of an older process has ended and none can follow."""
        self._fenced(uuid, epoch, ":")

    def settled_state(self, uuid: str, epoch: int) -> PowerState:
        """As power_state(), but after any act of an older process has ended and none can follow."""
        return self._state(self._fenced(uuid, epoch, "nv_domain_state", check_uuid(uuid)))

    def route_device(self, address: str) -> str:
        """The device an address is reached by from the host; "default" when only by its default route."""
        return self.shell.call("nv_route", address).strip()

    def ensure_bridges(self, wanted: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """Each bridge is there and up. Those that were not are made, with such of the wanted ports as are
        there and free; returns them and the ports they got."""
        words = [word for bridge, ports in wanted.items() for word in (bridge, ",".join(ports))]
        for name in [*wanted, *(port for ports in wanted.values() for port in ports)]:
            check_pattern(name, INTERFACE, "interface")
        made = (line.split()[1:] for line in self._ours("nv_ensure_bridges", *words).splitlines() if line)
        return {bridge: ports for bridge, *ports in made}

    def survey(self) -> Survey:
        """All that is there, of any fleet or none. HostUnreachable when libvirt does not answer."""
        mark = secrets.token_hex(16)
        answer = self.shell.call_bytes("nv_survey", mark, self.instances_path, deadline=600)
        return survey.parse(self.name, answer, mark)

    def states(self, deadline: float = 30.0) -> states.States:
        """The host and the power of all its domains; HostRefused when it is not enrolled in this fleet.
        `deadline` is for the call, not for connecting."""
        mark = secrets.token_hex(16)
        answer = self.shell.call(
            "nv_ours", self.fleet, self.mark, "nv_states", mark, self.instances_path, deadline=deadline
        )
        seen = states.parse(self.name, answer, mark)
        self.copy_seen = seen.copy
        return seen

    def answers(self) -> bool:
        """Whether anything there speaks to us, be it only to refuse; its libvirt need not."""
        return self.shell.answers()

    def hang_up(self) -> None:
        """Let the connection go, unless something uses it; the next call opens another."""
        self.shell.hang_up()

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


def _offset(answer: bytes) -> tuple[int, bytes]:
    first, _, rest = answer.partition(b"\n")
    return int(first), rest
