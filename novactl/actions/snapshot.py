"""snapshot: an image of an instance's disks, from a guest that runs on or does not (docs/snapshots.md)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from novactl.actions import acting, guest, memory, move_parts
from novactl.actions.acting import Seen, plan_of, still
from novactl.actions.steps.images import PullFile
from novactl.actions.steps.records import RecordCopied, SetTask
from novactl.actions.steps.snapshots import (
    CRASH,
    CopyLive,
    DropFiles,
    ExtractDisk,
    HoldGuest,
    LetGuestGo,
    QueueImage,
    RecordSnapshot,
    StartAgain,
)
from novactl.actions.world import World
from novactl.db import catalogue, instances
from novactl.db.session import Tx
from novactl.engine.operation import Lock, Mode, Plan
from novactl.engine.step import Step
from novactl.errors import Refused, UsageError
from novactl.objects.image import MARGIN, MIB, Image
from novactl.objects.instance import Instance
from novactl.objects.names import check_name
from novactl.objects.states import PowerState, TaskState, VmState
from novactl.virt.snapshots import Freeze, SnapshotLook

FORMATS = ("raw", "qcow2")
APPLIED = frozenset({QueueImage.type})


@dataclass(frozen=True, kw_only=True)
class Found:
    """What check saw, and how the disks will be copied: live, by managed save, after a shutdown, or (None)
    as they are, since nothing runs."""

    seen: Seen
    how: str | None
    freeze: Freeze
    files: list[str]


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """An image of the instance's disks. `how`: "live", "cold" (its memory is saved meanwhile), "power-off",
    or None: live when it runs."""

    name: str
    project: str
    image: str
    how: str | None = None
    quiesce: bool = False
    root_only: bool = False
    disk_format: str | None = None
    compressed: bool = False
    kind: str = "snapshot"

    @property
    def target(self) -> str:
        return self.name

    def check(self, world: World) -> Found:
        """The guest, its disks, and the room for what will be made of them."""
        self._check_options()
        world.db.read(lambda tx: catalogue.refuse_taken(tx, "image", self.image))
        seen = acting.look(world, self.name, self.project)
        acting.check(world, self.kind, seen)
        instance = seen.instance
        if instance.image is None:
            raise Refused(f"{instance.name}: has no image, so its disks are volumes")
        acting.check_disks(world, instance)
        files = [file for file in guest.overlays(instance) if file != "disk.swap"]
        files = files[:1] if self.root_only else files
        look = world.hypervisor(str(instance.host)).snapshot_look(instance.uuid, seen.power, files)
        self._check_sources(world, seen, look)
        return self._with_room(world, self._decide(world, seen, look, files), look)

    def _check_options(self) -> None:
        check_name(self.image, "image name")
        if self.disk_format not in (None, *FORMATS):
            raise UsageError(f"--format {self.disk_format!r} is not one of {', '.join(FORMATS)}")
        if self.compressed and self.disk_format == "raw":
            raise UsageError("--compress goes with --format qcow2: a raw file holds no compressed data")
        if self.quiesce and self.how in ("cold", "power-off"):
            raise UsageError(
                f"--quiesce goes with --live: with --{self.how} the guest does not run meanwhile"
            )

    def _check_sources(self, world: World, seen: Seen, look: SnapshotLook) -> None:
        """Raises Refused when the guest writes somewhere else: somebody made an external snapshot of it."""
        if not look.sources:
            return
        instance = seen.instance
        directory = world.hypervisor(str(instance.host)).directory(instance.uuid)
        if away := [file for file in look.disks if f"{directory}/{file}" not in look.sources]:
            raise Refused(
                f"{instance.name}: its guest does not write to {', '.join(away)} but to another file",
                hint=f"virsh domblklist {instance.uuid} on {instance.host} shows it",
            )

    def _decide(self, world: World, seen: Seen, look: SnapshotLook, files: list[str]) -> Found:
        name, way = seen.instance.name, Found(seen=seen, how=None, freeze="not", files=files)
        if seen.power is PowerState.RUNNING:
            if self.how in ("cold", "power-off"):
                return replace(way, how=self.how)
            return replace(way, how="live", freeze=self._freeze(world, seen, look))
        if self.quiesce and seen.vm_state is not VmState.STOPPED:
            raise Refused(
                f"{name}: is {seen.vm_state}: its agent cannot freeze its file systems",
                hint=f"novactl {'resume' if seen.saved else 'unpause'} {name}",
            )
        if seen.power is PowerState.PAUSED:  # it stands still already: whatever way, it is not touched
            if self.how == "power-off":
                raise Refused(f"{name}: is paused and cannot shut down", hint=f"novactl unpause {name}")
            world.tell(f"{name}: is paused: {CRASH}")
            return replace(way, how="live")
        if self.how == "live":
            world.tell(f"{name}: cannot be copied while it runs (it is {seen.vm_state}): copied cold")
        return way

    def _freeze(self, world: World, seen: Seen, look: SnapshotLook) -> Freeze:
        """Whether its file systems must be frozen, may be, or cannot. Raises Refused."""
        name, image = seen.instance.name, seen.instance.image
        must = self.quiesce or bool(image and image.properties.get("os_require_quiesce") == "yes")
        if not look.silent:
            return "must" if must else "may"
        if must:
            raise Refused(
                f"{name}: its file systems cannot be frozen: no agent answers in it ({look.silent})",
                hint="qemu-guest-agent must run in it; --power-off needs none",
            )
        world.tell(f"{name}: no agent answers in it: {CRASH}")
        return "not"

    def _with_room(self, world: World, found: Found, look: SnapshotLook) -> Found:
        """The same, or cold where there is no room for copies beside what is made of them. Raises Refused
        unless every place has room for all that will be made there."""
        instance, name = found.seen.instance, found.seen.instance.name
        whole = sum(disk.whole_bytes for disk in look.disks.values())
        copies = sum(disk.own_bytes for disk in look.disks.values()) if found.how == "live" else 0
        room = look.room_bytes - MARGIN
        falls_back = found.freeze != "must" and found.seen.power is PowerState.RUNNING
        if copies and whole <= room < whole + copies and falls_back:
            world.tell(
                f"{name}: cannot be copied while it runs (its copies may take {_mib(copies)} MiB more on"
                f" {instance.host} than are free): copied cold"
            )
            found, copies = replace(found, how="cold", freeze="not"), 0
        places = (
            (str(instance.host), room, whole + copies),
            ("the store", world.store.room() - MARGIN, whole),
        )
        for place, room, needed in places:
            if room < needed:
                raise Refused(
                    f"{name}: its snapshot may take {_mib(needed)} MiB on {place}, {max(0, room // MIB)} MiB"
                    " are free",
                    hint="free some space there, or --root-only",
                )
        if found.how == "cold":
            memory.check_room(world, instance)
        return found

    # --- the plan ---

    def plan(self, world: World, tx: Tx, op_id: str, found: Found) -> Plan:
        instance = still(tx, found.seen.instance)
        epoch = instances.raise_epoch(tx, instance.uuid)
        image = derived(world, instance, name=self.image, image_type="snapshot", status="saving")
        catalogue.add_image(tx, image)
        copy = acting.copy_steps(world, tx, op_id, instance, epoch)
        off = found.how == "power-off"
        steps = (
            QueueImage(image=image.id, name=image.name),
            SetTask(uuid=instance.uuid, task=TaskState.SNAPSHOTTING),
            *self._copied(instance, found, op_id),
            DropFiles(host=instance.host, uuid=instance.uuid),
            RecordSnapshot(uuid=instance.uuid, image=image.id, name=image.name),
            *copy,
            *(RecordCopied(uuid=instance.uuid) for _ in copy),
            *(acting.hold_steps(tx, instance) if off else ()),
        )
        request = {"image": image.name, "how": found.how or "stopped", "root_only": self.root_only}
        plan = plan_of(self.kind, instance, steps, epoch, status=instance.status, **request)
        locks = plan.locks | {Lock("image", image.id, Mode.EXCLUSIVE)}
        return replace(plan, locks=locks, applied=APPLIED, changes={"image": [None, image.name]})

    def _copied(self, instance: Instance, found: Found, op_id: str) -> Iterator[Step]:
        """From the disks to the store. Its guest goes on as soon as nobody reads its disks any more."""
        where: dict[str, Any] = {"host": instance.host, "uuid": instance.uuid}
        if found.how == "live":
            yield CopyLive(**where, files=found.files, freeze=found.freeze)
        held = found.how == "cold" or (
            found.how == "live" and found.freeze != "must" and found.seen.power is PowerState.RUNNING
        )
        if held:
            yield HoldGuest(**where, size_bytes=memory.needed_mib(instance) * MIB)
        if found.how == "power-off":
            yield move_parts.power_off(instance, str(instance.host), ran=True)
        default = None if found.how == "live" else "qcow2"
        form = self.disk_format or ("qcow2" if self.compressed else default)
        for file in found.files:
            yield ExtractDisk(**where, file=file, disk_format=form, compressed=self.compressed)
        if held:
            yield LetGuestGo(**where)
        if found.how == "power-off":
            yield StartAgain(**where)
        for file in found.files:
            yield PullFile(**where, file=f"{op_id}.{file}", what=file)


def derived(world: World, instance: Instance, *, name: str, image_type: str, status: str) -> Image:
    """An image of an instance, with what it inherits; its bytes are not there yet."""
    old = instance.image
    assert old
    return replace(
        old,
        id=world.ids.uuid(),
        name=name,
        status=status,
        sha256="",
        disk_format="",
        size_bytes=0,
        virtual_size_bytes=0,
        locations=(),
        disks={},
        properties={
            **old.properties,
            "image_type": image_type,
            "base_image_ref": old.id,
            "instance_uuid": instance.uuid,
        },
        created_at=world.clock.now(),
    )


def _mib(size: int) -> int:
    return -(-size // MIB)
