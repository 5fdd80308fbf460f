"""Moves that make a fleet more even, the one that gains most first. Pure."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

from novactl.scheduler.fleet import Fleet

TARGETS = 4  # coldest hosts that are tried for a guest
DEEPEST = 16  # hosts that are looked at for those
EFFORT = 1_000_000  # candidates looked at in all, about


class Spreader:
    """Steepest descent over a fleet: of the guests of the hottest hosts and the coldest hosts that take them
    the best pair, until no move gains `min_gain`."""

    def __init__(self, fleet: Fleet, min_gain: float, moved: Iterable[int] = ()) -> None:
        self.fleet, self.min_gain = fleet, max(min_gain, 1e-9)
        self.effort = max(64, min(4000, EFFORT // max(1, len(fleet.guests))))
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

    # --- heat ---

    def _sort(self) -> None:
        fleet = self.fleet
        self.slope = [weight / max(fleet.deviation(r), 1e-3) for r, weight in enumerate(fleet.weights)]
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
        for n in (a, b):
            insort(self.order, (self._heat(n), n))
            self.stuck.discard(n)
        self.stays.add(g)

    # --- the best move ---

    def _best(self) -> tuple[int, int, float] | None:
        """The best move of the hottest hosts that have one."""
        fleet = self.fleet
        n = fleet.counted
        self.mean = [total / n for total in fleet.sum]
        self.curve = [w / max(fleet.deviation(r), 1e-6) for r, w in enumerate(fleet.weights)]
        self.cold: dict[str, list[int]] = {}
        best, spent = (1e-12, 0.0, -1, -1), 0
        tried: list[int] = []
        for _, a in reversed(self.order):
            if a in self.stuck:
                continue
            tried.append(a)
            found, looked = self._of(a)
            spent += looked
            if found > best:
                best = found
            if spent > self.effort:
                if best[2] >= 0:
                    gain = fleet.gain(best[2], best[3])
                    if gain >= self.min_gain:
                        return best[2], best[3], gain
                self.stuck.update(tried)
                tried, best, spent = [], (1e-12, 0.0, -1, -1), 0
        if best[2] >= 0 and (gain := fleet.gain(best[2], best[3])) >= self.min_gain:
            return best[2], best[3], gain
        self.stuck.update(tried)
        return None

    def _of(self, a: int) -> tuple[tuple[float, float, int, int], int]:
        """The best move off that node by the slope of the score: (merit, -cost, guest, node)."""
        fleet = self.fleet
        best, looked = (1e-12, 0.0, -1, -1), 0
        for g in sorted(fleet.on[a]):
            if g in self.stays:
                continue
            tried = 0
            for b in self._targets(g):
                if b == a:
                    continue
                looked += 1
                merit = self._merit(g, a, b)
                if merit < best[0] or not fleet.fits(g, b) or not fleet.suits(g, b):
                    tried += merit < best[0]
                else:
                    tried += 1
                    best = max(best, (merit, -fleet.guests[g].cost_gib, g, b))
                if tried == TARGETS:
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
        fleet = self.fleet
        size, ua, ub = fleet.guests[g].size, fleet.unit[a], fleet.unit[b]
        sa, sb, mean, curve = fleet.share[a], fleet.share[b], self.mean, self.curve
        merit = 0.0
        for r in (0, 1, 2):
            if not curve[r]:
                continue
            da, db = size[r] * ua[r], size[r] * ub[r]
            merit += curve[r] * (da * (2 * (sa[r] - mean[r]) - da) - db * (2 * (sb[r] - mean[r]) + db))
        return merit
