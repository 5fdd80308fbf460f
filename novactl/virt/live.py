"""Live migration on its two hosts (remote/live.sh), and the XML that a guest goes with."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree.ElementTree import Element, fromstring

from novactl.errors import HostFault, UsageError
from novactl.virt.calls import Calls, job_words
from novactl.virt.xml import render

OF_THE_HOST = ("cputune", "numatune", "memoryBacking")
"""What of a domain depends on the host that it is on, and no guest sees."""


@dataclass(frozen=True)
class LiveFacts:
    """A host as preflight sees it. `machine`: whether guests may have the machine type asked for."""

    libvirt: str
    qemu: str
    machine: bool


@dataclass(frozen=True)
class DiskSize:
    """A qcow2 file: the size that its guest sees, what it takes on disk, and its base file's path, "" for
    none."""

    virtual_bytes: int
    allocated_bytes: int
    base: str


@dataclass(frozen=True)
class Whereabouts:
    """libvirt's word for a guest's state ("none" for no domain) and its reason, and whether a migration of
    it is under way."""

    state: str
    reason: str = ""
    moving: bool = False

    @property
    def alive(self) -> bool:
        return self.state not in ("none", "shut off", "crashed")


@dataclass(frozen=True, kw_only=True)
class Drive:
    """A guest's move, as libvirt needs it said. `disks`: those that are copied (vda), none when the hosts
    share them; the target's QEMU listens on `address` alone; 0: no limit."""

    uuid: str
    xml: str
    persistent: str
    address: str
    tls: bool
    disks: tuple[str, ...]
    max_downtime_ms: int
    bandwidth_mibps: int
    auto_converge: bool


class Live(Calls):
    """A host as the source or the target of a live migration."""

    def live_facts(self, virt_type: str, machine: str) -> LiveFacts:
        """Versions, and whether it knows the machine type."""
        answer = self._ours("nv_live_facts", virt_type, machine)
        found = dict(line.partition(" ")[::2] for line in answer.splitlines())
        return LiveFacts(found.get("libvirt", ""), found.get("qemu", ""), "machine" in found)

    def migratable_xml(self, uuid: str) -> str:
        """The guest's domain as another host would get it."""
        return self._ours("nv_migratable", uuid)

    def compare_cpu(self, virt_type: str, machine: str, cpu: str) -> str:
        """Why no guest with this <cpu> can run there; "" when it can."""
        return self._ours("nv_compare_cpu", virt_type, machine, data=cpu.encode()).strip()

    def layers(self, uuid: str, files: Sequence[str]) -> list[DiskSize]:
        """Of each qcow2 file of the instance."""
        lines = self._ours("nv_disks", self.directory(uuid), *files).strip().splitlines()
        return [
            DiskSize(one["virtual-size"], one["actual-size"], one.get("backing-filename", ""))
            for one in map(json.loads, lines)
        ]

    def instance_file(self, uuid: str, file: str) -> bytes:
        """Its content; nothing when it is not there."""
        return self._ours_bytes("nv_get", self.directory(uuid), file)

    def probe(self, name: str, act: Literal["write", "look", "remove"]) -> bool:
        """A file beside the instances, by which another host sees whether it shares them: looked for, it
        says whether it is there."""
        return self._ours("nv_probe", self.instances_path, name, act).strip() == "shared"

    def listen(self, op: str) -> str:
        """The operation's sockets can be made there; the path of libvirt's own."""
        return self._ours("nv_listen", job_words(op, 0)[0]).strip()

    def unlisten(self, op: str) -> None:
        """None of the operation's sockets is left."""
        self._ours("nv_unlisten", job_words(op, 0)[0])

    def whereabouts(self, uuid: str, epoch: int) -> Whereabouts:
        """How the guest is there, after any act of an older process has ended and none can follow."""
        first, *rest = self._fenced(uuid, epoch, "nv_live_state", uuid).strip().splitlines()
        state, _, reason = first.partition(" (")
        return Whereabouts(state, reason.rstrip(")"), "moving" in rest)

    def end_migration(self, uuid: str, epoch: int) -> None:
        """No migration of the guest is under way."""
        self._fenced(uuid, epoch, "nv_live_abort", uuid)

    def drop_arrival(self, uuid: str, epoch: int, op: str) -> None:
        """What the operation brought there is gone. HostRefused for a guest that it did not bring."""
        self._fenced(uuid, epoch, "nv_drop_arrival", uuid, self.nvram(uuid), job_words(op, 0)[0])

    def forget_move(self, uuid: str, epoch: int) -> None:
        """The XML of a move that came to nothing is gone."""
        self._fenced(uuid, epoch, "nv_forget_move", self.directory(uuid))

    def leave_source(self, uuid: str, epoch: int, *, shared: bool) -> None:
        """Nothing of a guest that went away is left there, its files (unless the hosts share them) neither.
        HostFault when it runs."""
        words = (self.directory(uuid), uuid, self.nvram(uuid), "yes" if shared else "no")
        self._fenced(uuid, epoch, "nv_leave_source", *words)

    def live_words(
        self,
        uuid: str,
        epoch: int,
        op: str,
        socket: str,
        *,
        paused: bool,
        downtime_ms: int,
        how: Sequence[str],
    ) -> list[str]:
        """The job that moves the guest; `how`: words for virsh migrate. It lasts, so it lets the instance's
        lock go."""
        was = "paused" if paused else "running"
        words = (self.directory(uuid), uuid, op, socket, was, str(downtime_ms), *how)
        return ["nv_fenced", uuid, str(epoch), "nv_live", *words]


