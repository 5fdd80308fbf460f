"""Steps of backups (docs/backups.md): copies of disks, their record, and disks that a backup replaces."""

import json
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from novactl.actions.steps import jobs
from novactl.actions.steps.images import PullFile, swept
from novactl.actions.steps.registry import REGISTRY
from novactl.db import backups, catalogue, hosts, instances
from novactl.db.session import dumps
from novactl.engine.step import Kind, RecordStep, Step
from novactl.errors import HostFault, Refused
from novactl.objects.backup import Backup, chain
from novactl.objects.image import MIB, Image
from novactl.virt.backups import Checkpoint, Disk


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class CopyDisks(Step):
    """The disks of a guest that runs on have copies of one moment, and note what changes from there. It
    records the kind of the copies, and why they are full ones."""

    type: ClassVar[str] = "copy-disks"
    uuid: str
    checkpoint: dict[str, Any]
    parent: dict[str, Any] | None
    files: dict[str, dict[str, Any]]
    """By file: device and size (virt.backups.Disk)."""
    size_bytes: int
    freeze: bool
    only_incremental: bool
    reason: str

    def summary(self) -> str:
        what = "what changed in the disks since the last backup" if self.parent else "all of the disks"
        return f"{what} ({self.size_bytes // MIB} MiB at most) is copied beside them"

    def do(self, ctx: Any) -> dict[str, Any]:
        host = ctx.world.hypervisor(self.host)
        words = host.backup_words(
            self.uuid,
            ctx.epoch,
            ctx.operation_id,
            checkpoint_of(self.checkpoint),
            checkpoint_of(self.parent) if self.parent else None,
            {file: Disk(**disk) for file, disk in self.files.items()},
            freeze=self.freeze,
            size=self.size_bytes,
        )
        said = jobs.carry_out(ctx, host, *words).strip().splitlines()
        kind, _, why = (said[-1] if said else "").partition(" ")
        if kind not in ("full", "incremental"):
            raise HostFault(f"{self.host}: does not say what it has copied")
        if kind == "full" and self.only_incremental:
            raise Refused(f"no incremental backup: {why}", hint="without --incremental it is a full one")
        return {"kind": kind, "reason": self.reason or why}

    def undo(self, ctx: Any) -> None:
        """Nothing is copied any more; neither copies nor checkpoint are left, and nothing is frozen."""
        host = ctx.world.hypervisor(self.host)
        jobs.end(ctx, host)
        host.unback(self.uuid, ctx.epoch, ctx.operation_id, checkpoint_of(self.checkpoint))


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RecordBackup(RecordStep):
    """The backup is listed, and older ones are out of its rotation."""

    type: ClassVar[str] = "record-backup"
    kind: ClassVar[Kind] = Kind.PIVOT
    uuid: str
    backup: dict[str, Any]
    """A Backup without what was found out meanwhile."""

    def summary(self) -> str:
        return f"backup {self.backup['name']} is listed, and the {self.backup['rotation']} newest are kept"

    def apply(self, tx: Any, ctx: Any) -> None:
        copied = ctx.result(CopyDisks.type)  # nothing when the guest is off
        made = replace(Backup(**self.backup), files=self._files(ctx))
        if copied:
            parent = made.parent if copied["kind"] == "incremental" else None
            made = replace(made, parent=parent, reason=copied["reason"])
        if not all(ctx.world.store.has(sum_) for sum_ in made.sums):
            raise Refused(f"backup {made.name}: its file was deleted by another command", hint="try again")
        if not chain(made, {one.id: one for one in backups.everything(tx)}):
            raise Refused(
                f"backup {made.name}: the one that it is a difference to was deleted", hint="try again"
            )
        catalogue.refuse_other_format(tx, f"backup {made.name}", made.base_formats)
        backups.add(tx, made)
        backups.rotate(tx, made.instance_uuid, made.type, made.rotation, ctx.world.clock.now())
        instances.update(tx, self.uuid, task_state=None)

    def _files(self, ctx: Any) -> dict[str, Any]:
        """What came, each as large for the guest as was looked up before: others are made of it by that."""
        found = _pulled(ctx)
        for file, planned in self.backup["files"].items():
            size = found[file]["virtual_size_bytes"]
            wanted = planned.get("virtual_size_bytes", size)  # an operation that began before has no such
            if size != wanted:
                raise HostFault(f"backup {self.backup['name']}: {file} has {size} bytes, not {wanted}")
        return found


