"""Filter, weigh, order: for one instance or for thousands alike; and the reasons when nobody is left."""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from novactl.errors import NoValidHost
from novactl.objects.candidate import Candidate
from novactl.scheduler import fixes, hardware
from novactl.scheduler.filters import Filter, active, rejections
from novactl.scheduler.spec import Spec
from novactl.scheduler.weighers import WEIGHERS, Scale

__all__ = ["ALTERNATES", "WEIGHERS", "Selection", "explain", "no_valid_host"]

ALTERNATES = 10  # hosts that are named beside the chosen one


class Selection:
    """Hosts for instances that all ask the same. Scored once; then each claim changes only the host that it
    is made on, so the next best is found without looking at the others again."""

    def __init__(self, hosts: Iterable[Candidate], spec: Spec, *, aggregates: bool = False) -> None:
        self.spec = spec
        self.filters = active(spec, aggregates=aggregates)
        passed = [host for host in hosts if _passes(host, spec, self.filters)]
        self.scale = Scale(passed, spec)
        self._now = dict(zip((host.name for host in passed), self.scale.initial, strict=True))
        self._heap = [(-self._now[host.name], host.name, host) for host in passed]
        heapq.heapify(self._heap)

    def best(self, pick: int = 0) -> Candidate | None:
        """The best host that still passes, or None. With host_subset_size n the one of the n best that `pick`
        falls on: any large number, so that those who decide at the same time do not all take the same."""
        size = self.spec.rules.host_subset_size
        if size <= 1:
            self._settle()
            return self._heap[0][2] if self._heap else None
        some = list(self.ordered(size))
        return some[pick % len(some)] if some else None

    def ordered(self, most: int) -> Iterator[Candidate]:
        """Those that still pass, best first, at most so many."""
        kept: list[tuple[float, str, Candidate]] = []
        while self._heap and len(kept) < most:
            self._settle()
            if self._heap:
                kept.append(heapq.heappop(self._heap))
        for entry in kept:
            heapq.heappush(self._heap, entry)
        return iter([host for _, _, host in kept])

    def take(self, host: Candidate) -> None:
        """The instance goes there: the next decision sees it."""
        wanted = self.spec.resources
        host.take(wanted.vcpus, wanted.memory_mib, wanted.disk_gib)
        hardware.take(host, self.spec)
        if (group := self.spec.group) is not None:
            group.on[host.name] = group.on.get(host.name, 0) + 1
        if (weight := self.scale.weight(host)) != self._now.get(host.name):
            self._now[host.name] = weight
            heapq.heappush(self._heap, (-weight, host.name, host))

    def taken(self, pick: int, count: int) -> list[Candidate]:
        """Hosts for so many who ask alike, each decision seeing those before it; fewer when none is left."""
        chosen: list[Candidate] = []
        while len(chosen) < count and (best := self.best(pick + len(chosen))) is not None:
            self.take(best)
            chosen.append(best)
        return chosen

    def ahead(self, pick: int, count: int) -> list[Candidate]:
        """taken(), of which nothing stays."""
        wanted, group = self.spec.resources, self.spec.group
        now, heap, members = dict(self._now), list(self._heap), dict(group.on) if group is not None else {}
        held = {host.name: host.numa_holds for _, _, host in heap} if self.spec.numa is not None else {}
        chosen = self.taken(pick, count)
        self._now, self._heap = now, heap
        if group is not None:
            group.on.clear()
            group.on.update(members)
        for host in chosen:
            host.give_back(wanted.vcpus, wanted.memory_mib, wanted.disk_gib)
            host.numa_holds = held.get(host.name, host.numa_holds)
        return chosen

    def passes(self, host: Candidate) -> bool:
        """Whether it can take the instance, asked anew."""
        return _passes(host, self.spec, self.filters)

    def drop(self, host: Candidate) -> None:
        """It is none of the candidates any more."""
        self._now.pop(host.name, None)

    def _settle(self) -> None:
        """The first entry of the heap is of a host that still passes, and as it is now."""
        heap, now = self._heap, self._now
        while heap and (
            now.get(heap[0][1]) != -heap[0][0] or not _passes(heap[0][2], self.spec, self.filters)
        ):
            heapq.heappop(heap)


def _passes(host: Candidate, spec: Spec, filters: tuple[Filter, ...]) -> bool:
    for test in filters:  # noqa: SIM110 - a generator costs half as much again, for each host
        if test(host, spec) is not None:
            return False
    return True


def explain(hosts: Sequence[Candidate], spec: Spec, *, aggregates: bool = False) -> list[dict[str, Any]]:
    """Every host with its rejections, what is free of it, and the weights if it passes: `{host, passed,
    rejections, asked, free, weights, weight}` (docs/cli.md), in the order given. `asked`: the filters."""
    filters = active(spec, aggregates=aggregates)
    names = [test.__name__ for test in filters]
    found = [(host, rejections(host, spec, filters)) for host in hosts]
    scale = Scale([host for host, reasons in found if not reasons], spec)
    return [
        {
            "host": host.name,
            "passed": not reasons,
            "rejections": reasons,
            "asked": names,
            "free": host.free(),
            "weights": {} if reasons else scale.weights(host),
            "weight": None if reasons else round(scale.weight(host), 6),
        }
        for host, reasons in found
    ]


def no_valid_host(
    name: str, hosts: Sequence[Candidate], spec: Spec, *, aggregates: bool = False
) -> NoValidHost:
    """The refusal, with each host's reasons and what would help."""
    if not hosts:
        return NoValidHost(f"{name}: there are no hosts yet", hint="novactl host add NAME --address ADDR")
    explained = explain(hosts, spec, aggregates=aggregates)
    nearest = fixes.nearest(hosts, spec, explained)
    lines = [
        f"{row['host']}: " + "; ".join(rejection["reason"] for rejection in row["rejections"])
        for row in explained
        if row["rejections"]
    ]
    more = f"\n  … and {len(lines) - 10} more" if len(lines) > 10 else ""
    return NoValidHost(
        f"{name}: no host can take it\n  " + "\n  ".join(lines[:10]) + more,
        hint="; or ".join(nearest) or "novactl host list shows capacity",
        targets=explained,
    )
