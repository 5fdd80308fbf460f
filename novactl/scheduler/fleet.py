"""The fleet as rebalancing sees it: what is on which host, how evenly, and which rules it breaks. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from math import sqrt

Amounts = tuple[float, float, float]
"""Memory in MiB, vcpus, disk in GiB."""

RESOURCES = ("memory", "vcpus", "disk")
WEIGHTS: Amounts = (1.0, 0.25, 0.25)
"""What the spread of each resource counts in the score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A host. `limit` is what may be claimed in all, `used` what is claimed, `most` how many guests it may
    have (None: any number). One that is `up` can be left, one that is `enabled` too can be moved to and
    counts for the spread."""

    name: str
    limit: Amounts
    used: Amounts
    up: bool = True
    enabled: bool = True
    most: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """An instance. `blocker`: why it cannot be moved now. `kind` is a key of Rules.refused."""

    uuid: str
    name: str
    host: str
    size: Amounts
    live: bool = True
    kind: str = ""
    group: str | None = None
    blocker: str | None = None

    @property
    def cost_gib(self) -> float:
        """What a move carries: memory of a running one, and disk."""
        return round(self.size[0] / 1024 * self.live + self.size[2], 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """A server group: `hard` ones must, the others should be together or apart."""

    name: str
    together: bool
    hard: bool = True
    max_per_host: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """`refused`: for each kind of guest the hosts that are not for it, and why; `apart` and `together`: pairs
    of uuids; `groups` by their ids; `held`: uuids and the hosts beside their own that these guests have room
    on, since they are moved there or may go back."""

    refused: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    groups: Mapping[str, Party] = field(default_factory=dict)
    apart: Sequence[tuple[str, str]] = ()
    together: Sequence[tuple[str, str]] = ()
    held: Sequence[tuple[str, str]] = ()


class Fleet:
    """Where everything is, with guests and nodes as numbers; move() changes it, all else only looks."""

    def __init__(
        self, nodes: Sequence[Node], guests: Sequence[Guest], rules: Rules, weights: Amounts = WEIGHTS
    ) -> None:
        self.nodes, self.rules = nodes, rules
        self.number = {node.name: n for n, node in enumerate(nodes)}
        self.guests = [guest for guest in guests if guest.host in self.number]
        self.at = [self.number[guest.host] for guest in self.guests]
        self.on: list[set[int]] = [set() for _ in nodes]
        for g, n in enumerate(self.at):
            self.on[n].add(g)
        self.open = [node.up and node.enabled for node in nodes]
        self.used = [list(node.used) for node in nodes]
        self.counted = max(1, sum(self.open))
        self.weights = weights
        self._measure()
        self._tie()

    def _measure(self) -> None:
        """Shares of the open nodes; those of the others count nothing."""
        self.unit = [
            tuple(1 / limit if limit > 0 and counts else 0.0 for limit in node.limit)
            for node, counts in zip(self.nodes, self.open, strict=True)
        ]
        self.share = [
            [used * unit for used, unit in zip(self.used[n], self.unit[n], strict=True)]
            for n in range(len(self.nodes))
        ]
        self.largest = [max((node.limit[r] for node in self.nodes), default=0) or 1 for r in range(3)]
        self.sum = [sum(share[r] for share in self.share) for r in range(3)]
        self.squares = [sum(share[r] ** 2 for share in self.share) for r in range(3)]

    def _tie(self) -> None:
        """Who belongs to whom."""
        index = {guest.uuid: g for g, guest in enumerate(self.guests)}
        self.apart: dict[int, set[int]] = defaultdict(set)
        self.bundle: dict[int, set[int]] = {}  # those that must be on one host
        self.pairs: dict[int, set[int]] = defaultdict(set)  # who names whom of them
        self.members: dict[str, dict[int, int]] = {}  # of a group on a node
        self.held: list[set[int]] = [set() for _ in self.nodes]  # who may come there, or come back
        for uuid, host in self.rules.held:
            if uuid in index and host in self.number and self.number[host] != self.at[index[uuid]]:
                self.held[self.number[host]].add(index[uuid])
        for one, other in self.rules.apart:
            if one in index and other in index and one != other:
                self.apart[index[one]].add(index[other])
                self.apart[index[other]].add(index[one])
        for one, other in self.rules.together:
            if one in index and other in index:
                self._bind((index[one], index[other]))
                if one != other:
                    self.pairs[index[one]].add(index[other])
                    self.pairs[index[other]].add(index[one])
        self.in_group: dict[str, list[int]] = defaultdict(list)
        for g, guest in enumerate(self.guests):
            if guest.group in self.rules.groups:
                assert guest.group is not None
                self.in_group[guest.group].append(g)
        for name, members in self.in_group.items():
            party = self.rules.groups[name]
            if party.together and party.hard:
                self._bind(members)
            count: dict[int, int] = defaultdict(int)
            for g in members:
                count[self.at[g]] += 1
            self.members[name] = count

    def _bind(self, members: Iterable[int]) -> None:
        merged = set(members)
        for g in list(merged):
            merged |= self.bundle.get(g, set())
        for g in merged:
            self.bundle[g] = merged

    # --- how even it is ---

    def deviation(self, r: int) -> float:
        """The standard deviation of the used share of a resource over the open nodes."""
        mean = self.sum[r] / self.counted
        return sqrt(max(0.0, self.squares[r] / self.counted - mean * mean))

    def spread(self) -> float:
        return sum(weight * self.deviation(r) for r, weight in enumerate(self.weights) if weight)

    def gain(self, g: int, b: int) -> float:
        """By how much the spread falls, times the number of hosts, when the guest moves to that node."""
        a, size, n = self.at[g], self.guests[g].size, self.counted
        after = 0.0
        for r, weight in enumerate(self.weights):
            da, db = size[r] * self.unit[a][r], size[r] * self.unit[b][r]
            mean = (self.sum[r] - da + db) / n
            squares = self.squares[r] - da * (2 * self.share[a][r] - da) + db * (2 * self.share[b][r] + db)
            after += weight * sqrt(max(0.0, squares / n - mean * mean))
        return (self.spread() - after) * n

    # --- whether it may be ---

    def fits(self, g: int, b: int) -> bool:
        """Whether the node is open and has the room."""
        return self.takes(self.guests[g].size, b)

    def takes(self, size: Amounts, b: int) -> bool:
        """As fits(), of one of that size."""
        (m, v, d), (um, uv, ud) = size, self.used[b]
        node = self.nodes[b]
        lm, lv, ld = node.limit
        return (
            self.open[b]
            and (not m or um + m <= lm)
            and (not v or uv + v <= lv)
            and (not d or ud + d <= ld)
            and (node.most is None or len(self.on[b]) < node.most)
        )

    def has_room(self, n: int) -> bool:
        """Whether no more is on the node than may be."""
        node = self.nodes[n]
        return all(used <= limit for used, limit in zip(self.used[n], node.limit, strict=True)) and (
            node.most is None or len(self.on[n]) <= node.most
        )

    def why_not(self, g: int, b: int) -> str | None:
        """Why the guest must not be on that node, as far as that guest's own wishes go."""
        return self.rules.refused.get(self.guests[g].kind, {}).get(self.nodes[b].name)

    def suits(self, g: int, b: int) -> bool:
        """Whether a move there breaks no rule, and none more than before."""
        if self.why_not(g, b) is not None or self.is_near(g, b):
            return False
        a, guest = self.at[g], self.guests[g]
        if guest.group in self.members:
            assert guest.group is not None
            count, party = self.members[guest.group], self.rules.groups[guest.group]
            here, there = count[a] - 1, count.get(b, 0)
            if party.together:
                if there < here:
                    return False
            elif party.hard:
                if there + self.coming(guest.group, b) >= party.max_per_host:
                    return False
            elif there >= party.max_per_host and there > here:
                return False
        if (bundle := self.bundle.get(g)) is not None:
            return (
                self.meets(g, b)
                and sum(self.at[h] == b for h in bundle) >= sum(self.at[h] == a for h in bundle) - 1 > -1
            )
        return True

    def is_near(self, g: int, b: int) -> bool:
        """Whether one that it must be apart from is on that node, or may come there."""
        return any(self.at[h] == b or h in self.held[b] for h in self.apart.get(g, ()))

    def coming(self, group: str, b: int) -> int:
        """How many of the group are not on that node, but may come there. Such do not move now."""
        return sum(self.guests[h].group == group for h in self.held[b])

    def meets(self, g: int, b: int, coming: Set[int] = frozenset()) -> bool:
        """Whether one whom it must be with is on that node, or `coming`: placement takes it nowhere else."""
        pairs, name = self.pairs.get(g), self.guests[g].group
        if pairs and coming.isdisjoint(pairs) and all(self.at[h] != b for h in pairs):
            return False
        if name is None or name not in self.members:
            return True
        party, members = self.rules.groups[name], self.in_group[name]
        if not (party.together and party.hard) or len(members) == 1:
            return True
        return self.members[name].get(b, 0) > 0 or not coming.isdisjoint(members)

    def home(self, g: int) -> int:
        """Where the guest was at first."""
        return self.number[self.guests[g].host]

    def movable(self, g: int) -> bool:
        return self.guests[g].blocker is None and self.nodes[self.at[g]].up

    def blocker(self, g: int) -> str | None:
        """Why the guest stays where it is."""
        node = self.nodes[self.at[g]]
        return self.guests[g].blocker or (None if node.up else f"its host {node.name} is not up")

    def move(self, g: int, b: int) -> None:
        a, guest = self.at[g], self.guests[g]
        for n, sign in ((a, -1), (b, 1)):
            used, share, unit = self.used[n], self.share[n], self.unit[n]
            for r in range(3):
                used[r] += sign * guest.size[r]
                before, after = share[r], used[r] * unit[r]
                share[r] = after
                self.sum[r] += after - before
                self.squares[r] += after * after - before * before
        if guest.group in self.members:
            assert guest.group is not None
            self.members[guest.group][a] -= 1
            self.members[guest.group][b] = self.members[guest.group].get(b, 0) + 1
        self.on[a].discard(g)
        self.on[b].add(g)
        self.at[g] = b
