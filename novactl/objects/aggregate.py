"""Groups of hosts."""

from dataclasses import asdict, dataclass, field
from typing import Any

from novactl.objects.names import KEY, check_name, check_pattern, check_text


@dataclass(frozen=True, kw_only=True)
class Aggregate:
    """Hosts, by name, that have something in common; a host may be in several (as in Nova)."""

    id: str
    name: str
    hosts: tuple[str, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "hosts": list(self.hosts)}


def check_aggregate(aggregate: Aggregate) -> Aggregate:
    """`aggregate` when its names and metadata are acceptable, else UsageError."""
    check_name(aggregate.name, "aggregate name")
    for host in aggregate.hosts:
        check_name(host, "host name")
    for key, value in aggregate.metadata.items():
        check_pattern(key, KEY, "metadata key", "letters, digits and . _ : -")
        check_text(value, f"metadata {key}")
    return aggregate