def virsh_words(
    directory: str,
    op: str,
    disks: Sequence[str],
    *,
    bandwidth_mibps: int,
    auto_converge: bool,
    transport: str,
    address: str,
) -> list[str]:
    """Of `virsh migrate`, after the domain. `disks`: those that are copied, none when the hosts share them:
    then what libvirt takes for unsafe was looked at (preflight). By tls and tcp the target's QEMU listens on
    `address` alone, at a port that its libvirt chooses; control stays in the sockets."""
    sockets = f"/run/novactl-{job_words(op, 0)[0]}"
    words = ["--desturi", f"qemu+unix:///system?socket={sockets}/libvirt"]
    words += ["--live", "--p2p", "--suspend", "--persistent", "--undefinesource", "--abort-on-error"]
    words += ["--xml", f"{directory}/migrate.xml", "--persistent-xml", f"{directory}/migrate-persistent.xml"]
    if transport == "ssh":
        words += ["--migrateuri", f"unix://{sockets}/memory"]
    else:
        host = f"[{address}]" if ":" in address else address
        words += ["--migrateuri", f"tcp://{host}", "--listen-address", address]
        words += ["--tls"] if transport == "tls" else []
    if disks:
        words += ["--copy-storage-inc", "--migrate-disks", ",".join(disks)]
        if transport == "ssh":
            words += ["--disks-uri", f"unix://{sockets}/disks"]
    else:
        words += ["--unsafe"]
    if bandwidth_mibps:
        words += ["--bandwidth", str(bandwidth_mibps)]
    if auto_converge:
        words += ["--auto-converge"]
    return words


def moved_xml(migratable: str, persistent: str, paths: tuple[str, str]) -> str:
    """The running domain as its new host is to run it: what a guest cannot see is that of `persistent`, its
    domain there by the record. `paths`: where instances are on the old and on the new host."""
    domain, there = fromstring(migratable), fromstring(persistent)  # noqa: S314 - libvirt's and ours
    for tag in ("metadata", *OF_THE_HOST):
        old, new = domain.find(tag), there.find(tag)
        if old is not None:
            domain.remove(old)
        if new is not None:
            domain.append(new)
    _same_cpus(domain.find("vcpu"), there.find("vcpu"))
    for element in domain.iter():
        element.text = _moved(element.text, paths)
        for name, value in element.attrib.items():
            element.set(name, _moved(value, paths) or "")
    return render(domain)


def _same_cpus(vcpu: Element | None, there: Element | None) -> None:
    if vcpu is None or there is None:
        return
    vcpu.attrib.pop("cpuset", None)
    if "cpuset" in there.attrib:
        vcpu.set("cpuset", there.attrib["cpuset"])


def _moved(text: str | None, paths: tuple[str, str]) -> str | None:
    old, new = paths
    if text is None or not text.startswith(f"{old}/"):
        return text
    return new + text.removeprefix(old)


def fixed_devices(migratable: str, directory: str, base: str) -> list[str]:
    """Devices of a guest that cannot go to another host, each in words."""
    devices = fromstring(migratable).find("devices")  # noqa: S314 - libvirt's
    if devices is None:
        raise HostFault("libvirt shows a domain without devices")
    found = [f"{one.tag} {one.get('type', '')}".strip() for tag in PASSED for one in devices.iter(tag)]
    for disk in devices.iter("disk"):
        source, target = disk.find("source"), disk.find("target")
        path = "" if source is None else source.get("file") or source.get("dev") or ""
        inside = path.startswith((f"{directory}/", f"{base}/")) and ".." not in path.split("/")
        ours = not path or inside
        if not ours and disk.get("type") != "network":
            name = "?" if target is None else target.get("dev", "?")
            found.append(f"{disk.get('device', 'disk')} {name} ({path}), which only this host has")
    return found


PASSED = ("hostdev", "filesystem", "shmem", "tpm", "redirdev")


def machine_of(migratable: str) -> tuple[str, str | None]:
    """(machine type, <cpu> or None) of a running domain."""
    domain = fromstring(migratable)  # noqa: S314 - libvirt's
    kind, cpu = domain.find("os/type"), domain.find("cpu")
    machine = None if kind is None else kind.get("machine")
    if machine is None:
        raise UsageError("libvirt shows a domain without a machine type")
    return machine, None if cpu is None else render(cpu)


def targets(migratable: str, directory: str, files: Iterable[str]) -> list[str]:
    """What the instance's files are in its running domain (vda). HostFault when it has not all of them."""
    found = {}
    for disk in fromstring(migratable).iter("disk"):  # noqa: S314 - libvirt's
        source, target = disk.find("source"), disk.find("target")
        if source is not None and target is not None:
            found[source.get("file")] = target.get("dev", "")
    wanted = [f"{directory}/{file}" for file in files]
    if missing := [path for path in wanted if not found.get(path)]:
        raise HostFault(f"its guest does not have {', '.join(missing)}")
    return [found[path] for path in wanted]


def has_nvram(migratable: str) -> bool:
    return fromstring(migratable).find("os/nvram") is not None  # noqa: S314 - libvirt's
