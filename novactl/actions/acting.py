"""What every verb on an instance that lives shares: a look at record and host, and whether it may be done."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from novactl.actions import fencing, guest, restored
from novactl.actions.steps.domains import WriteCopy
from novactl.actions.steps.images import SweepStore
from novactl.actions.world import World
from novactl.db import catalogue, hosts, instances, moves
from novactl.db.session import Tx
from novactl.engine.operation import Lock, Mode, Plan
from novactl.engine.step import Step
from novactl.errors import Busy, Refused
from novactl.objects.instance import Instance
from novactl.objects.migration import most
from novactl.objects.states import (
    ALLOWED,
    PLAIN,
    PowerState,
    VmState,
    check_allowed,
    check_unlocked,
    vm_state_of,
)
from novactl.virt.domain import Marks


@dataclass(frozen=True)
class Seen:
    """The record that check read, and what the host said."""

    instance: Instance
    power: PowerState
    saved: bool = False

    @property
    def vm_state(self) -> VmState:
        """What it is: what the host says, as far as that tells."""
        recorded = self.instance.vm_state
        return vm_state_of(self.power, self.saved) if recorded in PLAIN else recorded

    @property
    def differs(self) -> bool:
        """Whether the record says something else."""
        recorded = (self.instance.vm_state, self.instance.power_state)
        return self.instance.vm_state in PLAIN and recorded != (self.vm_state, self.power)

    def is_(self, vm_state: VmState) -> bool:
        """Whether it is that already, on its host and by the record."""
        return self.vm_state is vm_state and self.instance.vm_state is vm_state


def look(world: World, name: str, project: str) -> Seen:
    """The instance's record and what it is on its host now."""
    instance = world.db.read(lambda tx: instances.find(tx, name, project))
    if instance.host is None:
        raise Refused(f"{instance.name}: is on no host ({instance.status})")
    greeting = world.hypervisor(instance.host).greet(instance.uuid)
    restored.check_mark(world, instance.host, greeting.mark)
    restored.check_epoch(world, instance, greeting)
    return Seen(instance, greeting.power, greeting.saved)


def check(world: World, action: str, seen: Seen, *, target: VmState | None = None) -> Seen:
    """`seen`, when the action may be done: the instance is not locked, and in a state that allows it, or in
    the one that it leads to. Else Refused, and what was seen is recorded."""
    instance = seen.instance
    check_unlocked(action, instance.name, instance.locked)
    if seen.vm_state not in {target} | ALLOWED[action]:
        record(world, seen)
        check_allowed(action, instance.name, seen.vm_state)
    return seen


def record(world: World, seen: Seen) -> None:
    """What was seen stands in the record, with an event, unless an operation works on the instance now."""
    if seen.differs and not world.rehearsal:
        found, power, vm_state, now = seen.instance, seen.power, seen.vm_state, world.clock.now()
        if world.db.write(lambda tx: instances.record_power(tx, found, power, vm_state, now)):
            world.tell(f"{found.name}: was {found.vm_state} by the record, is {power} on {found.host}")


def is_lost(world: World, instance: Instance) -> bool:
    """Whether its host is fenced and gives no answer: nothing of it runs there."""
    host = instance.host
    fenced = host is not None and world.db.read(lambda tx: hosts.get(tx, host).state) == "fenced"
    return fenced and not fencing.answers(world, str(host))


def check_disks(world: World, instance: Instance) -> None:
    """Raises Refused when a disk of the instance is gone: it is never made anew, since that would hide it."""
    host = world.hypervisor(str(instance.host))
    if missing := host.missing_files(instance.uuid, guest.overlays(instance)):
        raise Refused(
            f"{instance.name}: {', '.join(missing)} is missing on {instance.host}: what was on it is lost",
            hint=f"bring it back from a copy of your own, or novactl delete {instance.name}",
        )


def check_not_held(world: World, host: str, instance: Instance) -> None:
    """Raises Refused when a disk of the instance is held open on storage that the host shares with one that
    is down."""
    there = world.hypervisor(host)
    if held := there.held_files(instance.uuid, guest.overlays(instance)):
        raise Refused(
            f"{instance.name}: {', '.join(held)} is held open: its guest runs somewhere",
            hint=f"find out what has {there.directory(instance.uuid)} open",
        )


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


def plan_of(
    kind: str, instance: Instance, steps: Iterable[Step], epoch: int, *, status: str, **request: Any
) -> Plan:
    """The plan of a verb on one instance that leaves it with this status."""
    return Plan(
        kind=kind,
        target=instance.name,
        target_uuid=instance.uuid,
        project=instance.project,
        request=request,
        locks=instance_locks(instance),
        attempt=tuple(steps),
        epoch=epoch,
        host=instance.host,
        changes={"status": [instance.status, status]},
    )


def domain_xml(world: World, tx: Tx, op_id: str, instance: Instance, epoch: int) -> str:
    """The instance's domain as the record has it, with the marks of this operation."""
    return domain_with(world, tx, op_id, instance, epoch, moves.carried(tx, instance))


def domain_with(
    world: World, tx: Tx, op_id: str, instance: Instance, epoch: int, move: Mapping[str, Any] | None
) -> str:
    """The same when this move of it will wait, or none (None)."""
    host = hosts.get(tx, str(instance.host))
    marks = Marks(fleet=world.fleet, operation=op_id, epoch=epoch, generation=instance.version, move=move)
    return guest.domain_xml(instance, host, marks, world.template("domain.xml"))


def sweep_steps(tx: Tx, instance: Instance) -> list[Step]:
    """What removes from the store, once the instance has other images or is gone, files of its images that
    the catalogue's do not have: of one that was shelved or restored, or is in no catalogue any more."""
    images = [image for image in instance.images if catalogue.sums_of(tx, image.id) != image.sums]
    sums = sorted({sum_ for image in images for sum_ in image.sums})
    return [SweepStore(sums=sums)] if sums else []


def check_hold(tx: Tx, instance: Instance) -> None:
    """Raises Refused while its guest has more than its flavor, which `resize --live` left it."""
    if _holds_more(tx, instance):
        raise Refused(
            f"{instance.name}: its guest has more than its flavor until its next boot",
            hint=f"novactl reboot {instance.name}",
        )


def hold_steps(tx: Tx, instance: Instance) -> list[Step]:
    """What gives back, once its guest was off, what that had more than its flavor."""
    if not _holds_more(tx, instance):
        return []
    from novactl.actions.steps.sizes import FreeHold

    return [FreeHold(host=instance.host, uuid=instance.uuid)]


def _holds_more(tx: Tx, instance: Instance) -> bool:
    """A move that is open claims the larger of both for its own reasons."""
    held = hosts.hold_of(tx, str(instance.host), instance.uuid)
    more = held is not None and most(held, instance.resources) != instance.resources
    return more and moves.open_of(tx, instance.uuid) is None


def copy_steps(world: World, tx: Tx, op_id: str, instance: Instance, epoch: int) -> list[Step]:
    """What brings the second copy of the record up to date, when it is behind."""
    if not instances.copy_is_behind(tx, instance.uuid):
        return []
    xml = domain_xml(world, tx, op_id, instance, epoch)
    return [WriteCopy(host=instance.host, uuid=instance.uuid, xml=xml)]
