"""Taking away what is not needed any more: base files on hosts, old records."""

import concurrent.futures
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from novactl.actions.world import World
from novactl.db import hosts, instances, pages, pruning
from novactl.db.session import Tx
from novactl.errors import NovactlError
from novactl.objects.duration import UNITS
from novactl.objects.instance import Instance
from novactl.objects.moments import before
from novactl.objects.names import ephemeral_base, swap_base
from novactl.virt.files import Pruned

PARALLEL = 16
SKEW = UNITS["h"]  # seconds that the clocks of two operators may differ
BATCH = 200  # operations, events or instances in one transaction

GoOn = Callable[[], bool]
Within = Callable[[Callable[[Tx], Any]], Any]
Some = Callable[..., tuple[int, str | None]]  # a batch of (tx, after): how many went, where to go on

REASONS = {
    "used-in-database": "an instance uses it",
    "used-here": "a file on the host names it",
    "open": "a process on the host has it open",
    "young": "it was used lately",
    "busy": "another command fetches it",
    "removed": "nothing uses it",
    "unused": "nothing uses it",
}


# --- caches ---


@dataclass(frozen=True)
class HostPruned:
    """What pruning one host came to; `error`: why it came to nothing."""

    host: str
    files: tuple[Pruned, ...] = ()
    error: NovactlError | None = None


def caches(
    world: World, names: Sequence[str] | None, older: int, *, remove: bool, go_on: GoOn = lambda: True
) -> list[HostPruned]:
    """Base files that nothing uses and that were last used more than `older` seconds ago are gone from the
    hosts named (None: from all), several at a time. Raises NotFound; a host that does not answer is a row.
    Hosts that no time was left for are none."""

    def chosen(tx: Tx) -> list[str]:
        if names is None:
            return [host.name for host in hosts.everything(tx)]
        return [hosts.get(tx, name).name for name in names]

    wanted = world.db.read(chosen)

    def one(name: str) -> HostPruned | None:
        return _prune(world, name, older, remove=remove) if go_on() else None

    with concurrent.futures.ThreadPoolExecutor(max_workers=PARALLEL) as pool:
        return [found for found in pool.map(one, wanted) if found is not None]


def _prune(world: World, name: str, older: int, *, remove: bool) -> HostPruned:
    """What the database needs is read at the last moment: a boot that claims the host later finds the files
    gone, or makes them young before they go (remote/prune.sh)."""
    try:
        hypervisor = world.hypervisor(name)
        try:
            needed = world.db.read(lambda tx: bases_needed(tx, name))
            return HostPruned(name, tuple(hypervisor.prune(needed, older, remove=remove)))
        finally:
            hypervisor.hang_up()
    except NovactlError as error:
        return HostPruned(name, error=error)


def bases_needed(tx: Tx, host: str) -> set[str]:
    """Base files of every instance that is on the host or has a claim there."""
    claims = tx.all("SELECT DISTINCT instance_uuid FROM holds WHERE host = :host", host=host)
    living = {instance.uuid: instance for instance in pages.page(tx, pages.Wanted(host=host))}
    for row in claims:
        if row["instance_uuid"] not in living:
            living[row["instance_uuid"]] = instances.get(tx, row["instance_uuid"])
    return {name for instance in living.values() for name in _bases(instance)}


def _bases(instance: Instance) -> Iterator[str]:
    flavor = instance.flavor
    for image in instance.images:
        yield from filter(None, (image.sha256, image.kernel_sha256, image.initrd_sha256))
        yield from (disk["sha256"] for disk in image.disks.values())
    if flavor.ephemeral_gib:
        yield ephemeral_base(flavor.ephemeral_gib)
    if flavor.swap_mib:
        yield swap_base(flavor.swap_mib)


# --- records ---


@dataclass
class RecordsPruned:
    """How many of each went; not `whole`: there is more."""

    operations: int = 0
    events: int = 0
    instances: int = 0
    whole: bool = True


def records(world: World, older: int, *, dry_run: bool = False, go_on: GoOn = lambda: True) -> RecordsPruned:
    """Operations that ended more than `older` seconds ago with their children and steps, events of that age,
    and deleted instances of which nothing else is left, are gone: some in each transaction, so that nobody
    waits for it. Operations go only when a waypoint of that age tells which marks of hosts to expect no more
    of them (db/pruning.py)."""
    now = world.clock.now()
    if dry_run:
        return world.db.rehearse(lambda tx: _records(lambda work: work(tx), now, older, go_on))
    return _records(world.db.write, now, older, go_on)


def _records(within: Within, now: str, older: int, go_on: GoOn) -> RecordsPruned:
    """`within` runs work in a transaction."""
    cutoff, yesterday = before(now, older), before(now, UNITS["d"])
    pruned = RecordsPruned()
    waypoint = within(lambda tx: pruning.pass_waypoint(tx, now, yesterday, cutoff))
    if waypoint is not None:
        ended = min(cutoff, before(waypoint[0], SKEW))
        pruned.operations = _batches(
            within, lambda tx, after: pruning.operations(tx, ended, after, BATCH), go_on, pruned
        )
    pruned.events = _batches(within, lambda tx, after: pruning.events(tx, cutoff, BATCH), go_on, pruned)
    pruned.instances = _batches(
        within, lambda tx, after: pruning.instances(tx, cutoff, after, BATCH), go_on, pruned
    )
    return pruned


def _batches(within: Within, some: Some, go_on: GoOn, pruned: RecordsPruned) -> int:
    went, after = 0, ""
    count: int
    while go_on():
        count, following = within(functools.partial(some, after=after))
        went += count
        if following is None:
            return went
        after = following
    pruned.whole = False
    return went
