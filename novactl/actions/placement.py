"""Where an instance goes: a host claimed for it, in one transaction."""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from novactl.db import groups, hosts, placement, settings
from novactl.db.locks import unlocked
from novactl.db.session import Tx, dumps
from novactl.errors import NoValidHost
from novactl.objects.candidate import Candidate
from novactl.objects.extra_specs import cpu_request, firmware, numa_request
from novactl.objects.group import GroupPolicy, ServerGroup
from novactl.objects.host import Resources
from novactl.objects.instance import Instance
from novactl.objects.placement import Placement
from novactl.scheduler import filters, hardware
from novactl.scheduler.select import ALTERNATES, Selection, explain, no_valid_host
from novactl.scheduler.spec import Members, Rules, Spec

# --- what is asked of a host ---


def spec_of(
    tx: Tx,
    instance: Instance,
    *,
    host: str | None = None,
    tried: frozenset[str] = frozenset(),
    moves: bool = False,
) -> Spec:
    """What the instance asks of a host, by its record. Its own host does not count as a member's; the zone of
    that is where it would rather stay when it `moves`, not when a boot there has failed."""
    wishes, image = instance.placement, instance.image
    properties = image.properties if image else {}
    board, numa = Board.of(tx), numa_request(instance.flavor, image)
    naming = placement.naming(tx, instance.uuid) if tried else {}  # a new one is named by nobody
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
        apart=placement.whereabouts(tx, _tied(instance, naming, "apart_from"), held=True),
        together=placement.whereabouts(tx, _tied(instance, naming, "together_with")),
        required=wishes.required,
        forbidden=wishes.forbidden,
        group=_members(tx, board, instance),
        firmware=firmware(image),
        cpu=cpu_request(instance.flavor, image),
        numa=numa,
        leaves=instance.host if moves else None,
        from_zone=next((one.zone for one in board.hosts if moves and one.name == instance.host), None),
        rules=board.rules,
    )


def _tied(instance: Instance, naming: Mapping[str, Placement], wish: str) -> list[str]:
    """Those that the instance wants to be apart from, or with, and those that want so of it."""
    named_by = [uuid for uuid, wishes in naming.items() if instance.uuid in getattr(wishes, wish)]
    return [*getattr(instance.placement, wish), *named_by]


def _members(tx: Tx, board: "Board", instance: Instance) -> Members | None:
    if instance.group_id is None:
        return None
    group = _group(tx, instance.group_id)
    if group is None:
        return None
    return Members(
        name=group.name,
        policy=GroupPolicy(group.policy),
        max_per_host=group.max_per_host,
        on=placement.group_hosts(tx, group.id, but=instance.uuid),
    )


def against_image(tx: Tx, instance: Instance) -> list[str]:
    """Why its host may not have its image, whatever else is asked of a host that it has already."""
    spec, here = spec_of(tx, instance), next(one for one in Board.of(tx).hosts if one.name == instance.host)
    return [row["reason"] for row in filters.rejections(here, spec, filters.OF_IMAGE)]


# --- the decision ---

CHANGING = frozenset({filters.io_ops, filters.instances, hardware.numa})
"""Filters whose answer changes with what instances and operations do, beside those that hosts.claim asks."""


