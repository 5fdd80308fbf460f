"""Reasons a host cannot take an instance: None when it passes."""

from collections.abc import Callable
from dataclasses import dataclass

from novactl.objects.host import Host, Resources


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What is asked of a host."""

    resources: Resources
    arch: str = "x86_64"
    zone: str | None = None
    host: str | None = None
    not_hosts: frozenset[str] = frozenset()


Filter = Callable[[Host, Spec], str | None]


def forced_host(host: Host, spec: Spec) -> str | None:
    """Only the host that was named."""
    return f"not the host asked for ({spec.host})" if spec.host and host.name != spec.host else None


def tried(host: Host, spec: Spec) -> str | None:
    """Not one that failed in this operation."""
    return "failed in this operation" if host.name in spec.not_hosts else None


def enabled(host: Host, spec: Spec) -> str | None:
    """The operator has not disabled it."""
    return None if host.enabled else f"disabled: {host.disabled_reason or 'no reason given'}"


def up(host: Host, spec: Spec) -> str | None:
    """It answered when it was last looked at."""
    return None if host.state == "up" else f"is {host.state}"


def zone(host: Host, spec: Spec) -> str | None:
    """It is in the zone asked for."""
    return None if spec.zone in (None, host.zone) else f"is in zone {host.zone}, not {spec.zone}"


def architecture(host: Host, spec: Spec) -> str | None:
    """Its processor runs the image."""
    arch = host.facts.get("arch", spec.arch)
    return None if arch == spec.arch else f"is {arch}, the image is {spec.arch}"


def capacity(host: Host, spec: Spec) -> str | None:
    """Ratio, reservation, foreign guests and claims leave room for all it needs."""
    limit, used = host.capacity(), host.used()
    short = [
        f"{resource}: {wanted} wanted, {max(0, limit[resource] - used[resource]):.0f} free"
        f" of {limit[resource]:.0f}"
        for resource, wanted in vars(spec.resources).items()
        if used[resource] + wanted > limit[resource]
    ]
    return "; ".join(short) or None


DEFAULT: tuple[Filter, ...] = (forced_host, tried, enabled, up, zone, architecture, capacity)


def rejections(host: Host, spec: Spec, filters: tuple[Filter, ...] = DEFAULT) -> list[dict[str, str]]:
    """Every reason against the host: `{filter, reason}`."""
    found = ((test.__name__, test(host, spec)) for test in filters)
    return [{"filter": name, "reason": reason} for name, reason in found if reason]
