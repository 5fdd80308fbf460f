"""host capacity: how many more instances of a flavor fit, also when any one host is lost."""

import heapq
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any, NamedTuple

from novactl.actions.placement import Board
from novactl.actions.schedule import spec_for
from novactl.actions.world import World
from novactl.db import placement
from novactl.db.session import Tx
from novactl.objects.candidate import Candidate
from novactl.objects.host import Resources
from novactl.objects.request import BootRequest
from novactl.scheduler import hardware
from novactl.scheduler.filters import most_instances
from novactl.scheduler.spec import Rules, Spec

MOST = 1_000_000  # of a flavor that takes nothing
Free = tuple[float, float, float]  # memory first: MiB, vcpus, GiB


def capacity(world: World, request: BootRequest) -> dict[str, Any]:
    """`{flavor, fits, fits_after_any_host_lost, lost_host, hosts}`. `hosts`: of each how many more, and why
    none. After a loss: so many more fit when `lost_host`, the worst to lose, is gone and its instances have
    been given to the others; below 0: so many of them could not be."""

    def work(tx: Tx) -> dict[str, Any]:
        board, spec = Board.of(tx), spec_for(tx, request)
        rows = board.explain(spec)
        more = {
            host.name: _more(_free(host), host, spec) if row["passed"] else 0
            for host, row in zip(board.hosts, rows, strict=True)
        }
        worst, left = _after_loss(board.hosts, spec, more, placement.held(tx))
        return {
            "flavor": request.flavor,
            "fits": sum(more.values()),
            "fits_after_any_host_lost": left,
            "lost_host": worst,
            "hosts": [
                {
                    "host": row["host"],
                    "fits": more[row["host"]],
                    "reason": "; ".join(one["reason"] for one in row["rejections"]) or None,
                }
                for row in rows
            ],
        }

    return world.db.read(work)


def _free(host: Candidate) -> Free:
    return (
        host.memory_limit - host.memory_used,
        host.vcpus_limit - host.vcpus_used,
        host.disk_limit - host.disk_used,
    )


def _wants(amounts: Resources) -> tuple[int, int, int]:
    return amounts.memory_mib, amounts.vcpus, amounts.disk_gib


def _more(free: Free, host: Candidate, spec: Spec, given: int = 0) -> int:
    """How many alike fit into what is free of a host that takes one. `given`: so many came to it."""
    counts = [int(have / want) for have, want in zip(free, _wants(spec.resources), strict=True) if want > 0]
    if (most := most_instances(host, spec.rules)) is not None:
        counts.append(most - host.instances - given)
    return hardware.more(host, spec, max(0, min(counts, default=MOST)))


def _after_loss(
    hosts: Sequence[Candidate], spec: Spec, more: Mapping[str, int], held: Mapping[str, Sequence[Resources]]
) -> tuple[str | None, int]:
    """(the host whose loss leaves least, how many still fit then). A host that is disabled, or not up, has
    nothing to give, but it may be lost with what is on it."""
    usable = [host for host in hosts if host.enabled and host.state == "up"]
    usable.sort(key=_free, reverse=True)
    takers = [host for host in usable if _room(host, spec.rules).most > 0]
    total = sum(more.values())
    worst: tuple[str | None, int] = (None, 0)
    for lost in (*usable, *(host for host in hosts if host.name in held and host not in usable)):
        amounts = sorted(held.get(lost.name, ()), key=_wants, reverse=True)
        others = [host for host in takers[: 4 * len(amounts) + 33] if host is not lost]
        now, homeless = _given_to(others, amounts, spec.rules)
        left = total - more[lost.name]
        for host in others:
            if host.name in now and more[host.name]:
                left += _more(now[host.name].free, host, spec, now[host.name].given) - more[host.name]
        if homeless:
            left = -homeless
        if worst[0] is None or left < worst[1]:
            worst = (lost.name, left)
    return worst


class Room(NamedTuple):
    """What is left of a host that got so many: the one with the most memory comes first."""

    negative: Free
    name: str
    given: int
    most: float

    @property
    def free(self) -> Free:
        memory, vcpus, disk = self.negative
        return -memory, -vcpus, -disk

    def after(self, one: Resources) -> "Room | None":
        """With one more there; None when there is no room for it."""
        left = tuple(have - want for have, want in zip(self.free, _wants(one), strict=True))
        if any(want > 0 > rest for want, rest in zip(_wants(one), left, strict=True)):
            return None
        memory, vcpus, disk = left
        return Room((-memory, -vcpus, -disk), self.name, self.given + 1, self.most)


def _given_to(
    others: Sequence[Candidate], amounts: Sequence[Resources], rules: Rules
) -> tuple[dict[str, Room], int]:
    """(what is left then of the hosts that got some, how many found no place): the largest first, each to the
    host with the most memory left, none to one that has as many instances as it may."""
    heap = [_room(host, rules) for host in others]
    heapq.heapify(heap)
    now: dict[str, Room] = {}
    homeless = 0
    for one in amounts:
        tried = []
        while heap:
            room = heapq.heappop(heap)
            if (after := room.after(one)) is not None:
                now[room.name] = after
                if after.given < after.most:
                    tried.append(after)
                break
            tried.append(room)
        else:
            homeless += 1
        for room in tried:
            heapq.heappush(heap, room)
    return now, homeless


def _room(host: Candidate, rules: Rules) -> Room:
    memory, vcpus, disk = _free(host)
    most = most_instances(host, rules)
    return Room((-memory, -vcpus, -disk), host.name, 0, inf if most is None else most - host.instances)