@dataclass
class Board:
    """All hosts as one transaction sees them, its own claims among them."""

    hosts: list[Candidate]
    rules: Rules
    selections: dict[object, Selection] = field(default_factory=dict)
    prepared: dict[object, tuple[Spec, Selection]] = field(default_factory=dict)  # of an earlier look
    expected: dict[object, list[Candidate]] = field(default_factory=dict)  # where they go by that look
    told: dict[object, list[dict[str, Any]]] = field(default_factory=dict)  # explain() of that look
    refused: dict[object, NoValidHost] = field(default_factory=dict)
    reserved: dict[object, deque[Candidate | None]] = field(default_factory=dict)  # of each in turn
    locked: set[str] = field(default_factory=set)  # groups: we place their members
    cells_of: Tx | None = None  # the transaction that read what is held of the hosts' cells

    @classmethod
    def of(cls, tx: Tx) -> "Board":
        """Read once in a transaction."""
        if "board" not in tx.memo:
            decided = settings.some(tx, "scheduler", "weighers")
            rules = Rules(**decided["scheduler"], multipliers=decided["weighers"])
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

    def select(self, spec: Spec) -> Selection:
        """Those that can take it, best first."""
        return Selection(self.hosts, spec, aggregates=self.has_aggregates)

    def prepare(
        self, spec: Spec, like: object, pick: int, count: int, *, explaining: bool = False
    ) -> list[Candidate]:
        """Look at all hosts before the transaction that decides: it keeps everybody else waiting. It uses
        what was found if the catalogue is the same then, and the instance still asks the same. `count`: so
        many ask alike, and get a host or none does. Where they will go, as far as there are hosts.
        `explaining`: why, by the hosts as they are before they are taken."""
        own = spec.group and replace(spec.group, on=dict(spec.group.on))  # it counts who is taken
        made = Selection(self.hosts, replace(spec, group=own), aggregates=self.has_aggregates)
        self.prepared[like] = spec, made
        if explaining:
            self.told[like] = self.explain(spec)
        if count == 1:
            return [best] if (best := made.best(pick)) is not None else []
        self.expected[like] = made.ahead(pick, count) if asks_anew(made) else made.taken(pick, count)
        return self.expected[like]

    def still(self, tx: Tx, host: Candidate, selection: Selection) -> bool:
        """Whether a host that passed in an earlier look does so now. Of what may have changed while the
        catalogue has not, hosts.claim asks the rest itself."""
        if not self.prepared or not asks_anew(selection):
            return True
        counted, busy = bool(self.rules.max_instances_per_host), bool(self.rules.max_io_ops_per_host)
        now = placement.candidates(tx, counted=counted, busy=busy, name=host.name)
        if selection.spec.numa is not None:
            placement.load_numa_holds(tx, now)
        return any(selection.passes(one) for one in now)

    def reserve(self, tx: Tx, selection: Selection, pick: int, count: int, like: object) -> None:
        """Hosts for so many who ask alike are claimed at once, as many as there are; none where what changes
        meanwhile is asked of each anew."""
        if selection.spec.numa is not None or (self.prepared and asks_anew(selection)):
            return
        chosen = self.expected.get(like, [])[:count]
        if len(chosen) < count or selection is not self.prepared[like][1]:
            chosen = selection.taken(pick, count)
        wanted = Counter(host.name for host in chosen)
        one = vars(selection.spec.resources)
        asked = {
            name: Resources(**{size: n * times for size, n in one.items()}) for name, times in wanted.items()
        }
        given = set(hosts.reserve(tx, asked))
        self.reserved[like] = deque(host if host.name in given else None for host in chosen)
        for name in wanted.keys() - given:  # fuller than it was when it was looked at
            selection.drop(next(host for host in chosen if host.name == name))

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

    def why(self, selection: Selection, like: object) -> list[dict[str, Any]]:
        """explain() of what decides: an earlier look has taken hosts since."""
        if like in self.told and selection is self.prepared[like][1]:
            return self.told[like]
        return self.explain(selection.spec)


def asks_anew(selection: Selection) -> bool:
    """Whether each host is asked anew when an instance gets it: then none is taken before."""
    return bool(CHANGING.intersection(selection.filters))


