"""`novactl rebalance`: a plan of moves from what the database knows. No host is asked, nothing is moved."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from novactl.db import balance, groups
from novactl.db.session import Row, Tx
from novactl.objects.duration import UNITS, as_duration
from novactl.objects.group import GroupPolicy
from novactl.objects.moments import before, seconds_between
from novactl.objects.placement import Placement
from novactl.objects.states import TaskState, VmState, status
from novactl.scheduler import rebalance
from novactl.scheduler.fleet import RESOURCES, Amounts, Guest, Node, Party, Rules

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

    def work(tx: Tx) -> View:
        hosts, found = balance.hosts(tx), balance.guests(tx)
        kinds = Kinds()
        blockers = Blockers(
            now=now,
            cooldown=cooldown,
            worked_on=balance.worked_on(tx),
            unconfirmed=balance.unconfirmed(tx),
            moved=balance.moved_since(tx, before(now, cooldown)),
        )
        return View(
            now=now,
            nodes=[_node(row) for row in hosts],
            guests=[_guest(row, kinds.of(row), blockers.of(row)) for row in found],
            rules=Rules(
                refused=kinds.refused(hosts),
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
            ),
            versions={row["uuid"]: row["version"] for row in found},
            projects={row["uuid"]: row["project"] for row in found},
        )

    return world.db.read(work)


def _node(row: Row) -> Node:
    memory = (
        row["memory_mib"] - row["reserved_memory_mib"] - row["foreign_memory_mib"] - row["huge_memory_mib"]
    )
    vcpus = row["vcpus"] - row["reserved_vcpus"] - row["foreign_vcpus"]
    disk = row["disk_gib"] - row["reserved_disk_gib"] - row["foreign_disk_gib"]
    return Node(
        name=row["name"],
        limit=(
            max(0, memory) * row["memory_ratio"],
            max(0, vcpus) * row["cpu_ratio"],
            max(0, disk) * row["disk_ratio"],
        ),
        used=(row["memory_mib_used"], row["vcpus_used"], row["disk_gib_used"]),
        up=row["state"] == "up",
        enabled=bool(row["enabled"]),
    )


def _guest(row: Row, kind: str, blocker: str | None) -> Guest:
    return Guest(
        uuid=row["uuid"],
        name=row["name"],
        host=row["host"],
        size=(row["memory_mib"], row["vcpus"], row["disk_gib"]),
        live=row["vm_state"] == VmState.ACTIVE,
        kind=kind,
        group=row["group_id"],
        blocker=blocker,
    )


@dataclass(frozen=True, kw_only=True)
class Blockers:
    """Why an instance is left where it is."""

    now: str
    cooldown: int
    worked_on: Mapping[str, str]
    unconfirmed: set[str]
    moved: Mapping[str, str]

    def of(self, row: Row) -> str | None:
        """None when nothing keeps it there."""
        if row["locked"]:
            return "is locked"
        if (operation := self.worked_on.get(row["uuid"])) is not None:
            return f"operation {operation} works on it"
        if row["task_state"] is not None or row["vm_state"] not in METHODS:
            task = TaskState(row["task_state"]) if row["task_state"] else None
            return f"is {task or status(VmState(row['vm_state']), None)}"
        if row["uuid"] in self.unconfirmed:
            return "its last move is not confirmed"
        if row["numa"] is not None:
            return f"has processors or pages of {row['host']} for itself"
        for word, moment in (("moved", self.moved.get(row["uuid"])), ("launched", row["launched_at"])):
            if moment is not None and (age := seconds_between(moment, self.now)) < self.cooldown:
                ago, cooldown = as_duration(max(0, int(age))), as_duration(self.cooldown)
                return f"was {word} {ago} ago: cooldown is {cooldown}"
        return None


class Kinds:
    """Instances that ask the same of a host are of one kind: what speaks against each host is found out once.
    On the way the pairs are gathered that should be together or apart."""

    def __init__(self) -> None:
        self.known: dict[tuple[str | None, ...], str] = {}
        self.apart: list[tuple[str, str]] = []
        self.together: list[tuple[str, str]] = []
        self._placements: dict[str | None, Placement] = {None: Placement()}

    def of(self, row: Row) -> str:
        """The kind of an instance."""
        text = row["placement"]
        if (placement := self._placements.get(text)) is None:
            placement = self._placements[text] = Placement.from_dict(json.loads(text))
        self.apart += [(row["uuid"], other) for other in placement.apart_from]
        self.together += [(row["uuid"], other) for other in placement.together_with]
        key = (text, row["image"])
        return self.known.setdefault(key, str(len(self.known)))

    def refused(self, hosts: Sequence[Row]) -> dict[str, dict[str, str]]:
        """For each kind the hosts that are not for it, and why."""
        labels = [json.loads(row["labels"]) for row in hosts]
        found: dict[str, dict[str, str]] = {}
        for (text, image), kind in self.known.items():
            placement = self._placements[text]
            arch = json.loads(image)["properties"].get("hw_architecture") if image else None
            reasons = (
                (row["name"], objection(row, of, placement, arch))
                for row, of in zip(hosts, labels, strict=True)
            )
            if refused := {name: reason for name, reason in reasons if reason is not None}:
                found[kind] = refused
        return found


def objection(host: Row, labels: Mapping[str, str], wants: Placement, arch: str | None) -> str | None:
    """What of the wishes for a host this one is not."""
    if wants.zone not in (None, host["zone"]):
        return f"is in zone {host['zone']}, not {wants.zone}"
    if arch is not None and host["arch"] not in (None, arch):
        return f"is {host['arch']}, the image is {arch}"
    for key, value in wants.required.items():
        if key not in labels or value not in (None, labels[key]):
            return f"has no label {key}{'' if value is None else f'={value}'}"
    for key, value in wants.forbidden.items():
        if key in labels and value in (None, labels[key]):
            return f"has label {key}={labels[key]}"
    return None


# --- as JSON (docs/cli.md) ---


def as_dict(made: rebalance.Plan) -> dict[str, Any]:
    """`{moves, before, after}`."""
    return {
        "moves": [_move(move) for move in made.moves],
        "before": _score(made.before),
        "after": _score(made.after),
    }


def _move(move: rebalance.Move) -> dict[str, Any]:
    return {
        "instance": move.guest.name,
        "uuid": move.guest.uuid,
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
