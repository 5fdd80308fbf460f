"""What speaks for a host: raw values, and how they become one weight.

As Nova does it (nova/weights.py): each weigher's values are normalised over the candidates, 0 for the least
and 1 for the most (equal ones are all 0), and summed with the operator's multipliers. Members of a soft group
count 1 each while no host has more of them.
"""

from collections.abc import Callable, Mapping, Sequence

from novactl.objects.candidate import Candidate
from novactl.objects.group import GroupPolicy
from novactl.scheduler.spec import Spec

Weigher = Callable[[Candidate, Spec], float]


def memory(host: Candidate, spec: Spec) -> float:
    """Free MiB."""
    return host.memory_limit - host.memory_used


def vcpus(host: Candidate, spec: Spec) -> float:
    """Free vcpus."""
    return host.vcpus_limit - host.vcpus_used


def disk(host: Candidate, spec: Spec) -> float:
    """Free GiB."""
    return host.disk_limit - host.disk_used


def io_ops(host: Candidate, spec: Spec) -> float:
    """Operations that work on it now."""
    return host.busy


def instances(host: Candidate, spec: Spec) -> float:
    """How many it has."""
    return host.instances


def soft_affinity(host: Candidate, spec: Spec) -> float:
    """Members of the group there."""
    return _members(host, spec, GroupPolicy.SOFT_AFFINITY)


def soft_anti_affinity(host: Candidate, spec: Spec) -> float:
    """Members of the group there, against it."""
    return -_members(host, spec, GroupPolicy.SOFT_ANTI_AFFINITY)


def failed_builds(host: Candidate, spec: Spec) -> float:
    """Boots that failed there in a row, against it."""
    return -host.failed_builds


def cross_zone(host: Candidate, spec: Spec) -> float:
    """A move out of the zone is against it."""
    return -1.0 if spec.from_zone not in (None, host.zone) else 0.0


def _members(host: Candidate, spec: Spec, policy: GroupPolicy) -> float:
    members = spec.group
    return members.on.get(host.name, 0) if members is not None and members.policy is policy else 0


WEIGHERS: Mapping[str, tuple[Weigher, float]] = {
    "memory": (memory, 1.0),
    "vcpus": (vcpus, 1.0),
    "disk": (disk, 1.0),
    "io_ops": (io_ops, -1.0),
    "instances": (instances, 0.0),
    "soft_affinity": (soft_affinity, 1.0),
    "soft_anti_affinity": (soft_anti_affinity, 1.0),
    "failed_builds": (failed_builds, 1_000_000.0),
    "cross_zone": (cross_zone, 1_000_000.0),
}
"""By the names that operators multiply them by, with Nova's multipliers: above 0 the most is best (memory:
spread), below 0 the least (memory: pack), 0 leaves it out."""

FROM_ZERO = frozenset({"memory", "vcpus", "disk", "io_ops"})
"""Those whose scale begins at 0, not at the least of the candidates (Nova's minval = 0)."""


SOFT = {"soft_affinity": GroupPolicy.SOFT_AFFINITY, "soft_anti_affinity": GroupPolicy.SOFT_ANTI_AFFINITY}


class Scale:
    """Weights of one decision: the range of each weigher over its candidates, kept while it goes on.
    `initial` are their weights in the order given."""

    def __init__(self, hosts: Sequence[Candidate], spec: Spec) -> None:
        self.spec = spec
        self.parts: list[tuple[str, Weigher, float, float]] = []  # name, raw, least, multiplier / range
        self.initial = [0.0] * len(hosts)
        for name, (weigher, default) in WEIGHERS.items():
            multiplier = spec.rules.multipliers.get(name, default)
            if multiplier == 0 or len(hosts) < 2 or not _matters(name, spec):
                continue
            values = [weigher(host, spec) for host in hosts]
            least = 0.0 if name in FROM_ZERO else min(values)
            span = max(values) - least
            if name in SOFT:  # those of this decision become members: hosts are not alike for long
                span = max(span, 1)
            if span <= 0:
                continue
            factor = multiplier / span
            self.parts.append((name, weigher, least, factor))
            self.initial = [
                total + (value - least) * factor for total, value in zip(self.initial, values, strict=True)
            ]

    def weights(self, host: Candidate) -> dict[str, float]:
        """Each weigher's share of the weight."""
        return {
            name: round((weigher(host, self.spec) - least) * factor, 6)
            for name, weigher, least, factor in self.parts
        }

    def weight(self, host: Candidate) -> float:
        """Their sum."""
        total = 0.0
        for _, weigher, least, factor in self.parts:
            total += (weigher(host, self.spec) - least) * factor
        return total


def _matters(name: str, spec: Spec) -> bool:
    """Whether the weigher can tell hosts apart; asked once, not for each of them."""
    if name == "cross_zone":
        return spec.from_zone is not None
    if name in SOFT:
        return spec.group is not None and spec.group.policy is SOFT[name]
    return True
