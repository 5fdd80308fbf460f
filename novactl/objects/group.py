"""Server groups: instances that belong together, or apart."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from novactl.errors import UsageError
from novactl.objects.names import check_name


class GroupPolicy(StrEnum):
    """Nova's four. The soft ones are wishes: they weigh, they do not refuse."""

    AFFINITY = "affinity"
    ANTI_AFFINITY = "anti-affinity"
    SOFT_AFFINITY = "soft-affinity"
    SOFT_ANTI_AFFINITY = "soft-anti-affinity"


@dataclass(frozen=True, kw_only=True)
class ServerGroup:
    """`max_per_host`: how many members one host may have under anti-affinity (Nova's max_server_per_host)."""

    id: str
    name: str
    project: str
    policy: GroupPolicy
    max_per_host: int = 1
    version: int = 0

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def check_group(group: ServerGroup) -> ServerGroup:
    """`group` when its name and numbers are acceptable, else UsageError."""
    check_name(group.name, "group name")
    if not 1 <= group.max_per_host <= 1000:
        raise UsageError(f"max_per_host {group.max_per_host} is not within 1 to 1000")
    if group.max_per_host != 1 and group.policy is not GroupPolicy.ANTI_AFFINITY:
        raise UsageError(f"max_per_host belongs to anti-affinity, not to {group.policy}")
    return group