def pick_of(instance: Instance) -> int:
    """Its own large number, for Selection.best()."""
    return int(instance.uuid.replace("-", ""), 16)


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """The host whose share the instance holds, the next best, what it has of the host's cells, and with
    --explain why (explained())."""

    host: str
    candidate: Candidate
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
    together: int = 1,
    explaining: bool = False,
    role: str = "instance",
) -> Claimed:
    """The best host holds its share for the instance. `like`: a key that those who ask the same in this
    transaction have in common (`many`: there are several; `together`: so many, this one among them, get a
    host or none does). `tried`: hosts that it does not go to. `role`: of its hold there, move-target for one
    that has a host. Raises NoValidHost with every host's reasons."""
    how: dict[str, Any] = {"many": many, "together": together, "explaining": explaining, "role": role}
    board = Board.of(tx)
    try:
        return _claimed(tx, board, instance, host, tried, like, **how)
    except NoValidHost:
        if not board.prepared:
            raise
    del tx.memo["board"]  # it was read before this transaction: the refusal is about the hosts as they are
    fresh = Board.of(tx)
    fresh.reserved = board.reserved
    return _claimed(tx, fresh, instance, host, tried, like, **how | {"together": 1})


def _claimed(
    tx: Tx,
    board: Board,
    instance: Instance,
    host: str | None,
    tried: frozenset[str],
    like: object,
    *,
    many: bool,
    together: int,
    explaining: bool,
    role: str,
) -> Claimed:
    if instance.group_id is not None:
        _join(tx, board, instance.group_id, instance.project, new=not tried)
    selection = board.selections.get(like) if like is not None else None
    first = selection is None
    if selection is None:
        spec = spec_of(tx, instance, host=host, tried=tried, moves=role != "instance")
        if spec.group is not None:  # those who have a host already, but no row yet
            for one in filter(None, board.reserved.get(like, ())):
                spec.group.on[one.name] = spec.group.on.get(one.name, 0) + 1
        asked, before = board.prepared.get(like, (None, None))
        selection = before if before is not None and asked == spec else board.select(spec)
        if like is not None:
            board.selections[like] = selection
    rows = board.why(selection, like) if explaining and first else None
    pick = pick_of(instance)
    if together > 1 and first:
        board.reserve(tx, selection, pick, together, like)
    if (reserved := board.reserved.get(like)) and (own := reserved.popleft()) is not None:
        hosts.hold(tx, own.name, instance.uuid, instance.resources, role)
        unlocked(tx)[own.name] += 1
        told = explained(own.name, [], rows, []) if rows is not None else None
        return Claimed(host=own.name, candidate=own, alternates=[], explained=told)
    while (best := selection.best(pick)) is not None:
        numa = hardware.cells(best, selection.spec)
        kept = dumps(numa) if numa is not None else None
        if board.still(tx, best, selection) and hosts.claim(
            tx, best.name, instance.uuid, instance.resources, role, numa=kept
        ):
            others = [] if many else [one.name for one in selection.ordered(ALTERNATES + 1)]
            others = [name for name in others if name != best.name][:ALTERNATES]
            selection.take(best)
            unlocked(tx)[best.name] += 1
            told = explained(best.name, others, rows, []) if rows is not None else None
            return Claimed(host=best.name, candidate=best, alternates=others, numa=numa, explained=told)
        selection.drop(best)
    raise board.refusal(instance.name, selection.spec, like)


def _join(tx: Tx, board: Board, group_id: str, project: str, *, new: bool) -> None:
    """Until this transaction ends nobody else gives a member of the group a host; one that is new to it finds
    room there. Raises QuotaExceeded."""
    if group_id not in board.locked:
        groups.lock(tx, group_id)
        board.locked.add(group_id)
    if new and (group := _group(tx, group_id)) is not None:
        groups.check_room(tx, group, project)


def _group(tx: Tx, group_id: str) -> ServerGroup | None:
    """Read once in a transaction."""
    known: dict[str, ServerGroup | None] = tx.memo.setdefault("groups", {})
    if group_id not in known:
        known[group_id] = groups.get(tx, group_id)
    return known[group_id]


def explained(
    chosen: str | None, alternates: Sequence[str], rows: Sequence[dict[str, Any]], fixes: Sequence[str]
) -> dict[str, Any]:
    """A decision for people and scripts (docs/cli.md)."""
    return {"chosen": chosen, "alternates": list(alternates), "hosts": list(rows), "fixes": list(fixes)}
