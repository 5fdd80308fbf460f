"""resize-confirm and resize-revert: how a move that waits in VERIFY_RESIZE ends."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

from novactl.actions import acting, guest, restored
from novactl.actions.acting import Seen, plan_of, still
from novactl.actions.move_parts import disks, power_off
from novactl.actions.steps.copies import CleanUp, ComeBack, DefineThere, LeaveHost
from novactl.actions.steps.domains import OFF, StartDomain, WriteCopy
from novactl.actions.steps.moves import SOURCE, TARGET, RecordConfirmed, RecordReverted, ReleaseHold
from novactl.actions.steps.records import RecordCopied, SetTask
from novactl.actions.world import World
from novactl.db import hosts, instances, moves
from novactl.db.session import Tx
from novactl.engine.operation import Lock, Mode, Plan
from novactl.engine.step import Step
from novactl.errors import Busy, NoValidHost, Refused
from novactl.objects.instance import Instance
from novactl.objects.migration import Migration, MigrationStatus, Storage
from novactl.objects.states import (
    PowerState,
    TaskState,
    VmState,
    check_allowed,
    check_unlocked,
    vm_state_of,
)

LEFT = {Storage.COPIED: "aside", Storage.SHARED: "nothing"}


@dataclass(frozen=True, kw_only=True)
class Found:
    """What check saw. `lost`: the host that has to do nothing but to forget is fenced, so down for certain:
    what is there is for audit to clean when it returns; `both`: so is the other one, and only the record can
    be confirmed."""

    seen: Seen
    migration: Migration
    lost: bool
    both: bool


def _check(world: World, action: str, name: str, project: str) -> Found:
    """The instance, when a move of it waits and both hosts answer: none of it is done half only because the
    other one is away. What need only be forgotten may be on one that is fenced."""
    instance, migration = world.db.read(lambda tx: _move_of(tx, name, project))
    lost, both = world.db.read(lambda tx: _lost(tx, migration, action))
    if lost and (both or action == Revert.kind):
        seen = Seen(instance, instance.power_state)
    else:
        seen = acting.look(world, name, project)
    check_unlocked(action, instance.name, instance.locked)
    if migration is None or migration.status is not MigrationStatus.FINISHED:
        check_allowed(action, instance.name, instance.vm_state)
        raise Refused(f"{instance.name}: no move of it waits to be confirmed or reverted")
    if not migration.here and not (lost and action == Confirm.kind):
        greeting = world.hypervisor(migration.source).greet(instance.uuid)
        restored.check_mark(world, migration.source, greeting.mark)
        restored.check_epoch(world, instance, greeting)
    return Found(seen=seen, migration=migration, lost=lost, both=both)


def _move_of(tx: Tx, name: str, project: str) -> tuple[Instance, Migration | None]:
    instance = instances.find(tx, name, project)
    return instance, moves.open_of(tx, instance.uuid)


def _lost(tx: Tx, migration: Migration | None, action: str) -> tuple[bool, bool]:
    """Found's `lost` and `both`."""
    if migration is None:
        return False, False
    source, target = (hosts.get(tx, name).state == "fenced" for name in (migration.source, migration.target))
    if action == Revert.kind:
        return target and not migration.here, False
    return source, source and target


def _waiting(tx: Tx, found: Found, action: str) -> tuple[Instance, Migration]:
    instance = still(tx, found.seen.instance)
    migration = moves.open_of(tx, instance.uuid)
    if migration is None:
        raise Refused(f"{instance.name}: no move of it waits any more")
    if _lost(tx, migration, action) != (found.lost, found.both):
        raise Busy(f"{instance.name}: one of its hosts was fenced, or is no more, just now", hint="try again")
    return instance, migration


def _locked(plan: Plan, migration: Migration) -> Plan:
    return replace(plan, locks=plan.locks | {Lock("host", migration.source, Mode.SHARED)})


@dataclass(frozen=True, kw_only=True)
class Confirm:
    """The instance stays where and as large as it is; what it has left is removed."""

    name: str
    project: str
    kind: str = "resize-confirm"

    @property
    def target(self) -> str:
        return self.name

    def check(self, world: World) -> Found:
        return _check(world, self.kind, self.name, self.project)

    def plan(self, world: World, tx: Tx, op_id: str, found: Found) -> Plan | None:
        instance, migration = _waiting(tx, found, self.kind)
        seen = found.seen
        epoch, vm_state = instances.raise_epoch(tx, instance.uuid), vm_state_of(seen.power, seen.saved)
        steps: list[Step] = [
            RecordConfirmed(
                uuid=instance.uuid, migration=migration.id, vm_state=vm_state, power_state=seen.power
            ),
        ]
        if not found.both:
            xml = acting.domain_with(world, tx, op_id, instance, epoch, None)
            steps.append(WriteCopy(host=instance.host, uuid=instance.uuid, xml=xml))
            steps.append(RecordCopied(uuid=instance.uuid))
        if not migration.here:
            source, left = migration.source, LEFT[migration.storage]
            if not found.lost:
                steps.append(CleanUp(host=source, uuid=instance.uuid, left=left))
            steps.append(ReleaseHold(host=source, uuid=instance.uuid, role=SOURCE))
        status = "ACTIVE" if vm_state is VmState.ACTIVE else "SHUTOFF"
        return _locked(plan_of(self.kind, instance, steps, epoch, status=status), migration)


