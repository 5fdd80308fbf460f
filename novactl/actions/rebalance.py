"""`novactl rebalance`: a plan of moves from what the database knows, and the moves that carry it out."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from novactl.actions import drain
from novactl.actions.placement import Board
from novactl.db import balance, groups, instances
from novactl.db.balance import Placed
from novactl.db.session import Tx
from novactl.objects.candidate import Candidate
from novactl.objects.duration import UNITS, as_duration
from novactl.objects.extra_specs import cpu_request, firmware
from novactl.objects.flavor import Flavor
from novactl.objects.group import GroupPolicy
from novactl.objects.host import Resources
from novactl.objects.image import Image
from novactl.objects.moments import before, seconds_between
from novactl.objects.placement import Placement
from novactl.objects.states import TaskState, VmState, status
from novactl.scheduler import filters, rebalance
from novactl.scheduler.filters import active
from novactl.scheduler.fleet import RESOURCES, Amounts, Guest, Node, Party, Rules
from novactl.scheduler.spec import Rules as FleetRules
from novactl.scheduler.spec import Spec

if TYPE_CHECKING:
    from novactl.actions.world import World

COOLDOWN = UNITS["h"]
"""Seconds for which an instance that was moved or launched is left alone."""

METHODS = {VmState.ACTIVE: "live", VmState.STOPPED: "cold"}
"""How an instance is moved, by what it is; in other states it is not."""

TOGETHER = (GroupPolicy.AFFINITY, GroupPolicy.SOFT_AFFINITY)
HARD = (GroupPolicy.AFFINITY, GroupPolicy.ANTI_AFFINITY)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked of a plan; `cooldown` in seconds."""

    max_moves: int | None = None
    min_gain: float = rebalance.MIN_GAIN
    only_rules: bool = False
    cooldown: int = COOLDOWN


@dataclass(frozen=True, kw_only=True)
class View:
    """The fleet at one instant; `versions` and `projects` of the instances by their uuids."""

    now: str
    nodes: list[Node]
    guests: list[Guest]
    rules: Rules
    versions: dict[str, int]
    projects: dict[str, str]


def plan(view: View, wanted: Wanted) -> rebalance.Plan:
    """The moves that are worth it."""
    return rebalance.plan(
        view.nodes,
        view.guests,
        view.rules,
        max_moves=wanted.max_moves,
        min_gain=wanted.min_gain,
        only_rules=wanted.only_rules,
    )


def look(world: "World", cooldown: int = COOLDOWN) -> View:
    """Read it, in one view of the database."""
    now = world.clock.now()
    since = before(now, cooldown)

    def work(tx: Tx) -> View:
        board, found = Board.of(tx), balance.guests(tx)
        kinds, there, held = Kinds(), Counter(row.host for row in found), balance.second(tx)
        blockers = Blockers(
            now=now,
            since=since,
            cooldown=cooldown,
            worked_on=balance.worked_on(tx),
            unconfirmed={uuid for uuid, _ in held},
            moved=balance.moved_since(tx, since),
        )
        return View(
            now=now,
            nodes=[_node(host, board.rules, there[host.name]) for host in board.hosts],
            guests=[_guest(row, kinds.of(row), blockers.of(row)) for row in found],
            rules=Rules(
                refused=kinds.refused(board.hosts),
                groups={
                    one.id: Party(
                        name=one.name,
                        together=one.policy in TOGETHER,
                        hard=one.policy in HARD,
                        max_per_host=one.max_per_host,
                    )
                    for one in groups.everything(tx)
                },
                apart=kinds.apart,
                together=kinds.together,
                held=held,
            ),
            versions={row.uuid: row.version for row in found},
            projects={row.uuid: row.project for row in found},
        )

    return world.db.read(work)


def _node(host: Candidate, rules: FleetRules, guests: int) -> Node:
    """`guests`: so many are there; who is being moved there, or may go back, takes a place too."""
    most = filters.most_instances(host, rules)
    return Node(
        name=host.name,
        limit=(max(0, host.memory_limit), max(0, host.vcpus_limit), max(0, host.disk_limit)),
        used=(host.memory_used, host.vcpus_used, host.disk_used),
        up=host.state == "up",
        enabled=bool(host.enabled),
        most=None if most is None else most - (host.instances - guests),
    )


def _guest(row: Placed, kind: str, blocker: str | None) -> Guest:
    return Guest(
        uuid=row.uuid,
        name=row.name,
        host=row.host,
        size=(row.memory_mib, row.vcpus, row.disk_gib),
        live=row.vm_state == VmState.ACTIVE,
        kind=kind,
        group=row.group_id,
        blocker=blocker,
    )


@dataclass(frozen=True, kw_only=True)
class Blockers:
    """Why an instance is left where it is."""

    now: str
    since: str
    cooldown: int
    worked_on: Mapping[str, str]
    unconfirmed: set[str]
    moved: Mapping[str, str]

    def of(self, row: Placed) -> str | None:
        """None when nothing keeps it there."""
        if row.locked:
            return "is locked"
        if (operation := self.worked_on.get(row.uuid)) is not None:
            return f"operation {operation} works on it"
        if row.task_state is not None or row.vm_state not in METHODS:
            task = TaskState(row.task_state) if row.task_state else None
            return f"is {task or status(VmState(row.vm_state), None)}"
        if row.uuid in self.unconfirmed:
            return "its last move is not confirmed"
        if row.pinned:
            return f"has processors or pages of {row.host} for itself"
        for word, moment in (("moved", self.moved.get(row.uuid)), ("launched", row.launched_at)):
            if moment is not None and moment > self.since:
                ago = as_duration(max(0, int(seconds_between(moment, self.now))))
                return f"was {word} {ago} ago: cooldown is {as_duration(self.cooldown)}"
        return None


