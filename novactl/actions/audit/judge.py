"""All findings of one audit. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from novactl.actions.audit import asides, guests, leftovers, records
from novactl.actions.audit.gather import Believed, Surveys
from novactl.actions.audit.scene import Scene
from novactl.objects.finding import Finding, order

LASTING = frozenset(
    {"operation-left", "lock-without-operation", "used-differs", "mark-unknown", "epoch-ahead"}
)
"""Findings that one reading of the database proves, whatever went on meanwhile."""


def findings(
    believed: Believed,
    surveys: Surveys,
    *,
    earlier: Believed | None = None,
    copies: Mapping[str, int] | None = None,
) -> list[Finding]:
    """What differs, the worst first. `believed` was read after the hosts were looked at, `earlier` before
    that: what an operation worked on, or what changed in between, is not judged. `copies`: the versions of
    the hosts' catalogue copies."""
    before = earlier or believed
    busy = before.under_way | believed.under_way | _changed(before, believed)
    scene = Scene.of(believed, surveys, busy)
    found = list(_all(scene, before, surveys, copies or {}))
    return sorted([*found, *_of_fenced(scene, found)], key=order)


def _all(scene: Scene, before: Believed, surveys: Surveys, copies: Mapping[str, int]) -> Iterator[Finding]:
    now = scene.seen
    yield from leftovers.of_hosts(now, surveys)
    for finding in records.in_records(now):
        if finding.uuid not in scene.busy or finding.finding in LASTING:
            yield finding
    yield from guests.of_guests(scene)
    yield from asides.of_disks(scene)
    yield from leftovers.of_leftovers(scene)
    yield from leftovers.of_memory(scene, copies)
    yield from leftovers.of_work(scene, before.busy_hosts | now.busy_hosts, before)


def _of_fenced(scene: Scene, found: Sequence[Finding]) -> Iterator[Finding]:
    """Fenced hosts that answer again: clean, they take instances again."""
    for name in scene.hosts:
        if scene.seen.hosts[name].state != "fenced":
            continue
        open_ = sum(1 for one in found if one.host == name and one.severity != "info")
        worked_on = sum(
            1 for uuid in scene.busy if _host_of(scene.seen, uuid) == name or scene.is_there(name, uuid)
        )
        why = f"{open_} findings on it are open" if open_ else f"{worked_on} operations on its instances are"
        clean = not open_ and not worked_on
        yield Finding(
            finding="fenced-host",
            severity="warning",
            host=name,
            target=name,
            message=f"{name}: is fenced, and answers: "
            + ("nothing is on it that should not be" if clean else why),
            heal="gives it instances again" if clean else None,
        )


def _host_of(seen: Believed, uuid: str) -> str | None:
    living = seen.living.get(uuid)
    return living.host if living else None


def _changed(before: Believed, now: Believed) -> frozenset[str]:
    """Instances whose record changed, came or went meanwhile."""
    uuids = {*before.living, *before.gone, *now.living, *now.gone}
    return frozenset(uuid for uuid in uuids if before.version(uuid) != now.version(uuid))
