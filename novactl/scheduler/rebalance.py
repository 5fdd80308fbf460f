"""A plan of few moves after which the fleet breaks no rule and is even. Pure: it sees what it is given.

The score is the standard deviation of the used share over the hosts that are up and enabled, memory first
(fleet.WEIGHTS), plus the count of broken rules; less is better (docs/design/0013-rebalance.md)."""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from novactl.scheduler.fleet import RESOURCES, WEIGHTS, Amounts, Fleet, Guest, Node, Rules
from novactl.scheduler.refine import Refiner, ordered
from novactl.scheduler.repair import Repairer, violations
from novactl.scheduler.spread import Spreader

MIN_GAIN = 0.02
"""What a move for evenness gains at least: what the score falls by, times the number of hosts."""

NO_LIMIT = 1 << 60

REFINED = 400
"""Plans of more moves are left as they were found."""

Step = tuple[int, int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How a fleet is: `spread` has the deviation of each resource's used share, `violations` a line for each
    broken rule."""

    score: float
    spread: Amounts
    violations: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One guest to another host; with a `blocker` it would be needed and cannot be."""

    guest: Guest
    target: str | None
    reason: str
    gain: float = 0.0
    blocker: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`moves` in an order in which each has room when it is its turn; each guest moves at most once."""

    moves: tuple[Move, ...]
    before: Score
    after: Score


def plan(
    nodes: Sequence[Node],
    guests: Sequence[Guest],
    rules: Rules,
    *,
    max_moves: int | None = None,
    min_gain: float = MIN_GAIN,
    only_rules: bool = False,
    weights: Amounts = WEIGHTS,
) -> Plan:
    """Rules first, then evenness. The same fleet gives the same plan."""
    fleet = Fleet(nodes, guests, rules, weights)
    before = score(fleet)
    limit = NO_LIMIT if max_moves is None else max_moves
    moves: list[Move] = []
    blocked: list[Move] = []
    repairer = Repairer(fleet, limit)
    for mend in repairer.steps():
        guest = fleet.guests[mend.guest]
        if mend.node is None:
            blocked.append(Move(guest=guest, target=None, reason=mend.reason, blocker=mend.blocker))
            continue
        gain = round(fleet.gain(mend.guest, mend.node), 4)
        moves.append(Move(guest=guest, target=fleet.nodes[mend.node].name, reason=mend.reason, gain=gain))
    if not only_rules:
        for g, b, gain in _even(fleet, repairer.moved, limit - len(moves), min_gain):
            reason, target = _why(fleet, g, b), fleet.nodes[b].name
            moves.append(Move(guest=fleet.guests[g], target=target, reason=reason, gain=round(gain, 4)))
    return Plan(moves=(*moves, *blocked), before=before, after=score(fleet))


def _even(fleet: Fleet, moved: Set[int], most: int, min_gain: float) -> Iterator[Step]:
    """(guest, node, gain) of each move that makes the fleet more even, which is made when the next one is
    asked for. They are found by making them on the fleet; then all go home."""
    spreader = Spreader(fleet, min_gain, moved)
    stays = frozenset(spreader.stays)
    chosen = list(spreader.steps(most))
    if 0 < len(chosen) <= REFINED:
        reached = fleet.spread()
        refiner = Refiner(fleet, (g for g, _, _ in chosen), stays)
        more = chosen
        while more and refiner.trials > 0:
            refiner.run()
            spreader = Spreader(fleet, min_gain, stays | refiner.away)
            more = list(spreader.steps(most - len(refiner.away)))
            refiner.away.update(g for g, _, _ in more)
        targets = {g: fleet.at[g] for g in sorted(refiner.away)}
        _go_home(fleet, stays)
        better = list(ordered(fleet, targets, min_gain))
        if fleet.spread() < reached:
            chosen = better
    _go_home(fleet, stays)
    for g, b, gain in chosen:
        yield g, b, gain
        fleet.move(g, b)


def _go_home(fleet: Fleet, stays: Set[int]) -> None:
    for g, n in enumerate(fleet.at):
        if g not in stays and n != fleet.home(g):
            fleet.move(g, fleet.home(g))


def score(fleet: Fleet) -> Score:
    found = list(violations(fleet))
    spread = tuple(round(fleet.deviation(r), 6) for r in range(3))
    return Score(
        score=round(fleet.spread() + sum(violation.weight for violation in found), 6),
        spread=(spread[0], spread[1], spread[2]),
        violations=tuple(violation.text for violation in found),
    )


def _why(fleet: Fleet, g: int, b: int) -> str:
    """The resource that the move evens out most, with the shares of both hosts."""
    a, size = fleet.at[g], fleet.guests[g].size
    slopes = [
        weight * size[r] * fleet.unit[a][r] * (fleet.share[a][r] - fleet.share[b][r])
        for r, weight in enumerate(fleet.weights)
    ]
    r = slopes.index(max(slopes))
    source, target = fleet.share[a][r], fleet.share[b][r]
    names = fleet.nodes[a].name, fleet.nodes[b].name
    return f"{RESOURCES[r]}: {names[0]} has {source:.0%} claimed, {names[1]} {target:.0%}"
