"""Projects that have limits."""

from dataclasses import dataclass, field
from typing import Any

UNLIMITED = -1

NOVA_LIMITS = {
    "instances": 10,
    "cores": 20,
    "memory_mib": 51200,
    "metadata_items": 128,
    "keypairs": 100,
    "server_groups": 10,
    "server_group_members": 10,
    "volumes": 10,
    "volume_gib": 1000,
    "snapshots": 10,
}
"""What a project that is made has (Nova's and Cinder's default quotas); `default` has no limits."""

COUNTED = ("instances", "cores", "memory_mib")
"""What each claim counts, in the project's row."""


@dataclass(frozen=True, kw_only=True)
class Project:
    """`limits`: of each resource, -1 for none; what is not named has none. `*_used` as claimed now."""

    name: str
    description: str = ""
    limits: dict[str, int] = field(default_factory=dict)
    created_at: str = ""
    instances_used: int = 0
    cores_used: int = 0
    memory_mib_used: int = 0

    def limit(self, resource: str) -> int:
        return self.limits.get(resource, UNLIMITED)

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))
