"""Reasons a host cannot take an instance: None when it passes.

Each filter stands in FILTERS with the question whether it matters for a Spec at all, so a decision over
many hosts asks only what it must. Semantics are Nova's (doc/source/admin/scheduling.rst), with its words.
"""

from collections.abc import Callable, Iterator, Mapping

from novactl.objects.candidate import Candidate
from novactl.objects.group import GroupPolicy
from novactl.scheduler.compare import matches
from novactl.scheduler.hardware import cpu, firmware, numa
from novactl.scheduler.spec import Rules, Spec

Filter = Callable[[Candidate, Spec], str | None]

AGGREGATE = "aggregate_instance_extra_specs"
CAPABILITIES = "capabilities"
SCOPED = ":"


def forced_host(host: Candidate, spec: Spec) -> str | None:
    """Only the host that was named."""
    return None if host.name == spec.host else f"not the host asked for ({spec.host})"


def tried(host: Candidate, spec: Spec) -> str | None:
    """Not one that failed in this operation, nor the one that a move leaves."""
    if host.name not in spec.not_hosts:
        return None
    return "is where it is now" if host.name == spec.leaves else "failed in this operation"


def enabled(host: Candidate, spec: Spec) -> str | None:
    """The operator has not disabled it."""
    return None if host.enabled else f"disabled: {host.disabled_reason or 'no reason given'}"


def up(host: Candidate, spec: Spec) -> str | None:
    """It answered when it was last looked at."""
    return None if host.state == "up" else f"is {host.state}"


def zone(host: Candidate, spec: Spec) -> str | None:
    """It is in the availability zone asked for."""
    return None if host.zone == spec.zone else f"is in zone {host.zone}, not {spec.zone}"


def aggregate(host: Candidate, spec: Spec) -> str | None:
    """It is in the aggregate asked for."""
    return None if spec.aggregate in host.aggregates else f"is not in aggregate {spec.aggregate}"


def architecture(host: Candidate, spec: Spec) -> str | None:
    """Its processor runs the image (hw_architecture)."""
    return None if host.arch in (None, spec.arch) else f"is {host.arch}, the image is {spec.arch}"


def capacity(host: Candidate, spec: Spec) -> str | None:
    """Ratio, reservation, foreign guests and claims leave room for all that grows."""
    wanted = spec.resources
    if (
        host.vcpus_used + wanted.vcpus <= host.vcpus_limit
        and host.memory_used + wanted.memory_mib <= host.memory_limit
        and host.disk_used + wanted.disk_gib <= host.disk_limit
    ):
        return None
    return "; ".join(f"{size}: {words}" for size, (_, words) in shortages(host, spec).items()) or None


def shortages(host: Candidate, spec: Spec) -> Mapping[str, tuple[float, str]]:
    """(how much is missing, the numbers) of each resource there is not enough of."""
    wanted = spec.resources
    sizes = (
        ("vcpus", wanted.vcpus, host.vcpus_used, host.vcpus_limit),
        ("memory_mib", wanted.memory_mib, host.memory_used, host.memory_limit),
        ("disk_gib", wanted.disk_gib, host.disk_used, host.disk_limit),
    )
    return {
        size: (used + want - limit, f"{want} wanted, {max(0, limit - used):.0f} free of {max(0, limit):.0f}")
        for size, want, used, limit in sizes
        if want > 0 and used + want > limit
    }


def group(host: Candidate, spec: Spec) -> str | None:
    """Affinity: where the members are, once one has a host. Anti-affinity: at most max_per_host on one."""
    members = spec.group
    assert members is not None
    here = members.on.get(host.name, 0)
    if members.policy is GroupPolicy.AFFINITY:
        if members.on and not here:
            return f"group {members.name} is together on {', '.join(sorted(members.on))}"
    elif members.policy is GroupPolicy.ANTI_AFFINITY and here >= members.max_per_host:
        return f"has {here} of group {members.name}, {members.max_per_host} allowed"
    return None


