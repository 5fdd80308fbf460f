"""What would help when no host can take an instance: the nearest changes, the smallest first."""

from collections.abc import Callable, Sequence
from typing import Any

from novactl.objects.candidate import Candidate
from novactl.scheduler import hardware
from novactl.scheduler.filters import shortages
from novactl.scheduler.numa import UNKNOWN
from novactl.scheduler.spec import Spec

MOST = 3  # that are named

OPTIONS: dict[str, Callable[[Spec], str]] = {
    "forced_host": lambda spec: "drop --host",
    "zone": lambda spec: "drop --zone",
    "aggregate": lambda spec: "drop --aggregate",
    "apart_from": lambda spec: "drop --apart-from",
    "together_with": lambda spec: "drop --with",
}
"""Filters that only an option of boot has brought in; of a command for an instance that is there, forced_host
alone: the others are what its boot asked for."""

UNITS = {"vcpus": "vcpus", "memory_mib": "MiB", "disk_gib": "GiB of disk"}


def nearest(hosts: Sequence[Candidate], spec: Spec, explained: Sequence[dict[str, Any]]) -> list[str]:
    """At most MOST fixes, each of which alone would let one host pass. Hosts that fail for more than one
    reason give none, unless no host fails for just one: then what would help with the most of them."""
    found: dict[str, float] = {}
    for host, row in zip(hosts, explained, strict=True):
        names = [rejection["filter"] for rejection in row["rejections"]]
        if len(names) != 1:
            continue
        for words, distance in _of(names[0], host, spec):
            found[words] = min(distance, found.get(words, distance))
    return sorted(found, key=lambda words: (found[words], words))[:MOST] or _options(explained, spec)


def _of(name: str, host: Candidate, spec: Spec) -> list[tuple[str, float]]:
    """(what would help, how far away it is: 0 is an option of the command)."""
    if name in OPTIONS:
        return [(OPTIONS[name](spec), 0.0)] if _is_optional(name, spec) else []
    if name == "enabled":
        return [(f"novactl host set {host.name} --enable", 1.0)]
    if name == "up" and host.state == "fenced":  # its lost guests are still to be cleaned up
        return [("novactl audit --heal", 2.5)]
    if name == "up":
        return [(f"novactl host check {host.name}", 2.0)]
    if name == "capacity":
        missing = shortages(host, spec)
        if not _ever(host, spec):
            return []
        amounts = {"vcpus": spec.resources.vcpus, **_sizes(spec)}
        words = " and ".join(f"{_number(lack)} {UNITS[size]}" for size, (lack, _) in missing.items())
        far = sum(lack / max(1, amounts[size]) for size, (lack, _) in missing.items())
        return [(f"free {words} on {host.name}", 3.0 + far)]
    if (reason := _hardware(name, host, spec)) is not None:
        if UNKNOWN in reason:
            return [(f"novactl host check {host.name}", 2.0)]
        if name == "firmware":
            return [(f"install the package ovmf on {host.name}, then novactl host check {host.name}", 2.5)]
        if name == "numa" and host.dedicated_cpus is None and spec.numa is not None and spec.numa.dedicated:
            return [(f"novactl host set {host.name} --dedicated-cpus …", 2.5)]
    if name == "group" and _is_new(spec):
        assert spec.group is not None
        return [(f"drop --group {spec.group.name}", 1.0)]
    return []


def of_many(placed: int) -> str:
    """What would help when so many of a --count found a host and the next one none: what is missing on a host
    then was taken by those before it, and is free again when none of them is made."""
    return f"boot --partial: {placed} of them fit"


def _is_optional(name: str, spec: Spec) -> bool:
    return name in OPTIONS and (name == "forced_host" or _is_new(spec))


def _is_new(spec: Spec) -> bool:
    """Whether it was never placed before."""
    return not spec.not_hosts


def _hardware(name: str, host: Candidate, spec: Spec) -> str | None:
    """The reason of a filter on the hardware, None of any other."""
    asked = {"firmware": hardware.firmware, "cpu": hardware.cpu, "numa": hardware.numa}
    return asked[name](host, spec) if name in asked else None


def _sizes(spec: Spec) -> dict[str, int]:
    return {"memory_mib": spec.resources.memory_mib, "disk_gib": spec.resources.disk_gib}


def _ever(host: Candidate, spec: Spec) -> bool:
    """Whether an empty host would have the room."""
    wanted = spec.resources
    return (
        wanted.vcpus <= max(0, host.vcpus_limit)
        and wanted.memory_mib <= max(0, host.memory_limit)
        and wanted.disk_gib <= max(0, host.disk_limit)
    )


def _number(lack: float) -> str:
    whole = int(lack)
    return str(whole if whole == lack else whole + 1)


def _options(explained: Sequence[dict[str, Any]], spec: Spec) -> list[str]:
    """The options that stand in the way of the most hosts."""
    counts: dict[str, int] = {}
    for row in explained:
        for rejection in row["rejections"]:
            if _is_optional(rejection["filter"], spec) and rejection["filter"] != "forced_host":
                counts[rejection["filter"]] = counts.get(rejection["filter"], 0) + 1
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    return [OPTIONS[name](spec) for name in ranked[:MOST]]
