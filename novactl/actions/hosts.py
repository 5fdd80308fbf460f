"""host add, set, remove: which hosts are the fleet's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from novactl.actions import pki, share
from novactl.actions.hardware import dedicated
from novactl.actions.host_checks import FENCED, Looks, examine, measured
from novactl.actions.world import World
from novactl.db import aggregates, hosts
from novactl.db.session import Tx
from novactl.errors import HostRefused, HostUnreachable, NeedsConfirmation, Refused, UsageError
from novactl.objects import names
from novactl.objects.host import Host
from novactl.objects.keypair import fingerprint


class Scans(Protocol):
    """Where a host key is seen."""

    def scan(self, address: str, port: int, jump: str | None) -> tuple[str, bytes]:
        """(the host key's known_hosts text, its blob) shown at an address."""
        ...


class Reach(Looks, Scans, Protocol):
    """How hosts are reached; the composition root's."""

    def enlist(self, host: Host, identity: Path | None) -> None: ...
    def delist(self, host: str) -> None: ...
    def set_identity(self, host: str, identity: Path | None) -> None: ...


@dataclass(frozen=True, kw_only=True)
class HostRequest:
    """`novactl host add`; None leaves a host that is there already as it is. `direct`: not by way of another
    host any more. `offers` are columns that `host set` changes otherwise: there from the first moment on."""

    name: str
    address: str
    port: int = 22
    user: str = "root"
    jump: str | None = None
    identity: Path | None = None
    fingerprint: str | None = None
    accept_host_key: bool = False
    virt_type: str | None = None
    instances_path: str | None = None
    zone: str | None = None
    labels: dict[str, str] | None = None
    takeover: bool = False
    direct: bool = False
    offers: Mapping[str, Any] = field(default_factory=dict)


def check_request(request: HostRequest) -> None:
    """Raises UsageError for a name or value that must not reach ssh."""
    names.check_name(request.name, "host name")
    names.check_pattern(request.address, names.ADDRESS, "address", "an IP address or host name")
    names.check_pattern(request.user, names.USER, "user")
    names.check_path(request.instances_path or names.INSTANCES_PATH, "--instances-path")
    names.check_name(request.zone or "nova", "zone")
    if not 1 <= request.port <= 65535:
        raise UsageError(f"port {request.port} is not within 1 to 65535")
    if request.virt_type not in (None, "auto", "kvm", "qemu"):
        raise UsageError(f"--virt-type {request.virt_type!r} is not auto, kvm or qemu")
    if request.identity is not None and not request.identity.is_file():
        raise UsageError(f"identity {request.identity} is not a file")


def add(
    world: World, reach: Reach, request: HostRequest, confirm: Callable[[str], bool]
) -> tuple[Host, bool]:
    """Preflight, then enrol. (host, whether it is new); the same again changes nothing but what is given
    and what was measured. Raises Refused when a check fails, NeedsConfirmation for an unknown host key."""
    check_request(request)
    old = world.db.read(lambda tx: _refuse_clash(tx, request, machine=None))
    host = _draft(world, request, old, pinned_keys(reach, request, old, confirm))
    reach.enlist(host, request.identity)
    try:
        host = _enrol(world, reach, host, request)
        if request.identity is not None:  # first: who dies in between leaves no host that nobody gets into
            reach.set_identity(host.name, request.identity)
        old = world.db.write(lambda tx: _settle(tx, request, host))
    finally:
        reach.delist(host.name)
    return host, old is None


def _settle(tx: Tx, request: HostRequest, host: Host) -> Host | None:
    old = _refuse_clash(tx, request, machine=host.facts["machine_id"])
    aside = _set_aside(tx, host, request.offers)
    _keep(tx, replace(host, **aside), old, {**request.offers, **aside})
    return old


def _refuse_clash(tx: Tx, request: HostRequest, machine: str | None) -> Host | None:
    """The host of that name, if there is one. Raises Refused when the name is another host's, or when
    the address or the machine is enrolled under another name: its capacity would count twice."""
    known = {host.name: host for host in hosts.everything(tx)}
    if request.jump is not None and request.jump not in known:
        raise UsageError(f"--jump {request.jump!r} is not a host of this fleet")
    place = (request.address, request.port)
    old = known.pop(request.name, None)
    if old is not None and (old.address, old.port) != place:
        raise Refused(
            f"host {request.name} exists already, at {old.address}:{old.port}",
            hint=f"novactl host remove {request.name} first, or choose another name",
        )
    if old is not None and request.instances_path not in (None, old.instances_path):
        raise Refused(f"host {request.name} has its instances in {old.instances_path}: that cannot change")
    for other in known.values():
        if (other.address, other.port) == place or (machine and other.facts.get("machine_id") == machine):
            raise Refused(f"{request.address}:{request.port} is host {other.name} already")
    return old


def _keep(tx: Tx, host: Host, old: Host | None, offered: Mapping[str, Any]) -> None:
    if old is None:
        hosts.add(tx, host)
        return
    given = {key: getattr(host, key) for key in ("host_keys", "user", "jump", "zone", "labels")}
    offers = {key: int(value) if key == "enabled" else value for key, value in offered.items()}
    hosts.update(tx, host.name, **measured(host), **given, **offers)


def _draft(world: World, request: HostRequest, old: Host | None, keys: tuple[str, ...]) -> Host:
    if old is not None:
        return replace(
            old,
            host_keys=keys,
            user=request.user,
            jump=None if request.direct else request.jump or old.jump,
            zone=request.zone or old.zone,
            labels=old.labels if request.labels is None else request.labels,
        )
    return Host(
        id=world.ids.uuid(),
        name=request.name,
        address=request.address,
        port=request.port,
        user=request.user,
        jump=request.jump,
        host_keys=keys,
        instances_path=request.instances_path or names.INSTANCES_PATH,
        virt_type="qemu",
        zone=request.zone or "nova",
        labels=request.labels or {},
        vcpus=0,
        memory_mib=0,
        disk_gib=0,
        **request.offers,
    )


def pinned_keys(
    reach: Scans, request: HostRequest, old: Host | None, confirm: Callable[[str], bool]
) -> tuple[str, ...]:
    """The host key to pin: given by fingerprint, accepted, confirmed on a TTY, or the one known."""
    line, blob = reach.scan(request.address, request.port, request.jump)
    seen = fingerprint(blob)
    if request.fingerprint not in (None, seen):
        raise HostUnreachable(
            f"{request.name}: shows host key {seen}, not {request.fingerprint}",
            hint="somebody may be in between, or it is another host",
        )
    if old is not None and line in old.host_keys:
        return old.host_keys
    if request.fingerprint is not None:
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
    rows, host = examine(world, reach, host, request.virt_type or "auto")
    failed = [row for row in rows if row["result"] == "fail"]
    if failed:
        lines = "\n  ".join(f"{row['check']}: {row['message']}" for row in failed)
        hints = "; ".join(row["hint"] for row in failed if row["hint"])
        raise Refused(f"host {host.name} is not fit to be a hypervisor\n  {lines}", hint=hints, targets=rows)
    for row in rows:
        if row["result"] == "warn":
            world.tell(f"{host.name}: {row['check']}: {row['message']}")
    old = world.db.read(lambda tx: _refuse_clash(tx, request, machine=host.facts["machine_id"]))
    world.db.read(lambda tx: _set_aside(tx, host, request.offers))
    try:
        storage = hypervisor.enrol(takeover=request.takeover)
    except HostRefused as error:
        raise Refused(error.message, hint="--takeover makes it ours; the other fleet loses it") from error
    state = FENCED if old is not None and old.state == FENCED else host.state
    return replace(host, state=state, facts={**host.facts, "storage": storage})


def change(world: World, name: str, changes: dict[str, Any], labels: dict[str, str]) -> Host:
    """Set what `host set` was given; a label with an empty value is removed. Raises UsageError when
    there is nothing to set."""
    if not changes and not labels:
        raise UsageError("nothing to set is given")
    if changes.get("enabled"):
        changes = {**changes, "failed_builds": 0}

    def work(tx: Tx) -> Host:
        host = hosts.get(tx, name)
        merged = {**host.labels, **labels}
        kept = {"labels": {key: value for key, value in merged.items() if value}} if labels else {}
        hosts.update(tx, name, **{**changes, **_set_aside(tx, host, changes)}, **kept)
        return hosts.get(tx, name)

    host = world.db.write(work)
    if changes.get("dedicated_cpus") and host.instances:
        world.tell(f"{name}: guests that share and run there keep off these cpus from their next start on")
    return host


def _set_aside(tx: Tx, host: Host, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that follow from its dedicated cpus, when those are given. Raises UsageError, Refused."""
    return dedicated(tx, host, changes["dedicated_cpus"]) if "dedicated_cpus" in changes else {}


def remove(world: World, reach: Reach, name: str) -> None:
    """Take the host out of the fleet. Refused while instances or operations are on it, or a move that waits
    may go back to it; a host that does not answer is forgotten all the same, and says so. First it is
    disabled, so that nothing is placed on it meanwhile; removing again goes on where a killed command
    stopped."""

    def disable(tx: Tx) -> Host:
        host = _refuse_in_use(tx, name)
        hosts.update(tx, name, enabled=0, disabled_reason="is being removed")
        return host

    def forget(tx: Tx) -> None:
        _refuse_in_use(tx, name)
        aggregates.drop_host(tx, name)
        hosts.remove(tx, name)

    host = world.db.write(disable)
    reach.enlist(host, None)
    try:
        reach.hypervisor_of(host).leave()
    except HostUnreachable as error:
        world.tell(f"{error.message}: its fleet mark stays there")
    except HostRefused:
        world.db.write(
            lambda tx: hosts.update(tx, name, enabled=int(host.enabled), disabled_reason=host.disabled_reason)
        )
        raise
    finally:
        reach.delist(name)
    world.db.write(forget)
    reach.set_identity(name, None)
    if world.db.read(lambda tx: pki.in_force(tx, name, world.clock.now())):
        world.tell(f"{name}: its certificates are still good: novactl pki revoke {name}")


def _refuse_in_use(tx: Tx, name: str) -> Host:
    host = hosts.get(tx, name)
    if host.instances:
        raise Refused(f"host {name} has {host.instances} instances", hint=f"novactl list --on {name}")
    held = tx.one("SELECT operation FROM op_locks WHERE kind = 'host' AND id = :name", name=name)
    if held:
        raise Refused(f"host {name} is in use by operation {held['operation']}")
    if who := hosts.holder(tx, name):
        hint = f"novactl resize-confirm {who} or novactl resize-revert {who}"
        raise Refused(f"host {name}: {who} still has a share of it", hint=hint)
    share.refuse_holder(tx, name)
    return host
