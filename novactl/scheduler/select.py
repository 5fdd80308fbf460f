"""Filter, weigh, order; and the reasons when nobody is left."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from novactl.errors import NoValidHost
from novactl.objects.host import Host
from novactl.scheduler.filters import Spec, rejections


def _share(host: Host, spec: Spec, resource: str) -> float:
    """Which share of it is left after the claim."""
    limit = host.capacity()[resource]
    wanted: int = getattr(spec.resources, resource)
    return (limit - host.used()[resource] - wanted) / limit if limit else 0.0


WEIGHERS: dict[str, Callable[[Host, Spec], float]] = {
    "memory": lambda host, spec: _share(host, spec, "memory_mib"),
    "vcpus": lambda host, spec: _share(host, spec, "vcpus"),
}
"""What speaks for a host, by the names that operators multiply them by."""


def weights(host: Host, spec: Spec, multipliers: Mapping[str, float]) -> dict[str, float]:
    """Each weigher's word times its multiplier (1 unless given: spreads; below 0 packs, 0 ignores it)."""
    return {
        name: round(weigher(host, spec) * multipliers.get(name, 1.0), 6) for name, weigher in WEIGHERS.items()
    }


def candidates(
    hosts: Sequence[Host], spec: Spec, multipliers: Mapping[str, float] = MappingProxyType({})
) -> tuple[list[Host], list[dict[str, Any]]]:
    """(hosts that pass, best first; every host with its rejections, weights and their sum)."""
    explained = []
    passed = []
    for host in hosts:
        reasons = rejections(host, spec)
        weighed = {} if reasons else weights(host, spec, multipliers)
        weight = None if reasons else round(sum(weighed.values()), 6)
        if weight is not None:
            passed.append((weight, host))
        explained.append(
            {
                "host": host.name,
                "passed": not reasons,
                "rejections": reasons,
                "weights": weighed,
                "weight": weight,
            }
        )
    ordered = [host for _, host in sorted(passed, key=lambda pair: (-pair[0], pair[1].name))]
    return ordered, explained


def no_valid_host(name: str, explained: Sequence[dict[str, Any]]) -> NoValidHost:
    """The refusal, with each host's first reasons."""
    if not explained:
        return NoValidHost(f"{name}: there are no hosts yet", hint="novactl host add NAME --address ADDR")
    lines = [
        f"{row['host']}: " + "; ".join(rejection["reason"] for rejection in row["rejections"])
        for row in explained
        if row["rejections"]
    ]
    more = f"\n  … and {len(lines) - 10} more" if len(lines) > 10 else ""
    return NoValidHost(
        f"{name}: no host can take it\n  " + "\n  ".join(lines[:10]) + more,
        hint="novactl host list shows capacity; novactl host set changes reservations and ratios",
        targets=list(explained),
    )
