"""Which rules a fleet breaks, and the moves that mend them. Pure."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import product

from novactl.scheduler.fleet import RESOURCES, Fleet

UNITS = {"memory": "MiB of memory", "vcpus": "vcpus", "disk": "GiB of disk"}


class Kind(StrEnum):
    """What is broken, in the order in which it is mended."""

    WISHES = "wishes"
    CAPACITY = "capacity"
    GROUP = "group"
    APART = "apart"
    TOGETHER = "together"


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule: `weight` is what it counts in the score: 1 for each guest too many, for a host over its
    capacity 1 and the excess as a share of the largest host's. Moving one of `guests` off `node` makes it
    less."""

    kind: Kind
    text: str
    guests: tuple[int, ...]
    node: int
    weight: float = 1
    resource: int = 0


def violations(fleet: Fleet) -> Iterator[Violation]:
    """Every rule that is broken now."""
    for g, n in enumerate(fleet.at):
        if (reason := fleet.why_not(g, n)) is not None:
            name = fleet.guests[g].name
            yield Violation(Kind.WISHES, f"{name} is on {fleet.nodes[n].name}: {reason}", (g,), n)
    for n in range(len(fleet.nodes)):
        yield from over_capacity(fleet, n)
    for name in sorted(fleet.members):
        yield from crowds(fleet, name)
    for g in sorted(fleet.apart):
        for h in sorted(fleet.apart[g]):
            if g < h and fleet.at[g] == fleet.at[h]:
                yield _too_near(fleet, g, h)
    for members in {min(bundle): bundle for bundle in fleet.bundle.values()}.values():
        yield from scattered(fleet, members)


def over_capacity(fleet: Fleet, n: int) -> Iterator[Violation]:
    """Resources of which more is claimed there than may be."""
    node = fleet.nodes[n]
    for r, resource in enumerate(RESOURCES):
        have, most = fleet.used[n][r], node.limit[r]
        if have > most:
            text = f"{node.name}: {have:g} {UNITS[resource]} are claimed, {max(0, most):g} may be"
            there = tuple(g for g in sorted(fleet.on[n]) if fleet.guests[g].size[r])
            weight = 1 + (have - max(0, most)) / fleet.largest[r]
            yield Violation(Kind.CAPACITY, text, there, n, weight, r)


def crowds(fleet: Fleet, name: str) -> Iterator[Violation]:
    """Hosts with too many members of an anti-affinity group."""
    party = fleet.rules.groups[name]
    if party.together or not party.hard:
        return
    for n, count in sorted(fleet.members[name].items()):
        if count > party.max_per_host:
            there = tuple(g for g in fleet.in_group[name] if fleet.at[g] == n)
            text = f"{fleet.nodes[n].name} has {count} of group {party.name}, {party.max_per_host} may be"
            yield Violation(Kind.GROUP, text, there, n, count - party.max_per_host)


def scattered(fleet: Fleet, members: set[int]) -> Iterator[Violation]:
    """Those of a bundle that are not where most of it is."""
    main = home(fleet, members)
    for n in sorted({fleet.at[g] for g in members} - {main}):
        away = tuple(sorted(g for g in members if fleet.at[g] == n))
        names = ", ".join(fleet.guests[g].name for g in away)
        other = next(fleet.guests[g].name for g in sorted(members) if fleet.at[g] == main)
        text = f"{names} should be with {other} on {fleet.nodes[main].name}, not on {fleet.nodes[n].name}"
        yield Violation(Kind.TOGETHER, text, away, n, len(away))


def home(fleet: Fleet, members: set[int]) -> int:
    """The node where most of a bundle is; of several one that is open, and the first."""
    nodes = [fleet.at[g] for g in members]
    return max(set(nodes), key=lambda n: (nodes.count(n), fleet.open[n], -n))


def _too_near(fleet: Fleet, g: int, h: int) -> Violation:
    one, other = fleet.guests[g].name, fleet.guests[h].name
    text = f"{one} and {other} should be apart and are both on {fleet.nodes[fleet.at[g]].name}"
    return Violation(Kind.APART, text, (g, h), fleet.at[g])


@dataclass(frozen=True, slots=True)
class Mend:
    """A move for a rule; `blocker` when it would be needed and cannot be."""

    guest: int
    node: int | None
    reason: str
    blocker: str | None = None


