"""Steps of a heal. Each looks again, just before it acts, at what the audit saw: time has passed since.

Nothing here starts or stops a guest. What is taken away was nobody's, so there is nothing to take back: a
heal that cannot go on ends as it stands, and the next audit finds the rest.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from novactl.actions.hardware import cells_for
from novactl.actions.steps.domains import OFF
from novactl.actions.steps.registry import REGISTRY
from novactl.db import addresses, hosts, instances, projects
from novactl.engine.operation import ACTIVE
from novactl.engine.step import RecordStep, Step
from novactl.errors import HostFault, NotFound, Refused
from novactl.objects.instance import Instance
from novactl.objects.names import operation_of
from novactl.objects.states import PowerState, vm_state_of


def _recorded(ctx: Any, uuid: str) -> Instance:
    found: Instance = ctx.world.db.read(lambda tx: instances.get(tx, uuid))
    return found


def _spare(ctx: Any, host: str, uuid: str) -> None:
    """Raises HostFault unless what the host has of the instance is a left-over: the instance is deleted, or
    it has its domain on the host of its record, or is on no host and the store has its image."""
    found = _recorded(ctx, uuid)
    if found.deleted_at is not None:
        return
    home, image = found.host, found.shelved_image
    if home is None and image is not None and all(map(ctx.world.store.has, image.sums)):
        return
    if home is None or home == host or ctx.world.hypervisor(home).power_state(uuid) is PowerState.NOSTATE:
        raise HostFault(f"{host}: what it has of {found.name} may be all there is of it")


def _spare_shared(ctx: Any, host: str, uuid: str) -> None:
    """Raises HostFault when the directory is the very one that the instance has on its own host."""
    found = _recorded(ctx, uuid)
    if found.deleted_at is None and found.host is not None:
        storages = {ctx.world.hypervisor(name).storage() for name in (host, found.host)}
        if len(storages) == 1:
            raise HostFault(f"{host}: shares its storage with {found.host}, where {found.name} is")


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RemoveLeftDomain(Step):
    """The domain that was left is gone, if it is off and still the one that was seen."""

    type: ClassVar[str] = "remove-left-domain"
    uuid: str
    made_by: str

    def do(self, ctx: Any) -> None:
        host = ctx.world.hypervisor(self.host)
        _spare(ctx, str(self.host), self.uuid)
        state = host.settled_state(self.uuid, ctx.epoch)
        if state not in OFF:
            raise HostFault(f"{self.host}: the domain is {state} by now")
        host.undefine_if_made_by(self.uuid, ctx.epoch, self.made_by)

    def undo(self, ctx: Any) -> None:
        """Nothing: it was nobody's."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RemoveLeftFiles(Step):
    """The directory that was left is gone, if no domain uses it."""

    type: ClassVar[str] = "remove-left-files"
    uuid: str

    def do(self, ctx: Any) -> None:
        host = ctx.world.hypervisor(self.host)
        _spare(ctx, str(self.host), self.uuid)
        _spare_shared(ctx, str(self.host), self.uuid)
        if host.settled_state(self.uuid, ctx.epoch) is not PowerState.NOSTATE:
            raise HostFault(f"{self.host}: a domain uses the directory")
        host.remove_directory(self.uuid, ctx.epoch)

    def undo(self, ctx: Any) -> None:
        """Nothing: it was nobody's."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RemoveStray(Step):
    """What was half made or half removed is gone."""

    type: ClassVar[str] = "remove-stray"
    uuid: str
    entry: str

    def do(self, ctx: Any) -> None:
        ctx.world.hypervisor(self.host).remove_stray(self.uuid, ctx.epoch, self.entry)

    def undo(self, ctx: Any) -> None:
        """Nothing: it was nobody's."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class AutostartOff(Step):
    """libvirt does not start the guest by itself."""

    type: ClassVar[str] = "autostart-off"
    uuid: str

    def do(self, ctx: Any) -> None:
        ctx.world.hypervisor(self.host).autostart_off(self.uuid, ctx.epoch)

    def undo(self, ctx: Any) -> None:
        """Nothing: no guest of ours has it on."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RemovePart(Step):
    """What a transfer of a base file left is gone."""

    type: ClassVar[str] = "remove-part"
    name: str

    def do(self, ctx: Any) -> None:
        host = ctx.world.hypervisor(self.host)
        with host.base_guard(self.name):
            host.remove_part(self.name)

    def undo(self, ctx: Any) -> None:
        """Nothing: it only fills the cache."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class EndJob(Step):
    """The job does not run, and nothing of it is left."""

    type: ClassVar[str] = "end-job"
    of: str
    n: int

    def do(self, ctx: Any) -> None:
        if ctx.world.db.read(lambda tx: _is_active(tx, self.of)):
            raise HostFault(f"{self.host}: operation {self.of} works on it by now")
        host = ctx.world.hypervisor(self.host)
        host.job_end(self.of, self.n)
        host.job_forget(self.of, self.n)

    def undo(self, ctx: Any) -> None:
        """Nothing: its operation has ended."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class DropLeft(Step):
    """Nothing is left of what an operation that has ended made of the disks, nor does QEMU write to it."""

    type: ClassVar[str] = "drop-left"
    uuid: str
    of: str

    def do(self, ctx: Any) -> None:
        if ctx.world.db.read(lambda tx: _is_active(tx, self.of)):
            raise HostFault(f"{self.host}: operation {self.of} works with them by now")
        ctx.world.hypervisor(self.host).drop_files(self.uuid, ctx.epoch, self.of)

    def undo(self, ctx: Any) -> None:
        """Nothing: its operation has ended."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class EndKey(Step):
    """Nothing is left of the key between hosts of an operation that has ended."""

    type: ClassVar[str] = "end-key"
    of: str

    def do(self, ctx: Any) -> None:
        op = operation_of(self.of)
        if ctx.world.db.read(lambda tx: _is_active(tx, op)):
            raise HostFault(f"{self.host}: operation {op} works with it by now")
        ctx.world.hypervisor(self.host).trust_end(self.of)

    def undo(self, ctx: Any) -> None:
        """Nothing: its operation has ended."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class LookAgain(Step):
    """The host was asked once more what the guest is."""

    type: ClassVar[str] = "look-again"
    uuid: str
    not_on: str | None

    def do(self, ctx: Any) -> dict[str, Any]:
        host = ctx.world.hypervisor(self.host)
        state = host.settled_state(self.uuid, ctx.epoch)
        if state is PowerState.NOSTATE:
            raise HostFault(f"{self.host}: has no domain of it by now")
        if self.not_on is not None:
            other = ctx.world.hypervisor(self.not_on).settled_state(self.uuid, ctx.epoch)
            if other is not PowerState.NOSTATE:
                raise HostFault(f"{self.not_on}: has a domain of it by now")
        return {"power_state": str(state), "saved": host.greet(self.uuid).saved}

    def undo(self, ctx: Any) -> None:
        """Nothing: it only looked."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RecordSeen(RecordStep):
    """The record says where the guest is and what it is, as was just seen."""

    type: ClassVar[str] = "record-seen"
    uuid: str

    def apply(self, tx: Any, ctx: Any) -> None:
        found = instances.get(tx, self.uuid)
        seen = ctx.result("look-again")
        power = PowerState(seen["power_state"])
        if found.host != self.host:
            move_hold(tx, found, str(self.host))
        states = {"vm_state": vm_state_of(power, seen.get("saved", False)), "power_state": power}
        instances.update(tx, self.uuid, host=self.host, **states)

    def revert(self, tx: Any, ctx: Any) -> None:
        """Nothing: it is what was seen."""


