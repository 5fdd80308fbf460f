"""migrate-abort: a live migration that is under way is ended, and its guest stays."""

from novactl.actions import recover
from novactl.actions.operate import Operator
from novactl.db import operations
from novactl.engine.operation import ACTIVE, Operation, OpState
from novactl.errors import OperationIncomplete, Refused
from novactl.objects.instance import Instance

KIND = "live-migrate"


def abort(operator: Operator, instance: Instance) -> Operation:
    """Its owner is told to stop, and waited for; a dead one's work is undone here. Raises Refused when no
    live migration of it is under way, or when the guest has arrived; OperationIncomplete when undoing it
    was left half way."""
    world = operator.world
    op = next(
        (one for one in _active(operator) if one.target_uuid == instance.uuid and one.kind == KIND), None
    )
    if op is None:
        raise Refused(
            f"{instance.name}: no live migration of it is under way", hint="novactl op list --active"
        )
    op = recover.cancel(operator, op.id)
    while op.state in ACTIVE and op.state is not OpState.INCOMPLETE:
        world.interrupt.check()
        world.clock.sleep(recover.POLL)
        op = operator.journal.load(op.id)
    if op.state is OpState.DONE:
        raise Refused(f"{instance.name}: its guest had arrived already", hint=f"novactl show {instance.name}")
    if op.state is OpState.INCOMPLETE:
        raise OperationIncomplete(
            op.error or "left half way", hint=f"novactl op show {op.id}", operation=op.id
        )
    return op


def _active(operator: Operator) -> list[Operation]:
    listed = operator.world.db.read(lambda tx: operations.listed(tx, active=True))
    return [op for op, _, _ in listed]
