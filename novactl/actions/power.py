"""start and stop."""

from collections.abc import Iterator
from dataclasses import dataclass

from novactl.actions import guest, restored
from novactl.actions.steps.domains import OFF, PowerOn, RedefineDomain, ShutOff
from novactl.actions.steps.records import RecordPower, SetTask
from novactl.actions.world import World
from novactl.db import hosts, instances
from novactl.db.session import Tx
from novactl.engine.operation import Lock, Mode, Plan
from novactl.engine.step import Step
from novactl.errors import Busy, Refused
from novactl.objects.instance import Instance
from novactl.objects.states import PowerState, TaskState, VmState, check_allowed
from novactl.virt.domain import Marks

STOP_TIMEOUT = 60.0  # seconds, as Nova's shutdown_timeout


@dataclass(frozen=True)
class Seen:
    """The record that check read, and what the host said."""

    instance: Instance
    power: PowerState


def look(world: World, name: str, project: str) -> Seen:
    """The instance's record and its power state on its host now."""
    instance = world.db.read(lambda tx: instances.find(tx, name, project))
    if instance.host is None:
        raise Refused(f"{instance.name}: is on no host ({instance.status})")
    greeting = world.hypervisor(instance.host).greet(instance.uuid)
    restored.check_mark(world, instance.host, greeting.mark)
    restored.check_epoch(world, instance, greeting)
    return Seen(instance, greeting.power)


def still(tx: Tx, seen: Instance) -> Instance:
    """The record, if nothing changed since check read it; raises Busy."""
    now = instances.get(tx, seen.uuid)
    if now.version != seen.version:
        raise Busy(f"{seen.name}: was changed by another command just now", hint="try again")
    return now


def instance_locks(instance: Instance) -> frozenset[Lock]:
    """An instance operation holds its instance, and shares its host."""
    locks = {Lock("instance", instance.uuid, Mode.EXCLUSIVE)}
    if instance.host:
        locks.add(Lock("host", instance.host, Mode.SHARED))
    return frozenset(locks)


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Shut the guest down: ACPI, then off."""

    name: str
    project: str
    force: bool = False
    timeout: float = STOP_TIMEOUT
    kind: str = "stop"

    @property
    def target(self) -> str:
        return self.name

    def check(self, world: World) -> Seen:
        seen = look(world, self.name, self.project)
        if seen.instance.vm_state is not VmState.STOPPED:
            check_allowed("stop", seen.instance.name, seen.instance.vm_state)
        return seen

    def plan(self, world: World, tx: Tx, op_id: str, seen: Seen) -> Plan | None:
        instance = still(tx, seen.instance)
        if instance.vm_state is VmState.STOPPED and seen.power in OFF:
            return None
        uuid = instance.uuid
        return Plan(
            kind=self.kind,
            target=instance.name,
            target_uuid=uuid,
            project=instance.project,
            request={"force": self.force},
            locks=instance_locks(instance),
            attempt=(
                SetTask(uuid=uuid, task=TaskState.POWERING_OFF),
                ShutOff(host=instance.host, uuid=uuid, timeout=self.timeout, force=self.force),
                RecordPower(uuid=uuid, vm_state=VmState.STOPPED, power_state=PowerState.SHUTDOWN),
            ),
            epoch=instances.raise_epoch(tx, uuid),
            host=instance.host,
            changes={"status": [instance.status, "SHUTOFF"]},
        )


@dataclass(frozen=True, kw_only=True)
class Start:
    """Start the guest: base files, config drive and domain made again from the record. `interrupted`: only
    one that runs by the record, so one that went off by itself or with its host."""

    name: str
    project: str
    interrupted: bool = False
    kind: str = "start"

    @property
    def target(self) -> str:
        return self.name

    def check(self, world: World) -> Seen:
        seen = look(world, self.name, self.project)
        went_off_by_itself = seen.instance.vm_state is VmState.ACTIVE
        if not went_off_by_itself:
            check_allowed("start", seen.instance.name, seen.instance.vm_state)
        return seen

    def plan(self, world: World, tx: Tx, op_id: str, seen: Seen) -> Plan | None:
        instance = still(tx, seen.instance)
        if instance.vm_state is VmState.ACTIVE and seen.power not in OFF:
            return None
        if self.interrupted and instance.vm_state is not VmState.ACTIVE:
            return None
        epoch = instances.raise_epoch(tx, instance.uuid)
        return Plan(
            kind=self.kind,
            target=instance.name,
            target_uuid=instance.uuid,
            project=instance.project,
            request={},
            locks=instance_locks(instance),
            attempt=tuple(self._steps(world, tx, op_id, instance, epoch)),
            epoch=epoch,
            host=instance.host,
            changes={"status": [instance.status, "ACTIVE"]},
        )

    def _steps(self, world: World, tx: Tx, op_id: str, instance: Instance, epoch: int) -> Iterator[Step]:
        assert instance.host
        host = hosts.get(tx, instance.host)
        uuid = instance.uuid
        yield SetTask(uuid=uuid, task=TaskState.POWERING_ON)
        yield from guest.base_steps(instance, host.name)
        yield guest.config_drive_step(instance, host)
        marks = Marks(fleet=world.fleet, operation=op_id, epoch=epoch, generation=instance.version)
        xml = guest.domain_xml(instance, host, marks, world.template("domain.xml"))
        yield RedefineDomain(host=host.name, uuid=uuid, xml=xml)
        yield PowerOn(host=host.name, uuid=uuid)
        yield RecordPower(uuid=uuid, vm_state=VmState.ACTIVE, power_state=PowerState.RUNNING)
