"""Steps that bring base files to a host. The cache is shared and content-addressed: undo leaves it."""

import contextlib
from dataclasses import dataclass
from typing import Any, ClassVar

from novactl.actions.steps import jobs
from novactl.actions.steps.registry import REGISTRY
from novactl.engine.step import Step
from novactl.errors import Busy, HostFault, HostUnreachable
from novactl.images.transfer import feed
from novactl.objects.image import MIB

QUICK = 64 * MIB  # bytes that are hashed and converted while one waits for a call
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
                try:
                    ready, have = host.base_state(self.sha256, self._job(ctx))
                    if ready:
                        return {"cached": True}
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
        if self._job(ctx):
            what = (self.sha256, self.source_format, self.virtual_size_bytes)
            jobs.carry_out(ctx, host, *host.base_finish_words(*what))
        else:
            host.base_finish(self.sha256, self.source_format, self.virtual_size_bytes)

    def _job(self, ctx: Any) -> tuple[str, int] | None:
        """What finishes the file on the host, when that takes long."""
        takes_long = max(self.size_bytes, self.virtual_size_bytes) >= QUICK
        return (ctx.operation_id, ctx.record.n) if takes_long else None

    def undo(self, ctx: Any) -> None:
        """No job of ours works on it. The file stays: others may use it by now, and what arrived in part
        is continued next time."""
        if self._job(ctx):
            # What a host that is gone or broken still does there does no harm: nothing waits for it.
            with contextlib.suppress(HostUnreachable, HostFault, Busy):
                jobs.end(ctx, ctx.world.hypervisor(self.host))


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
