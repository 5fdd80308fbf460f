"""Looking at a host: what it must be before instances are put on it, and what it is now."""

import concurrent.futures
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from novactl.actions.world import World
from novactl.db import catalogue, hosts
from novactl.errors import HostFault, HostUnreachable, NovactlError
from novactl.objects.host import Host
from novactl.objects.image import GIB
from novactl.objects.names import INTERFACE
from novactl.objects.numa import topology_of
from novactl.virt.capabilities import HARDWARE
from novactl.virt.connection import LibvirtFacts

MINIMUM = {"libvirt": (8, 0, 0), "qemu": (6, 2, 0), "sshd": (8, 0)}
"""Nova's minimum libvirt and QEMU (nova/virt/libvirt/driver.py); OpenSSH 8.0 for expiry-time."""

PARALLEL = 16
FENCED, UNFENCES = "fenced", "novactl audit --heal"
SKEW_SECONDS = 5
SPACE_BYTES = 2 * GIB
BOOT_SECTOR = (b"\xb0\x10\xe6\xf4\xf4\xeb\xfd").ljust(510, b"\0") + b"\x55\xaa"
"""mov al, 0x10; out 0xf4, al; hlt; jmp hlt: isa-debug-exit ends QEMU with (0x10 << 1) | 1 = 33."""

NEEDED = ("virsh", "qemu-img", "flock", "base64", "gzip", "sha256sum", "dd", "timeout", "stat", "df")


class Looks(Protocol):
    """How hosts are looked at; the composition root's."""

    def hypervisor_of(self, host: Host) -> Any: ...
    def libvirt_facts(self, host: str, virt_type: str) -> LibvirtFacts: ...


def _foreign_disk(seen: dict[str, Any]) -> int:
    """GiB of the file system that something else than our instances' disks takes, `_base` included."""
    ours = seen.get("disk_ours", "")
    taken = int(seen["disk_total"]) - int(seen["disk_free"]) - (int(ours) if ours.isdecimal() else 0)
    return max(0, taken) // GIB


def measured(host: Host) -> dict[str, Any]:
    """The columns that a look at the host sets."""
    columns = (
        "virt_type state vcpus memory_mib disk_gib foreign_vcpus foreign_memory_mib foreign_disk_gib"
        " facts arch huge_memory_mib checked_at"
    ).split()
    return {column: getattr(host, column) for column in columns}


def check(world: World, reach: Looks, wanted: Sequence[str]) -> list[dict[str, Any]]:
    """Every check of every host named (all without names), several at a time; the records are refreshed
    on the way. A host that cannot be looked at is a row that says why."""
    chosen = world.db.read(
        lambda tx: [hosts.get(tx, name) for name in wanted] if wanted else hosts.everything(tx)
    )
    with concurrent.futures.ThreadPoolExecutor(max_workers=PARALLEL) as pool:
        found = list(pool.map(lambda host: _check_one(world, reach, host), chosen))
    return [row for rows in found for row in rows]


def _check_one(world: World, reach: Looks, host: Host) -> list[dict[str, Any]]:
    seen: Host | None = None
    try:
        rows, seen = examine(world, reach, host, host.virt_type)
    except NovactlError as error:
        rows = [_row(host.name, "reachable", "fail", error.message, error.hint)]
    news: dict[str, Any] = measured(seen) if seen else {"state": "down", "checked_at": world.clock.now()}
    if all(row["result"] != "fail" for row in rows):
        news["failed_builds"] = 0  # somebody looked, and it is well
    if host.state == FENCED:
        news["state"] = FENCED
        rows.append(_row(host.name, "fenced", "warn", "takes nothing until it was audited", UNFENCES))
    world.db.write(lambda tx: hosts.update(tx, host.name, **news))
    return rows


