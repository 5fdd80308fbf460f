"""What the hosts say of their guests, written into the records: `list --refresh`, and cron's."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from novactl.actions import restored
from novactl.actions.world import World
from novactl.db import hosts, instances
from novactl.db.session import Row as DbRow
from novactl.db.session import Tx
from novactl.errors import HostUnreachable, HostUntrusted, NovactlError
from novactl.objects.states import VmState, status, vm_state_of
from novactl.remote.fanout import AT_ONCE, fan_out
from novactl.virt.states import Power, States

DEADLINE = 15.0  # seconds for one host, from knocking to its answer
CHUNK = 50  # hosts that one transaction writes down


@dataclass(frozen=True, kw_only=True)
class Change:
    """An instance whose record followed its host. `before` and `after` as status words."""

    uuid: str
    name: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was seen of one host. `error`: why nothing was; then all else is empty. `missing` names instances
    that the host has no domain of: told, never acted on. `rebooted`: since it was last looked at."""

    host: str
    error: NovactlError | None = None
    states: States | None = None
    changes: tuple[Change, ...] = ()
    missing: tuple[str, ...] = ()
    rebooted: bool = False

    @property
    def ok(self) -> bool:
        return self.error is None


@dataclass(frozen=True)
class Before:
    """The records as they were before the hosts were asked."""

    hosts: tuple[str, ...]
    instances: Mapping[str, list[DbRow]] = field(default_factory=dict)  # by host


def refresh(
    world: World,
    names: Sequence[str] | None = None,
    *,
    user: str,
    at_once: int = AT_ONCE,
    deadline: float = DEADLINE,
) -> list[Row]:
    """Ask the hosts named (None: all) what their guests do and write it down; a row for each, by name.

    The record of an instance follows its host when it is ACTIVE, SHUTOFF, PAUSED or SUSPENDED, nothing works
    on it, and nobody changed it since before the host was asked; an event says what was seen, in the name of
    `user`. An instance whose domain is missing keeps its record. A host that answered is `up` (a fenced one
    stays fenced) and its boot is remembered; one that did not is `down`, unless none of several did: then
    the fault is rather ours. Nothing on a host is changed. A row's error is HostUnreachable, HostUntrusted
    (its key or ours was refused: that says nothing of its state), HostRefused (another fleet's) or HostFault.

    At most `at_once` hosts are asked at a time, none for longer than `deadline` seconds, and one that is slow
    delays no other. Raises NotFound for a name, Refused when a host knows of operations that the database
    does not have (it is an older copy), DatabaseError.
    """
    before = world.db.read(lambda tx: _before(tx, names))
    looks = fan_out(
        lambda host: _look(world, host, deadline),
        before.hosts,
        deadline=deadline,
        at_once=at_once,
        arrivals=world.arrivals,
    )
    seen: dict[str, States | NovactlError] = dict(looks)
    _refuse_if_restored(world, seen)
    down = taken_for_down(seen)
    rows: list[Row] = []
    for start in range(0, len(before.hosts), CHUNK):
        chunk = {host: seen[host] for host in before.hosts[start : start + CHUNK]}
        rows += world.db.write(functools.partial(_write, world, before, chunk, down, user))
    return rows


def _before(tx: Tx, names: Sequence[str] | None) -> Before:
    known = [row["name"] for row in tx.all("SELECT name FROM hosts ORDER BY name")]
    if names is not None:
        for name in set(names) - set(known):
            hosts.get(tx, name)  # raises NotFound with near names
        known = sorted(set(names))
    found: dict[str, list[DbRow]] = {name: [] for name in known}
    for row in instances.powers(tx, known if names is not None else None):
        if row["host"] in found:
            found[row["host"]].append(row)
    return Before(tuple(known), found)


def _look(world: World, host: str, deadline: float) -> States:
    hypervisor = world.hypervisor(host)
    try:
        return hypervisor.states(deadline)
    finally:
        hypervisor.hang_up()  # five hundred open connections would be of no use


def _refuse_if_restored(world: World, seen: Mapping[str, States | NovactlError]) -> None:
    restored.check_marks(world, {host: look.mark for host, look in seen.items() if isinstance(look, States)})


def taken_for_down(seen: Mapping[str, object]) -> frozenset[str]:
    """Of hosts that were looked at (what each said, or its error) those that are to be taken for down: they
    gave no answer. When none of several did the fault is rather ours, and whoever refuses a key answered."""
    silent = {
        host
        for host, look in seen.items()
        if isinstance(look, HostUnreachable) and not isinstance(look, HostUntrusted)
    }
    return frozenset() if len(silent) == len(seen) > 1 else frozenset(silent)


def _write(
    world: World,
    before: Before,
    chunk: Mapping[str, States | NovactlError],
    down: frozenset[str],
    user: str,
    tx: Tx,
) -> list[Row]:
    now = world.clock.now()
    busy = {row["id"] for row in tx.all("SELECT id FROM op_locks WHERE kind = 'instance'")}
    hosts.seen(tx, [host for host, look in chunk.items() if isinstance(look, States)], "up", now)
    hosts.seen(tx, [host for host in chunk if host in down], "down", now)
    rows: list[Row] = []
    for host, look in chunk.items():
        if not isinstance(look, States):
            rows.append(Row(host=host, error=look))
            continue
        idle = [row for row in before.instances[host] if row["uuid"] not in busy]
        changes = [
            _follow(tx, row, look.domains[row["uuid"]], now, user)
            for row in idle
            if row["uuid"] in look.domains
        ]
        rows.append(
            Row(
                host=host,
                states=look,
                changes=tuple(filter(None, changes)),
                missing=tuple(row["name"] for row in idle if row["uuid"] not in look.domains),
                rebooted=hosts.rebooted(tx, host, look.boot_id),
            )
        )
    return rows


def _follow(tx: Tx, row: DbRow, power: Power | None, now: str, user: str) -> Change | None:
    """The record is as the host says, if nobody changed it since it was read."""
    if power is None:
        return None
    after = vm_state_of(power.state, power.saved)
    if (row["vm_state"], row["power_state"]) == (after, power.state):
        return None
    if not instances.follow(tx, row["uuid"], row["version"], after, power.state):
        return None
    was, now_is = status(VmState(row["vm_state"]), None), status(after, None)
    words = f"{row['host']} says {power.state}{' (saved)' if power.saved else ''}: {was} -> {now_is}"
    instances.tell_seen(tx, row["uuid"], row["name"], after, words, user=user, now=now)
    return Change(uuid=row["uuid"], name=row["name"], before=was, after=now_is)
