"""Steps that end a guest's running on two hosts (actions/keep.py)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from novactl.actions.steps.domains import OFF
from novactl.actions.steps.heals import move_hold
from novactl.actions.steps.registry import REGISTRY
from novactl.db import instances
from novactl.engine.step import Answer, Kind, RecordStep, Step
from novactl.errors import HostFault
from novactl.objects.states import PowerState, vm_state_of


@dataclass(frozen=True, kw_only=True)
class _Twin(Step):
    """`host` has the guest that goes, `keep` the one that stays."""

    uuid: str
    keep: str

    @property
    def hosts(self) -> tuple[str, ...]:
        return (str(self.host), self.keep)

    def kept(self, ctx: Any) -> PowerState:
        """What the one that stays is."""
        state: PowerState = ctx.world.hypervisor(self.keep).settled_state(self.uuid, ctx.epoch)
        return state


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class StopTwin(_Twin):
    """The other guest is powered off."""

    type: ClassVar[str] = "stop-twin"
    kind: ClassVar[Kind] = Kind.PIVOT

    def summary(self) -> str:
        return f"its guest on {self.host} is powered off; the one on {self.keep} goes on"

    def do(self, ctx: Any) -> None:
        if (state := self.kept(ctx)) in OFF:
            raise HostFault(f"{self.keep}: its guest is {state} by now")
        ctx.world.hypervisor(self.host).destroy(self.uuid, ctx.epoch)

    def happened(self, ctx: Any) -> Answer:
        state = ctx.world.hypervisor(self.host).settled_state(self.uuid, ctx.epoch)
        return Answer.YES if state in OFF else Answer.NO


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class LeaveTwin(_Twin):
    """Nothing is left of the other one, whose host may share the files (`shared`)."""

    type: ClassVar[str] = "leave-twin"
    kind: ClassVar[Kind] = Kind.RETRIABLE
    shared: bool

    def summary(self) -> str:
        files = "; its files are those of the other" if self.shared else ", nor its files"
        return f"its domain is not on {self.host} any more{files}"

    def do(self, ctx: Any) -> dict[str, Any]:
        host, state = ctx.world.hypervisor(self.host), self.kept(ctx)
        host.remove_domain(self.uuid, ctx.epoch)
        if not self.shared:
            host.remove_directory(self.uuid, ctx.epoch)
        return {"power_state": str(state)}


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RecordKept(RecordStep):
    """The record says that the instance is where it was kept, and claims that host alone."""

    type: ClassVar[str] = "record-kept"
    kind: ClassVar[Kind] = Kind.RETRIABLE
    uuid: str

    def apply(self, tx: Any, ctx: Any) -> None:
        found = instances.get(tx, self.uuid)
        power = PowerState(ctx.result("leave-twin")["power_state"])
        if found.host != self.host:
            move_hold(tx, found, str(self.host))
        states = {"vm_state": vm_state_of(power), "power_state": power, "task_state": None}
        instances.update(tx, self.uuid, host=self.host, **states)
