"""Steps on a guest's memory. Both are jobs of the host: what is asked of libvirt outlives the link and us."""

from dataclasses import dataclass
from typing import Any, ClassVar

from novactl.actions.steps import jobs
from novactl.actions.steps.domains import OFF
from novactl.actions.steps.registry import REGISTRY
from novactl.engine.step import Answer, Kind, Step
from novactl.objects.image import MIB


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class SaveMemory(Step):
    """The guest's memory is on its host's disk, and it is off."""

    type: ClassVar[str] = "save-memory"
    uuid: str
    size_bytes: int

    def summary(self) -> str:
        return f"the guest's memory ({self.size_bytes // MIB} MiB at most) is on disk, and it is off"

    def do(self, ctx: Any) -> dict[str, Any] | None:
        host = ctx.world.hypervisor(self.host)
        jobs.carry_out(ctx, host, *host.save_words(self.uuid, ctx.epoch, self.size_bytes))
        return None

    def undo(self, ctx: Any) -> None:
        """It runs on, from its memory, however far saving came."""
        host = ctx.world.hypervisor(self.host)
        jobs.end(ctx, host)
        jobs.carry_out(ctx, host, *host.unsave_words(self.uuid, ctx.epoch))


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RestoreMemory(Step):
    """The guest runs on from its saved memory."""

    type: ClassVar[str] = "restore-memory"
    kind: ClassVar[Kind] = Kind.PIVOT
    uuid: str

    def do(self, ctx: Any) -> None:
        host = ctx.world.hypervisor(self.host)
        jobs.carry_out(ctx, host, *host.restore_words(self.uuid, ctx.epoch))

    def happened(self, ctx: Any) -> Answer:
        host = ctx.world.hypervisor(self.host)
        if not jobs.is_over(ctx, host):
            return Answer.IN_PROGRESS
        return Answer.NO if host.settled_state(self.uuid, ctx.epoch) in OFF else Answer.YES
