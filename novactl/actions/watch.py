"""Looking at instances until something is so: consoles, milestones, wait."""

from collections.abc import Iterator

from novactl.actions import recover
from novactl.actions.operate import Operator
from novactl.actions.outcome import left
from novactl.actions.world import World
from novactl.db import instances
from novactl.engine.operation import Operation, OpState
from novactl.errors import (
    HostUnreachable,
    NotFound,
    OperationFailed,
    Refused,
    TimedOut,
    UsageError,
)
from novactl.objects.instance import Instance
from novactl.objects.states import VmState

MILESTONES = ("active", "ssh", "cloud-init")
POLL = 0.5
CLOUD_INIT_DONE = b"Cloud-init v."
CLOUD_INIT_WORDS = b" finished at "


def check_milestone(text: str) -> None:
    """Raises UsageError for one that is not known."""
    if text not in MILESTONES:
        raise UsageError(f"--wait-for {text!r} is not one of {', '.join(MILESTONES)}")


def console(world: World, instance: Instance, *, lines: int, follow: bool) -> Iterator[bytes]:
    """The serial console's log, and with `follow` what comes after it, until interrupted."""
    if instance.host is None:
        raise Refused(f"{instance.name}: is on no host ({instance.status})")
    host = world.hypervisor(instance.host)
    offset, text = host.console_tail(instance.uuid, lines)
    yield text
    while follow:
        world.clock.sleep(POLL)
        offset, text = host.console_from(instance.uuid, offset)
        if text:
            yield text


def milestone(world: World, instance: Instance, wanted: str, timeout: float) -> None:
    """Wait for ssh or cloud-init of a running instance. Raises TimedOut, or Refused when it cannot be."""
    reached = _ssh_answers if wanted == "ssh" else _cloud_init_finished
    if wanted == "ssh":
        _check_route(world, instance)
    end = world.clock.monotonic() + timeout
    while not reached(world, instance):
        if world.clock.monotonic() >= end:
            raise TimedOut(
                f"{instance.name}: no {wanted} within {timeout:.0f} s",
                hint=f"the instance goes on; novactl console-log {instance.name}",
            )
        world.interrupt.check()
        world.clock.sleep(POLL)


def _check_route(world: World, instance: Instance) -> None:
    """Raises Refused when the host has no direct way to the guest: then no banner can ever be seen."""
    if not instance.ports or instance.host is None:
        raise Refused(f"{instance.name}: has no address to wait for")
    address = instance.ports[0].ip
    if world.hypervisor(instance.host).route_device(address) == "default":
        raise Refused(
            f"{instance.name}: {instance.host} reaches {address} only by its default route",
            hint="give the host's bridge an address of that network",
        )


def _ssh_answers(world: World, instance: Instance) -> bool:
    assert instance.host
    try:
        banner = world.hypervisor(instance.host).banner(instance.ports[0].ip, 22, 5.0)
    except (OSError, HostUnreachable):
        return False
    return banner.startswith(b"SSH-")


def _cloud_init_finished(world: World, instance: Instance) -> bool:
    assert instance.host
    _, text = world.hypervisor(instance.host).console_tail(instance.uuid, 0)
    return any(CLOUD_INIT_DONE in line and CLOUD_INIT_WORDS in line for line in text.splitlines())


def until(world: World, name: str, project: str, condition: str, timeout: float) -> None:
    """Wait for `status=S`, `ip`, `ssh`, `cloud-init` or `deleted`. Raises TimedOut; OperationFailed when
    the instance goes to ERROR instead; NotFound when it is not there."""
    kind, sign, value = condition.partition("=")
    if kind not in ("status", "ip", "ssh", "cloud-init", "deleted") or (kind == "status") != bool(sign):
        raise UsageError(
            f"condition {condition!r} is not known", hint="status=ACTIVE, ip, ssh, cloud-init or deleted"
        )
    end = world.clock.monotonic() + timeout
    uuid: str | None = None
    while True:
        instance = _now(world, uuid or name, project, gone_is_fine=kind == "deleted")
        if instance is None or _holds(instance, kind, value):
            return
        uuid = instance.uuid
        if instance.vm_state is VmState.ERROR and kind != "deleted":
            raise OperationFailed(f"{instance.name}: is in ERROR", hint=f"novactl show {instance.name}")
        if instance.vm_state is VmState.ACTIVE and kind in ("ssh", "cloud-init"):
            milestone(world, instance, kind, max(0.0, end - world.clock.monotonic()))
            return
        if world.clock.monotonic() >= end:
            raise TimedOut(
                f"{instance.name}: not {condition} within {timeout:.0f} s, it is {instance.status}"
            )
        world.clock.sleep(POLL)


def _now(world: World, name: str, project: str, *, gone_is_fine: bool) -> Instance | None:
    try:
        return world.db.read(lambda tx: instances.find(tx, name, project, prefix=True))
    except NotFound:
        if gone_is_fine:
            return None
        raise


def _holds(instance: Instance, kind: str, value: str) -> bool:
    if kind == "status":
        return instance.status == value.upper()
    return kind == "ip" and bool(instance.ports)


def operation(operator: Operator, op_id: str, timeout: float) -> Operation:
    """Wait until an operation has ended or was left half way. Raises TimedOut; OperationFailed when it was
    undone, OperationIncomplete when it was left or its owner is gone: the operation's own codes."""
    clock, journal = operator.world.clock, operator.journal
    end = clock.monotonic() + timeout
    while (op := journal.load(op_id)).state in (OpState.PLANNED, OpState.RUNNING, OpState.UNDOING):
        if recover.is_left(operator, op) and journal.load(op_id).state is op.state:
            raise left(op)
        if clock.monotonic() >= end:
            raise TimedOut(
                f"{op.id}: {op.kind} of {op.target} is {op.state} after {timeout:.0f} s", operation=op.id
            )
        clock.sleep(POLL)
    if op.state is OpState.INCOMPLETE:
        raise left(op)
    if op.state is not OpState.DONE:
        raise OperationFailed(f"{op.kind} of {op.target}: {op.error or op.state}", operation=op.id)
    return op
