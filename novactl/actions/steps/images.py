"""Steps that bring base files to a host. The cache is shared and content-addressed: undo leaves it."""

from dataclasses import dataclass
from typing import Any, ClassVar

from novactl.actions.steps.registry import REGISTRY
from novactl.engine.step import Step
from novactl.errors import Busy
from novactl.images.transfer import feed

PATIENCE = 3600.0  # seconds that another operator's transfer is waited for


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class FetchBase(Step):
    """A file of the image store is in the host's `_base`: RAW, hashed, with its sidecar."""

    type: ClassVar[str] = "fetch-base"
    what: str
    sha256: str
    source_format: str
    size_bytes: int
    virtual_size_bytes: int

    def summary(self) -> str:
        return f"{self.what} is in the base files of {self.host}"

    def do(self, ctx: Any) -> dict[str, Any]:
        host = ctx.world.hypervisor(self.host)
        with host.base_guard(self.sha256):
            began = ctx.world.clock.monotonic()
            while True:
                ready, have = host.base_state(self.sha256)
                if ready:
                    return {"cached": True}
                try:
                    self._send(ctx, host, have)
                except Busy:  # another operator's transfer: it is ours too when it has ended
                    if ctx.world.clock.monotonic() - began > PATIENCE:
                        raise
                    ctx.pause(1)
                else:
                    return {"cached": False, "resumed_from": have}

    def _send(self, ctx: Any, host: Any, have: int) -> None:
        path = ctx.world.store.path(self.sha256)
        if have < self.size_bytes:
            host.base_receive(self.sha256, self.size_bytes, have, feed(path, have, ctx.progress))
        host.base_finish(self.sha256, self.source_format, self.virtual_size_bytes)

    def undo(self, ctx: Any) -> None:
        """Nothing: others may use it by now, and what arrived in part is continued next time."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class MakeBlank(Step):
    """An empty base file (ext4 or swap) is on the host, for overlays to start from."""

    type: ClassVar[str] = "make-blank"
    name: str
    size_bytes: int
    filesystem: str

    def summary(self) -> str:
        return f"base file {self.name} is on {self.host}"

    def do(self, ctx: Any) -> None:
        host = ctx.world.hypervisor(self.host)
        with host.base_guard(self.name):
            host.base_blank(self.name, self.size_bytes, self.filesystem)

    def undo(self, ctx: Any) -> None:
        """Nothing: it is shared."""
