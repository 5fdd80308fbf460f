"""Steps of a move whose guest is off: it leaves its host, its files follow, its disks grow."""

from dataclasses import dataclass
from typing import Any, ClassVar

from novactl.actions import last_copy
from novactl.actions.steps import jobs, trust
from novactl.actions.steps.domains import OFF, POLL, ShutOff
from novactl.actions.steps.registry import REGISTRY
from novactl.engine.step import Kind, Step
from novactl.objects.image import GIB, MIB
from novactl.virt.domain import marked

MAY_TAKE = 10.0  # seconds that a guest which was asked to shut down is waited for when it is to run on


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class PowerOff(Step):
    """The guest is off, as stop does it, and `ran` before."""

    type: ClassVar[str] = "power-off"
    uuid: str
    timeout: float
    ran: bool

    def summary(self) -> str:
        return (
            f"the guest shut down, or is off after {self.timeout:.0f} s" if self.ran else "the guest is off"
        )

    def do(self, ctx: Any) -> dict[str, Any]:
        if not self.ran:  # nobody started it: its domain is not defined while it is away
            return {"forced": False}
        off = ShutOff(host=self.host, uuid=self.uuid, timeout=self.timeout, force=False)
        return off.do(ctx)

    def undo(self, ctx: Any) -> None:
        """It runs again, if it ran. One that was asked to shut down may be at it: it gets some time."""
        if not self.ran:
            return
        host, clock = ctx.world.hypervisor(self.host), ctx.world.clock
        began = clock.monotonic()
        while host.settled_state(self.uuid, ctx.epoch) not in OFF:
            if clock.monotonic() - began >= MAY_TAKE:
                return
            clock.sleep(POLL)
        host.start(self.uuid, ctx.epoch)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class LeaveHost(Step):
    """The instance's domain is not defined there; `aside`: its directory has another name. `nvram`: a copy of
    its firmware's variables is with its files, which the target shares."""

    type: ClassVar[str] = "leave-host"
    uuid: str
    xml: str
    aside: bool
    nvram: bool = False

    def summary(self) -> str:
        kept = "; its files are kept aside" if self.aside else ""
        return f"{self.host} does not know the instance's domain any more{kept}"

    def do(self, ctx: Any) -> None:
        host = ctx.world.hypervisor(self.host)
        if self.aside:
            host.set_aside(self.uuid, ctx.epoch)
        else:
            host.leave_domain(self.uuid, ctx.epoch)
        if self.nvram:
            host.copy_nvram(self.uuid, ctx.epoch)

    def undo(self, ctx: Any) -> None:
        """All is as it was, and the guest off."""
        host = ctx.world.hypervisor(self.host)
        if self.aside:
            host.bring_back(self.uuid, ctx.epoch)
        if self.nvram:
            host.place_nvram(self.uuid, ctx.epoch)
        host.define(self.uuid, ctx.epoch, marked(self.xml, epoch=ctx.epoch))


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class ComeBack(Step):
    """The instance's files have their name again on the host that it left."""

    type: ClassVar[str] = "come-back"
    uuid: str

    def do(self, ctx: Any) -> None:
        ctx.world.hypervisor(self.host).bring_back(self.uuid, ctx.epoch)

    def undo(self, ctx: Any) -> None:
        """They are aside."""
        ctx.world.hypervisor(self.host).set_aside(self.uuid, ctx.epoch)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class DefineThere(Step):
    """The domain is defined where the instance goes; `before`: as it was there until now, if it was."""

    type: ClassVar[str] = "define-there"
    uuid: str
    xml: str
    before: str | None

    def do(self, ctx: Any) -> dict[str, Any]:
        ctx.world.hypervisor(self.host).define(self.uuid, ctx.epoch, marked(self.xml, epoch=ctx.epoch))
        return {"written": True}

    def undo(self, ctx: Any) -> None:
        """As it was, or not defined; its NVRAM stays."""
        host = ctx.world.hypervisor(self.host)
        if self.before is None:
            host.leave_domain(self.uuid, ctx.epoch)
        else:
            host.define(self.uuid, ctx.epoch, marked(self.before, epoch=ctx.epoch))


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class CopyDisk(trust.BetweenHosts):
    """A file of the instance is on the target, whole and checked: straight from host to host."""

    type: ClassVar[str] = "copy-disk"
    uuid: str
    file: str
    size_bytes: int

    def summary(self) -> str:
        return f"{self.file} ({self.size_bytes // MIB} MiB) went from {self.host} to {self.target}, checked"

    def do(self, ctx: Any) -> None:
        host = ctx.world.hypervisor(self.host)
        trust.again(ctx)
        jobs.carry_out(ctx, host, *host.send_words(self.uuid, ctx.epoch, ctx.operation_id, self.file))

    def undo(self, ctx: Any) -> None:
        """Nothing is sent any more. What came goes with the directory there."""
        if self.host not in ctx.gone:
            jobs.end(ctx, ctx.world.hypervisor(self.host))


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class GrowDisk(Step):
    """A disk is as large as its flavor has it. It never shrinks, nor does undo() shrink it."""

    type: ClassVar[str] = "grow-disk"
    uuid: str
    file: str
    size_bytes: int

    def summary(self) -> str:
        return f"{self.file} has {self.size_bytes // GIB} GiB"

    def do(self, ctx: Any) -> None:
        ctx.world.hypervisor(self.host).grow(self.uuid, ctx.epoch, self.file, self.size_bytes)

    def undo(self, ctx: Any) -> None:
        """Nothing: the guest may have seen it. The claim's undo remembers the size."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class MakeSwap(Step):
    """disk.swap is made anew; without a base there is none. `was` is the one before."""

    type: ClassVar[str] = "make-swap"
    uuid: str
    base: str | None
    size_bytes: int
    was: str | None
    was_bytes: int

    def summary(self) -> str:
        return f"disk.swap has {self.size_bytes // MIB} MiB, empty" if self.base else "there is no disk.swap"

    def do(self, ctx: Any) -> None:
        host = ctx.world.hypervisor(self.host)
        host.remake(self.uuid, ctx.epoch, "disk.swap", self.base, self.size_bytes)

    def undo(self, ctx: Any) -> None:
        """One like the one before; what was in it is nobody's."""
        host = ctx.world.hypervisor(self.host)
        host.remake(self.uuid, ctx.epoch, "disk.swap", self.was, self.was_bytes)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class PlaceNvram(Step):
    """The variables of its firmware, which are with its files, are its domain's."""

    type: ClassVar[str] = "place-nvram"
    uuid: str

    def do(self, ctx: Any) -> None:
        ctx.world.hypervisor(self.host).place_nvram(self.uuid, ctx.epoch)

    def undo(self, ctx: Any) -> None:
        """Gone."""
        ctx.world.hypervisor(self.host).clean_up(self.uuid, ctx.epoch, "nothing")


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class CleanUp(Step):
    """Nothing of the instance is left on a host that it is not on."""

    type: ClassVar[str] = "clean-up"
    kind: ClassVar[Kind] = Kind.RETRIABLE
    uuid: str
    left: str

    def summary(self) -> str:
        what = {"aside": "files set aside", "directory": "files", "nothing": "firmware variables"}[self.left]
        return f"the instance's {what} are gone from {self.host}"

    def do(self, ctx: Any) -> None:
        """Raises Refused while it is all that is left of the instance."""
        assert self.host
        if self.left != "nothing":
            last_copy.spare(ctx, self.host, self.uuid)
        ctx.world.hypervisor(self.host).clean_up(self.uuid, ctx.epoch, self.left)