def apart_from(host: Candidate, spec: Spec) -> str | None:
    """None of the instances that it is to be apart from is there (Nova's DifferentHostFilter)."""
    return f"has {spec.apart[host.name]}, to be apart from" if host.name in spec.apart else None


def together_with(host: Candidate, spec: Spec) -> str | None:
    """The instances that it is to be with are there (Nova's SameHostFilter)."""
    if host.name in spec.together:
        return None
    return f"does not have {', '.join(sorted(set(spec.together.values())))}, to be together with"


def labels(host: Candidate, spec: Spec) -> str | None:
    """It has the labels required, by the boot or by the flavor (trait:LABEL, label:LABEL), and none of those
    forbidden."""
    required, forbidden = dict(spec.required), dict(spec.forbidden)
    for key, value in spec.extra_specs.items():
        scope, sign, name = key.partition(SCOPED)
        if sign and scope == "trait":
            if value == "required":
                required.setdefault(name, None)
            else:
                forbidden[name] = None  # any value, whichever the boot names
    for name, want in required.items():
        if name not in host.labels or (want is not None and host.labels[name] != want):
            return f"has no label {_label(name, want)}"
    for name, want in forbidden.items():
        if name in host.labels and want in (None, host.labels[name]):
            return f"has the forbidden label {_label(name, want)}"
    for name, wish in _scoped(spec, "label"):
        if name not in host.labels or not matches(host.labels[name], wish):
            return f"label {name} is {host.labels.get(name, 'not set')}, {wish} wanted"
    return None


def _label(name: str, value: str | None) -> str:
    return name if value is None else f"{name}={value}"


def tenants(host: Candidate, spec: Spec) -> str | None:
    """An aggregate with filter_tenant_id (or filter_tenant_idSUFFIX) is for those projects alone (Nova's
    AggregateMultiTenancyIsolation)."""
    allowed = {
        project.strip()
        for metadata in host.aggregates.values()
        for key, value in metadata.items()
        if key.startswith("filter_tenant_id")
        for project in value.split(",")
    }
    return f"is for {', '.join(sorted(allowed))}" if allowed and spec.project not in allowed else None


def image_isolation(host: Candidate, spec: Spec) -> str | None:
    """A property that the image has, and aggregates of the host too, must be one of theirs (Nova's
    AggregateImagePropertiesIsolation)."""
    for key, mine in spec.properties.items():
        values = _of_host(host, key)
        if values and mine not in values:
            return f"is for images with {key}={','.join(sorted(values))}, this one has {mine}"
    return None


def _of_host(host: Candidate, key: str) -> set[str]:
    """The values that all aggregates of a host have for a key, comma-separated ones apart."""
    words = (metadata.get(key, "").split(",") for metadata in host.aggregates.values())
    return {word.strip() for some in words for word in some if word.strip()}


def flavor_aggregates(host: Candidate, spec: Spec) -> str | None:
    """Extra specs without a scope, or scoped aggregate_instance_extra_specs, are met by the aggregates of the
    host (Nova's AggregateInstanceExtraSpecsFilter)."""
    for key, wish in _of_aggregates(spec):
        values = _of_host(host, key)
        if not any(matches(value, wish) for value in values):
            return f"is in no aggregate with {key}={wish}"
    return None


def flavor_affinity(host: Candidate, spec: Spec) -> str | None:
    """Aggregates with instance_type are for those flavors alone (Nova's AggregateTypeAffinityFilter)."""
    names = _of_host(host, "instance_type")
    return f"is for flavors {', '.join(sorted(names))}" if names and spec.flavor not in names else None


def capabilities(host: Candidate, spec: Spec) -> str | None:
    """What the host's facts say is as the extra specs capabilities:KEY ask (Nova's ComputeCapabilities)."""
    for key, wish in _scoped(spec, CAPABILITIES):
        known = host.facts.get(key)
        if isinstance(known, list):
            fits = any(matches(str(word), wish) for word in known)
        else:
            fits = known is not None and matches(str(known), wish)
        if not fits:
            return f"{key} is {'not known' if known is None else known}, {wish} wanted"
    return None


