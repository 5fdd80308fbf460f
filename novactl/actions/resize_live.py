"""resize --live: other memory and processors for a guest that runs on, as far as it lets; the rest comes with
its next boot."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from novactl.actions import acting, resize_here
from novactl.actions.acting import Seen, still
from novactl.actions.preflight import OK, WARN, Item
from novactl.actions.steps.copies import DefineThere
from novactl.actions.steps.records import SetTask
from novactl.actions.steps.sizes import RecordFlavor, RecordSizes, SetMemory, SetVcpus
from novactl.actions.world import World
from novactl.db import instances
from novactl.db.session import Tx
from novactl.engine.operation import Plan
from novactl.engine.step import Step
from novactl.errors import NoValidHost, Refused
from novactl.objects.flavor import Flavor
from novactl.objects.instance import Instance
from novactl.objects.migration import Migration
from novactl.objects.states import TaskState
from novactl.virt.sizes import Size


@dataclass(frozen=True, kw_only=True)
class Found:
    """What check saw. `size`: None for a guest that is off."""

    seen: Seen
    flavor: Flavor
    size: Size | None


def look(world: World, seen: Seen, flavor: Flavor, host: str | None) -> Found:
    """The guest as it runs. Raises Refused for what cannot be done without its being off, NoValidHost when
    its host has no room."""
    instance, moved = seen.instance, replace(seen.instance, flavor=flavor)
    name = instance.name
    if host not in (None, instance.host):
        hint = f"novactl migrate {name} --live --host {host} first, or resize it without --live"
        raise Refused(f"{name}: is on {instance.host}, and --live keeps it there", hint=hint)
    if _disks(moved) != _disks(instance):
        raise Refused(
            f"{name}: flavor {flavor.name} has other disks: they change only while the guest is off",
            hint="without --live it is shut down for a moment",
        )
    if why := world.db.rehearse(lambda tx: resize_here.unfit(tx, instance, flavor)):
        raise NoValidHost(f"{name}: cannot be resized on {instance.host}: {why}")
    found = Found(seen=seen, flavor=flavor, size=world.hypervisor(str(instance.host)).size(instance.uuid))
    if not world.rehearsal:
        for item in _items(found):
            world.tell(f"{name}: {item.item}: {item.message}")
    return found


def _disks(instance: Instance) -> tuple[int, ...]:
    return instance.root_gib, instance.flavor.ephemeral_gib, instance.flavor.swap_mib


def vcpus(size: Size | None, wanted: int) -> tuple[str, str]:
    """(OK or WARN, when a guest of this size gets so many processors). Pure."""
    if size is None:
        return OK, "at its next boot: the guest is off"
    if wanted > size.most_vcpus:
        return WARN, f"at its next boot: its domain was started for {size.most_vcpus} at most"
    if wanted < size.vcpus:
        return OK, "now if the guest lets them go, else at its next boot"
    return OK, "now"


def memory(size: Size | None, wanted: int) -> tuple[str, str]:
    """The same of so many MiB. Pure."""
    if size is None:
        return OK, "at its next boot: the guest is off"
    if wanted > size.most_memory_mib:
        return WARN, f"at its next boot: its domain was started with {size.most_memory_mib} MiB"
    if not size.balloon and wanted != size.memory_mib:
        return WARN, "at its next boot: no balloon driver answers in the guest"
    if wanted < size.memory_mib:
        return OK, "now if the guest's balloon driver gives it back, else at its next boot"
    return OK, "now"


def _differ(found: Found) -> tuple[bool, bool]:
    """Whether processors and memory are to change: the guest may have others than its flavor."""
    old, new, size = found.seen.instance.flavor, found.flavor, found.size
    return (
        new.vcpus != old.vcpus or (size is not None and size.vcpus != new.vcpus),
        new.memory_mib != old.memory_mib or (size is not None and size.memory_mib != new.memory_mib),
    )


def _items(found: Found) -> Iterator[Item]:
    old, new, host = found.seen.instance.flavor, found.flavor, str(found.seen.instance.host)
    processors, amount = _differ(found)
    if processors:
        result, when = vcpus(found.size, new.vcpus)
        yield Item("vcpus", host, result, f"{old.vcpus} to {new.vcpus} {when}")
    if amount:
        result, when = memory(found.size, new.memory_mib)
        yield Item("memory", host, result, f"{old.memory_mib} to {new.memory_mib} MiB {when}")
    if new.extra_specs != old.extra_specs:
        yield Item("extra specs", host, OK, "at its next boot")


def plan(world: World, tx: Tx, op_id: str, action: Any, found: Found) -> Plan:
    """The plan of a resize that keeps the guest running."""
    instance = still(tx, found.seen.instance)
    moved = replace(instance, flavor=found.flavor)
    epoch = instances.raise_epoch(tx, instance.uuid)
    migration, claim = resize_here.claimed(world, tx, op_id, instance, moved)
    steps = _steps(world, tx, op_id, instance, moved, epoch, migration, found)
    request = {"flavor": found.flavor.name, "live": True}
    made = acting.plan_of(action.kind, instance, (claim, *steps), epoch, status=instance.status, **request)
    sizes = ("vcpus", "memory_mib")
    changes = {size: [getattr(one.flavor, size) for one in (instance, moved)] for size in sizes}
    return replace(
        made,
        applied=frozenset({claim.type}),
        changes=made.changes | changes,
        preflight=tuple(dict(vars(item)) for item in _items(found)),
    )


def _steps(
    world: World,
    tx: Tx,
    op_id: str,
    instance: Instance,
    moved: Instance,
    epoch: int,
    migration: Migration,
    found: Found,
) -> Iterator[Step]:
    """Only after the record has the flavor is the guest changed: what it does not do is no failure."""
    host, uuid = instance.host, instance.uuid
    yield SetTask(uuid=uuid, task=TaskState.RESIZING)
    yield DefineThere(
        host=host,
        uuid=uuid,
        xml=acting.domain_xml(world, tx, op_id, moved, epoch),
        before=acting.domain_xml(world, tx, op_id, instance, epoch),
    )
    yield RecordFlavor(uuid=uuid, migration=migration.id)
    new, (processors, amount) = moved.flavor, _differ(found)
    if processors:
        _, when = vcpus(found.size, new.vcpus)
        yield SetVcpus(host=host, uuid=uuid, vcpus=new.vcpus, expected=when)
    if amount:
        _, when = memory(found.size, new.memory_mib)
        yield SetMemory(host=host, uuid=uuid, memory_mib=new.memory_mib, expected=when)
    yield RecordSizes(host=host, uuid=uuid, migration=migration.id)