def move_hold(tx: Any, found: Instance, host: str) -> None:
    """The instance claims that host, and no other. Raises Refused when there is no room."""
    for hold in hosts.holds_of(tx, found.uuid):
        hosts.release(tx, hold["host"], found.uuid, hold["role"])
    _claim(tx, found, host)


def _claim(tx: Any, found: Instance, host: str) -> None:
    """What it had of its host's cells it has there, too: its domain says so. Raises Refused."""
    if not hosts.claim(tx, host, found.uuid, found.resources):
        raise Refused(f"{host}: has no room for {found.name}, or takes no more")
    hosts.hold_cells(tx, host, found.uuid, found.numa or cells_for(tx, hosts.get(tx, host), found))


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class HealRecord(RecordStep):
    """The database agrees with itself in one point."""

    type: ClassVar[str] = "heal-record"
    finding: str
    uuid: str | None
    subject: str
    words: str

    def summary(self) -> str:
        return self.words

    def apply(self, tx: Any, ctx: Any) -> None:
        RECORDS[self.finding](tx, self, ctx)

    def revert(self, tx: Any, ctx: Any) -> None:
        """Nothing: it was wrong before."""


# --- what HealRecord does: nothing when it is right by now ---


def _is_active(tx: Any, op_id: str) -> bool:
    row = tx.one("SELECT state FROM operations WHERE id = :id", id=op_id)
    return row is not None and row["state"] in ACTIVE


