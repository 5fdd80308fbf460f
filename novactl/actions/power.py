"""start, stop and reboot."""

from collections.abc import Iterator
from dataclasses import dataclass

from novactl.actions import acting, guest
from novactl.actions.acting import Seen, plan_of, still
from novactl.actions.hardware import with_cells
from novactl.actions.steps.domains import (
    OFF,
    DefineAnew,
    DropDomain,
    PowerOn,
    PowerOnAgain,
    RedefineDomain,
    ShutOff,
)
from novactl.actions.steps.records import RecordPower, SetTask
from novactl.actions.world import World
from novactl.db import instances
from novactl.db.session import Tx
from novactl.engine.operation import Plan
from novactl.engine.step import Step
from novactl.errors import Refused
from novactl.objects.instance import Instance
from novactl.objects.states import PowerState, TaskState, VmState

STOP_TIMEOUT = 60.0  # seconds, as Nova's shutdown_timeout
REBOOT_TIMEOUT = 120.0  # seconds, as Nova's wait_soft_reboot_seconds


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
        seen = acting.look(world, self.name, self.project)
        return acting.check(world, "stop", seen, target=VmState.STOPPED)

    def plan(self, world: World, tx: Tx, op_id: str, seen: Seen) -> Plan | None:
        instance = still(tx, seen.instance)
        if seen.is_(VmState.STOPPED) and not instances.went_off(tx, instance.uuid):
            return None  # else this stop is what keeps it off (start --interrupted, policies)
        uuid, epoch = instance.uuid, instances.raise_epoch(tx, instance.uuid)
        timeout = guest.shutdown_timeout(instance, self.timeout)
        steps = (
            SetTask(uuid=uuid, task=TaskState.POWERING_OFF),
            ShutOff(host=instance.host, uuid=uuid, timeout=timeout, force=self.force),
            *acting.copy_steps(world, tx, op_id, instance, epoch),
            RecordPower(uuid=uuid, vm_state=VmState.STOPPED, power_state=PowerState.SHUTDOWN),
            *acting.hold_steps(tx, instance),
        )
        return plan_of(self.kind, instance, steps, epoch, status="SHUTOFF", force=self.force)


@dataclass(frozen=True, kw_only=True)
class Start:
    """Start the guest: bridges, base files, config drive and domain made again from the record.
    `interrupted`: only one that went off by itself or with its host, and was not stopped."""

    name: str
    project: str
    interrupted: bool = False
    kind: str = "start"

    @property
    def target(self) -> str:
        return self.name

    def check(self, world: World) -> Seen:
        seen = acting.look(world, self.name, self.project)
        acting.check(world, "start", seen, target=VmState.ACTIVE)
        if seen.power is PowerState.PAUSED:
            name = seen.instance.name
            raise Refused(f"{name}: its guest is paused", hint=f"novactl reboot {name} --hard restarts it")
        if not seen.is_(VmState.ACTIVE):
            acting.check_disks(world, seen.instance)
        return seen

    def plan(self, world: World, tx: Tx, op_id: str, seen: Seen) -> Plan | None:
        instance = still(tx, seen.instance)
        if seen.is_(VmState.ACTIVE):
            return None
        if self.interrupted and not self._was_interrupted(tx, instance):
            return None
        instance = with_cells(tx, instance)
        epoch = instances.raise_epoch(tx, instance.uuid)
        steps = (
            SetTask(uuid=instance.uuid, task=TaskState.POWERING_ON),
            *guest.prepared_steps(tx, instance),
            RedefineDomain(
                host=instance.host,
                uuid=instance.uuid,
                xml=acting.domain_xml(world, tx, op_id, instance, epoch),
            ),
            PowerOn(host=instance.host, uuid=instance.uuid),
            RecordPower(uuid=instance.uuid, vm_state=VmState.ACTIVE, power_state=PowerState.RUNNING),
            *acting.hold_steps(tx, instance),
        )
        return plan_of(self.kind, instance, steps, epoch, status="ACTIVE")

    def _was_interrupted(self, tx: Tx, instance: Instance) -> bool:
        recorded = instance.vm_state
        return recorded is VmState.ACTIVE or (
            recorded is VmState.STOPPED and instances.went_off(tx, instance.uuid)
        )


@dataclass(frozen=True, kw_only=True)
class Reboot:
    """Restart the guest. Soft: it is asked by ACPI to shut down, powered off when its time is over, and
    started again. `hard`, and whenever it does not run: it is powered off, its domain removed. Either way
    all that the host has of it, but for its disks, is made again from the record."""

    name: str
    project: str
    hard: bool = False
    timeout: float = REBOOT_TIMEOUT
    kind: str = "reboot"

    @property
    def target(self) -> str:
        return self.name

    def check(self, world: World) -> Seen:
        """A guest that runs by the record and went off is rebooted, too."""
        seen = acting.look(world, self.name, self.project)
        went_off = VmState.STOPPED if seen.instance.vm_state is VmState.ACTIVE else None
        acting.check(world, "reboot --hard" if self.hard else "reboot", seen, target=went_off)
        acting.check_disks(world, seen.instance)
        return seen

    def plan(self, world: World, tx: Tx, op_id: str, seen: Seen) -> Plan | None:
        instance = with_cells(tx, still(tx, seen.instance))
        epoch = instances.raise_epoch(tx, instance.uuid)
        soft = not self.hard and seen.power is PowerState.RUNNING
        xml = acting.domain_xml(world, tx, op_id, instance, epoch)
        here = self._off_and_on(instance, xml, soft=soft, drops=seen.saved or seen.power not in OFF)
        steps = (
            SetTask(uuid=instance.uuid, task=TaskState.REBOOTING if soft else TaskState.REBOOTING_HARD),
            *guest.prepared_steps(tx, instance),
            *here,
            RecordPower(uuid=instance.uuid, vm_state=VmState.ACTIVE, power_state=PowerState.RUNNING),
            *acting.hold_steps(tx, instance),
        )
        if seen.saved:
            world.tell(f"{instance.name}: is suspended; its saved memory is dropped")
        return plan_of(self.kind, instance, steps, epoch, status="ACTIVE", hard=not soft)

    def _off_and_on(self, instance: Instance, xml: str, *, soft: bool, drops: bool) -> Iterator[Step]:
        """`drops`: there is something to lose, so powering it off is the point of no return."""
        uuid, host = instance.uuid, instance.host
        if not soft and not drops:
            yield RedefineDomain(host=host, uuid=uuid, xml=xml)
            yield PowerOn(host=host, uuid=uuid)
            return
        timeout = guest.shutdown_timeout(instance, self.timeout)
        yield ShutOff(host=host, uuid=uuid, timeout=timeout, force=not soft)
        if not soft:
            yield DropDomain(host=host, uuid=uuid)
        yield DefineAnew(host=host, uuid=uuid, xml=xml)
        yield PowerOnAgain(host=host, uuid=uuid)
