"""resize on the instance's own host: nothing is copied, nothing renamed."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from novactl.actions import acting, guest, moving, placement
from novactl.actions.acting import still
from novactl.actions.move_parts import Way, disks, power_off, recorded
from novactl.actions.steps.copies import DefineThere
from novactl.actions.steps.domains import StartDomain
from novactl.actions.steps.moves import ClaimHere
from novactl.actions.steps.records import SetTask
from novactl.actions.world import World
from novactl.db import hosts, instances
from novactl.db.session import Tx
from novactl.engine.operation import Plan
from novactl.engine.step import Step
from novactl.errors import NoValidHost
from novactl.objects.flavor import Flavor
from novactl.objects.host import Resources
from novactl.objects.instance import Instance
from novactl.objects.migration import Migration, MigrationKind, Storage, most
from novactl.objects.states import TaskState


def unfit(tx: Tx, instance: Instance, flavor: Flavor) -> str | None:
    """Why the instance cannot have this flavor where it is; None when it can."""
    wanted, host = replace(instance, flavor=flavor), str(instance.host)
    if flavor.ephemeral_gib != instance.flavor.ephemeral_gib:
        return "another ephemeral disk is made only on another host: the old one is kept here"
    spec = placement.spec_of(tx, wanted, host=host)
    if spec.numa is not None or instance.numa is not None:
        return "processors or pages of its own are given only on another host"
    held = hosts.hold_of(tx, host, instance.uuid) or instance.resources
    now = most(held, wanted.resources)
    more = Resources(**{size: amount - vars(held)[size] for size, amount in vars(now).items()})
    spec = replace(spec, resources=more, stays=True)
    if placement.Board.of(tx).select(spec).best(0) is None:
        return placement.Board.of(tx).refusal(instance.name, spec).message
    return None if hosts.change_hold(tx, host, instance.uuid, now) else "there is no room"


def plan(world: World, tx: Tx, op_id: str, action: Any, found: Way) -> Plan:
    """The plan of a resize on its host."""
    instance = still(tx, found.seen.instance)
    moved = replace(instance, flavor=found.flavor)
    epoch, migration, claim = (
        instances.raise_epoch(tx, instance.uuid),
        *claimed(world, tx, op_id, instance, moved),
    )
    steps = list(_steps(world, tx, op_id, instance, moved, epoch, migration, action, found))
    made = acting.plan_of(
        action.kind,
        instance,
        (claim, *steps),
        epoch,
        status=instance.status if action.confirm else "VERIFY_RESIZE",
        flavor=found.flavor.name,
        confirm=action.confirm,
    )
    return replace(made, applied=frozenset({ClaimHere.type}))


def claimed(
    world: World, tx: Tx, op_id: str, instance: Instance, moved: Instance
) -> tuple[Migration, ClaimHere]:
    """Room for the larger of both on its host, quota for what it grows by, and the record of the move."""
    host = str(instance.host)
    migration, more = moving.begin(
        world, tx, op_id, instance, MigrationKind.RESIZE, host, storage=Storage.HERE, flavor=moved.flavor
    )
    held = hosts.hold_of(tx, host, instance.uuid) or instance.resources
    amounts = most(held, moved.resources)
    if not hosts.change_hold(tx, host, instance.uuid, amounts):
        raise NoValidHost(f"{instance.name}: {host} has no room for flavor {moved.flavor.name} any more")
    claim = ClaimHere(
        host=host,
        uuid=instance.uuid,
        migration=migration.id,
        more=more,
        held=dict(vars(held)),
        **vars(amounts),
    )
    return migration, claim


def _steps(
    world: World,
    tx: Tx,
    op_id: str,
    instance: Instance,
    moved: Instance,
    epoch: int,
    migration: Migration,
    action: Any,
    found: Way,
) -> Iterator[Step]:
    host, uuid = hosts.get(tx, str(instance.host)), instance.uuid
    waits = None if action.confirm else migration.carried(instance.numa)
    yield SetTask(uuid=uuid, task=TaskState.RESIZING)
    yield from guest.bridge_steps(tx, moved, host)
    yield from guest.base_steps(moved, host.name)
    yield power_off(instance, host.name, ran=found.runs)
    yield from disks(instance, moved, host.name, anew=False)
    yield guest.config_drive_step(moved, host)
    yield DefineThere(
        host=host.name,
        uuid=uuid,
        xml=acting.domain_with(world, tx, op_id, moved, epoch, waits),
        before=acting.domain_with(world, tx, op_id, instance, epoch, None),
    )
    if found.runs:
        yield StartDomain(host=host.name, uuid=uuid)
    yield recorded(migration, host.name, host.name, found, confirm=action.confirm)
