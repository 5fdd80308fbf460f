"""rescue and unrescue: a guest that does not boot is repaired from the system of another image."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from novactl.actions import acting, guest
from novactl.actions.acting import Seen, still
from novactl.actions.move_parts import power_off
from novactl.actions.steps.copies import DefineThere
from novactl.actions.steps.domains import OFF, StartDomain
from novactl.actions.steps.records import SetTask
from novactl.actions.steps.rescues import DropRescueDisk, MakeRescueDisk, NoteBehind, RecordRescue
from novactl.actions.world import World
from novactl.db import catalogue, hosts, instances
from novactl.db.session import Tx
from novactl.engine.operation import Lock, Mode, Plan
from novactl.engine.step import Step
from novactl.errors import Refused
from novactl.objects.extra_specs import firmware
from novactl.objects.image import MARGIN, MIB, Image
from novactl.objects.instance import Instance
from novactl.objects.states import PowerState, TaskState
from novactl.virt.domain import check_properties


@dataclass(frozen=True, kw_only=True)
class Rescue:
    """The guest boots from a disk of a rescue image, its own disks behind it. `image`: by default the one
    that its own disk was made from."""

    name: str
    project: str
    image: str | None = None
    kind: str = "rescue"

    @property
    def target(self) -> str:
        return self.name

    def check(self, world: World) -> tuple[Seen, Image]:
        seen = acting.check(world, self.kind, acting.look(world, self.name, self.project))
        image = world.db.read(lambda tx: chosen(tx, seen.instance, self.image))
        check_rescuer(seen.instance, image)
        acting.check_disks(world, seen.instance)
        _check_room(world, seen.instance, image)
        return seen, image

    def plan(self, world: World, tx: Tx, op_id: str, found: tuple[Seen, Image]) -> Plan:
        seen, image = found
        instance = still(tx, seen.instance)
        rescued = replace(instance, rescue_image=image)
        host, uuid = str(instance.host), instance.uuid
        epoch, ran = instances.raise_epoch(tx, uuid), seen.power not in OFF
        steps: list[Step] = [
            SetTask(uuid=uuid, task=TaskState.RESCUING),
            *guest.prepared_steps(tx, rescued),
            power_off(instance, host, ran=ran),
            MakeRescueDisk(host=host, uuid=uuid, base=image.sha256, size_bytes=image.virtual_size_bytes),
            *swapped(world, tx, op_id, rescued, instance, epoch),
            RecordRescue(uuid=uuid, image=image.as_dict()),
            *acting.hold_steps(tx, instance),
        ]
        made = acting.plan_of(self.kind, instance, steps, epoch, status="RESCUE", image=image.name)
        return replace(made, locks=made.locks | {Lock("image", image.id, Mode.SHARED)})


@dataclass(frozen=True, kw_only=True)
class Unrescue:
    """The guest boots from its own disk again; what the rescue system wrote on its disk is gone."""

    name: str
    project: str
    kind: str = "unrescue"

    @property
    def target(self) -> str:
        return self.name

    def check(self, world: World) -> Seen:
        """One whose host is lost is only recorded: it can be evacuated then."""
        found = world.db.read(lambda tx: instances.find(tx, self.name, self.project))
        if acting.is_lost(world, found):
            return acting.check(world, self.kind, Seen(found, PowerState.NOSTATE))
        seen = acting.check(world, self.kind, acting.look(world, self.name, self.project))
        acting.check_disks(world, replace(seen.instance, rescue_image=None))
        return seen

    def plan(self, world: World, tx: Tx, op_id: str, seen: Seen) -> Plan:
        rescued = still(tx, seen.instance)
        instance = replace(rescued, rescue_image=None)
        host, uuid = str(instance.host), instance.uuid
        epoch, ran = instances.raise_epoch(tx, uuid), seen.power not in OFF
        if host in hosts.fenced(tx) and seen.power is PowerState.NOSTATE:
            recorded = (RecordRescue(uuid=uuid, image=None), NoteBehind(uuid=uuid))
            return acting.plan_of(self.kind, rescued, recorded, epoch, status="ACTIVE")
        steps: list[Step] = [
            SetTask(uuid=uuid, task=TaskState.UNRESCUING),
            *guest.prepared_steps(tx, instance),
            power_off(instance, host, ran=ran),
            *swapped(world, tx, op_id, instance, rescued, epoch),
            RecordRescue(uuid=uuid, image=None),
            DropRescueDisk(host=host, uuid=uuid),
        ]
        return acting.plan_of(self.kind, rescued, steps, epoch, status="ACTIVE")


def chosen(tx: Tx, instance: Instance, name: str | None) -> Image:
    """The image of that name, by default the one that the instance was made from. Raises NotFound."""
    return catalogue.original(tx, instance) if name is None else catalogue.image(tx, name)


def _check_room(world: World, instance: Instance, image: Image) -> None:
    """Raises Refused unless its host has room for the rescue disk, should all of it be written."""
    free = world.hypervisor(str(instance.host)).look(instance.uuid, []).disk_free
    if free - MARGIN < image.virtual_size_bytes:
        raise Refused(
            f"{instance.name}: its rescue disk may take {-(-image.virtual_size_bytes // MIB)} MiB on"
            f" {instance.host}, {max(0, free - MARGIN) // MIB} MiB are free",
            hint="free some space there, or --image names a smaller one",
        )


def swapped(
    world: World, tx: Tx, op_id: str, now: Instance, before: Instance, epoch: int, *, runs: bool = True
) -> Iterable[Step]:
    """Its domain is as `now` has it, and `runs`."""
    xml = acting.domain_xml(world, tx, op_id, now, epoch)
    was = acting.domain_xml(world, tx, op_id, before, epoch)
    yield DefineThere(host=now.host, uuid=now.uuid, xml=xml, before=was)
    if runs:
        yield StartDomain(host=now.host, uuid=now.uuid)


def check_rescuer(instance: Instance, image: Image) -> None:
    """Raises Refused for an image whose system cannot run on the instance's hardware."""
    check_properties(image.properties)
    if image.status != "active":
        raise Refused(f"image {image.name} is {image.status}")
    if instance.flavor.memory_mib < image.min_memory_mib:
        raise Refused(
            f"{instance.name}: has {instance.flavor.memory_mib} MiB of memory, image {image.name} needs"
            f" {image.min_memory_mib}"
        )
    for what, mine, its in (
        ("firmware", firmware(instance.image), firmware(image)),
        ("architecture", *(_architecture(one) for one in (instance.image, image))),
    ):
        if mine != its:
            raise Refused(
                f"{instance.name}: its {what} is {mine}, image {image.name} needs {its}",
                hint="--image names another one",
            )


def _architecture(image: Any) -> str:
    return str((image.properties if image else {}).get("hw_architecture", "x86_64"))