def examine(world: World, reach: Looks, host: Host, virt_type: str) -> tuple[list[dict[str, Any]], Host]:
    """(one row a check, the host with what was measured). Raises HostUnreachable."""
    hypervisor = reach.hypervisor_of(host)
    began = time.time()
    seen = _facts(host, hypervisor)
    skew = float(seen["clock"]) - (began + time.time()) / 2
    rows = [_row(host.name, "reachable", "ok", f"{host.user}@{host.address}:{host.port}")]
    rows += _check_tools(host.name, seen)
    ran, reason = _probe(hypervisor)
    found = "kvm" if ran and virt_type != "qemu" else "qemu"
    libvirt: LibvirtFacts | None = None
    try:
        libvirt = reach.libvirt_facts(host.name, found)
    except HostUnreachable as error:
        rows.append(_row(host.name, "libvirt", "fail", error.message.partition(": ")[2], error.hint))
    if libvirt is not None:
        rows.append(_version_row(host.name, "libvirt", libvirt.libvirt_version))
        rows.append(_version_row(host.name, "qemu", libvirt.qemu_version))
    if seen.get("sshd"):
        rows.append(_version_row(host.name, "sshd", seen["sshd"]))
    rows.append(_kvm_row(host.name, virt_type, ran, reason))
    rows += _check_surroundings(world, host, seen, skew)
    return rows, _with_facts(world, host, seen, libvirt, found)


def refreshed(world: World, reach: Looks, host: Host) -> Host:
    """The host with what is measured in a moment: all that examine() measures but whether KVM works. Raises
    HostUnreachable; HostFault for what makes no sense."""
    hypervisor = reach.hypervisor_of(host)
    try:
        seen = _facts(host, hypervisor)
    finally:
        hypervisor.hang_up()  # all hosts are looked at, and most are not needed again
    return _with_facts(world, host, seen, reach.libvirt_facts(host.name, host.virt_type), host.virt_type)


def _facts(host: Host, hypervisor: Any) -> dict[str, Any]:
    """What the host says of itself; HostFault when it is not what nv_facts prints."""
    seen: dict[str, Any] = hypervisor.facts()
    numbers = ("cpus", "memory_kib", "disk_total", "disk_free")
    texts = ("uid", "arch", "hostname", "machine_id", "boot_id", "clock")
    broken = [key for key in numbers if not str(seen.get(key, "")).isdecimal()]
    broken += [key for key in texts if len(str(seen.get(key, ""))) not in range(1, 256)]
    if broken or not re.fullmatch(r"[0-9]+(\.[0-9]+)?", seen["clock"]):
        raise HostFault(f"{host.name}: says nothing usable about {', '.join(broken) or 'its clock'}")
    return seen


def _probe(hypervisor: Any) -> tuple[bool, str]:
    try:
        ran, reason = hypervisor.probe_kvm(BOOT_SECTOR)
    except HostFault as error:
        return False, error.message
    return bool(ran), str(reason)


def _check_tools(host: str, seen: dict[str, Any]) -> list[dict[str, Any]]:
    missing = [tool for tool in seen["missing"] if tool in NEEDED]
    extra = [tool for tool in seen["missing"] if tool in ("mkfs.ext4", "mkswap")]
    rows = [
        _row(
            host, "tools", "fail", f"missing: {', '.join(missing)}", "apt install libvirt-clients qemu-utils"
        )
        if missing
        else _row(host, "tools", "ok", "all there")
    ]
    if extra:
        rows.append(_row(host, "tools", "warn", f"no {', '.join(extra)}: no ephemeral or swap disks there"))
    if seen["uid"] != "0":
        rows.append(_row(host, "user", "fail", f"uid {seen['uid']}", "root, or a user with sudo -n"))
    return rows


def _kvm_row(host: str, virt_type: str, ran: bool, reason: str) -> dict[str, Any]:
    if ran:
        return _row(host, "kvm", "ok", reason)
    result = "fail" if virt_type == "kvm" else "warn"
    return _row(host, "kvm", result, f"{reason}: guests are emulated (slow)", "see that /dev/kvm works there")


