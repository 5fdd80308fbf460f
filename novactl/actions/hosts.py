"""host add, check, set, remove: what a host must be before instances are put on it."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from novactl.actions.world import World
from novactl.db import catalogue, hosts
from novactl.errors import (
    HostFault,
    HostUnreachable,
    NeedsConfirmation,
    Refused,
    UsageError,
)
from novactl.objects import names
from novactl.objects.host import Host
from novactl.objects.image import GIB
from novactl.objects.keypair import fingerprint
from novactl.virt.connection import LibvirtFacts

MINIMUM = {"libvirt": (8, 0, 0), "qemu": (6, 2, 0), "sshd": (8, 0)}
"""Nova's minimum libvirt and QEMU (nova/virt/libvirt/driver.py); OpenSSH 8.0 for expiry-time."""

SKEW_SECONDS = 5
SPACE_BYTES = 2 * GIB
BOOT_SECTOR = (b"\xb0\x10\xe6\xf4\xf4\xeb\xfd").ljust(510, b"\0") + b"\x55\xaa"
"""mov al, 0x10; out 0xf4, al; hlt; jmp hlt: isa-debug-exit ends QEMU with (0x10 << 1) | 1 = 33."""

NEEDED = ("virsh", "qemu-img", "flock", "base64", "gzip", "sha256sum", "dd", "timeout", "stat", "df")


class Reach(Protocol):
    """How hosts are reached; the composition root's."""

    def scan(self, address: str, port: int, jump: str | None) -> tuple[str, bytes]: ...
    def enlist(self, host: Host, identity: Path | None) -> None: ...
    def delist(self, host: str) -> None: ...
    def hypervisor_of(self, host: Host) -> Any: ...
    def libvirt_facts(self, host: str) -> LibvirtFacts: ...


@dataclass(frozen=True, kw_only=True)
class HostRequest:
    """`novactl host add`."""

    name: str
    address: str
    port: int = 22
    user: str = "root"
    jump: str | None = None
    identity: Path | None = None
    fingerprint: str | None = None
    accept_host_key: bool = False
    virt_type: str = "auto"
    instances_path: str = names.INSTANCES_PATH
    zone: str = "nova"
    labels: dict[str, str] | None = None
    takeover: bool = False


def check_request(request: HostRequest) -> None:
    """Raises UsageError for a name or value that must not reach ssh."""
    names.check_name(request.name, "host name")
    names.check_pattern(request.address, names.ADDRESS, "address", "an IP address or host name")
    names.check_pattern(request.user, names.USER, "user")
    names.check_path(request.instances_path, "--instances-path")
    names.check_name(request.zone, "zone")
    if not 1 <= request.port <= 65535:
        raise UsageError(f"port {request.port} is not within 1 to 65535")
    if request.virt_type not in ("auto", "kvm", "qemu"):
        raise UsageError(f"--virt-type {request.virt_type!r} is not auto, kvm or qemu")
    if request.identity is not None and not request.identity.is_file():
        raise UsageError(f"identity {request.identity} is not a file")


def add(
    world: World, reach: Reach, request: HostRequest, confirm: Callable[[str], bool]
) -> tuple[Host, bool]:
    """Preflight, then enrol. (host, whether anything changed); the same again changes nothing but what
    was measured. Raises Refused when a check fails, NeedsConfirmation for an unknown host key."""
    check_request(request)
    with world.db.read() as tx:
        known = {host.name: host for host in hosts.everything(tx)}
        if request.jump is not None and request.jump not in known:
            raise UsageError(f"--jump {request.jump!r} is not a host of this fleet")
    old = known.get(request.name)
    if old is not None and (old.address, old.port) != (request.address, request.port):
        raise Refused(
            f"host {request.name} exists already, at {old.address}:{old.port}",
            hint=f"novactl host remove {request.name} first, or choose another name",
        )
    same_place = [h.name for h in known.values() if (h.address, h.port) == (request.address, request.port)]
    if old is None and same_place:
        raise Refused(f"{request.address}:{request.port} is host {same_place[0]} already")
    host = _draft(world, request, old, _pinned_keys(reach, request, old, confirm))
    reach.enlist(host, request.identity)
    try:
        host = _enrol(world, reach, host, request)
    except BaseException:
        if old is None:
            reach.delist(host.name)
        raise
    with world.db.write() as tx:
        if old is None:
            hosts.add(tx, host)
        else:
            hosts.update(tx, host.name, **measured(host), host_keys=host.host_keys, user=host.user)
    return host, old is None


