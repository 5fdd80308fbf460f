"""Where an instance goes: its wishes resolved, and a host claimed for it, in one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from novactl.db import aggregates, groups, hosts, instances, placement, settings
from novactl.db.session import Tx, dumps
from novactl.errors import NoValidHost, Refused, UsageError
from novactl.objects.candidate import Candidate
from novactl.objects.extra_specs import cpu_request, firmware, numa_request
from novactl.objects.group import GroupPolicy, ServerGroup
from novactl.objects.instance import Instance
from novactl.objects.names import KEY, check_pattern, check_text
from novactl.objects.placement import Placement
from novactl.objects.request import Wishes
from novactl.scheduler import hardware
from novactl.scheduler.select import ALTERNATES, Selection, explain, no_valid_host
from novactl.scheduler.spec import Members, Rules, Spec

# --- wishes ---


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


# --- what is asked of a host ---


def spec_of(
    tx: Tx, instance: Instance, *, host: str | None = None, tried: frozenset[str] = frozenset()
) -> Spec:
    """What the instance asks of a host, by its record. Its own host does not count as a member's."""
    wishes, image = instance.placement, instance.image
    properties = image.properties if image else {}
    board, numa = Board.of(tx), numa_request(instance.flavor, image)
    if numa is not None:
        board.know_cells(tx)
    return Spec(
        resources=instance.resources,
        arch=properties.get("hw_architecture", "x86_64"),
        project=instance.project,
        flavor=instance.flavor.name,
        extra_specs=instance.flavor.extra_specs,
        properties=properties,
        host=host,
        zone=wishes.zone,
        aggregate=wishes.aggregate,
        not_hosts=tried,
        apart=_hosts_of(tx, wishes.apart_from) | (_naming(tx, instance, "apart_from") if tried else {}),
        together=_hosts_of(tx, wishes.together_with)
        | (_naming(tx, instance, "together_with") if tried else {}),
        required=wishes.required,
        forbidden=wishes.forbidden,
        group=_members(tx, board, instance),
        firmware=firmware(image),
        cpu=cpu_request(instance.flavor, image),
        numa=numa,
        rules=board.rules,
    )


def _hosts_of(tx: Tx, wanted: Sequence[str]) -> dict[str, str]:
    """The host of each of these instances, and the instance's name; those that are gone, or are still to be
    evacuated, bind nobody."""
    fenced = {host.name for host in Board.of(tx).hosts if host.state == "fenced"}
    found = [instances.get(tx, uuid) for uuid in wanted]
    living = [one for one in found if one.deleted_at is None and one.host not in fenced]
    return {one.host: one.name for one in living if one.host is not None}


def _naming(tx: Tx, instance: Instance, wish: str) -> dict[str, str]:
    """The host of each instance that wants to be apart from this one, or with it, and its name. Nobody names
    a new one; one that changes its host may be named."""
    found = [instances.get(tx, uuid) for uuid in placement.naming(tx, instance.uuid)]
    return {one.host: one.name for one in found if one.host and instance.uuid in getattr(one.placement, wish)}


def _members(tx: Tx, board: "Board", instance: Instance) -> Members | None:
    if instance.group_id is None:
        return None
    known = instance.group_id in board.groups
    group = board.groups[instance.group_id] if known else groups.get(tx, instance.group_id)
    if group is None:
        return None
    return Members(
        name=group.name,
        policy=GroupPolicy(group.policy),
        max_per_host=group.max_per_host,
        on=placement.group_hosts(tx, group.id, but=instance.uuid),
    )


# --- the decision ---


@dataclass
class Board:
    """All hosts as one transaction sees them, its own claims among them."""

    hosts: list[Candidate]
    rules: Rules
    selections: dict[object, Selection] = field(default_factory=dict)
    prepared: dict[object, Selection] = field(default_factory=dict)  # of an earlier look
    refused: dict[object, NoValidHost] = field(default_factory=dict)
    groups: dict[str, ServerGroup | None] = field(default_factory=dict)  # locked: we place their members
    cells_of: Tx | None = None  # the transaction that read what is held of the hosts' cells

    @classmethod
    def of(cls, tx: Tx) -> "Board":
        """Read once in a transaction."""
        if "board" not in tx.memo:
            rules = Rules(**settings.get(tx, "scheduler"), multipliers=settings.get(tx, "weighers"))
            counted = bool(rules.max_instances_per_host or rules.multipliers.get("instances"))
            tx.memo["board"] = cls(placement.candidates(tx, counted=counted), rules)
        board: Board = tx.memo["board"]
        return board

    def know_cells(self, tx: Tx) -> None:
        """What instances have of the hosts' cells is read, for only few ask for it; once, but anew by the
        transaction that decides, which alone knows that it is still so."""
        if self.cells_of is not tx:
            placement.load_numa_holds(tx, self.hosts)
            self.cells_of = tx

    @property
    def has_aggregates(self) -> bool:
        return any(host.aggregates for host in self.hosts)

    def select(self, spec: Spec, like: object = None) -> Selection:
        """Those that can take it, best first; kept for the others who ask alike."""
        made = Selection(self.hosts, spec, aggregates=self.has_aggregates)
        if like is not None:
            self.selections[like] = made
        return made

    def prepare(self, spec: Spec, like: object) -> None:
        """Look at all hosts before the transaction that decides: it keeps everybody else waiting. It uses
        what was found if the instance still asks the same then; the claim itself looks at the host as it
        is."""
        self.prepared[like] = Selection(self.hosts, spec, aggregates=self.has_aggregates)

    def still(self, tx: Tx, host: Candidate, selection: Selection) -> bool:
        """Whether a host that passed in an earlier look does so now."""
        if not self.prepared:
            return True
        counted = bool(self.rules.max_instances_per_host)
        now = placement.candidates(tx, counted=counted, name=host.name)
        if selection.spec.numa is not None:
            placement.load_numa_holds(tx, now)
        return any(selection.passes(one) for one in now)

    def refusal(self, name: str, spec: Spec, like: object = None) -> NoValidHost:
        """Why nobody can take it; looked for once for all who ask alike."""
        if like is None:
            return no_valid_host(name, self.hosts, spec, aggregates=self.has_aggregates)
        if like not in self.refused:
            self.refused[like] = no_valid_host(name, self.hosts, spec, aggregates=self.has_aggregates)
            return self.refused[like]
        first = self.refused[like]
        return NoValidHost(f"{name}: no host can take it either", hint=first.hint)

    def explain(self, spec: Spec) -> list[dict[str, Any]]:
        return explain(self.hosts, spec, aggregates=self.has_aggregates)


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """The host whose share the instance holds, the next best, what it has of the host's cells, and with
    --explain why (explained())."""

    host: str
    alternates: list[str]
    numa: dict[str, Any] | None = None
    explained: dict[str, Any] | None = None


