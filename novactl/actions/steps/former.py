"""Steps as earlier novactls journaled them, which this one plans no more: what they left half way is carried
out and undone as they would have done it."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from novactl.actions.steps.files import SEALED, WriteConfigDrive
from novactl.actions.steps.registry import REGISTRY


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RewriteConfigDrive(WriteConfigDrive):
    """disk.config (config-2) holds the instance's metadata, and disk.info every disk's format.

    `before`: what of it was otherwise in the one whose files these replace, which nobody kept aside."""

    version: ClassVar[int] = 1
    before: dict[str, Any] | None

    def undo(self, ctx: Any) -> None:
        """What was there before is there again; else nothing by itself: it goes with the directory."""
        if self.before is None:
            return
        was = replace(self, **self.before, before=None)
        if self.user_data is not None and was.user_data is None:  # an empty one is none
            ctx.world.hypervisor(self.host).put(self.uuid, ctx.epoch, SEALED, "0600", b"")
        was.do(ctx)