def _draft(world: World, request: HostRequest, old: Host | None, keys: tuple[str, ...]) -> Host:
    if old is not None:
        return replace(old, host_keys=keys, user=request.user)
    return Host(
        id=world.ids.uuid(),
        name=request.name,
        address=request.address,
        port=request.port,
        user=request.user,
        jump=request.jump,
        host_keys=keys,
        instances_path=request.instances_path,
        virt_type="qemu" if request.virt_type == "auto" else request.virt_type,
        zone=request.zone,
        labels=request.labels or {},
        vcpus=0,
        memory_mib=0,
        disk_gib=0,
    )


def _pinned_keys(
    reach: Reach, request: HostRequest, old: Host | None, confirm: Callable[[str], bool]
) -> tuple[str, ...]:
    """The host key to pin: given by fingerprint, accepted, confirmed on a TTY, or the one known."""
    line, blob = reach.scan(request.address, request.port, request.jump)
    seen = fingerprint(blob)
    if old is not None and line in old.host_keys:
        return old.host_keys
    if request.fingerprint is not None:
        if request.fingerprint != seen:
            raise HostUnreachable(
                f"{request.name}: shows host key {seen}, not {request.fingerprint}",
                hint="somebody may be in between, or it is another host",
            )
        return (line,)
    if old is not None:
        raise HostUnreachable(
            f"{request.name}: its host key changed to {seen}",
            hint="if the host was reinstalled, give the new key with --fingerprint",
        )
    if request.accept_host_key or confirm(
        f"{request.name} ({request.address}) shows host key {seen}. Pin it?"
    ):
        return (line,)
    raise NeedsConfirmation(
        f"{request.name}: host key {seen} is not pinned yet",
        hint="compare it with ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub there, then --fingerprint",
    )


def _enrol(world: World, reach: Reach, host: Host, request: HostRequest) -> Host:
    hypervisor = reach.hypervisor_of(host)
    rows, host = examine(world, reach, host, request.virt_type)
    failed = [row for row in rows if row["result"] == "fail"]
    if failed:
        lines = "\n  ".join(f"{row['check']}: {row['message']}" for row in failed)
        hints = "; ".join(row["hint"] for row in failed if row["hint"])
        raise Refused(f"host {host.name} is not fit to be a hypervisor\n  {lines}", hint=hints, targets=rows)
    for row in rows:
        if row["result"] == "warn":
            world.tell(f"{host.name}: {row['check']}: {row['message']}")
    try:
        hypervisor.enrol(takeover=request.takeover)
    except Refused as error:
        raise Refused(error.message, hint="--takeover makes it ours; the other fleet loses it") from error
    return host


def measured(host: Host) -> dict[str, Any]:
    """The columns that a look at the host sets."""
    columns = (
        "virt_type state vcpus memory_mib disk_gib foreign_vcpus foreign_memory_mib facts checked_at".split()
    )
    return {column: getattr(host, column) for column in columns}


def check(world: World, reach: Reach, wanted: Sequence[str]) -> list[dict[str, Any]]:
    """Every check of every host named (all without names); the records are refreshed on the way."""
    with world.db.read() as tx:
        chosen = [hosts.get(tx, name) for name in wanted] if wanted else hosts.everything(tx)
    rows: list[dict[str, Any]] = []
    for host in chosen:
        try:
            found, seen = examine(world, reach, host, host.virt_type)
        except HostUnreachable as error:
            found, seen = [_row(host.name, "reachable", "fail", error.message, error.hint)], None
        with world.db.write() as tx:
            if seen is None:
                hosts.update(tx, host.name, state="down", checked_at=world.clock.now())
            else:
                hosts.update(tx, host.name, **measured(seen))
        rows.extend(found)
    return rows