class Repairer:
    """Mends what is broken, each guest moved at most once and at most `most` moves."""

    def __init__(self, fleet: Fleet, most: int) -> None:
        self.fleet, self.left = fleet, most
        self.moved: set[int] = set()
        sizes = [guest.size for guest in fleet.guests] or [(0.0, 0.0, 0.0)]
        self.smallest, self.largest = (tuple(map(end, zip(*sizes, strict=True))) for end in (min, max))

    def steps(self) -> Iterator[Mend]:
        """Each move, which is made when the next one is asked for, and then what cannot be mended."""
        found = list(violations(self.fleet))
        for broken in found:
            yield from self._mend(broken)
        blocked: set[int] = set()
        for broken in violations(self.fleet):
            if (mend := self._blocked(broken)) is not None and mend.guest not in blocked:
                blocked.add(mend.guest)
                yield mend

    # --- one rule ---

    def _mend(self, broken: Violation) -> Iterator[Mend]:
        while self.left > 0 and (now := self._now(broken)) is not None:
            before = self.left
            yield from self._one(now)
            if self.left == before:
                return

    def _now(self, broken: Violation) -> Violation | None:
        """The same rule as it is now; None once it holds."""
        fleet, n = self.fleet, broken.node
        match broken.kind:
            case Kind.WISHES:
                (g,) = broken.guests
                return broken if fleet.at[g] == n else None
            case Kind.CAPACITY:
                return next((v for v in over_capacity(fleet, n) if v.resource == broken.resource), None)
            case Kind.GROUP:
                name = fleet.guests[broken.guests[0]].group
                assert name is not None
                return next((v for v in crowds(fleet, name) if v.node == n), None)
            case Kind.APART:
                g, h = broken.guests
                return broken if fleet.at[g] == fleet.at[h] else None
            case Kind.TOGETHER:
                members = fleet.bundle[broken.guests[0]]
                return next((v for v in scattered(fleet, members) if v.node == n), None)

    def _one(self, broken: Violation) -> Iterator[Mend]:
        """Moves that make it less, if there are any."""
        if broken.kind is Kind.WISHES and self._others(broken):
            yield from self._together(broken)
            return
        candidates = [g for g in self._order(broken) if self._free(g)]
        for g in candidates:
            if (b := self._target(g, broken)) is not None:
                yield from self._move(g, b, broken.text)
                return
        for g in candidates:
            if self.left > 1 and (found := self._room(g, broken)) is not None:
                victim, to, b = found
                reason = f"makes room on {self.fleet.nodes[b].name} for {self.fleet.guests[g].name}"
                yield from self._move(victim, to, reason)
                yield from self._move(g, b, broken.text)
                return

    def _move(self, g: int, b: int, reason: str) -> Iterator[Mend]:
        yield Mend(g, b, reason)
        self.fleet.move(g, b)
        self.moved.add(g)
        self.left -= 1

    def _free(self, g: int) -> bool:
        return self.fleet.movable(g) and g not in self.moved

    def _order(self, broken: Violation) -> list[int]:
        """The guests of it, those first whose move costs least; off a full host those first that suffice."""
        fleet, r = self.fleet, broken.resource

        def rank(g: int) -> tuple[float, ...]:
            guest = fleet.guests[g]
            if broken.kind is not Kind.CAPACITY:
                return (guest.cost_gib, g)
            excess = fleet.used[broken.node][r] - fleet.nodes[broken.node].limit[r]
            enough = guest.size[r] >= excess
            return (not enough, guest.cost_gib if enough else -guest.size[r], g)

        return sorted(broken.guests, key=rank)

    # --- where to ---

    def _may(self, g: int, b: int, broken: Violation) -> bool:
        """Whether the rules let it go there, whatever room there is."""
        fleet = self.fleet
        if broken.kind is Kind.TOGETHER and b != home(fleet, fleet.bundle[g]):
            return False
        return b != fleet.at[g] and fleet.open[b] and fleet.suits(g, b)

    def _target(self, g: int, broken: Violation) -> int | None:
        """The node that has the room and leaves the fleet most even."""
        fleet = self.fleet
        nodes = [n for n in range(len(fleet.nodes)) if fleet.fits(g, n) and self._may(g, n, broken)]
        best = max(nodes, key=lambda n: (fleet.gain(g, n), -n), default=None)
        if best is not None and broken.kind is Kind.CAPACITY:
            size, r = fleet.guests[g].size[broken.resource], broken.resource
            relief = min(size, (broken.weight - 1) * fleet.largest[r]) / fleet.largest[r]
            enough = relief >= broken.weight - 1
            if not enough and fleet.gain(g, best) / fleet.counted + relief < 0:
                return None
        return best

    def _room(self, g: int, broken: Violation) -> tuple[int, int, int] | None:
        """(a guest that makes room, where it goes, the node that then takes `g`), at the least cost."""
        fleet, size = self.fleet, self.fleet.guests[g].size
        free = [n for n in range(len(fleet.nodes)) if fleet.takes(self.smallest, n)]
        found: list[tuple[float, int, int, int]] = []
        for b in range(len(fleet.nodes)) if free else ():
            used, limit, most = fleet.used[b], fleet.nodes[b].limit, fleet.nodes[b].most
            if most is not None and len(fleet.on[b]) > most:
                continue
            at_best = zip(size, used, self.largest, limit, strict=True)
            if any(want and have - less + want > top for want, have, less, top in at_best):
                continue
            if not self._may(g, b, broken):
                continue
            for victim in sorted(fleet.on[b]):
                gone = fleet.guests[victim].size
                after = zip(size, used, gone, limit, strict=True)
                if not self._free(victim) or victim in fleet.bundle:
                    continue
                if all(not want or have - less + want <= top for want, have, less, top in after):
                    found.append((fleet.guests[victim].cost_gib, victim, b, g))
        for _, victim, b, _ in sorted(found):
            nodes = [
                n
                for n in free
                if n not in (b, fleet.at[g]) and fleet.fits(victim, n) and fleet.suits(victim, n)
            ]
            if nodes:
                return victim, max(nodes, key=lambda n: (fleet.gain(victim, n), -n)), b
        return None

    def _together(self, broken: Violation) -> Iterator[Mend]:
        """The rest of a bundle goes where some of it is."""
        for b, order in self._ways(broken):
            if len(order) <= self.left:
                for g in order:
                    yield from self._move(g, b, broken.text)
                return

    def _ways(self, broken: Violation) -> Iterator[tuple[int, list[int]]]:
        """(a node where some of a bundle is, the rest of it in an order in which that node takes it)."""
        fleet = self.fleet
        members = fleet.bundle[broken.guests[0]]
        nodes = {fleet.at[g] for g in members} - {broken.node}
        for b in sorted(nodes, key=lambda n: (sum(fleet.share[n]), n)):
            order = self._in_order(members, b)
            if order and self._takes(b, order):
                yield b, order

    def _in_order(self, members: set[int], b: int) -> list[int]:
        """Those that are not there yet, each after one whom it must be with; none when that cannot be."""
        fleet = self.fleet
        left = sorted(g for g in members if fleet.at[g] != b)
        order: list[int] = []
        while left:
            g = next((g for g in left if fleet.meets(g, b, set(order))), None)
            if g is None:
                return []
            left.remove(g)
            order.append(g)
        return order

    def _takes(self, b: int, guests: list[int]) -> bool:
        """Whether the node takes all of them."""
        fleet, node = self.fleet, self.fleet.nodes[b]
        whole = tuple(sum(fleet.guests[g].size[r] for g in guests) for r in range(3))
        room = zip(whole, fleet.used[b], node.limit, strict=True)
        return (
            fleet.open[b]
            and all(self._free(g) and fleet.why_not(g, b) is None for g in guests)
            and not any(
                fleet.is_near(g, b) or not fleet.apart.get(g, set()).isdisjoint(guests) for g in guests
            )
            and all(not want or have + want <= limit for want, have, limit in room)
            and (node.most is None or len(fleet.on[b]) + len(guests) <= node.most)
            and not self._crowd(b, guests)
        )

    def _crowd(self, b: int, guests: list[int]) -> bool:
        """Whether they would be too many of an anti-affinity group there."""
        fleet = self.fleet
        coming = Counter(name for g in guests if (name := fleet.guests[g].group) in fleet.members)
        for name, count in coming.items():
            party = fleet.rules.groups[str(name)]
            there = fleet.members[str(name)].get(b, 0) + fleet.coming(str(name), b)
            if party.hard and not party.together and there + count > party.max_per_host:
                return True
        return False

    # --- what remains ---

    def _others(self, broken: Violation) -> list[int]:
        """Those with whom the guest whose wishes are broken must be."""
        g = broken.guests[0]
        return sorted(self.fleet.bundle.get(g, {g}) - {g})

    def _no_way(self, broken: Violation, free: Sequence[int]) -> str:
        """Why none of those that could move does."""
        fleet = self.fleet
        others = [fleet.guests[g].name for g in self._others(broken)]
        if broken.kind is Kind.WISHES and others:
            names = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
            return f"must be with {names}: none of them may go first where no other one is"
        places = list(product(free, range(len(fleet.nodes))))
        if not any(fleet.fits(g, n) and self._may(g, n, broken) for g, n in places):
            some = any(self._may(g, n, broken) for g, n in places)
            return "no host that may take it has room" if some else "no other host may take it"
        if all(self._target(g, broken) is None for g in free):
            return "its move would make the fleet more uneven than its host would be the better for it"
        return "a host that may take it has room only after these moves: rebalance again"

    def _needs_more(self, broken: Violation, free: Sequence[int]) -> bool:
        """Whether more moves than are left would mend it."""
        if broken.kind is Kind.WISHES and self._others(broken):
            return any(len(order) > self.left for _, order in self._ways(broken))
        return self.left == 1 and any(self._room(g, broken) is not None for g in free)

    def _blocked(self, broken: Violation) -> Mend | None:
        """The guest that would have to move, and why it does not; None when only --max-moves is why."""
        fleet = self.fleet
        free = [g for g in self._order(broken) if self._free(g)]
        if free and (self.left <= 0 or self._needs_more(broken, free)):
            return None
        if free:
            return Mend(free[0], None, broken.text, self._no_way(broken, free))
        order = self._order(broken)
        stuck = [g for g in order if fleet.blocker(g) is not None]
        if not stuck:
            return None
        return Mend(stuck[0], None, broken.text, fleet.blocker(stuck[0]))
