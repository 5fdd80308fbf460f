"""pause and unpause, suspend and resume."""

from dataclasses import dataclass

from novactl.actions import acting, guest
from novactl.actions.acting import Seen, plan_of, still
from novactl.actions.steps.domains import PauseGuest, UnpauseGuest
from novactl.actions.steps.memory import RestoreMemory, SaveMemory
from novactl.actions.steps.records import MarkSuspended, RecordCopied, RecordPower, SetTask
from novactl.actions.world import World
from novactl.db import hosts, instances
from novactl.db.session import Tx
from novactl.engine.operation import Plan
from novactl.errors import Refused
from novactl.objects.image import MIB
from novactl.objects.instance import Instance
from novactl.objects.states import PowerState, TaskState, VmState
from novactl.virt.memory import SAVES

MARGIN_MIB = 64
"""What a saved guest takes besides its memory: devices, XML, alignment."""


@dataclass(frozen=True, kw_only=True)
class Pause:
    """The guest stands still; it keeps its memory and its host's."""

    name: str
    project: str
    kind: str = "pause"

    @property
    def target(self) -> str:
        return self.name

    def check(self, world: World) -> Seen:
        seen = acting.look(world, self.name, self.project)
        return acting.check(world, self.kind, seen, target=VmState.PAUSED)

    def plan(self, world: World, tx: Tx, op_id: str, seen: Seen) -> Plan | None:
        instance = still(tx, seen.instance)
        if seen.is_(VmState.PAUSED):
            return None
        uuid, epoch = instance.uuid, instances.raise_epoch(tx, instance.uuid)
        steps = (
            SetTask(uuid=uuid, task=TaskState.PAUSING),
            PauseGuest(host=instance.host, uuid=uuid),
            *acting.copy_steps(world, tx, op_id, instance, epoch),
            RecordPower(uuid=uuid, vm_state=VmState.PAUSED, power_state=PowerState.PAUSED),
        )
        return plan_of(self.kind, instance, steps, epoch, status="PAUSED")


@dataclass(frozen=True, kw_only=True)
class Unpause:
    """The guest goes on."""

    name: str
    project: str
    kind: str = "unpause"

    @property
    def target(self) -> str:
        return self.name

    def check(self, world: World) -> Seen:
        seen = acting.look(world, self.name, self.project)
        return acting.check(world, self.kind, seen, target=VmState.ACTIVE)

    def plan(self, world: World, tx: Tx, op_id: str, seen: Seen) -> Plan | None:
        instance = still(tx, seen.instance)
        if seen.is_(VmState.ACTIVE):
            return None
        uuid, epoch = instance.uuid, instances.raise_epoch(tx, instance.uuid)
        steps = (
            SetTask(uuid=uuid, task=TaskState.UNPAUSING),
            UnpauseGuest(host=instance.host, uuid=uuid),
            *acting.copy_steps(world, tx, op_id, instance, epoch),
            RecordPower(uuid=uuid, vm_state=VmState.ACTIVE, power_state=PowerState.RUNNING),
        )
        return plan_of(self.kind, instance, steps, epoch, status="ACTIVE")


@dataclass(frozen=True, kw_only=True)
class Suspend:
    """The guest's memory goes to its host's disk (libvirt's managed save), and the guest is off."""

    name: str
    project: str
    kind: str = "suspend"

    @property
    def target(self) -> str:
        return self.name

    def check(self, world: World) -> Seen:
        seen = acting.look(world, self.name, self.project)
        acting.check(world, self.kind, seen, target=VmState.SUSPENDED)
        if seen.vm_state is not VmState.SUSPENDED:
            check_room(world, seen.instance)
        return seen

    def plan(self, world: World, tx: Tx, op_id: str, seen: Seen) -> Plan | None:
        instance = still(tx, seen.instance)
        if seen.is_(VmState.SUSPENDED):
            return None
        uuid, epoch = instance.uuid, instances.raise_epoch(tx, instance.uuid)
        copy = acting.copy_steps(world, tx, op_id, instance, epoch)
        steps = (
            SetTask(uuid=uuid, task=TaskState.SUSPENDING),
            SaveMemory(host=instance.host, uuid=uuid, size_bytes=needed_mib(instance) * MIB),
            MarkSuspended(uuid=uuid, vm_state=VmState.SUSPENDED, power_state=PowerState.SHUTDOWN),
            *copy,
            *(RecordCopied(uuid=uuid) for _ in copy),
        )
        return plan_of(self.kind, instance, steps, epoch, status="SUSPENDED")


@dataclass(frozen=True, kw_only=True)
class Resume:
    """A suspended guest goes on where it was. `force`: also with another QEMU than saved it."""

    name: str
    project: str
    force: bool = False
    kind: str = "resume"

    @property
    def target(self) -> str:
        return self.name

    def check(self, world: World) -> Seen:
        seen = acting.look(world, self.name, self.project)
        acting.check(world, self.kind, seen, target=VmState.ACTIVE)
        if seen.vm_state is VmState.SUSPENDED:
            acting.check_disks(world, seen.instance)
            if not self.force:
                _check_qemu(world, seen.instance)
        return seen

    def plan(self, world: World, tx: Tx, op_id: str, seen: Seen) -> Plan | None:
        instance = still(tx, seen.instance)
        if seen.is_(VmState.ACTIVE):
            return None
        uuid, epoch = instance.uuid, instances.raise_epoch(tx, instance.uuid)
        host = hosts.get(tx, str(instance.host))
        steps = (
            SetTask(uuid=uuid, task=TaskState.RESUMING),
            # The config drive stays as it is: the guest may have it mounted.
            *guest.bridge_steps(tx, instance, host),
            *guest.base_steps(instance, host.name),
            RestoreMemory(host=host.name, uuid=uuid),
            *acting.copy_steps(world, tx, op_id, instance, epoch),
            RecordPower(uuid=uuid, vm_state=VmState.ACTIVE, power_state=PowerState.RUNNING),
        )
        return plan_of(self.kind, instance, steps, epoch, status="ACTIVE", force=self.force)


def needed_mib(instance: Instance) -> int:
    return instance.flavor.memory_mib + MARGIN_MIB


def check_room(world: World, instance: Instance) -> None:
    """Raises Refused unless the guest's memory has room on its host."""
    free, needed = world.hypervisor(str(instance.host)).room_to_save() // MIB, needed_mib(instance)
    if free < needed:
        raise Refused(
            f"{instance.name}: its memory may take {needed} MiB on {instance.host}, where libvirt saves"
            f" {free} MiB are free",
            hint=f"free some space in {SAVES} there",
        )


def _check_qemu(world: World, instance: Instance) -> None:
    """Raises Refused when the host has another QEMU than the one that saved the guest's memory."""
    saved, now = world.hypervisor(str(instance.host)).qemu_versions(instance.uuid)
    if saved and saved.split(".")[:2] != now.split(".")[:2]:
        raise Refused(
            f"{instance.name}: its memory was saved by QEMU {saved}, {instance.host} has {now or 'another'}",
            hint=f"novactl resume {instance.name} --force tries it and keeps the memory if it fails;"
            f" novactl reboot {instance.name} --hard drops it",
        )
