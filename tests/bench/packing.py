"""Packing replayed: requests for VMs that come and go, and who places them.

The sizes have the shape that Azure published of its own (Cortez et al., SOSP'17, with AzurePublicDataset):
four of five VMs have 1 or 2 cores, two of three less than 4 GiB, in families of a fixed memory per core (A,
D and E of that time: 1.75, 3.5 and 7 GiB); few are large. Of AzureTracesForPacking2020 (Hadary et al.,
OSDI'20) it has the structure: a window of requests with VMs that are alive before it, most of which live
for hours and a few beyond the window, in more than one dimension. The trace itself is a download of some
GiB, and gives shares of machines instead of sizes; this is a generator with those shapes, the same for the
same seed. Exact shares are ours.
"""

import heapq
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from novactl.objects.candidate import COLUMNS, Candidate
from novactl.objects.host import Resources
from novactl.scheduler.spec import Rules, Spec

Choose = Callable[[Sequence[Candidate], Spec], Candidate | None]
"""Whoever decides: of all hosts the one, or None."""

CORES = ((1, 0.50), (2, 0.30), (4, 0.12), (8, 0.05), (16, 0.03))
GIB_A_CORE = ((1.75, 0.62), (3.5, 0.28), (7, 0.10))
LIVES = ((0.02, 0.45), (0.2, 0.30), (1.0, 0.15), (14.0, 0.10))
"""Days that a VM lives on average, and for how many that is so: half are gone within the hour."""

DISK_GIB = 30
HOST_CPUS, HOST_GIB, HOST_DISK_GIB = 48, 128, 4096
WINDOW = 3.0  # days


@dataclass(frozen=True)
class Request:
    """From `start` to `end`, in days."""

    start: float
    end: float
    size: Resources


def requests(count: int, seed: int) -> list[Request]:
    """In the order in which they come: a tenth of them are alive when the window begins."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        cores, gib, life = (_one(rng, of) for of in (CORES, GIB_A_CORE, LIVES))
        start = 0.0 if number < count // 10 else rng.uniform(0, WINDOW)
        mean = LIVES[-1][0] if start == 0.0 else life
        size = Resources(vcpus=int(cores), memory_mib=int(cores * gib * 1024), disk_gib=DISK_GIB)
        made.append(Request(start, start + rng.expovariate(1 / mean), size))
    return sorted(made, key=lambda one: one.start)


def _one(rng: random.Random, of: Sequence[tuple[float, float]]) -> float:
    return rng.choices([value for value, _ in of], [share for _, share in of])[0]


def hosts(count: int) -> list[Candidate]:
    """Empty ones, alike."""
    own = {"zone": "nova", "state": "up", "enabled": 1, "arch": "x86_64", "labels": "{}", "facts": "{}"}
    sizes = {"vcpus": HOST_CPUS, "memory_mib": HOST_GIB << 10, "disk_gib": HOST_DISK_GIB}
    ratios = dict.fromkeys(("cpu_ratio", "memory_ratio", "disk_ratio"), 1.0)
    columns = {**dict.fromkeys(COLUMNS, 0), **own, **sizes, **ratios, "dedicated_cpus": None}
    return [Candidate(*({**columns, "name": f"h{n:04}"}[column] for column in COLUMNS)) for n in range(count)]


@dataclass(frozen=True)
class Packed:
    """`used`: hosts that had a guest, averaged over the requests; `refused`: requests that found none, and
    `served`: the share of the cores asked for that were given."""

    used: float
    refused: int
    served: float

    def __str__(self) -> str:
        return f"{self.used:.2f} hosts in use, {self.served:.1%} of the cores served"


def replay(
    of: Sequence[Request], on: list[Candidate], choose: Choose, multipliers: dict[str, float]
) -> Packed:
    """Each request is placed when it comes, and gives back what it had when it goes."""
    rules = Rules(multipliers=multipliers)
    leaving: list[tuple[float, int, Candidate]] = []
    used = refused = total = cores = 0
    for number, request in enumerate(of):
        while leaving and leaving[0][0] <= request.start:
            _, gone, host = heapq.heappop(leaving)
            size = of[gone].size
            host.give_back(size.vcpus, size.memory_mib, size.disk_gib)
            host.busy = 0
            used -= host.instances == 0
        host_ = choose(on, Spec(resources=request.size, rules=rules))
        if host_ is None:
            refused += 1
        else:
            cores += request.size.vcpus
            used += host_.instances == 0
            host_.take(request.size.vcpus, request.size.memory_mib, request.size.disk_gib)
            host_.busy = 0  # it is there before the next one comes
            heapq.heappush(leaving, (request.end, number, host_))
        total += used
    return Packed(total / len(of), refused, cores / sum(request.size.vcpus for request in of))


# --- the textbook's ---


def fitting(on: Sequence[Candidate], spec: Spec) -> Iterator[Candidate]:
    wanted = spec.resources
    return (
        host
        for host in on
        if host.vcpus_used + wanted.vcpus <= host.vcpus_limit
        and host.memory_used + wanted.memory_mib <= host.memory_limit
        and host.disk_used + wanted.disk_gib <= host.disk_limit
    )


def first_fit(on: Sequence[Candidate], spec: Spec) -> Candidate | None:
    return next(fitting(on, spec), None)


def best_fit(on: Sequence[Candidate], spec: Spec) -> Candidate | None:
    """The fullest one."""
    return max(fitting(on, spec), key=lambda host: sum(shares(host)), default=None)


def dot_product(on: Sequence[Candidate], spec: Spec) -> Candidate | None:
    """Of the hosts in use the one whose free room lies most in the direction of what is wanted (Panigrahy et
    al., 2011), with an empty one only when no other has the room."""

    def alignment(host: Candidate) -> tuple[bool, float]:
        wanted = spec.resources
        want = (wanted.vcpus / host.vcpus_limit, wanted.memory_mib / host.memory_limit)
        free = [1 - share for share in shares(host)]
        product = sum(a * b for a, b in zip(want, free, strict=True))
        return host.instances > 0, product / (sum(b * b for b in free) ** 0.5 or 1)

    return max(fitting(on, spec), key=alignment, default=None)


def shares(host: Candidate) -> tuple[float, float]:
    return host.vcpus_used / host.vcpus_limit, host.memory_used / host.memory_limit