def _check_surroundings(world: World, host: Host, seen: dict[str, Any], skew: float) -> list[dict[str, Any]]:
    name = host.name
    free = int(seen["disk_free"])
    fleet = seen.get("fleet", "")
    absent = world.db.read(
        lambda tx: sorted({n.bridge for n in catalogue.networks(tx)} - set(seen["bridge"]))
    )
    return [
        _row(
            name,
            "space",
            "ok" if free >= SPACE_BYTES else "warn",
            f"{free / GIB:.1f} GiB free on {host.instances_path}",
        ),
        _row(
            name,
            "clock",
            "ok" if abs(skew) <= SKEW_SECONDS else "warn",
            f"{skew:+.1f} s from here",
            "run an NTP client",
        ),
        _row(
            name,
            "fleet",
            "ok" if fleet in ("", world.fleet) else "warn",
            f"fleet {fleet}" if fleet else "not enrolled yet",
            "" if fleet in ("", world.fleet) else "it belongs to another fleet",
        ),
        _row(
            name, "bridges", "warn" if absent else "ok", f"no {', '.join(absent)}" if absent else "all there"
        ),
        _row(
            name,
            "forwarding",
            "warn" if "no" in (seen.get("streamlocal"), seen.get("tcpforward")) else "ok",
            f"sshd: AllowStreamLocalForwarding {seen.get('streamlocal') or '?'},"
            f" AllowTcpForwarding {seen.get('tcpforward') or '?'}",
        ),
        _row(
            name,
            "br_netfilter",
            "warn" if seen.get("br_netfilter") == "0" else "ok",
            "bridged packets pass the host's filters" if seen.get("br_netfilter") == "1" else "off",
            "sysctl net.bridge.bridge-nf-call-iptables=1, for security groups",
        ),
        _guests_row(name, seen.get("libvirt_guests") == "start"),
    ]


def _guests_row(host: str, starts: bool) -> dict[str, Any]:
    if not starts:
        return _row(host, "libvirt-guests", "ok", "starts no guests at boot")
    hint = "set ON_BOOT=ignore in /etc/default/libvirt-guests"
    return _row(host, "libvirt-guests", "fail", "starts guests at boot", hint)


def _version_row(host: str, what: str, version: str) -> dict[str, Any]:
    least = MINIMUM[what]
    found = tuple(int(part) for part in re.findall(r"\d+", version))
    if found >= least:
        return _row(host, what, "ok", version)
    return _row(host, what, "fail", f"{version} is older than {'.'.join(map(str, least))}")


def _with_facts(
    world: World, host: Host, seen: dict[str, Any], libvirt: LibvirtFacts | None, virt_type: str
) -> Host:
    facts = {
        **{key: host.facts[key] for key in HARDWARE if key in host.facts},
        "arch": seen["arch"],
        "hostname": seen["hostname"],
        "machine_id": seen["machine_id"],
        "boot_id": seen["boot_id"],
        "odirect": seen.get("odirect") == "yes",
        "bridges": seen["bridge"],
        "bridge_ports": _ports(seen),
        "storage": str(seen.get("storage") or host.facts.get("storage", "")),
    }
    foreign = [] if libvirt is None else [g for g in libvirt.guests if g.fleet != world.fleet and g.active]
    if libvirt is not None:
        facts |= {
            "cpu_model": libvirt.cpu_model,
            "libvirt_version": libvirt.libvirt_version,
            "qemu_version": libvirt.qemu_version,
            **libvirt.hardware.as_facts(),
        }
    return replace(
        host,
        state="up" if libvirt is not None else "down",
        virt_type=virt_type,
        vcpus=int(seen["cpus"]),
        memory_mib=int(seen["memory_kib"]) // 1024,
        disk_gib=int(seen["disk_total"]) // GIB,
        foreign_disk_gib=_foreign_disk(seen),
        foreign_vcpus=sum(guest.vcpus for guest in foreign),
        foreign_memory_mib=sum(guest.memory_mib for guest in foreign),
        facts=facts,
        arch=seen["arch"],
        huge_memory_mib=sum(cell.huge_mib for cell in topology_of(facts)),
        checked_at=world.clock.now(),
    )


def _ports(seen: dict[str, Any]) -> dict[str, list[str]]:
    """Bridges and what they are plugged into, to be made again when they are gone."""
    found: dict[str, list[str]] = {}
    for words in (line.split() for line in seen.get("port", ())):
        if len(words) == 2 and all(INTERFACE.fullmatch(word) for word in words):
            found.setdefault(words[0], []).append(words[1])
    return found


def _row(host: str, check: str, result: str, message: str, hint: str = "") -> dict[str, Any]:
    told = "" if result == "ok" else hint
    return {"host": host, "check": check, "result": result, "message": message, "hint": told}
