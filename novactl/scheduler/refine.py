"""Moves better chosen: exchanges among them that make none more, and an order to carry them out in. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Set

from novactl.scheduler.fleet import Fleet

COLD = 64
"""Hosts that are tried for a guest that moves anyway: the coldest."""

TRIALS = 30_000
"""Exchanges that are tried for a plan in all: some half a second."""


class Refiner:
    """Improves where the guests in `away` are, by exchanges after which no more are away from home: another
    host for one, two that change places, one that stays at home and another of that host in its place."""

    def __init__(self, fleet: Fleet, away: Iterable[int], stays: Set[int]) -> None:
        self.fleet, self.away, self.stays = fleet, set(away), stays
        self.trials = TRIALS

    def run(self) -> None:
        """Exchange as long as it is for the better, and there are trials left."""
        self.cold = self._coldest()
        while sum([self._improve(g) for g in sorted(self.away)]):
            self.cold = self._coldest()

    def _coldest(self) -> list[int]:
        """The open nodes that have the most to give, as the score sees it."""
        fleet = self.fleet
        shares = {n: fleet.share[n] for n, is_open in enumerate(fleet.open) if is_open}
        heat = {n: sum(w * s for w, s in zip(fleet.weights, of, strict=True)) for n, of in shares.items()}
        return sorted(heat, key=lambda n: (heat[n], n))[:COLD]

    def _improve(self, g: int) -> bool:
        """Whether one of the exchanges that begin with this guest was for the better."""
        if g not in self.away:
            return False
        for changes in self._exchanges(g):
            self.trials -= 1
            if self.trials <= 0:
                return False
            if self._try(changes):
                for h, n in changes:
                    (self.away.discard if n == self.fleet.home(h) else self.away.add)(h)
                return True
        return False

    def _exchanges(self, g: int) -> Iterator[list[tuple[int, int]]]:
        fleet = self.fleet
        a, b = fleet.home(g), fleet.at[g]
        for n in self.cold:
            if n not in (a, b):
                yield [(g, n)]
        for h in sorted(fleet.on[a]):
            if h not in self.stays and h not in self.away and fleet.guests[h].size != fleet.guests[g].size:
                yield [(g, a), (h, b)]
        for h in sorted(self.away):
            if h > g and fleet.at[h] not in (a, b) and fleet.home(h) != b:
                yield [(g, fleet.at[h]), (h, b)]

    def _try(self, changes: list[tuple[int, int]]) -> bool:
        """Make them if that is allowed and the fleet is the better for it."""
        fleet, before = self.fleet, self.fleet.spread()
        done: list[tuple[int, int]] = []
        for g, n in changes:
            if not fleet.suits(g, n):
                break
            done.append((g, fleet.at[g]))
            fleet.move(g, n)
        better = len(done) == len(changes) and fleet.spread() < before - 1e-9
        if better and all(fleet.has_room(n) for _, n in changes):
            return True
        for g, n in reversed(done):
            fleet.move(g, n)
        return False


def ordered(fleet: Fleet, targets: Mapping[int, int], min_gain: float) -> Iterator[tuple[int, int, float]]:
    """(guest, node, gain) of moves that lead there, each made when the next one is asked for: of those that
    have room the one that gains most. What never has room, or gains too little, is left out."""
    left = dict(targets)
    while left:
        ready = [(fleet.gain(g, n), -g, n) for g, n in left.items() if fleet.fits(g, n) and fleet.suits(g, n)]
        if not ready:
            return
        gain, negative, n = max(ready)
        if gain < min_gain:
            return
        yield -negative, n, gain
        fleet.move(-negative, n)
        del left[-negative]