def _pulled(ctx: Any) -> dict[str, Any]:
    """What the attempt's PullFile steps have recorded, by the disk's file."""
    attempts = (0, ctx.record.attempt)
    found = [one for one in ctx.op.records if isinstance(one.step, PullFile) and one.attempt in attempts]
    return {one.step.what: one.result for one in found}


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class ForgetCheckpoint(Step):
    """The disks note no more what changed since the backup before."""

    type: ClassVar[str] = "forget-checkpoint"
    kind: ClassVar[Kind] = Kind.RETRIABLE
    uuid: str
    checkpoint: dict[str, Any]

    def do(self, ctx: Any) -> None:
        host = ctx.world.hypervisor(self.host)
        host.forget_checkpoint(self.uuid, ctx.epoch, checkpoint_of(self.checkpoint))


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class ForgetNote(Step):
    """The disks note no more what changed since a backup that is gone."""

    type: ClassVar[str] = "forget-note"
    uuid: str
    checkpoint: dict[str, Any]

    def do(self, ctx: Any) -> None:
        host = ctx.world.hypervisor(self.host)
        host.forget_checkpoint(self.uuid, ctx.epoch, checkpoint_of(self.checkpoint))

    def undo(self, ctx: Any) -> None:
        """Nothing: no backup needs it."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RemoveUnneeded(Step):
    """Backups out of their rotation, on which no other depends, are gone from the image store."""

    type: ClassVar[str] = "remove-unneeded"
    kind: ClassVar[Kind] = Kind.RETRIABLE

    def do(self, ctx: Any) -> dict[str, Any]:
        return {"removed": [one.name for one in remove_unneeded(ctx.world)]}


def remove_unneeded(world: Any) -> list[Backup]:
    """Rows and files of backups out of their rotation that no other needs are gone; which they were. What is
    known of the others lies beside their files."""

    def work(tx: Any) -> list[Backup]:
        gone = backups.forget_unneeded(tx)
        swept(world.store, tx, {sum_ for one in gone for sum_ in one.sums})
        for one in gone:  # before the rows: by them they are found
            world.store.drop_record(one.id, "backups")
        return gone

    found: list[Backup] = world.db.write(work)  # nobody comes to need these files meanwhile
    _keep_records(world)
    return found


def _keep_records(world: Any) -> None:
    """Of each backup whose files this store has."""
    kept = world.store.records("backups")
    for one in world.db.read(backups.everything):
        content = (json.dumps({"fleet": world.fleet, "backup": vars(one)}) + "\n").encode()
        if kept.get(one.id) != content and all(world.store.has(sum_) for sum_ in one.sums):
            world.store.put_record(one.id, content, "backups")


def checkpoint_of(data: dict[str, Any]) -> Checkpoint:
    """As it stands in a step."""
    return Checkpoint(**{**data, "devices": tuple(data["devices"])})


# --- restoring into the instance itself ---


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class SwapDisk(Step):
    """A disk begins from the backup; the one before is kept aside."""

    type: ClassVar[str] = "swap-disk"
    uuid: str
    file: str
    base: str
    size_bytes: int

    def summary(self) -> str:
        return f"{self.file} is as in the backup; the one before is kept aside"

    def do(self, ctx: Any) -> None:
        host = ctx.world.hypervisor(self.host)
        host.swap_disk(self.uuid, ctx.epoch, self.file, self.base, self.size_bytes, ctx.operation_id)

    def undo(self, ctx: Any) -> None:
        """The one before has its place again."""
        ctx.world.hypervisor(self.host).unswap_disk(self.uuid, ctx.epoch, self.file, ctx.operation_id)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RecordRestored(RecordStep):
    """The instance begins from the backup: from here on the disks before are given up."""

    type: ClassVar[str] = "record-restored"
    kind: ClassVar[Kind] = Kind.PIVOT
    uuid: str
    image: dict[str, Any]

    def apply(self, tx: Any, ctx: Any) -> None:
        assert self.host
        image = Image.from_dict(self.image)
        if not all(ctx.world.store.has(sum_) for sum_ in image.sums):
            raise Refused(f"backup {image.name}: its file was deleted by another command")
        instances.update(tx, self.uuid, image=dumps(self.image), task_state=None)
        hosts.change_hold(tx, self.host, self.uuid, instances.get(tx, self.uuid).resources)
        instances.note_copy(tx, self.uuid, behind=True)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class DropAside(Step):
    """The disk that was kept aside is gone."""

    type: ClassVar[str] = "drop-aside"
    kind: ClassVar[Kind] = Kind.RETRIABLE
    uuid: str
    file: str

    def do(self, ctx: Any) -> None:
        ctx.world.hypervisor(self.host).drop_aside(self.uuid, ctx.epoch, self.file, ctx.operation_id)
