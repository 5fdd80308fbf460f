"""host drain and undrain: the instances of a host go to others, and those that left come back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from novactl.actions import moving
from novactl.actions.live_migrate import LiveMigrate
from novactl.actions.placement import Board
from novactl.actions.resize import Migrate
from novactl.actions.world import World
from novactl.db import balance, hosts, instances, moves
from novactl.db.session import Tx
from novactl.engine.operation import Lock, Mode, Plan
from novactl.errors import NoValidHost, Refused
from novactl.objects.instance import Instance
from novactl.objects.states import VmState

METHODS = ("auto", "live", "cold")
LIVE, COLD = "live", "cold"
BY_STATE = {VmState.ACTIVE: (LIVE, COLD), VmState.PAUSED: (LIVE,), VmState.STOPPED: (COLD,)}
"""How an instance may be moved, the better way first; in other states it stays."""
REASON = "is drained"


@dataclass(frozen=True, kw_only=True)
class Leaving:
    """One instance that leaves, and whither by the look at the whole fleet; or why it stays."""

    instance: Instance
    method: str | None = None
    to: str | None = None
    blocker: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """A row of the plan (docs/cli.md)."""
        one = self.instance
        gib = one.resources.disk_gib + (one.flavor.memory_mib / 1024 if self.method == LIVE else 0)
        return {
            "instance": one.name,
            "from": one.host,
            "to": self.to,
            "method": self.method,
            "reason": REASON,
            "cost_gib": round(gib, 1),
            "blocker": self.blocker,
        }


@dataclass(frozen=True, kw_only=True)
class Part:
    """A move that is one of several: `of` is the kind of the whole, `host` the one it is about, `parallel`
    how many go at a time, in their order. `source`: the host that it must still be on when its turn comes,
    else it stays where it is; `lock`: what there is one of at a time."""

    move: LiveMigrate | Migrate
    of: str
    host: str
    parallel: int
    source: str | None = None
    lock: str = "drain"

    @property
    def kind(self) -> str:
        return self.move.kind

    @property
    def target(self) -> str:
        return self.move.target

    @property
    def project(self) -> str:
        return self.move.project

    def check(self, world: World) -> Any:
        """None for one that is elsewhere: what would be in the way of its move does not matter."""
        return None if world.db.read(self._elsewhere) else self.move.check(world)

    def plan(self, world: World, tx: Tx, op_id: str, found: Any) -> Plan | None:
        """Nothing is to be done for one that has left by itself. Raises Refused where more depends on it."""
        now = self._elsewhere(tx)
        if now is not None and self.of == "rebalance":
            raise Refused(f"{now.name}: is on {now.host}, not on {self.source} any more")
        if now is not None or found is None:
            return None
        return self.move.plan(world, tx, op_id, found)

    def _elsewhere(self, tx: Tx) -> Instance | None:
        """It, when it is not on its source any more."""
        if self.source is None:
            return None
        now = instances.get(tx, self.move.name)
        return None if now.host == self.source else now

    def parent_of(self, others: Sequence["Part"]) -> Plan:
        """The operation that all moves are children of; a host is drained once at a time."""
        return Plan(
            kind=self.of,
            target=self.host,
            target_uuid=None,
            project="",
            request={"targets": [other.target for other in others], "parallel": self.parallel},
            locks=frozenset({Lock(self.lock, self.host, Mode.EXCLUSIVE)}),
        )


# --- the plan ---


def look(world: World, host: str, method: str) -> list[Leaving]:
    """All instances of the host and where each would go: the largest first, each seeing those before it, so
    that there is room for all. Nothing is claimed. Raises NotFound."""

    def work(tx: Tx) -> list[Leaving]:
        hosts.get(tx, host)
        board = Board.of(tx)  # they move one after the other: each asks how many may work on a host
        board.rules = replace(board.rules, max_io_ops_per_host=0)
        worked_on = balance.worked_on(tx)
        found = sorted(instances.on_host(tx, host), key=lambda one: -one.flavor.memory_mib)
        return [_leaving(tx, one, method, worked_on.get(one.uuid)) for one in found]

    return world.db.rehearse(work)


def _leaving(tx: Tx, one: Instance, method: str, operation: str | None) -> Leaving:
    ways = [way for way in BY_STATE.get(one.vm_state, ()) if method in ("auto", way)]
    blocker = None
    if operation is not None:
        blocker = f"operation {operation} works on it"
    elif one.locked:
        blocker = "is locked"
    elif not ways:
        blocker = f"is {one.status}: cannot be moved{'' if method == 'auto' else f' {method}'}"
    if blocker is not None:
        return Leaving(instance=one, blocker=blocker)
    try:
        return Leaving(instance=one, method=ways[0], to=moving.choose(tx, one).host)
    except NoValidHost as error:
        return Leaving(instance=one, method=ways[0], blocker=error.message)


def plan(found: Sequence[Leaving]) -> dict[str, Any]:
    """It for people and scripts."""
    stay = sum(one.blocker is not None for one in found)
    return {
        "moves": [one.as_dict() for one in found],
        "before": {"instances": len(found)},
        "after": {"instances": stay},
    }


# --- carrying it out ---


def close(world: World, host: str) -> None:
    """Nothing is placed on the host any more; one that was disabled for another reason keeps it."""

    def work(tx: Tx) -> None:
        if hosts.get(tx, host).enabled:
            hosts.update(tx, host, enabled=0, disabled_reason=REASON)

    world.db.write(work)


def reopen(world: World, host: str) -> bool:
    """The host takes instances again; False when a drain did not disable it, and it stays as it is."""

    def work(tx: Tx) -> bool:
        found = hosts.get(tx, host)
        if not found.enabled and found.disabled_reason == REASON:
            hosts.update(tx, host, enabled=1, disabled_reason=None)
            return True
        return found.enabled

    return world.db.write(work)


def leave(
    host: str, found: Sequence[Leaving], parallel: int, bandwidth_mibps: int | None = None
) -> list[Part]:
    """The moves of those that can, live ones no faster than `bandwidth_mibps` each. Raises NoValidHost when
    there is no room for one of them: then nothing is begun."""
    if homeless := [one for one in found if one.blocker is not None and one.method is not None]:
        raise NoValidHost(
            f"{host}: cannot be drained: {'; '.join(str(one.blocker) for one in homeless)}",
            hint=f"novactl host drain {host} --dry-run",
        )
    return [
        Part(
            move=move(one.instance, str(one.method), "drain", bandwidth_mibps=bandwidth_mibps),
            of="drain",
            host=host,
            parallel=parallel,
            source=one.instance.host,
        )
        for one in found
        if one.blocker is None
    ]


def move(
    one: Instance, method: str, reason: str, host: str | None = None, bandwidth_mibps: int | None = None
) -> LiveMigrate | Migrate:
    """How an instance is moved without waiting to be confirmed."""
    if method == LIVE:
        return LiveMigrate(
            name=one.uuid,
            project=one.project,
            host=host,
            reason=reason,
            bandwidth_mibps=bandwidth_mibps,
        )
    return Migrate(name=one.uuid, project=one.project, host=host, confirm=True, reason=reason)


def staying(world: World, host: str, found: Sequence[Leaving]) -> list[str]:
    """The instances that are on the host now, each with why it stays as far as the plan knew."""
    why = {one.instance.uuid: one.blocker for one in found if one.blocker is not None}
    there = world.db.read(lambda tx: instances.on_host(tx, host))
    return [f"{one.name} {why[one.uuid]}" if one.uuid in why else one.name for one in there]


def come_back(
    world: World, host: str, parallel: int, bandwidth_mibps: int | None = None
) -> list[tuple[Instance, Part]]:
    """Those that a drain has moved away and that are still where it brought them, each with its way back."""
    gone = world.db.read(lambda tx: list(_gone(tx, host)))
    return [
        (
            one,
            Part(
                move=move(one, BY_STATE.get(one.vm_state, (COLD,))[0], "undrain", host, bandwidth_mibps),
                of="undrain",
                host=host,
                parallel=parallel,
                source=one.host,
            ),
        )
        for one in gone
    ]


def _gone(tx: Tx, host: str) -> Iterator[Instance]:
    for migration in moves.from_host(tx, host, "drain"):
        newest = moves.of_instance(tx, migration.instance_uuid)[0]
        one = instances.get(tx, migration.instance_uuid)
        if newest.id == migration.id and one.deleted_at is None and one.host == migration.target:
            yield one
