"""How big an instance is."""

from dataclasses import dataclass, field
from typing import Any

from novactl.errors import UsageError
from novactl.objects.extra_specs import check_extra_specs
from novactl.objects.names import check_name


@dataclass(frozen=True, kw_only=True)
class Flavor:
    """Sizes of an instance. disk_gib 0 means the image's own size (as in Nova)."""

    id: str
    name: str
    vcpus: int
    memory_mib: int
    disk_gib: int
    ephemeral_gib: int = 0
    swap_mib: int = 0
    extra_specs: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))


LIMITS = {
    "vcpus": (1, 1024),
    "memory_mib": (1, 64 << 20),
    "disk_gib": (0, 64 << 10),
    "ephemeral_gib": (0, 64 << 10),
    "swap_mib": (0, 1 << 20),
}


def check_flavor(flavor: Flavor) -> Flavor:
    """`flavor` when its sizes are within reason and its extra specs are known, else UsageError."""
    check_name(flavor.name, "flavor name")
    for size, (low, high) in LIMITS.items():
        if not low <= getattr(flavor, size) <= high:
            raise UsageError(f"{size} {getattr(flavor, size)} is not within {low} to {high}")
    check_extra_specs(flavor)
    return flavor