class Kinds:
    """Instances that ask the same of a host are of one kind: what speaks against each host is found out once.
    On the way the pairs are gathered that should be together or apart."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str, str, str | None], str] = {}
        self.apart: list[tuple[str, str]] = []
        self.together: list[tuple[str, str]] = []
        self._read: dict[str | None, tuple[Placement, str]] = {None: (Placement(), "{}")}
        self._alone: dict[str, Placement] = {"{}": Placement()}

    def of(self, row: Placed) -> str:
        """The kind of an instance; those that are pinned stay where they are and ask nothing."""
        wishes, alone = self._wishes(row.placement)
        self.apart += [(row.uuid, other) for other in wishes.apart_from]
        self.together += [(row.uuid, other) for other in wishes.together_with]
        if row.pinned:
            return ""
        return self.known.setdefault((row.project, alone, row.flavor, row.image), str(len(self.known) + 1))

    def _wishes(self, text: str | None) -> tuple[Placement, str]:
        """The wishes, and as text those that name no other instance."""
        if (found := self._read.get(text)) is None:
            assert text is not None
            wishes = Placement.from_dict(json.loads(text))
            rest = replace(wishes, apart_from=(), together_with=())
            found = self._read[text] = wishes, json.dumps(rest.as_dict(), sort_keys=True)
            self._alone[found[1]] = rest
        return found

    def refused(self, hosts: Sequence[Candidate]) -> dict[str, dict[str, str]]:
        """For each kind the hosts that placement would never choose for it, and why."""
        aggregates = any(host.aggregates for host in hosts)
        found: dict[str, dict[str, str]] = {}
        for (project, wishes, flavor, image), kind in self.known.items():
            spec = _spec(project, self._alone[wishes], flavor, image)
            tests = [test for test in active(spec, aggregates=aggregates) if test not in PASSING]
            reasons = (
                (host.name, next(filter(None, (test(host, spec) for test in tests)), None)) for host in hosts
            )
            if refused := {name: reason for name, reason in reasons if reason is not None}:
                found[kind] = refused
        return found


PASSING = (
    *(filters.forced_host, filters.tried, filters.enabled, filters.up, filters.capacity, filters.io_ops),
    *(filters.instances, filters.group, filters.apart_from, filters.together_with),
)
"""Filters of what changes while a plan is carried out: the plan counts that itself."""


def _spec(project: str, wishes: Placement, flavor_text: str, image_text: str | None) -> Spec:
    """What the instances of a kind ask of any host. Cells of a host are asked for by pinned ones alone."""
    flavor = Flavor(**json.loads(flavor_text))
    image = Image.from_dict(json.loads(image_text)) if image_text else None
    properties = image.properties if image else {}
    return Spec(
        resources=Resources(vcpus=0, memory_mib=0, disk_gib=0),
        arch=properties.get("hw_architecture", "x86_64"),
        project=project,
        flavor=flavor.name,
        extra_specs=flavor.extra_specs,
        properties=properties,
        zone=wishes.zone,
        aggregate=wishes.aggregate,
        required=wishes.required,
        forbidden=wishes.forbidden,
        firmware=firmware(image),
        cpu=cpu_request(flavor, image),
    )


# --- carrying it out ---


def parts(world: "World", moves: Sequence[Mapping[str, Any]]) -> list[drain.Part]:
    """The moves of a plan (as_dict()) that can be made, one after the other in its order, in which each has
    the room that those before it leave. Each claims when its turn comes, and is refused when its instance
    is elsewhere by then."""

    def work(tx: Tx) -> list[drain.Part]:
        return [
            drain.Part(
                move=drain.move(instances.get(tx, one["uuid"]), one["method"], "rebalance", one["to"]),
                of="rebalance",
                host="the fleet",
                parallel=1,
                source=one["from"],
                lock="rebalance",
            )
            for one in moves
            if one["blocker"] is None
        ]

    return world.db.read(work)


# --- as JSON (docs/cli.md) ---


def as_dict(made: rebalance.Plan, view: View) -> dict[str, Any]:
    """`{moves, before, after}`."""
    return {
        "moves": [_move(move, view.projects[move.guest.uuid]) for move in made.moves],
        "before": _score(made.before),
        "after": _score(made.after),
    }


def _move(move: rebalance.Move, project: str) -> dict[str, Any]:
    return {
        "instance": move.guest.name,
        "uuid": move.guest.uuid,
        "project": project,
        "from": move.guest.host,
        "to": move.target,
        "method": "live" if move.guest.live else "cold",
        "reason": move.reason,
        "cost_gib": move.guest.cost_gib,
        "gain": move.gain,
        "blocker": move.blocker,
    }


def _score(score: rebalance.Score) -> dict[str, Any]:
    spread: Amounts = score.spread
    return {
        "score": score.score,
        **{f"{name}_spread": value for name, value in zip(RESOURCES, spread, strict=True)},
        "violations": list(score.violations),
    }
