"""What is asked of a host, resolved: everything a filter or weigher may look at beside the host itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from novactl.objects.extra_specs import CpuRequest
from novactl.objects.group import GroupPolicy
from novactl.objects.host import Resources
from novactl.objects.numa import NumaRequest


@dataclass(kw_only=True)
class Members:
    """The group of the instance: how many other members are on each host (hosts without one are not named).
    A decision over many instances counts its own among them."""

    name: str
    policy: GroupPolicy
    max_per_host: int = 1
    on: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What holds for the whole fleet; 0 means no limit."""

    max_io_ops_per_host: int = 0
    max_instances_per_host: int = 0
    host_subset_size: int = 1
    multipliers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One instance's wishes. `apart` and `together`: hosts, and which instance is the reason (its name).
    `required`, `forbidden`: labels, None for any value. `leaves`, `from_zone`: where it is now, for a
    move; `stays`: it is on that host already, and is not one more."""

    resources: Resources
    arch: str = "x86_64"
    project: str = "default"
    flavor: str = ""
    extra_specs: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    host: str | None = None
    zone: str | None = None
    aggregate: str | None = None
    not_hosts: frozenset[str] = frozenset()
    leaves: str | None = None
    stays: bool = False
    apart: Mapping[str, str] = field(default_factory=dict)
    together: Mapping[str, str] = field(default_factory=dict)
    required: Mapping[str, str | None] = field(default_factory=dict)
    forbidden: Mapping[str, str | None] = field(default_factory=dict)
    group: Members | None = None
    firmware: str = "bios"
    cpu: CpuRequest | None = None
    numa: NumaRequest | None = None
    from_zone: str | None = None
    rules: Rules = field(default_factory=Rules)
