"""Moves that make a fleet more even, the one that gains most first. Pure."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

from novactl.scheduler.fleet import Fleet

TARGETS = 4  # coldest hosts that are tried for a guest
DEEPEST = 16  # hosts that are looked at for those
EFFORT = 320_000  # candidates looked at in all, about


Found = tuple[float, float, int, int]
"""(merit, -cost, -guest, node), so that the best is the largest."""

NOTHING: Found = (1e-12, 0.0, 0, -1)


class Spreader:
    """Steepest descent over a fleet: of the guests of the hottest hosts and the coldest hosts that take them
    the best pair, until no move gains `min_gain`."""

    def __init__(self, fleet: Fleet, min_gain: float, moved: Iterable[int] = ()) -> None:
        self.fleet, self.min_gain = fleet, max(min_gain, 1e-9)
        self.effort = max(16, min(4000, EFFORT // max(1, len(fleet.guests))))
        self.targets = TARGETS if self.effort > 100 else 2
        self.alike = self._alike()
        self.stays = {g for g in range(len(fleet.guests)) if g in fleet.bundle or not fleet.movable(g)}
        self.stays.update(moved)

    def steps(self, most: int) -> Iterator[tuple[int, int, float]]:
        """(guest, node, gain) of each move, which is made when the next one is asked for."""
        every = max(32, len(self.fleet.nodes) // 4)
        while most > 0:
            self._sort()
            made = 0
            while made < min(every, most) and (found := self._best()) is not None:
                yield found
                self._made(found[0], found[1])
                made += 1
            most -= made
            if not made:
                return

    def _alike(self) -> list[int]:
        """For each guest the first one that is like it: one of several alike on a host is looked at."""
        fleet = self.fleet
        first: dict[tuple[object, ...], int] = {}
        return [
            g
            if guest.group or g in fleet.apart
            else first.setdefault((guest.size, guest.kind, guest.live), g)
            for g, guest in enumerate(fleet.guests)
        ]

    # --- heat ---

    def _sort(self) -> None:
        fleet = self.fleet
        self.slope = [weight / max(fleet.deviation(r), 1e-3) for r, weight in enumerate(fleet.weights)]
        mean = [total / fleet.counted for total in fleet.sum]
        self.above = [tuple(share - m for share, m in zip(of, mean, strict=True)) for of in fleet.share]
        self.order = sorted((self._heat(n), n) for n, is_open in enumerate(fleet.open) if is_open)
        self.stuck: set[int] = set()

    def _heat(self, n: int) -> float:
        share, slope = self.fleet.share[n], self.slope
        return slope[0] * share[0] + slope[1] * share[1] + slope[2] * share[2]

    def _made(self, g: int, b: int) -> None:
        a = self.fleet.at[g]
        for n in (a, b):
            del self.order[bisect_left(self.order, (self._heat(n), n))]
        self.fleet.move(g, b)
        mean = [total / self.fleet.counted for total in self.fleet.sum]
        for n in (a, b):
            self.above[n] = tuple(share - m for share, m in zip(self.fleet.share[n], mean, strict=True))
            insort(self.order, (self._heat(n), n))
            self.stuck.discard(n)
        self.stays.add(g)

    # --- the best move ---

    def _best(self) -> tuple[int, int, float] | None:
        """The best move of the hottest hosts that have one."""
        best, spent = NOTHING, 0
        tried: list[int] = []
        self.cold: dict[str, list[int]] = {}
        for _, a in reversed(self.order):
            if a in self.stuck:
                continue
            tried.append(a)
            found, looked = self._of(a)
            best, spent = max(best, found), spent + looked
            if spent > self.effort:
                if (worth := self._worth(best)) is not None:
                    return worth
                self.stuck.update(tried)
                tried, best, spent = [], NOTHING, 0
        if (worth := self._worth(best)) is None:
            self.stuck.update(tried)
        return worth

    def _worth(self, found: Found) -> tuple[int, int, float] | None:
        """That move with its gain, if it gains enough."""
        if found is NOTHING:
            return None
        g, b = -found[2], found[3]
        gain = self.fleet.gain(g, b)
        return (g, b, gain) if gain >= self.min_gain else None

    def _of(self, a: int) -> tuple[Found, int]:
        """The best move off that node by the slope of the score, and how many were looked at."""
        fleet = self.fleet
        best, looked = NOTHING, 0
        seen: set[int] = set()
        for g in sorted(fleet.on[a]):
            if g in self.stays or self.alike[g] in seen:
                continue
            seen.add(self.alike[g])
            tried = 0
            for b in self._targets(g):
                if b == a:
                    continue
                looked += 1
                merit = self._merit(g, a, b)
                if merit >= best[0] and fleet.fits(g, b) and fleet.suits(g, b):
                    best = max(best, (merit, -fleet.guests[g].cost_gib, -g, b))
                    tried += 1
                elif merit < best[0]:
                    tried += 1
                if tried == self.targets:
                    break
        return best, max(1, looked)

    def _targets(self, g: int) -> list[int]:
        kind = self.fleet.guests[g].kind
        if (found := self.cold.get(kind)) is None:
            refused = self.fleet.rules.refused.get(kind, {})
            found = []
            for _, n in self.order:
                if self.fleet.nodes[n].name not in refused:
                    found.append(n)
                    if len(found) == DEEPEST:
                        break
            self.cold[kind] = found
        return found

    def _merit(self, g: int, a: int, b: int) -> float:
        """What the move takes off the score, to the first order."""
        fleet = self.fleet
        m, v, d = fleet.guests[g].size
        am, av, ad = fleet.unit[a]
        bm, bv, bd = fleet.unit[b]
        xm, xv, xd = self.above[a]
        ym, yv, yd = self.above[b]
        cm, cv, cd = self.slope
        return (
            cm * m * (am * (2 * xm - m * am) - bm * (2 * ym + m * bm))
            + cv * v * (av * (2 * xv - v * av) - bv * (2 * yv + v * bv))
            + cd * d * (ad * (2 * xd - d * ad) - bd * (2 * yd + d * bd))
        )
