"""shelve: an instance is put away as an image; it keeps its host, or leaves it (`offload`)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from novactl.actions import acting, guest
from novactl.actions.acting import Seen, still
from novactl.actions.move_parts import power_off
from novactl.actions.snapshot import derived
from novactl.actions.steps.domains import DefineAnew, DropDomain, RemoveDomain
from novactl.actions.steps.files import RemoveFiles
from novactl.actions.steps.images import PullFile
from novactl.actions.steps.records import RecordCopied, SetTask
from novactl.actions.steps.shelving import KeepRecord, MarkOffloading, RecordOffloaded, RecordShelved
from novactl.actions.steps.snapshots import CopyLive, DropFiles, ExtractDisk, QueueImage
from novactl.actions.world import World
from novactl.db import catalogue, hosts, instances
from novactl.db.session import Tx
from novactl.engine.operation import Lock, Mode, Plan
from novactl.engine.step import Step
from novactl.errors import Refused
from novactl.objects.image import MARGIN, MIB, Image
from novactl.objects.instance import Instance
from novactl.objects.states import PowerState, TaskState, VmState

SUFFIX = "-shelved"
NAME_LIMIT = 63


@dataclass(frozen=True, kw_only=True)
class Shelve:
    """The guest is off, and an image of its disks is kept. `offload`: its host is left, nothing stays there;
    one that is shelved already leaves it too."""

    name: str
    project: str
    offload: bool = False
    kind: str = "shelve"

    @property
    def target(self) -> str:
        return self.name

    def check(self, world: World) -> Seen:
        """The guest, its disks, and the room for what will be made of them."""
        found = world.db.read(lambda tx: instances.find(tx, self.name, self.project))
        if found.host is None:
            acting.check(world, "shelve", Seen(found, PowerState.NOSTATE))
        leaves = self.offload and found.vm_state is VmState.SHELVED
        if leaves and acting.is_lost(world, found):
            seen = Seen(found, PowerState.NOSTATE)
        else:
            seen = acting.look(world, self.name, self.project)
        if leaves:
            acting.check(world, "shelve --offload", seen)
            check_stored(world, seen.instance)
            return seen
        acting.check(world, "shelve", seen)
        if seen.instance.image is None:
            raise Refused(f"{seen.instance.name}: has no image, so its disks are volumes")
        acting.check_disks(world, seen.instance)
        _check_room(world, seen)
        return seen

    def plan(self, world: World, tx: Tx, op_id: str, seen: Seen) -> Plan:
        instance = still(tx, seen.instance)
        epoch = instances.raise_epoch(tx, instance.uuid)
        if seen.instance.vm_state is VmState.SHELVED:
            lost = instance.host in hosts.fenced(tx) and seen.power is PowerState.NOSTATE
            steps = (MarkOffloading(uuid=instance.uuid), *_offloaded(instance, lost=lost))
            made = acting.plan_of(self.kind, instance, steps, epoch, status="SHELVED_OFFLOADED", offload=True)
            return replace(made, changes=made.changes | {"host": [instance.host, None]})
        image = derived(world, instance, name=_free_name(tx, instance), image_type="shelved", status="saving")
        catalogue.add_image(tx, image)
        steps = (
            QueueImage(image=image.id, name=image.name),
            SetTask(uuid=instance.uuid, task=TaskState.SHELVING),
            *_copied(instance, seen, op_id),
            RecordShelved(
                uuid=instance.uuid,
                image=image.id,
                name=image.name,
                task=TaskState.SHELVING_OFFLOADING if self.offload else None,
            ),
            *(
                _offloaded(instance)
                if self.offload
                else _kept(world, tx, op_id, replace(instance, shelved_image=image), seen, epoch)
            ),
        )
        status = "SHELVED_OFFLOADED" if self.offload else "SHELVED"
        made = acting.plan_of(self.kind, instance, steps, epoch, status=status, offload=self.offload)
        changes: dict[str, Any] = {"image": [None, image.name]}
        if self.offload:
            changes["host"] = [instance.host, None]
        return replace(
            made,
            locks=made.locks | {Lock("image", image.id, Mode.EXCLUSIVE)},
            applied=frozenset({QueueImage.type}),
            changes=made.changes | changes,
        )


def _copied(instance: Instance, seen: Seen, op_id: str) -> Iterator[Step]:
    """From the disks to the store. One that is paused or suspended loses its memory only after that."""
    host, uuid = str(instance.host), instance.uuid
    where: dict[str, Any] = {"host": host, "uuid": uuid}
    files = _files(instance)
    if seen.power is PowerState.PAUSED:
        yield CopyLive(**where, files=files, freeze="not")
    else:
        yield power_off(instance, host, ran=seen.power is PowerState.RUNNING)
    for file in files:
        yield ExtractDisk(**where, file=file, disk_format="qcow2", compressed=False)
    for file in files:
        yield PullFile(**where, file=f"{op_id}.{file}", what=file)
    yield DropFiles(**where)


def _kept(world: World, tx: Tx, op_id: str, shelved: Instance, seen: Seen, epoch: int) -> Iterator[Step]:
    """It is off on its host, and its domain says that it is shelved."""
    host, uuid = shelved.host, shelved.uuid
    if seen.saved or seen.power is PowerState.PAUSED:
        yield DropDomain(host=host, uuid=uuid)
    yield DefineAnew(host=host, uuid=uuid, xml=acting.domain_xml(world, tx, op_id, shelved, epoch))
    yield RecordCopied(uuid=uuid)
    yield from acting.hold_steps(tx, shelved)


def _offloaded(instance: Instance, *, lost: bool = False) -> list[Step]:
    """`lost`: an audit cleans its host before that is used again."""
    host, uuid = instance.host, instance.uuid
    there = [] if lost else [RemoveDomain(host=host, uuid=uuid), RemoveFiles(host=host, uuid=uuid)]
    return [KeepRecord(uuid=uuid), *there, RecordOffloaded(uuid=uuid)]


def _files(instance: Instance) -> list[str]:
    """Disks whose content is kept: a swap disk has none that matters."""
    return [file for file in guest.overlays(instance) if file != "disk.swap"]


def _free_name(tx: Tx, instance: Instance) -> str:
    """What its image is called: images of all projects have names of one kind."""
    plain = f"{instance.name[: NAME_LIMIT - len(SUFFIX)]}{SUFFIX}"
    if all(one.name != plain for one in catalogue.images(tx)):
        return plain
    ending = f"-{instance.uuid[:8]}{SUFFIX}"
    return f"{instance.name[: NAME_LIMIT - len(ending)]}{ending}"


def _check_room(world: World, seen: Seen) -> None:
    """Raises Refused unless host and store have room for all that is made there."""
    instance, files = seen.instance, _files(seen.instance)
    look = world.hypervisor(str(instance.host)).snapshot_look(instance.uuid, seen.power, files)
    whole = sum(disk.whole_bytes for disk in look.disks.values())
    more = sum(disk.own_bytes for disk in look.disks.values()) if seen.power is PowerState.PAUSED else 0
    for place, room, needed in (
        (str(instance.host), look.room_bytes - MARGIN, whole + more),
        ("the store", world.store.room() - MARGIN, whole),
    ):
        if room < needed:
            raise Refused(
                f"{instance.name}: its image may take {-(-needed // MIB)} MiB on {place},"
                f" {max(0, room // MIB)} MiB are free",
                hint="free some space there",
            )


def check_stored(world: World, instance: Instance) -> None:
    """Raises Refused when the image that is kept of it is not in this store: of others a host would tell."""
    image = instance.shelved_image
    assert image is not None
    if missing := [sum_ for sum_ in stored(image) if not world.store.has(sum_)]:
        raise Refused(
            f"{instance.name}: {', '.join(missing)} of image {image.name} is not in this store",
            hint="the store of whoever shelved it has it",
        )


def stored(image: Image) -> list[str]:
    """SHA-256 of what was stored of its disks."""
    return [image.sha256, *(disk["sha256"] for disk in image.disks.values())]