def io_ops(host: Candidate, spec: Spec) -> str | None:
    """Not too many operations work on it now (Nova's IoOpsFilter, max_io_ops_per_host)."""
    most = spec.rules.max_io_ops_per_host
    return f"{host.busy} operations are on it, {most} allowed" if host.busy >= most else None


def instances(host: Candidate, spec: Spec) -> str | None:
    """Not too many instances (Nova's NumInstancesFilter)."""
    most = most_instances(host, spec.rules)
    full = most is not None and host.instances >= most
    return f"has {host.instances} instances, {most} allowed" if full else None


def most_instances(host: Candidate, rules: Rules) -> int | None:
    """How many instances it may have, None for any number: what aggregates say (the least of it), else what
    holds for the fleet."""
    own = [int(word) for word in _of_host(host, "max_instances_per_host") if word.isdecimal()]
    return min(own) if own else rules.max_instances_per_host or None


def _scoped(spec: Spec, scope: str) -> Iterator[tuple[str, str]]:
    for key, value in spec.extra_specs.items():
        found, sign, name = key.partition(SCOPED)
        if sign and found == scope:
            yield name, value


def _of_aggregates(spec: Spec) -> Iterator[tuple[str, str]]:
    yield from _scoped(spec, AGGREGATE)
    yield from ((key, value) for key, value in spec.extra_specs.items() if SCOPED not in key)


def _has_scope(*scopes: str) -> Callable[[Spec], bool]:
    return lambda spec: any(key.partition(SCOPED)[0] in scopes for key in spec.extra_specs)


def always(spec: Spec) -> bool:
    return True


FILTERS: tuple[tuple[Filter, Callable[[Spec], bool]], ...] = (
    (forced_host, lambda spec: spec.host is not None),
    (tried, lambda spec: bool(spec.not_hosts)),
    (enabled, always),
    (up, always),
    (zone, lambda spec: spec.zone is not None),
    (aggregate, lambda spec: spec.aggregate is not None),
    (architecture, always),
    (firmware, lambda spec: spec.firmware != "bios"),
    (cpu, lambda spec: spec.cpu is not None),
    (capacity, always),
    (numa, lambda spec: spec.numa is not None),
    (group, lambda spec: spec.group is not None),
    (apart_from, lambda spec: bool(spec.apart)),
    (together_with, lambda spec: bool(spec.together)),
    (labels, lambda spec: bool(spec.required or spec.forbidden) or _has_scope("trait", "label")(spec)),
    (flavor_aggregates, lambda spec: any(True for _ in _of_aggregates(spec))),
    (capabilities, _has_scope(CAPABILITIES)),
    (io_ops, lambda spec: spec.rules.max_io_ops_per_host > 0),
)
"""The filters, in the order they are asked, and when each matters."""

OF_AGGREGATES: tuple[Filter, ...] = (tenants, image_isolation, flavor_affinity)
"""Those that matter to hosts in aggregates."""


OF_IMAGE: tuple[Filter, ...] = (architecture, firmware, cpu, image_isolation)
"""Those that look at the image: a host that is to have another one must pass them (CVE-2017-16239)."""


def active(spec: Spec, *, aggregates: bool) -> tuple[Filter, ...]:
    """The filters that matter for this spec; `aggregates`: whether there are any in the fleet."""
    chosen = [test for test, matters in FILTERS if matters(spec)]
    if aggregates:
        chosen += OF_AGGREGATES
    if (spec.rules.max_instances_per_host or aggregates) and not spec.stays:
        chosen.append(instances)
    return tuple(chosen)


def rejections(host: Candidate, spec: Spec, filters: tuple[Filter, ...]) -> list[dict[str, str]]:
    """Every reason against the host: `{filter, reason}`."""
    found = ((test.__name__, test(host, spec)) for test in filters)
    return [{"filter": name, "reason": reason} for name, reason in found if reason is not None]
