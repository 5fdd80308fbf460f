"""Projects that have limits."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from novactl.errors import UsageError
from novactl.objects.names import check_name, check_text, near

UNLIMITED = -1
LARGEST = (1 << 31) - 1

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


def check_limits(limits: Mapping[str, Any]) -> dict[str, int]:
    """`limits` when each is a number (-1: none) of a resource that there is, else UsageError."""
    for resource, limit in limits.items():
        if resource not in NOVA_LIMITS:
            close = near(resource, NOVA_LIMITS)
            known = f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(NOVA_LIMITS)}"
            raise UsageError(f"resource {resource!r} does not exist", hint=known, candidates=close)
        if type(limit) is not int or not UNLIMITED <= limit <= LARGEST:
            raise UsageError(
                f"{resource}: limit {limit!r} is not a number from 0 to {LARGEST}",
                hint="-1, or unlimited, is for none",
            )
    return dict(limits)


def parse_limits(words: Iterable[str]) -> dict[str, int]:
    """`["instances=5", "cores=unlimited"]` as limits. Raises UsageError."""
    found: dict[str, Any] = {}
    for word in words:
        resource, sign, text = word.partition("=")
        if not sign:
            raise UsageError(f"limit {word!r} is not of the form RESOURCE=N", hint="as in instances=5")
        if resource in found:
            raise UsageError(f"limit of {resource} is given twice")
        number = text.removeprefix("-")
        plain = number.isascii() and number.isdecimal() and len(number) <= 10
        found[resource] = UNLIMITED if text == "unlimited" else int(text) if plain else text
    return check_limits(found)


def check_project(project: Project) -> Project:
    """`project` when its name, description and limits are acceptable, else UsageError."""
    check_name(project.name, "project name")
    check_text(project.description, "description")
    check_limits(project.limits)
    return project
