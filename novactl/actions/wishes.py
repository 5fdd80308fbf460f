"""What is asked of an instance's host: words as typed, and what their names mean."""

from collections.abc import Mapping, Sequence

from novactl.db import aggregates, groups, hosts, instances, placement
from novactl.db.session import Tx
from novactl.errors import Refused, UsageError
from novactl.objects.group import ServerGroup
from novactl.objects.instance import Instance
from novactl.objects.names import KEY, check_pattern, check_text
from novactl.objects.placement import Placement
from novactl.objects.request import Wishes


def resolve(tx: Tx, wishes: Wishes, project: str) -> tuple[Placement, ServerGroup | None]:
    """What was typed, as uuids and ids. Raises NotFound, Refused for an instance that was deleted or has no
    host, or a zone that no host is in, UsageError for wishes that contradict each other."""
    if wishes.host is not None:
        hosts.get(tx, wishes.host)
    if wishes.aggregate is not None:
        aggregates.get(tx, wishes.aggregate)
    _check_zone(tx, wishes.zone)
    apart = [_instance(tx, name, project) for name in wishes.apart_from]
    together = [_instance(tx, name, project) for name in wishes.together_with]
    _check_contradictions(wishes, apart, together)
    group = groups.find(tx, wishes.group, project) if wishes.group is not None else None
    if group is not None:
        tx.memo.setdefault("groups", {})[group.id] = group
    made = Placement(
        zone=wishes.zone,
        aggregate=wishes.aggregate,
        apart_from=tuple(one.uuid for one in apart),
        together_with=tuple(one.uuid for one in together),
        required=dict(wishes.required),
        forbidden=dict(wishes.forbidden),
    )
    return made, group


def _check_zone(tx: Tx, zone: str | None) -> None:
    if zone is None or zone in (known := placement.zones(tx)):
        return
    raise Refused(
        f"zone {zone!r}: no host is in it", hint=f"zones: {', '.join(known)}" if known else "novactl host add"
    )


def _instance(tx: Tx, name: str, project: str) -> Instance:
    found = instances.find(tx, name, project, deleted=True)
    if found.deleted_at is not None:
        raise Refused(
            f"instance {name} was deleted at {found.deleted_at}: nothing can be with or apart from it"
        )
    return found


def _check_contradictions(wishes: Wishes, apart: Sequence[Instance], together: Sequence[Instance]) -> None:
    if both := {one.uuid for one in apart} & {one.uuid for one in together}:
        name = next(one.name for one in apart if one.uuid in both)
        raise UsageError(f"instance {name}: cannot be both together with it and apart from it")
    if homeless := next((one for one in together if one.host is None), None):
        raise Refused(f"instance {homeless.name} has no host to be together with it on")
    places = sorted({str(one.host) for one in together})
    if len(places) > 1:
        names = ", ".join(f"{one.name} on {one.host}" for one in together)
        raise Refused(f"cannot be together with all of them: {names}")
    if clash := next((one for one in apart if one.host in places), None):
        raise Refused(f"{clash.name} is on {places[0]} too: cannot be apart from it there")
    for key, value in wishes.required.items():
        if key in wishes.forbidden and wishes.forbidden[key] in (None, value):
            raise UsageError(f"label {key}: both required and forbidden")


def required(words: Sequence[str]) -> Mapping[str, str | None]:
    """--require KEY or KEY=VALUE, as typed; of both the value is what is left to say. Raises UsageError."""
    found: dict[str, str | None] = {}
    for key, values in _labels(words, "--require").items():
        if len(values) > 1:
            raise UsageError(f"--require {key}: cannot be both {values[0]} and {values[1]}")
        found[key] = values[0] if values else None
    return found


def forbidden(words: Sequence[str]) -> Mapping[str, str | None]:
    """--forbid KEY or KEY=VALUE, as typed; of both the KEY alone says more. Raises UsageError."""
    alone = {word for word in words if "=" not in word}
    found: dict[str, str | None] = {}
    for key, values in _labels(words, "--forbid").items():
        if len(values) > 1 and key not in alone:
            raise UsageError(
                f"--forbid {key}: {values[0]} and {values[1]} cannot be kept both",
                hint=f"--forbid {key} forbids it with any value",
            )
        found[key] = None if key in alone else values[0]
    return found


def _labels(words: Sequence[str], option: str) -> dict[str, list[str]]:
    """Each KEY and the values that it was given, none twice."""
    found: dict[str, list[str]] = {}
    for word in words:
        key, sign, text = word.partition("=")
        values = [check_text(text, f"{option} {key}")] if sign else []
        check_pattern(key, KEY, f"{option}: label", "letters, digits and . _ : -")
        known = found.setdefault(key, [])
        known += [value for value in values if value not in known]
    return found


HINTS = ("group", "different_host", "same_host")


def hints(words: Sequence[str]) -> dict[str, list[str]]:
    """Nova's scheduler hints, KEY=VALUE as typed. Raises UsageError for one that is not known."""
    found: dict[str, list[str]] = {key: [] for key in HINTS}
    for word in words:
        key, sign, value = word.partition("=")
        if key not in found or not sign or not value:
            raise UsageError(f"--hint {word!r} is not one of {'=…, '.join(HINTS)}=…")
        found[key] += value.split(",")
    if len(found["group"]) > 1:
        raise UsageError("--hint group: an instance has one group")
    return found
