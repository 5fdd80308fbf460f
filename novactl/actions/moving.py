"""What every move of an instance begins with: room on the second host, and the record of the move."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from novactl.actions import acting, guest, placement
from novactl.actions.steps.moves import TARGET, ClaimTarget
from novactl.actions.world import World
from novactl.db import hosts, moves, projects
from novactl.db.session import Tx
from novactl.engine.operation import Lock, Mode, Plan
from novactl.engine.step import Step
from novactl.errors import Busy, Refused
from novactl.objects.flavor import Flavor
from novactl.objects.host import Host
from novactl.objects.instance import Instance
from novactl.objects.migration import Migration, MigrationKind, MigrationStatus, Storage, most_use
from novactl.virt.domain import Marks

APPLIED = frozenset({ClaimTarget.type})
"""What the transaction that claims has done itself."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """A move with room for it. `instance` is as it is now, `moved` as it will be: on its new host, with its
    new flavor and cells."""

    migration: Migration
    instance: Instance
    moved: Instance
    source: Host
    target: Host
    alternates: tuple[str, ...]
    claim: ClaimTarget
    epoch: int

    @property
    def locks(self) -> frozenset[Lock]:
        """Its instance alone, and both hosts with others."""
        here = acting.instance_locks(self.instance)
        return here | {Lock("host", self.target.name, Mode.SHARED)}

    def domain_xml(self, world: World, op_id: str, *, waits: bool = False) -> str:
        """Its domain on the new host. `waits`: to be confirmed or reverted."""
        marks = Marks(
            fleet=world.fleet,
            operation=op_id,
            epoch=self.epoch,
            generation=self.instance.version + 1,
            move=self.migration.carried(self.instance.numa) if waits else None,
        )
        return guest.domain_xml(self.moved, self.target, marks, world.template("domain.xml"))

    def plan(self, kind: str, steps: Iterable[Step], *, status: str, **request: Any) -> Plan:
        """The plan of the move: its claim, which is made already, and these steps."""
        return Plan(
            kind=kind,
            target=self.instance.name,
            target_uuid=self.instance.uuid,
            project=self.instance.project,
            request=request,
            locks=self.locks,
            attempt=(self.claim, *steps),
            applied=APPLIED,
            epoch=self.epoch,
            host=self.target.name,
            alternates=self.alternates,
            changes={
                "status": [self.instance.status, status],
                "host": [self.source.name, self.target.name],
            },
        )


def choose(
    tx: Tx,
    instance: Instance,
    *,
    host: str | None = None,
    flavor: Flavor | None = None,
    tried: frozenset[str] = frozenset(),
) -> placement.Claimed:
    """Where the instance may go, holding its share there as move-target; call it with `tx` of a rehearsal to
    learn the host before anything is decided. Raises NoValidHost with every host's reasons; Refused when the
    named host is the one it is on, NotFound when there is none of that name; as check_none_open()."""
    check_none_open(tx, instance)
    if host is not None and host == instance.host:
        raise Refused(f"{instance.name}: is on {host} already")
    if host is not None:
        hosts.get(tx, host)
    wanted = replace(instance, flavor=flavor) if flavor is not None else instance
    not_there = tried | {str(instance.host)}
    return placement.claim(tx, wanted, host=host, tried=not_there, role=TARGET)


def check_none_open(tx: Tx, instance: Instance) -> None:
    """One move of an instance at a time, whatever its state says. Raises Busy while another is under way or
    was left, Refused while one waits to be confirmed or reverted."""
    other = moves.open_of(tx, instance.uuid)
    if other is None:
        return
    what = f"{instance.name}: a {other.kind} from {other.source} to {other.target}"
    if other.status is MigrationStatus.MIGRATING:
        raise Busy(f"{what} is under way ({other.operation})", operation=other.operation)
    raise Refused(
        f"{what} is open",
        hint=f"novactl resize-confirm {instance.name}, or resize-revert",
    )


def begin(
    world: World,
    tx: Tx,
    op_id: str,
    instance: Instance,
    kind: MigrationKind,
    target: str,
    *,
    storage: Storage,
    flavor: Flavor,
    reason: str | None = None,
) -> tuple[Migration, dict[str, int]]:
    """(the record of a move, what its project's quota counts more while it is open). Raises QuotaExceeded,
    and as check_none_open()."""
    check_none_open(tx, instance)
    counted, used = most_use(instance.flavor, flavor), most_use(instance.flavor)
    more = {what: counted[what] - used[what] for what in counted}
    projects.take(tx, instance.project, **more)
    now = world.clock.now()
    migration = Migration(
        id=world.ids.uuid(),
        instance_uuid=instance.uuid,
        kind=kind,
        source=str(instance.host),
        target=target,
        storage=storage,
        old_flavor=instance.flavor,
        new_flavor=flavor,
        was=instance.vm_state,
        reason=reason,
        operation=op_id,
        created_at=now,
        updated_at=now,
    )
    moves.add(tx, migration)
    return migration, more


def claim(
    world: World,
    tx: Tx,
    op_id: str,
    instance: Instance,
    kind: MigrationKind,
    *,
    storage: Storage,
    epoch: int,
    host: str | None = None,
    flavor: Flavor | None = None,
    reason: str | None = None,
    tried: frozenset[str] = frozenset(),
) -> Move:
    """Room on another host (choose()), and the move begun. Raises NoValidHost, QuotaExceeded, Refused."""
    new = flavor or instance.flavor
    chosen = choose(tx, instance, host=host, flavor=flavor, tried=tried)
    migration, more = begin(
        world, tx, op_id, instance, kind, chosen.host, storage=storage, flavor=new, reason=reason
    )
    moved = replace(instance, host=chosen.host, flavor=new, numa=chosen.numa)
    step = ClaimTarget(
        host=chosen.host,
        uuid=instance.uuid,
        migration=migration.id,
        more=more,
        **vars(moved.resources),
    )
    return Move(
        migration=migration,
        instance=instance,
        moved=moved,
        source=hosts.get(tx, migration.source),
        target=hosts.get(tx, chosen.host),
        alternates=tuple(chosen.alternates),
        claim=step,
        epoch=epoch,
    )


def shared(world: World, one: str, other: str) -> bool:
    """Whether both hosts see the same instances' directory: a file that one writes is there on the other."""
    first, second = world.hypervisor(one), world.hypervisor(other)
    name = world.ids.uuid().replace("-", "")
    try:
        first.probe(name, "write")
        return second.probe(name, "look")
    finally:
        first.probe(name, "remove")
