"""All that is left of an instance: its files on a host that it has left, when the one that it is on is lost.
Nothing removes them, and the move that would have waits to be reverted."""

from typing import Any

from novactl.actions.steps.moves import SOURCE
from novactl.actions.world import World
from novactl.db import hosts, instances, moves, projects
from novactl.db.session import Tx
from novactl.errors import HostFault, HostUnreachable, Refused
from novactl.objects.instance import Instance
from novactl.objects.migration import Migration, MigrationStatus, Storage, most_use
from novactl.objects.states import VmState

MAY_WAIT = frozenset({MigrationStatus.CONFIRMED, MigrationStatus.MIGRATING})


def spare(ctx: Any, host: str, uuid: str) -> None:
    """Before it is removed: the instance's own host answers. Raises HostUnreachable when it does not, Refused
    when it is down for certain and what is here is whole: it goes under its name all at once."""
    own = ctx.world.db.read(lambda tx: instances.get(tx, uuid)).host
    if own is None or own == host:
        return
    if own not in ctx.gone:
        ctx.world.hypervisor(own).fence(uuid, ctx.epoch)
    elif _is_there(ctx.world, host, uuid):
        raise Refused(f"{own}, which it is on, is lost: what {host} has of it is all that is left")


def _is_there(world: World, host: str, uuid: str) -> bool:
    """Under its name, or set aside."""
    entries = (uuid, f"{uuid}_resize")
    return any(one.entry in entries for one in world.hypervisor(host).survey().directories)


def move_to(tx: Tx, instance: Instance, gone: frozenset[str]) -> Migration | None:
    """The move that has brought the instance to the host that is lost, when the one that it left may still
    have its files."""
    move = next(iter(moves.of_instance(tx, instance.uuid)), None)
    if move is None or move.storage is not Storage.COPIED or move.status not in MAY_WAIT:
        return None
    holds = hosts.holds_of(tx, instance.uuid)
    held = any((one["host"], one["role"]) == (move.source, SOURCE) for one in holds)
    lost = instance.host == move.target and move.target in gone and move.source not in gone
    return move if held and lost else None


def found(world: World, instance: Instance, gone: frozenset[str]) -> Migration | None:
    """It, when they are there."""
    move = world.db.read(lambda tx: move_to(tx, instance, gone))
    if move is None:
        return None
    try:
        return move if _is_there(world, move.source, instance.uuid) else None
    except (HostUnreachable, HostFault):
        return None


def tidy(world: World, move: Migration, op_id: str, epoch: int) -> None:
    """The host that has them keeps nothing of the operation, and has them set aside, as those of every move
    that waits."""
    host = world.hypervisor(move.source)
    if move.status is MigrationStatus.MIGRATING:
        host.forget_move(move.instance_uuid, epoch)
        host.unlisten(op_id)
        host.set_aside(move.instance_uuid, epoch)
    host.trust_end(op_id)


def wait(tx: Tx, move: Migration, now: str) -> None:
    """The instance is in VERIFY_RESIZE: resize-revert takes it back. Quota counts both flavors again."""
    instance = instances.get(tx, move.instance_uuid)
    if move.status is MigrationStatus.CONFIRMED:
        both, counted = most_use(move.old_flavor, move.new_flavor), most_use(move.new_flavor)
        projects.force(tx, instance.project, **{what: both[what] - counted[what] for what in both})
    moves.turn(tx, move.id, MigrationStatus.FINISHED, now)
    instances.update(tx, instance.uuid, vm_state=VmState.RESIZED, task_state=None)
