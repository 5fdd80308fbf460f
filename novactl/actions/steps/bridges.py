"""Bridges that guests are plugged into."""

from dataclasses import dataclass
from typing import Any, ClassVar

from novactl.actions.steps.registry import REGISTRY
from novactl.engine.step import Step


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class EnsureBridges(Step):
    """The bridges of the guest's NICs are on the host, made again if they are gone. `bridges`: each with
    its uplinks, as the host had them when it was looked at last; `taps`: with those of the guests there."""

    type: ClassVar[str] = "ensure-bridges"
    bridges: dict[str, list[str]]
    taps: dict[str, list[str]]

    def summary(self) -> str:
        return f"{self.host} has {', '.join(self.bridges)}"

    def do(self, ctx: Any) -> dict[str, Any]:
        wanted = {bridge: [*ports, *self.taps.get(bridge, [])] for bridge, ports in self.bridges.items()}
        made: dict[str, list[str]] = ctx.world.hypervisor(self.host).ensure_bridges(wanted)
        for bridge, ports in made.items():
            uplinks = [port for port in ports if port in self.bridges[bridge]]
            what = (
                f"with its uplink {', '.join(uplinks)}" if uplinks else "without an uplink: it leads nowhere"
            )
            ctx.world.tell(
                f"{self.host}: bridge {bridge} was gone and is made again {what};"
                " the host's own network configuration does not know of it"
            )
        return {"made": made}

    def undo(self, ctx: Any) -> None:
        """Nothing: it is the host's, and others may use it."""
