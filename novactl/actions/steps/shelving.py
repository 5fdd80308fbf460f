"""Steps of an instance that is put away as an image, and comes back from it."""

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from novactl.actions.kept_records import kept_record
from novactl.actions.steps.images import swept
from novactl.actions.steps.registry import REGISTRY
from novactl.actions.steps.snapshots import RecordSnapshot
from novactl.db import catalogue, hosts, instances, secrets
from novactl.db.session import dumps
from novactl.engine.step import Kind, RecordStep, Step
from novactl.errors import Fenced, Refused
from novactl.objects.image import Image
from novactl.objects.instance import Instance
from novactl.objects.states import PowerState, TaskState, VmState
from novactl.virt.domain import record


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RecordShelved(RecordSnapshot):
    """The image is active, and the instance shelved. `task`: what is done to it next."""

    type: ClassVar[str] = "record-shelved"
    task: str | None

    def summary(self) -> str:
        return f"image {self.name} is active, and the record says shelved"

    def apply(self, tx: Any, ctx: Any) -> None:
        super().apply(tx, ctx)
        instances.update(
            tx,
            self.uuid,
            vm_state=VmState.SHELVED,
            power_state=PowerState.SHUTDOWN,
            task_state=TaskState(self.task) if self.task else None,
            fault=None,
            shelved_image=dumps(catalogue.image(tx, self.image).as_dict()),
        )
        instances.note_copy(tx, self.uuid, behind=True)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class MarkOffloading(RecordStep):
    """The instance shows that it leaves its host: there is no way back."""

    type: ClassVar[str] = "mark-offloading"
    kind: ClassVar[Kind] = Kind.PIVOT
    uuid: str

    def apply(self, tx: Any, ctx: Any) -> None:
        instances.update(tx, self.uuid, task_state=TaskState.SHELVING_OFFLOADING)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class KeepRecord(Step):
    """The record of an instance that is on no host lies beside its image: what `db rebuild` makes it of."""

    type: ClassVar[str] = "keep-record"
    kind: ClassVar[Kind] = Kind.RETRIABLE
    uuid: str

    def do(self, ctx: Any) -> None:
        shelved = ctx.world.db.read(lambda tx: instances.get(tx, self.uuid)).shelved_image
        if shelved is not None and not all(map(ctx.world.store.has, shelved.sums)):
            raise Refused(
                f"{ctx.op.target}: its image {shelved.name} is not in this store",
                hint="resume it where the instance was shelved",
            )
        content = ctx.world.db.read(lambda tx: self._content(tx, ctx))
        ctx.world.store.put_record(self.uuid, content)

    def _content(self, tx: Any, ctx: Any) -> bytes:
        instance = instances.get(tx, self.uuid)
        if instance.shelved_image is None:
            raise Refused(f"{instance.name}: is not shelved any more")
        told = {**record(instance), "shelved_image": instance.shelved_image.as_dict(), "numa": None}
        known = {"fleet": ctx.world.fleet, "epoch": instance.epoch, "generation": instance.version}
        sealed = secrets.sealed(tx, instance.user_data) if instance.user_data else None
        return (json.dumps({**known, "record": told, "sealed": sealed}) + "\n").encode()


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class NoteUnshelving(Step):
    """The record beside the image has this epoch. On which host the instance comes back, no other host knows:
    by this a database that is an older copy is told from the one that has it."""

    type: ClassVar[str] = "note-unshelving"
    uuid: str

    def do(self, ctx: Any) -> None:
        told = kept_record(ctx.world.store, self.uuid, ctx.world.fleet)
        if told is None:
            raise Refused(f"{ctx.op.target}: its record went out of the store just now", hint="try again")
        if told["epoch"] > ctx.epoch:
            raise Fenced(f"the store has seen epoch {told['epoch']} of {ctx.op.target}")
        content = (json.dumps({**told, "epoch": ctx.epoch}) + "\n").encode()
        ctx.world.store.put_record(self.uuid, content)

    def undo(self, ctx: Any) -> None:
        """Nothing: the database has the epoch, too."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RecordOffloaded(RecordStep):
    """The record says that the instance is on no host, and its claim is free: nothing of it is there."""

    type: ClassVar[str] = "record-offloaded"
    kind: ClassVar[Kind] = Kind.RETRIABLE
    uuid: str

    def apply(self, tx: Any, ctx: Any) -> None:
        for hold in hosts.holds_of(tx, self.uuid):
            hosts.release(tx, hold["host"], self.uuid, hold["role"])
        instances.update(
            tx,
            self.uuid,
            host=None,
            vm_state=VmState.SHELVED_OFFLOADED,
            power_state=PowerState.NOSTATE,
            task_state=None,
        )
        instances.note_copy(tx, self.uuid, behind=False)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RecordUnshelved(RecordStep):
    """The record says active. `image`: what its disks are made from now, None when they are the old ones;
    `placement`: where it may be from now on, None when that did not change."""

    type: ClassVar[str] = "record-unshelved"
    kind: ClassVar[Kind] = Kind.PIVOT
    uuid: str
    image: dict[str, Any] | None
    placement: dict[str, Any] | None

    def apply(self, tx: Any, ctx: Any) -> None:
        changed = {"image": self.image, "placement": self.placement}
        instances.update(
            tx,
            self.uuid,
            vm_state=VmState.ACTIVE,
            power_state=PowerState.RUNNING,
            task_state=None,
            fault=None,
            shelved_image=None,
            **{column: dumps(value) for column, value in changed.items() if value is not None},
        )
        instances.note_copy(tx, self.uuid, behind=False)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class DropShelved(Step):
    """The image that was kept of the instance is gone; what its disks are made from stays."""

    type: ClassVar[str] = "drop-shelved"
    kind: ClassVar[Kind] = Kind.RETRIABLE
    uuid: str
    image: dict[str, Any]

    def summary(self) -> str:
        return f"image {self.image['name']} is gone"

    def do(self, ctx: Any) -> None:
        ctx.world.store.drop_record(self.uuid)
        ctx.world.db.write(lambda tx: self._drop(tx, ctx.world.store))

    def _drop(self, tx: Any, store: Any) -> None:
        """The catalogue's image must be this instance's: its record may have come from a host."""
        image = Image.from_dict(self.image)
        if catalogue.image_id(tx, image.id) is not None and catalogue.image(tx, image.id).kept_of(self.uuid):
            catalogue.remove_image(tx, image.id)
        swept(store, tx, [image.sha256, *(disk["sha256"] for disk in image.disks.values())])


def dropped(instance: Instance) -> list[Step]:
    """What removes the image that is kept of it, if one is."""
    image = instance.shelved_image
    return [] if image is None else [DropShelved(uuid=instance.uuid, image=image.as_dict())]
