"""Steps of an evacuation: its host is down, and something proves it."""

from dataclasses import dataclass
from typing import Any, ClassVar

from novactl.actions.steps.registry import REGISTRY
from novactl.db import operations
from novactl.engine.step import RecordStep, Step
from novactl.errors import HostFault
from novactl.virt.domain import marked


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class NoteProof(RecordStep):
    """An event says why the instance's host counts as down, and what becomes of its disks."""

    type: ClassVar[str] = "note-proof"
    uuid: str
    name: str
    words: str

    def summary(self) -> str:
        return self.words

    def apply(self, tx: Any, ctx: Any) -> None:
        user, now = ctx.op.user, ctx.world.clock.now()
        operations.tell(tx, self.uuid, self.name, "evacuate", "began", self.words, user=user, now=now)

    def revert(self, tx: Any, ctx: Any) -> None:
        """Nothing: it was so."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class KeepDisks(Step):
    """The instance's disks are there already, on storage that both hosts share, and nobody has one open."""

    type: ClassVar[str] = "keep-disks"
    uuid: str
    files: list[str]

    def do(self, ctx: Any) -> None:
        host = ctx.world.hypervisor(self.host)
        if missing := host.missing_files(self.uuid, self.files):
            raise HostFault(f"{self.host}: {', '.join(missing)} is not on the storage that it shares")
        if held := host.held_files(self.uuid, self.files):
            raise HostFault(f"{self.host}: {', '.join(held)} is held open: its guest runs somewhere")
        host.forget_move(self.uuid, ctx.epoch)

    def undo(self, ctx: Any) -> None:
        """Nothing: it looked, and removed what only a live move that was under way could use."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class DefineEvacuated(Step):
    """The domain is defined on the new host."""

    type: ClassVar[str] = "define-evacuated"
    uuid: str
    xml: str

    def do(self, ctx: Any) -> None:
        ctx.world.hypervisor(self.host).define(self.uuid, ctx.epoch, marked(self.xml, epoch=ctx.epoch))

    def undo(self, ctx: Any) -> None:
        """No longer defined there."""
        ctx.world.hypervisor(self.host).undefine_if_made_by(self.uuid, ctx.epoch, ctx.operation_id)
