"""Steps of a snapshot (docs/snapshots.md). Up to its last one all is taken back: the guest is as it was, and
nothing is left on its host or in the store."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from novactl.actions.steps import jobs
from novactl.actions.steps.images import PullFile, forget_pulled
from novactl.actions.steps.memory import SaveMemory
from novactl.actions.steps.registry import REGISTRY
from novactl.db import catalogue, instances
from novactl.engine.step import Kind, RecordStep, Step
from novactl.errors import Refused
from novactl.objects.image import GIB, Image

CRASH = "what it had not written to its disks is missing, as after a power cut"


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class QueueImage(RecordStep):
    """The image has its row, and is saving. Carried out by the transaction that journals it."""

    type: ClassVar[str] = "queue-image"
    image: str
    name: str

    def summary(self) -> str:
        return f"image {self.name} is saving"

    def apply(self, tx: Any, ctx: Any) -> None:
        """Already there: it was written with the plan."""

    def revert(self, tx: Any, ctx: Any) -> None:
        catalogue.remove_image(tx, self.image)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class CopyLive(Step):
    """The disks have copies of one moment, made while the guest runs. It records whether they are `copied`,
    for how many milliseconds its file systems were `frozen` (None: they were not), and `why` not."""

    type: ClassVar[str] = "copy-live"
    uuid: str
    files: list[str]
    freeze: str

    def summary(self) -> str:
        return f"{' and '.join(self.files)} have copies of one moment; the guest runs on"

    def do(self, ctx: Any) -> dict[str, Any]:
        host = ctx.world.hypervisor(self.host)
        words = host.copy_live_words(self.uuid, ctx.epoch, ctx.operation_id, self.freeze, self.files)
        how, _, rest = jobs.carry_out(ctx, host, *words).splitlines()[-1].partition(" ")
        if how != "copied":
            ctx.world.tell(f"{ctx.op.target}: cannot be copied while it runs ({rest.strip()}): copied cold")
            return {"copied": False, "frozen": None, "why": rest.strip()}
        frozen, _, why = rest.partition(" ")
        if frozen != "-":
            return {"copied": True, "frozen": int(frozen), "why": ""}
        if why.strip():
            ctx.world.tell(f"{ctx.op.target}: its file systems were not frozen ({why.strip()}): {CRASH}")
        return {"copied": True, "frozen": None, "why": why.strip()}

    def undo(self, ctx: Any) -> None:
        """The guest's file systems are not frozen, and nothing copies its disks any more."""
        host = ctx.world.hypervisor(self.host)
        jobs.end(ctx, host)
        host.drop_files(self.uuid, ctx.epoch, ctx.operation_id)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class HoldGuest(SaveMemory):
    """The guest's memory is on its host's disk and it is off, unless its disks were copied while it ran."""

    type: ClassVar[str] = "hold-guest"

    def do(self, ctx: Any) -> dict[str, Any]:
        if ctx.result(CopyLive.type).get("copied"):
            return {"held": False}
        super().do(ctx)
        return {"held": True}

    def undo(self, ctx: Any) -> None:
        """It runs on, from its memory."""
        if ctx.record.result.get("held", True) and not ctx.result(CopyLive.type).get("copied"):
            super().undo(ctx)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class ExtractDisk(Step):
    """One disk is a file by itself, in the instance's directory on its host."""

    type: ClassVar[str] = "extract-disk"
    uuid: str
    file: str
    disk_format: str | None
    """None: raw if it was copied while the guest ran, else the disk's own."""
    compressed: bool

    def summary(self) -> str:
        return f"{self.file} is a file by itself{', compressed' if self.compressed else ''}"

    def do(self, ctx: Any) -> dict[str, Any]:
        copied = bool(ctx.result(CopyLive.type).get("copied"))
        made = f"{ctx.operation_id}.{self.file}"
        source = f"{made}.delta" if copied else self.file
        format_ = self.disk_format or ("raw" if copied else "qcow2")
        host = ctx.world.hypervisor(self.host)
        words = host.extract_words(
            self.uuid,
            ctx.epoch,
            ctx.operation_id,
            self.file,
            source,
            format_,
            compressed=self.compressed,
        )
        jobs.carry_out(ctx, host, *words)
        return {"file": made, "disk_format": format_}  # PullFile looks for it

    def undo(self, ctx: Any) -> None:
        """Nothing of the operation is left on the host."""
        host = ctx.world.hypervisor(self.host)
        jobs.end(ctx, host)
        host.drop_files(self.uuid, ctx.epoch, ctx.operation_id)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class LetGuestGo(Step):
    """The guest runs on from its memory, if it was held."""

    type: ClassVar[str] = "let-guest-go"
    uuid: str

    def do(self, ctx: Any) -> None:
        if ctx.result(HoldGuest.type).get("held"):
            host = ctx.world.hypervisor(self.host)
            jobs.carry_out(ctx, host, *host.restore_words(self.uuid, ctx.epoch))

    def undo(self, ctx: Any) -> None:
        """Nothing but its job: it runs, as it did before."""
        jobs.end(ctx, ctx.world.hypervisor(self.host))


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class StartAgain(Step):
    """The guest that was shut down for this runs again."""

    type: ClassVar[str] = "start-again"
    uuid: str

    def do(self, ctx: Any) -> None:
        ctx.world.hypervisor(self.host).start(self.uuid, ctx.epoch)

    def undo(self, ctx: Any) -> None:
        """Nothing: it ran before."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class DropFiles(Step):
    """Nothing of this operation is left on the host."""

    type: ClassVar[str] = "drop-files"
    uuid: str

    def do(self, ctx: Any) -> None:
        forget_pulled(ctx)
        ctx.world.hypervisor(self.host).drop_files(self.uuid, ctx.epoch, ctx.operation_id)

    def undo(self, ctx: Any) -> None:
        """Nothing: what it removed was made for the image."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RecordSnapshot(RecordStep):
    """The image is active, and nothing is being done to the instance."""

    type: ClassVar[str] = "record-snapshot"
    kind: ClassVar[Kind] = Kind.PIVOT
    uuid: str
    image: str
    name: str

    def summary(self) -> str:
        return f"image {self.name} is active"

    def apply(self, tx: Any, ctx: Any) -> None:
        found = {record.step.what: record.result for record in ctx.op.records if record.name == PullFile.type}
        if not all(ctx.world.store.has(disk["sha256"]) for disk in found.values()):
            raise Refused(f"image {self.name}: its file was deleted by another command", hint="try again")
        image = _finished(catalogue.image(tx, self.image), found, ctx.world.store.path)
        catalogue.refuse_other_format(tx, f"image {image.name}", image.base_formats)
        catalogue.update_image(tx, image)
        instances.update(tx, self.uuid, task_state=None)


def _finished(saving: Image, found: dict[str, dict[str, Any]], path: Any) -> Image:
    root = found.pop("disk")
    return replace(
        saving,
        status="active",
        **root,
        min_disk_gib=-(-root["virtual_size_bytes"] // GIB),
        locations=(f"file:{path(root['sha256'])}",),
        disks=found,
    )