def examine(world: World, reach: Reach, host: Host, virt_type: str) -> tuple[list[dict[str, Any]], Host]:
    """(one row a check, the host with what was measured). Raises HostUnreachable."""
    hypervisor = reach.hypervisor_of(host)
    began = time.time()
    seen = hypervisor.facts()
    skew = float(seen["clock"]) - (began + time.time()) / 2
    rows = [_row(host.name, "reachable", "ok", f"{host.user}@{host.address}:{host.port}")]
    rows += _check_tools(host.name, seen)
    libvirt: LibvirtFacts | None = None
    try:
        libvirt = reach.libvirt_facts(host.name)
    except HostUnreachable as error:
        rows.append(_row(host.name, "libvirt", "fail", error.message.partition(": ")[2], error.hint))
    if libvirt is not None:
        rows.append(_version_row(host.name, "libvirt", libvirt.libvirt_version))
        rows.append(_version_row(host.name, "qemu", libvirt.qemu_version))
    ran, reason = _probe(hypervisor)
    rows.append(_kvm_row(host.name, virt_type, ran, reason))
    rows += _check_surroundings(world, host, seen, skew)
    return rows, _with_facts(world, host, seen, libvirt, "kvm" if ran and virt_type != "qemu" else "qemu")


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
    with world.db.read() as tx:
        absent = sorted({n.bridge for n in catalogue.networks(tx)} - set(seen["bridge"]))
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
            "libvirt-guests",
            "fail" if seen.get("libvirt_guests") == "start" else "ok",
            "starts guests at boot" if seen.get("libvirt_guests") == "start" else "starts no guests at boot",
            "set ON_BOOT=ignore in /etc/default/libvirt-guests"
            if seen.get("libvirt_guests") == "start"
            else "",
        ),
    ]


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
        "arch": seen["arch"],
        "hostname": seen["hostname"],
        "machine_id": seen["machine_id"],
        "boot_id": seen["boot_id"],
        "odirect": seen.get("odirect") == "yes",
        "bridges": seen["bridge"],
    }
    foreign = [] if libvirt is None else [g for g in libvirt.guests if g.fleet != world.fleet and g.active]
    if libvirt is not None:
        facts |= {
            "cpu_model": libvirt.cpu_model,
            "libvirt_version": libvirt.libvirt_version,
            "qemu_version": libvirt.qemu_version,
        }
    return replace(
        host,
        state="up" if libvirt is not None else "down",
        virt_type=virt_type,
        vcpus=int(seen["cpus"]),
        memory_mib=int(seen["memory_kib"]) // 1024,
        disk_gib=int(seen["disk_total"]) // GIB,
        foreign_vcpus=sum(guest.vcpus for guest in foreign),
        foreign_memory_mib=sum(guest.memory_mib for guest in foreign),
        facts=facts,
        checked_at=world.clock.now(),
    )


def remove(world: World, reach: Reach, name: str) -> None:
    """Take the host out of the fleet. Refused while instances or operations are on it; a host that does
    not answer is forgotten all the same, and says so."""
    with world.db.read() as tx:
        host = hosts.get(tx, name)
        held = tx.all("SELECT operation FROM op_locks WHERE kind = 'host' AND id = :name", name=name)
    if host.instances:
        raise Refused(f"host {name} has {host.instances} instances", hint=f"novactl list --on {name}")
    if held:
        raise Refused(f"host {name} is in use by operation {held[0]['operation']}")
    try:
        reach.hypervisor_of(host).leave()
    except HostUnreachable as error:
        world.tell(f"{error.message}: its fleet mark stays there")
    with world.db.write() as tx:
        if hosts.get(tx, name).instances:
            raise Refused(f"host {name} was given an instance just now")
        hosts.remove(tx, name)
    reach.delist(name)


def _row(host: str, check: str, result: str, message: str, hint: str = "") -> dict[str, Any]:
    told = "" if result == "ok" else hint
    return {"host": host, "check": check, "result": result, "message": message, "hint": told}
