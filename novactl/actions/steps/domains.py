"""Steps on an instance's domain."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from novactl.actions import guest
from novactl.actions.steps.registry import REGISTRY
from novactl.db import hosts, instances
from novactl.engine.step import Answer, Kind, Step
from novactl.errors import Busy, HostFault, HostUnreachable, Interrupted
from novactl.objects.states import PowerState
from novactl.virt.domain import Marks, marked

OFF = frozenset({PowerState.SHUTDOWN, PowerState.CRASHED, PowerState.NOSTATE})
ASK_AGAIN = 10.0  # seconds: a guest that is still booting ignores the first ACPI request (Nova: 10)
POLL = 0.5


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class DefineDomain(Step):
    """libvirt knows the domain; libvirt.xml holds a copy."""

    type: ClassVar[str] = "define-domain"
    version: ClassVar[int] = 2
    uuid: str

    def do(self, ctx: Any) -> dict[str, Any]:
        """From the record, which nobody changes meanwhile; made now, for whoever claims keeps all others
        waiting."""
        now = ctx.world.clock.now()
        ctx.world.hypervisor(self.host).define(self.uuid, ctx.epoch, self._xml(ctx, now))
        return {"launched_at": now}

    def _xml(self, ctx: Any, now: str) -> str:
        instance, host = ctx.world.db.read(
            lambda tx: (instances.get(tx, self.uuid), hosts.get(tx, str(self.host)))
        )
        instance = replace(instance, launched_at=instance.launched_at or now)
        marks = Marks(fleet=ctx.world.fleet, operation=ctx.operation_id, epoch=ctx.epoch, generation=1)
        return guest.domain_xml(instance, host, marks, ctx.world.template("domain.xml"))

    def undo(self, ctx: Any) -> None:
        """No longer defined, if the domain carries this operation's mark."""
        ctx.world.hypervisor(self.host).undefine_if_made_by(self.uuid, ctx.epoch, ctx.operation_id)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class DefineGiven(DefineDomain):
    """libvirt knows the domain; libvirt.xml holds a copy."""

    version: ClassVar[int] = 1  # all were so once: a boot of an older novactl goes on with it
    xml: str

    def _xml(self, ctx: Any, now: str) -> str:
        return marked(self.xml, epoch=ctx.epoch, launched_at=now)


@dataclass(frozen=True, kw_only=True)
class _Defines(Step):
    """The domain is defined from the instance's record, which it carries then."""

    uuid: str
    xml: str

    def do(self, ctx: Any) -> dict[str, Any]:
        ctx.world.hypervisor(self.host).define(self.uuid, ctx.epoch, marked(self.xml, epoch=ctx.epoch))
        return {"written": True}


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RedefineDomain(_Defines):
    """The domain is defined anew from the instance's record."""

    type: ClassVar[str] = "redefine-domain"

    def undo(self, ctx: Any) -> None:
        """Nothing: it says what the record says, before and after."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class DefineAnew(_Defines):
    """The domain is defined anew from the instance's record, now that the guest is off."""

    type: ClassVar[str] = "define-anew"
    kind: ClassVar[Kind] = Kind.RETRIABLE


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class WriteCopy(Step):
    """The domain carries the record as it is now, if its host answers; else the next operation writes it."""

    type: ClassVar[str] = "write-copy"
    kind: ClassVar[Kind] = Kind.RETRIABLE
    uuid: str
    xml: str

    def do(self, ctx: Any) -> dict[str, Any]:
        try:
            host = ctx.world.hypervisor(self.host)
            if host.settled_state(self.uuid, ctx.epoch) is PowerState.NOSTATE:
                return {"written": False}
            host.define(self.uuid, ctx.epoch, marked(self.xml, epoch=ctx.epoch))
        except (Busy, HostFault, HostUnreachable) as error:
            ctx.world.tell(
                f"{ctx.op.target}: the second copy of its record is behind ({error});"
                " the next operation on it writes it"
            )
            return {"written": False}
        return {"written": True}


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class StartDomain(Step):
    """The guest runs for the first time."""

    type: ClassVar[str] = "start-domain"
    uuid: str

    def do(self, ctx: Any) -> None:
        ctx.world.hypervisor(self.host).start(self.uuid, ctx.epoch)

    def undo(self, ctx: Any) -> None:
        """Powered off."""
        ctx.world.hypervisor(self.host).destroy(self.uuid, ctx.epoch)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class PowerOn(Step):
    """The guest runs."""

    type: ClassVar[str] = "power-on"
    kind: ClassVar[Kind] = Kind.PIVOT
    uuid: str

    def do(self, ctx: Any) -> None:
        ctx.world.hypervisor(self.host).start(self.uuid, ctx.epoch)

    def happened(self, ctx: Any) -> Answer:
        state = ctx.world.hypervisor(self.host).settled_state(self.uuid, ctx.epoch)
        return Answer.NO if state in OFF else Answer.YES


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class PowerOnAgain(Step):
    """The guest runs again."""

    type: ClassVar[str] = "power-on-again"
    kind: ClassVar[Kind] = Kind.RETRIABLE
    uuid: str

    def do(self, ctx: Any) -> None:
        ctx.world.hypervisor(self.host).start(self.uuid, ctx.epoch)


