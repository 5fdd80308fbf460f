"""Filter, weigh, order; and the reasons when nobody is left."""

from collections.abc import Sequence
from typing import Any

from novactl.errors import NoValidHost
from novactl.objects.host import Host
from novactl.scheduler.filters import Spec, rejections


def free_share(host: Host, spec: Spec) -> float:
    """How much room is left after the claim, as the mean share over memory and vcpus: spreads."""
    limit, used = host.capacity(), host.used()
    wanted = vars(spec.resources)
    shares = [(limit[r] - used[r] - wanted[r]) / limit[r] for r in ("memory_mib", "vcpus") if limit[r]]
    return sum(shares) / len(shares) if shares else 0.0


def candidates(hosts: Sequence[Host], spec: Spec) -> tuple[list[Host], list[dict[str, Any]]]:
    """(hosts that pass, best first; every host with its rejections and weight)."""
    explained = []
    passed = []
    for host in hosts:
        reasons = rejections(host, spec)
        weight = None if reasons else round(free_share(host, spec), 6)
        if weight is not None:
            passed.append((weight, host))
        explained.append(
            {
                "host": host.name,
                "passed": not reasons,
                "rejections": reasons,
                "weights": {} if weight is None else {"free": weight},
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