@dataclass(frozen=True, kw_only=True)
class Revert:
    """The instance is where, and as large as, it was before; what was written since is lost where its disks
    were copied."""

    name: str
    project: str
    kind: str = "resize-revert"

    @property
    def target(self) -> str:
        return self.name

    def check(self, world: World) -> Found:
        """Raises Refused, too, when the host that it is on is fenced and a disk that both share is held."""
        found = _check(world, self.kind, self.name, self.project)
        if found.lost and found.migration.storage is Storage.SHARED:
            acting.check_not_held(world, found.migration.source, found.seen.instance)
        return found

    def plan(self, world: World, tx: Tx, op_id: str, found: Found) -> Plan | None:
        instance, migration = _waiting(tx, found, self.kind)
        epoch = instances.raise_epoch(tx, instance.uuid)
        steps = list(_back(world, tx, op_id, found, instance, migration, epoch))
        status = "ACTIVE" if migration.was is VmState.ACTIVE else "SHUTOFF"
        plan = _locked(plan_of(self.kind, instance, steps, epoch, status=status), migration)
        changes = {**plan.changes, "host": [migration.target, migration.source]}
        return replace(plan, host=migration.source, changes=changes)


def _back(
    world: World, tx: Tx, op_id: str, found: Found, instance: Instance, migration: Migration, epoch: int
) -> Iterator[Step]:
    uuid, runs = instance.uuid, migration.was is VmState.ACTIVE
    back = _before(tx, instance, migration)
    _claim_room(tx, back, migration)
    source = hosts.get(tx, migration.source)
    now = acting.domain_xml(world, tx, op_id, instance, epoch)
    yield SetTask(uuid=uuid, task=TaskState.REVERTING)
    yield from guest.bridge_steps(tx, back, source)
    yield from guest.base_steps(back, source.name)
    if not found.lost:
        yield power_off(instance, migration.target, ran=found.seen.power not in OFF)
    if not migration.here and not found.lost:
        yield LeaveHost(host=migration.target, uuid=uuid, xml=now, aside=False)
    if migration.storage is Storage.COPIED:
        yield ComeBack(host=source.name, uuid=uuid)
    else:
        yield from disks(instance, back, source.name, anew=False)
    yield guest.config_drive_step(back, source)
    then = acting.domain_with(world, tx, op_id, back, epoch, None)
    yield DefineThere(host=source.name, uuid=uuid, xml=then, before=now if migration.here else None)
    if runs:
        yield StartDomain(host=source.name, uuid=uuid)
    yield RecordReverted(
        uuid=uuid,
        migration=migration.id,
        vm_state=VmState.ACTIVE if runs else VmState.STOPPED,
        power_state=PowerState.RUNNING if runs else PowerState.SHUTDOWN,
    )
    if not migration.here:
        if not found.lost:
            left = "directory" if migration.storage is Storage.COPIED else "nothing"
            yield CleanUp(host=migration.target, uuid=uuid, left=left)
        yield ReleaseHold(host=migration.target, uuid=uuid, role=TARGET)


def _claim_room(tx: Tx, back: Instance, migration: Migration) -> None:
    """What it holds there is what it will need: a disk that grew where nothing was copied stays so, also when
    the revert is undone. Raises NoValidHost."""
    if migration.here or hosts.change_hold(tx, migration.source, back.uuid, back.resources, SOURCE):
        return
    raise NoValidHost(
        f"{back.name}: {migration.source} has no room for its disk, which has {back.root_gib} GiB by now",
        hint=f"free some there, or novactl resize-confirm {back.name}",
    )


def _before(tx: Tx, instance: Instance, migration: Migration) -> Instance:
    """As it was, on the cells that its hold there still has."""
    held = next((hold["numa"] for hold in hosts.holds_of(tx, instance.uuid) if hold["role"] == SOURCE), None)
    numa = json.loads(held) if held else (instance.numa if migration.here else None)
    return replace(instance, host=migration.source, flavor=migration.reverted, numa=numa)
