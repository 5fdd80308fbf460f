"""Fleets to be rebalanced: generated, given to hbal of Ganeti in its text format, and what came of it."""

import os
import random
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from novactl.scheduler.fleet import Amounts, Guest, Node, Rules
from novactl.scheduler.rebalance import plan

HTOOLS = Path("/usr/lib/ganeti/3.0/usr/bin/htools")
MEMORY_ALONE: Amounts = (1.0, 0.0, 0.0)

SIZES = ((1, 1), (1, 2), (2, 4), (2, 8), (4, 8), (4, 16), (8, 16), (8, 32))
"""vcpus and GiB of memory of guests; each has 20 GiB of disk per vcpu."""
SHARES = (20, 15, 22, 15, 12, 8, 5, 3)
HOST_GIB, HOST_CPUS, CPU_RATIO, HOST_DISK_GIB = 256, 64, 4, 8192


@dataclass(frozen=True)
class Cluster:
    nodes: list[Node]
    guests: list[Guest]

    def deviation(self, at: dict[str, str], resource: int = 0) -> float:
        """Of the used share of a resource, with the guests on those hosts."""
        used = dict.fromkeys((node.name for node in self.nodes), 0.0)
        for guest in self.guests:
            used[at[guest.name]] += guest.size[resource]
        return statistics.pstdev(used[node.name] / node.limit[resource] for node in self.nodes)


@dataclass(frozen=True)
class Balanced:
    """What a balancer made of it: its seconds, moves and the deviation of memory afterwards."""

    seconds: float
    moves: int
    memory: float
    vcpus: float

    def __str__(self) -> str:
        shares = f"memory {self.memory:.4f}, vcpus {self.vcpus:.4f}"
        return f"{self.moves} moves, {shares}, {self.seconds:.2f} s"


def cluster(hosts: int, instances: int, seed: int, host_gib: int = HOST_GIB) -> Cluster:
    """80 % of the instances are on half of the hosts."""
    rng = random.Random(seed)
    used = [[0, 0, 0] for _ in range(hosts)]
    guests = []
    for number in range(instances):
        vcpus, gib = rng.choices(SIZES, SHARES)[0]
        half = range(hosts // 2) if rng.random() < 0.8 else range(hosts // 2, hosts)
        host = rng.choice(half)
        while used[host][0] + gib * 1024 > host_gib * 1024:
            host = rng.choice(half)
        size = (gib * 1024, vcpus, 20 * vcpus)
        used[host] = [have + more for have, more in zip(used[host], size, strict=True)]
        guests.append(
            Guest(uuid=f"{number:06}", name=f"guest-{number:06}", host=f"host-{host:04}", size=size)
        )
    limit = (host_gib * 1024, HOST_CPUS * CPU_RATIO, HOST_DISK_GIB)
    nodes = [
        Node(name=f"host-{n:04}", limit=limit, used=(have[0], have[1], have[2]))
        for n, have in enumerate(used)
    ]
    return Cluster(nodes, guests)


def ours(of: Cluster, **options: object) -> Balanced:
    """Our plan, carried out."""
    began = time.perf_counter()
    made = plan(of.nodes, of.guests, Rules(), **options)  # type: ignore[arg-type]
    seconds = time.perf_counter() - began
    at = {guest.name: guest.host for guest in of.guests}
    at |= {move.guest.name: move.target for move in made.moves if move.target is not None}
    return Balanced(seconds, len(made.moves), of.deviation(at), of.deviation(at, 1))


def hbal(of: Cluster, directory: Path, *options: str, memory_alone: bool = False) -> Balanced:
    """hbal's solution. `memory_alone`: what else it evens out is the same everywhere: no load, and so many
    processors that a share of them is nothing."""
    path = directory / "cluster.data"
    path.write_text(as_text(of, cpus=1_000_000 if memory_alone else HOST_CPUS))
    argv = [str(HTOOLS), "-t", str(path), "-S", str(directory / "after"), *options]
    began = time.perf_counter()
    ended = subprocess.run(
        [*argv, "--ignore-dynu"] if memory_alone else argv,
        env={**os.environ, "HTOOLS": "hbal"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    seconds = time.perf_counter() - began
    assert ended.returncode == 0, ended.stderr
    moves = int(ended.stdout.rpartition("Solution length=")[2].split()[0])
    rows = (line.split("|") for line in (directory / "after.balanced").read_text().splitlines())
    at = {row[0]: row[6] for row in rows if row[0].startswith("guest-")}
    return Balanced(seconds, moves, of.deviation(at), of.deviation(at, 1))


def as_text(of: Cluster, cpus: int) -> str:
    """The cluster in the text format of Ganeti's htools (man htools): groups, nodes, instances, tags,
    policies. Disks are on storage that all hosts reach (`ext`), so hbal may move anything anywhere."""
    lines = ["group|uuid-of-group|preferred||", ""]
    for node in of.nodes:
        memory, disk = int(node.limit[0]), int(node.limit[2]) * 1024
        free = memory - int(node.used[0])
        lines.append(f"{node.name}|{memory}|0|{free}|{disk}|{disk}|{cpus}|N|uuid-of-group|1")
    lines.append("")
    for guest in of.guests:
        memory, vcpus, disk = (int(size) for size in guest.size)
        lines.append(f"{guest.name}|{memory}|{disk * 1024}|{vcpus}|running|Y|{guest.host}||ext||0")
    return "\n".join([*lines, "", "", ""])