def _living(tx: Any, uuid: str | None) -> Instance | None:
    try:
        found = instances.get(tx, uuid or "")
    except NotFound:
        return None
    return found if found.deleted_at is None else None


def recount(tx: Any, host: str | None) -> None:
    """What the host counts as used is what is held of it."""
    tx.run("UPDATE hosts SET version = version + 1 WHERE name = :host", host=host)  # nobody claims meanwhile
    held = tx.all("SELECT vcpus, memory_mib, disk_gib FROM holds WHERE host = :host", host=host)
    sums = {size: sum(row[size] for row in held) for size in ("vcpus", "memory_mib", "disk_gib")}
    sets = ", ".join(f"{size}_used = :{size}" for size in sums)
    tx.run(f"UPDATE hosts SET {sets} WHERE name = :host", host=host, **sums)  # noqa: S608 - our own names


def _hold(tx: Any, step: HealRecord, ctx: Any) -> None:
    uuid, role = step.subject.split(" ")
    living = _living(tx, uuid)
    if living is None or (living.host != step.host and role == "instance"):
        where = "instance_uuid = :uuid AND host = :host AND role = :role"
        tx.run(f"DELETE FROM holds WHERE {where}", uuid=uuid, host=step.host, role=role)  # noqa: S608
        recount(tx, step.host)


def _used(tx: Any, step: HealRecord, ctx: Any) -> None:
    recount(tx, step.host)


def _quota(tx: Any, step: HealRecord, ctx: Any) -> None:
    projects.recount(tx, step.subject)


def _unheld(tx: Any, step: HealRecord, ctx: Any) -> None:
    living = _living(tx, step.uuid)
    held = {hold["host"] for hold in hosts.holds_of(tx, step.uuid or "")}
    if living is not None and living.host is not None and living.host not in held:
        _claim(tx, living, living.host)


def _address(tx: Any, step: HealRecord, ctx: Any) -> None:
    row = tx.one("SELECT instance_uuid, network_id, ip FROM ports WHERE id = :id", id=step.subject)
    if row is not None and _living(tx, row["instance_uuid"]) is None:
        addresses.freed(tx, row["network_id"], row["ip"])
        tx.run("DELETE FROM ports WHERE id = :id", id=step.subject)


def _secret(tx: Any, step: HealRecord, ctx: Any) -> None:
    row = tx.one("SELECT owner FROM secrets WHERE id = :id", id=step.subject)
    if row is not None and _living(tx, row["owner"]) is None:
        tx.run("DELETE FROM secrets WHERE id = :id", id=step.subject)


def _lock(tx: Any, step: HealRecord, ctx: Any) -> None:
    kind, id_, op = step.subject.split(" ")
    if not _is_active(tx, op):
        tx.run(
            "DELETE FROM op_locks WHERE kind = :kind AND id = :id AND operation = :op",
            kind=kind,
            id=id_,
            op=op,
        )


def _name(tx: Any, step: HealRecord, ctx: Any) -> None:
    if _living(tx, step.uuid) is None:
        instances.update(tx, str(step.uuid), live_name=None)


def _fenced(tx: Any, step: HealRecord, ctx: Any) -> None:
    hosts.unfence(tx, str(step.host))


def _task(tx: Any, step: HealRecord, ctx: Any) -> None:
    instances.update(tx, str(step.uuid), task_state=None)


RECORDS: dict[str, Callable[[Any, HealRecord, Any], None]] = {
    "hold-without-instance": _hold,
    "hold-missing": _unheld,
    "used-differs": _used,
    "quota-differs": _quota,
    "address-without-instance": _address,
    "secret-without-owner": _secret,
    "lock-without-operation": _lock,
    "name-without-instance": _name,
    "task-without-operation": _task,
    "fenced-host": _fenced,
}
"""Findings that a transaction heals."""