def claim(
    tx: Tx,
    instance: Instance,
    *,
    host: str | None = None,
    tried: frozenset[str] = frozenset(),
    like: object = None,
    many: bool = False,
    explaining: bool = False,
    role: str = "instance",
) -> Claimed:
    """The best host holds its share for the instance. `like`: a key that those who ask the same in this
    transaction have in common (`many`: there are several). `tried`: hosts that it does not go to. `role`: of
    its hold there, move-target for one that has a host. Raises NoValidHost with every host's reasons."""
    how = {"many": many, "explaining": explaining}
    board = Board.of(tx)
    try:
        return _claimed(tx, board, instance, host, tried, like, role=role, **how)
    except NoValidHost:
        if not board.prepared:
            raise
    del tx.memo["board"]  # it was read before this transaction: the refusal is about the hosts as they are
    return _claimed(
        tx, Board.of(tx), instance, host, tried, like, many=many, explaining=explaining, role=role
    )


def _claimed(
    tx: Tx,
    board: Board,
    instance: Instance,
    host: str | None,
    tried: frozenset[str],
    like: object,
    *,
    many: bool,
    explaining: bool,
    role: str,
) -> Claimed:
    if instance.group_id is not None:
        _join(tx, board, instance.group_id, instance.project, new=not tried)
    selection = board.selections.get(like) if like is not None else None
    first = selection is None
    if selection is None:
        spec = spec_of(tx, instance, host=host, tried=tried)
        selection = board.prepared.get(like)
        if selection is None or selection.spec != spec:
            selection = board.select(spec, like)
    rows = board.explain(selection.spec) if explaining and first else None
    pick = int(instance.uuid.replace("-", ""), 16)
    while (best := selection.best(pick)) is not None:
        numa = hardware.cells(best, selection.spec)
        kept = dumps(numa) if numa is not None else None
        if board.still(tx, best, selection) and hosts.claim(
            tx, best.name, instance.uuid, instance.resources, role, numa=kept
        ):
            others = [] if many else [one.name for one in selection.ordered(ALTERNATES + 1)]
            others = [name for name in others if name != best.name][:ALTERNATES]
            selection.take(best)
            told = explained(best.name, others, rows, []) if rows is not None else None
            return Claimed(host=best.name, alternates=others, numa=numa, explained=told)
        selection.drop(best)
    raise board.refusal(instance.name, selection.spec, like)


def _join(tx: Tx, board: Board, group_id: str, project: str, *, new: bool) -> None:
    """Until this transaction ends nobody else gives a member of the group a host; one that is new to it finds
    room there. Raises QuotaExceeded."""
    if group_id not in board.groups:
        groups.lock(tx, group_id)
        board.groups[group_id] = groups.get(tx, group_id)
    if new and (group := board.groups[group_id]) is not None:
        groups.check_room(tx, group, project)


def explained(
    chosen: str | None, alternates: Sequence[str], rows: Sequence[dict[str, Any]], fixes: Sequence[str]
) -> dict[str, Any]:
    """A decision for people and scripts (docs/cli.md)."""
    return {"chosen": chosen, "alternates": list(alternates), "hosts": list(rows), "fixes": list(fixes)}


def labels(words: Sequence[str], option: str) -> Mapping[str, str | None]:
    """KEY or KEY=VALUE, as typed. Raises UsageError."""
    found: dict[str, str | None] = {}
    for word in words:
        key, sign, text = word.partition("=")
        value = check_text(text, f"{option} {key}") if sign else None
        check_pattern(key, KEY, f"{option}: label", "letters, digits and . _ : -")
        known = found.get(key)
        if None not in (known, value) and known != value:
            raise UsageError(f"{option} {key}: cannot be both {known} and {value}")
        found[key] = known if value is None else value
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
