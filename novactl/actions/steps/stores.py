"""Steps on the image store that operators share (objects.place). Like base files, what is there is named by
its content: undo leaves it, and `image prune` takes what no image needs."""

import contextlib
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from novactl.actions.steps import jobs
from novactl.actions.steps.images import PATIENCE
from novactl.actions.steps.registry import REGISTRY
from novactl.db import catalogue
from novactl.engine.step import RecordStep, Step
from novactl.errors import Busy, HostFault, HostUnreachable
from novactl.images.transfer import feed
from novactl.objects.place import Place


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class StoreFile(Step):
    """A file of the store of whoever runs this is in the shared one, hashed there. `host` is the place's."""

    type: ClassVar[str] = "store-file"
    place: str
    what: str
    sha256: str
    size_bytes: int

    def summary(self) -> str:
        return f"{self.what} is in {self.place}"

    def do(self, ctx: Any) -> dict[str, Any]:
        host, where = ctx.world.hypervisor(self.host), Place.parse(self.place).where
        job = (ctx.operation_id, ctx.record.n)
        with host.base_guard(self.sha256):
            began = ctx.world.clock.monotonic()
            while True:
                try:
                    ready, have = host.store_state(where, self.sha256, job)
                    if ready:
                        return {"stored": True}
                    self._send(ctx, host, where, have)
                except Busy:  # another operator's transfer: it is ours too when it has ended
                    if ctx.world.clock.monotonic() - began > PATIENCE:
                        raise
                    ctx.pause(1)

    def _send(self, ctx: Any, host: Any, where: str, have: int) -> None:
        if have < self.size_bytes:
            path = ctx.world.store.path(self.sha256)
            sends = feed(path, have, ctx.progress)
            host.store_receive(where, self.sha256, self.size_bytes, have, sends)
        jobs.carry_out(ctx, host, *host.store_finish_words(where, self.sha256, self.size_bytes))

    def undo(self, ctx: Any) -> None:
        """No job of ours works on it. What arrived in part is continued next time."""
        with contextlib.suppress(HostUnreachable, HostFault, Busy):
            jobs.end(ctx, ctx.world.hypervisor(self.host))


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RecordLocation(RecordStep):
    """The image's record says that its files are there too."""

    type: ClassVar[str] = "record-location"
    image: str
    place: str

    def summary(self) -> str:
        return f"the image's record names {self.place}"

    def apply(self, tx: Any, ctx: Any) -> None:
        image = catalogue.image(tx, self.image)
        if self.place not in image.locations:
            catalogue.update_image(tx, replace(image, locations=(*image.locations, self.place)))

    def revert(self, tx: Any, ctx: Any) -> None:
        """It names it no more."""
        image = catalogue.image(tx, self.image)
        others = tuple(one for one in image.locations if one != self.place)
        catalogue.update_image(tx, replace(image, locations=others))


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class DropStored(Step):
    """A file that nothing needs is not in the shared store."""

    type: ClassVar[str] = "drop-stored"
    place: str
    sha256: str

    def summary(self) -> str:
        return f"{self.sha256[:12]} is not in {self.place}"

    def do(self, ctx: Any) -> None:
        ctx.world.hypervisor(self.host).store_drop(Place.parse(self.place).where, self.sha256)

    def undo(self, ctx: Any) -> None:
        """Nothing: no image needs it."""
