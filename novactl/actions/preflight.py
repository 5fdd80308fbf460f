"""What is looked at on both hosts before a guest moves alive. It changes nothing: a probe file is removed
at once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from novactl.actions import blanks, guest, moving, transports
from novactl.actions.acting import Seen
from novactl.actions.steps.files import CreateDisk
from novactl.actions.steps.images import FetchBase, unlike
from novactl.actions.world import World
from novactl.db import hosts
from novactl.errors import NovactlError
from novactl.objects.host import Host
from novactl.objects.image import MARGIN, MIB
from novactl.remote.fanout import fan_out
from novactl.virt import live
from novactl.virt.live import DiskSize
from novactl.virt.survey import BLANK

S = TypeVar("S")
T = TypeVar("T")

DEADLINE = 60.0  # seconds for what a host is asked of its programs
OK, WARN, FAIL = "ok", "warn", "fail"
TRAVELS = {
    transports.SSH: "memory and disks go through ssh",
    transports.TLS: "memory and disks go by TLS to {address}",
    transports.TCP: "memory and disks go in clear to {address}, on a trusted network",
}


@dataclass(frozen=True)
class Item:
    """One thing that was looked at, on which host, and what was seen; result: ok, warn or fail."""

    item: str
    host: str
    result: str
    message: str


@dataclass
class Report:
    """All that was seen of a move to one host. When disks are copied: `disks` are the overlays, by file, and
    `devices` what they are in the guest (vda)."""

    target: str
    shared: bool
    items: list[Item] = field(default_factory=list)
    disks: dict[str, DiskSize] = field(default_factory=dict)
    devices: list[str] = field(default_factory=list)

    @property
    def failed(self) -> list[Item]:
        return [item for item in self.items if item.result == FAIL]

    def as_dicts(self) -> tuple[dict[str, Any], ...]:
        return tuple(dict(vars(item)) for item in self.items)


def look(
    world: World, seen: Seen, target: str, *, block: bool | None, skip_cpu_check: bool, transport: str
) -> Report:
    """Both hosts, as they are now. `block`: the disks are to be copied, or not; None: as the hosts' storage
    has it. Raises HostUnreachable and HostFault when one of them cannot be asked."""
    source, there = world.db.read(lambda tx: (hosts.get(tx, str(seen.instance.host)), hosts.get(tx, target)))
    looking = _Look(world, seen, source, there)
    report = Report(target, looking.shared)
    report.items.append(Item("state", source.name, OK, f"the guest is {seen.power}"))
    report.items += looking.programs()
    report.items += looking.processor(skip_cpu_check)
    report.items.append(looking.storage(block))
    report.items.append(looking.transport(transport))
    if not report.shared:
        report.disks = looking.sizes()
        report.devices = live.targets(looking.xml, looking.here.directory(seen.instance.uuid), report.disks)
    report.items += looking.disks(report.disks)
    report.items += looking.devices()
    report.items += looking.room(report.disks)
    return report


class _Look:
    """A look at one move."""

    def __init__(self, world: World, seen: Seen, source: Host, target: Host) -> None:
        self.world, self.instance = world, seen.instance
        self.source, self.target = source, target
        self.here, self.there = world.hypervisor(source.name), world.hypervisor(target.name)
        self.bridges = sorted({port.bridge for port in self.instance.ports})
        self.xml, self.seen = self._asked(
            lambda: self.here.migratable_xml(self.instance.uuid),
            lambda: self.there.look(self.instance.uuid, self.bridges),
        )
        self.machine, self.cpu = live.machine_of(self.xml)
        self.shared = moving.shared(world, target.name, source.name)

    def programs(self) -> Iterator[Item]:
        """A guest's state goes to the same or to newer programs, never to older ones."""
        here, there = self._asked(
            lambda: self.here.live_facts(self.source.virt_type, self.machine),
            lambda: self.there.live_facts(self.target.virt_type, self.machine),
        )
        if self.source.virt_type != self.target.virt_type:
            words = f"guests are {self.target.virt_type} there, this one is {self.source.virt_type}"
            yield Item("virtualisation", self.target.name, FAIL, words)
        for what in ("libvirt", "qemu"):
            old, new = getattr(here, what), getattr(there, what)
            older = _version(new) < _version(old)
            words = f"{new}, {self.source.name} has {old}"
            yield Item(what, self.target.name, FAIL if older else OK, f"older: {words}" if older else words)
        words = self.machine if there.machine else f"{self.machine} is not known there"
        yield Item("machine", self.target.name, OK if there.machine else FAIL, words)

    def _asked(self, source: Callable[[], S], target: Callable[[], T]) -> tuple[S, T]:
        """What the source and the target answer, which are asked at once; raises what either does, the
        source first."""
        asked: dict[str, Callable[[], Any]] = {self.source.name: source, self.target.name: target}
        answers: dict[str, Any] = dict(fan_out(lambda name: asked[name](), list(asked), deadline=DEADLINE))
        for answer in map(answers.__getitem__, asked):
            if isinstance(answer, NovactlError):
                raise answer
        return answers[self.source.name], answers[self.target.name]

    def processor(self, skip: bool) -> Iterator[Item]:
        """Emulated guests have the processor of their QEMU, wherever they are."""
        name = self.target.name
        if self.source.virt_type != "kvm" or self.cpu is None:
            yield Item("cpu", name, OK, "emulated")
        elif why := self.there.compare_cpu(self.target.virt_type, self.machine, self.cpu):
            yield Item("cpu", name, WARN if skip else FAIL, f"not the guest's: {' '.join(why.split())}")
        else:
            yield Item("cpu", name, OK, "can run the guest")

    def storage(self, block: bool | None) -> Item:
        kind = "shared: the disks stay where they are" if self.shared else "its own: the disks are copied"
        if block is not None and block == self.shared:
            asked = "--block" if block else "--shared"
            return Item(
                "storage", self.target.name, FAIL, f"{kind.partition(':')[0]}, which {asked} is not for"
            )
        if self.shared and not (self.source.facts.get("odirect") and self.target.facts.get("odirect")):
            words = "shared, and cannot do without the page cache (O_DIRECT): two hosts would see two disks"
            return Item("storage", self.target.name, FAIL, words)
        return Item("storage", self.target.name, OK, kind)

    def transport(self, how: str) -> Item:
        now, ends = self.world.clock.now(), (self.source.name, self.target.name)
        why = self.world.db.read(lambda tx: transports.unfit(tx, how, *ends, now))
        words = TRAVELS[how].format(address=self.target.address)
        return Item("transport", self.target.name, FAIL if why else OK, why or words)

    def sizes(self) -> dict[str, DiskSize]:
        files = guest.overlays(self.instance)
        return dict(zip(files, self.here.layers(self.instance.uuid, files), strict=True))

    def disks(self, sizes: dict[str, DiskSize]) -> Iterator[Item]:
        """What becomes of each."""
        steps = guest.disk_steps(self.instance, self.target.name)
        bases = {step.base for step in steps if isinstance(step, CreateDisk)}
        blank = blanks.under(self.instance, sizes)
        for file, size in sizes.items():
            what = f"disk {file}"
            base = size.base.rpartition("/")[2]
            instead = f"; {blanks.instead(self.instance)}" if file in blank else ""
            if base not in bases:
                words = f"stands on {size.base or 'nothing'}, and not on what its record says{instead}"
                yield Item(what, self.source.name, FAIL, words)
                continue
            if BLANK.fullmatch(base) and (why := unlike(self.here, self.there, base)):
                yield Item(what, self.target.name, FAIL, f"{why}{instead}")
                continue
            copied = f"{size.allocated_bytes // MIB} of {size.virtual_bytes // MIB} MiB"
            words = f"{copied} are copied, over the same base"
            yield Item(what, self.target.name, OK, words)
        if not self.shared:
            yield Item("disk disk.config", self.target.name, OK, "is brought before, as it is")
        if live.has_nvram(self.xml):
            yield Item("nvram", self.target.name, OK, "goes with the guest's memory")

    def devices(self) -> Iterator[Item]:
        fixed = live.fixed_devices(self.xml, self.here.directory(self.instance.uuid), self.here.base_path)
        for device in fixed:
            yield Item("device", self.source.name, FAIL, f"cannot move: {device}")

    def room(self, sizes: dict[str, DiskSize]) -> Iterator[Item]:
        """Bridges, memory and space on the target."""
        name, instance, seen = self.target.name, self.instance, self.seen
        if seen.domain:
            yield Item("instance", name, FAIL, "a domain with its uuid is there already")
        for bridge in self.bridges:
            missing = bridge in seen.missing_bridges
            yield Item(
                "network", name, FAIL if missing else OK, f"has {'no ' if missing else ''}bridge {bridge}"
            )
        if self.target.memory_ratio <= 1:
            wanted, free = instance.flavor.memory_mib, seen.memory_available_mib
            yield Item(
                "memory", name, FAIL if free < wanted else OK, f"{free} MiB available, {wanted} needed"
            )
        needed = MARGIN + sum(size.allocated_bytes for size in sizes.values()) + self._to_fetch()
        short = seen.disk_free < needed
        words = f"{seen.disk_free // MIB} MiB free, {needed // MIB} needed"
        yield Item("space", name, FAIL if short else OK, words)

    def _to_fetch(self) -> int:
        if self.shared:
            return 0
        steps = [
            one for one in guest.base_steps(self.instance, self.target.name) if isinstance(one, FetchBase)
        ]
        return sum(
            one.size_bytes + (one.virtual_size_bytes if one.source_format in ("qcow2", "vmdk") else 0)
            for one in steps
            if not self.there.base_state(one.sha256)[0]
        )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdecimal())