@dataclass(frozen=True, kw_only=True)
class _Becomes(Step):
    """A pivot that is over at once, and that the guest's state tells."""

    kind: ClassVar[Kind] = Kind.PIVOT
    wanted: ClassVar[frozenset[PowerState]]
    uuid: str

    def happened(self, ctx: Any) -> Answer:
        state = ctx.world.hypervisor(self.host).settled_state(self.uuid, ctx.epoch)
        return Answer.YES if state in self.wanted else Answer.NO


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class PauseGuest(_Becomes):
    """The guest stands still, in memory."""

    type: ClassVar[str] = "pause-guest"
    wanted: ClassVar[frozenset[PowerState]] = frozenset({PowerState.PAUSED})

    def do(self, ctx: Any) -> None:
        ctx.world.hypervisor(self.host).pause(self.uuid, ctx.epoch)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class UnpauseGuest(_Becomes):
    """The guest goes on."""

    type: ClassVar[str] = "unpause-guest"
    wanted: ClassVar[frozenset[PowerState]] = frozenset({PowerState.RUNNING})

    def do(self, ctx: Any) -> None:
        ctx.world.hypervisor(self.host).unpause(self.uuid, ctx.epoch)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class DropDomain(Step):
    """The guest's domain and saved memory are gone, to be made again; its disks and NVRAM stay."""

    type: ClassVar[str] = "drop-domain"
    kind: ClassVar[Kind] = Kind.RETRIABLE
    uuid: str

    def do(self, ctx: Any) -> None:
        ctx.world.hypervisor(self.host).drop_domain(self.uuid, ctx.epoch)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class ShutOff(Step):
    """The guest is off: asked by ACPI again and again, powered off when its time is over."""

    type: ClassVar[str] = "shut-off"
    kind: ClassVar[Kind] = Kind.PIVOT
    uuid: str
    timeout: float
    force: bool

    def summary(self) -> str:
        return (
            "the guest is powered off"
            if self.force
            else f"the guest shut down, or is off after {self.timeout:.0f} s"
        )

    def do(self, ctx: Any) -> dict[str, Any]:
        host = ctx.world.hypervisor(self.host)
        clock = ctx.world.clock
        began = clock.monotonic()
        asked = -ASK_AGAIN
        while host.power_state(self.uuid) not in OFF:
            waited = clock.monotonic() - began
            if self.force or waited >= self.timeout:
                host.destroy(self.uuid, ctx.epoch)
                if not self.force:
                    ctx.world.tell(
                        f"the guest did not shut down within {self.timeout:.0f} s and was powered off"
                    )
                return {"forced": True}
            if waited - asked >= ASK_AGAIN:
                host.shutdown(self.uuid, ctx.epoch)
                asked = waited
            try:
                ctx.pause(POLL)
            except Interrupted:
                ctx.world.tell("the guest was asked to shut down already and may still do so")
                raise
        return {"forced": False}

    def happened(self, ctx: Any) -> Answer:
        state = ctx.world.hypervisor(self.host).settled_state(self.uuid, ctx.epoch)
        return Answer.YES if state in OFF else Answer.NO


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RemoveDomain(Step):
    """The guest is off and libvirt no longer knows it."""

    type: ClassVar[str] = "remove-domain"
    kind: ClassVar[Kind] = Kind.RETRIABLE
    uuid: str

    def do(self, ctx: Any) -> None:
        ctx.world.hypervisor(self.host).remove_domain(self.uuid, ctx.epoch)
