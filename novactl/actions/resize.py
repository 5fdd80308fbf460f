"""resize and cold migrate: the guest is shut down, its files follow it, and the move waits to be confirmed
or reverted (actions/verify.py)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from novactl.actions import acting, blanks, guest, moving, resize_here, resize_live
from novactl.actions.acting import Seen, still
from novactl.actions.boot import ATTEMPTS
from novactl.actions.move_parts import Way, disks, power_off, recorded
from novactl.actions.steps.copies import (
    CleanUp,
    CopyDisk,
    DefineThere,
    LeaveHost,
    PlaceNvram,
)
from novactl.actions.steps.domains import StartDomain
from novactl.actions.steps.files import MakeDirectory
from novactl.actions.steps.moves import SOURCE, ReleaseHold
from novactl.actions.steps.records import SetTask
from novactl.actions.steps.trust import EndTrust, OpenTrust
from novactl.actions.verify import Confirm, Revert
from novactl.actions.wanted import check_fit
from novactl.actions.world import World
from novactl.db import catalogue, instances
from novactl.db.session import Tx
from novactl.engine.operation import Plan
from novactl.engine.step import Step
from novactl.errors import HostUnreachable, NoValidHost, Refused, UsageError
from novactl.objects.extra_specs import firmware
from novactl.objects.flavor import Flavor
from novactl.objects.image import MARGIN, MIB
from novactl.objects.instance import Instance
from novactl.objects.migration import MigrationKind, Storage
from novactl.objects.states import TaskState

__all__ = ["Confirm", "Migrate", "Resize", "Revert"]

NVRAM_BYTES = 1 * MIB


@dataclass(frozen=True, kw_only=True)
class Migrate:
    """To another host, its guest off meanwhile. `reason`: objects.migration.Migration."""

    name: str
    project: str
    host: str | None = None
    confirm: bool = False
    reason: str | None = None
    kind: str = "migrate"

    @property
    def target(self) -> str:
        return self.name

    def check(self, world: World) -> Way:
        seen = acting.look(world, self.name, self.project)
        acting.check(world, "migrate", seen)
        acting.check_disks(world, seen.instance)
        return way(world, seen, seen.instance.flavor, self.host)

    def plan(self, world: World, tx: Tx, op_id: str, found: Way) -> Plan | None:
        return plan(world, tx, op_id, self, MigrationKind.COLD, found, reason=self.reason)


@dataclass(frozen=True, kw_only=True)
class Resize:
    """Another flavor: on its host, if it has the room, else on another. `live`: of a guest that runs on."""

    name: str
    project: str
    flavor: str
    host: str | None = None
    confirm: bool = False
    live: bool = False
    kind: str = "resize"

    @property
    def target(self) -> str:
        return self.name

    def check(self, world: World) -> Way | resize_live.Found:
        if self.live and self.confirm:
            raise UsageError("--confirm goes without --live: there is nothing to confirm")
        flavor = world.db.read(lambda tx: catalogue.flavor(tx, self.flavor))
        seen = acting.look(world, self.name, self.project)
        acting.check(world, "resize", seen)
        check_flavors(seen.instance, flavor)
        if self.live:
            return resize_live.look(world, seen, flavor, self.host)
        acting.check_disks(world, seen.instance)
        if self.host in (None, seen.instance.host):
            why = world.db.rehearse(lambda tx: resize_here.unfit(tx, seen.instance, flavor))
            if why is None:
                here = str(seen.instance.host)
                return Way(seen=seen, flavor=flavor, host=here, storage=Storage.HERE, sizes={})
            if self.host is not None:
                raise NoValidHost(f"{seen.instance.name}: cannot be resized on {self.host}: {why}")
        return way(world, seen, flavor, self.host)

    def plan(self, world: World, tx: Tx, op_id: str, found: Way | resize_live.Found) -> Plan | None:
        if isinstance(found, resize_live.Found):
            return resize_live.plan(world, tx, op_id, self, found)
        if found.storage is Storage.HERE:
            return resize_here.plan(world, tx, op_id, self, found)
        return plan(world, tx, op_id, self, MigrationKind.RESIZE, found, flavor=self.flavor)


def check_flavors(instance: Instance, flavor: Flavor) -> None:
    """Raises Refused for a flavor that changes nothing, does not fit the image, or shrinks a disk."""
    name, old = instance.name, instance.flavor
    if replace(flavor, id="", name="") == replace(old, id="", name=""):
        raise Refused(f"{name}: has the sizes of flavor {flavor.name} already")
    if instance.image is not None:
        check_fit(flavor, instance.image)
    shrinks = {
        "root disk": (instance.root_gib, replace(instance, flavor=flavor).root_gib),
        "ephemeral disk": (old.ephemeral_gib, flavor.ephemeral_gib),
    }
    for what, (before, after) in shrinks.items():
        if after < before:
            raise Refused(
                f"{name}: flavor {flavor.name} would shrink its {what} from {before} to {after} GiB",
                hint="disks never shrink: choose a flavor with a larger one",
            )


# --- to which host ---


def way(world: World, seen: Seen, flavor: Flavor, host: str | None) -> Way:
    """The host that it goes to, looked at live; of several that are chosen the first that is as the database
    has it. Raises NoValidHost, Refused, HostUnreachable."""
    instance, tried = seen.instance, frozenset[str]()
    files = _files(instance, flavor)
    sizes = world.hypervisor(str(instance.host)).disk_sizes(instance.uuid, files)
    for attempt in range(1, ATTEMPTS + 1):
        choose = partial(moving.choose, instance=instance, host=host, flavor=flavor, tried=tried)
        chosen = world.db.rehearse(choose)
        try:
            storage = _look(world, replace(instance, flavor=flavor), chosen.host, sizes)
            _check_ephemeral(instance, flavor, chosen.host, storage)
            return Way(seen=seen, flavor=flavor, host=chosen.host, storage=storage, sizes=sizes)
        except (HostUnreachable, Refused) as error:
            if host is not None or attempt == ATTEMPTS:
                raise
            world.tell(f"{instance.name}: not to {chosen.host}: {error.message}")
            tried |= {chosen.host}
    raise AssertionError("unreachable")


def _check_ephemeral(instance: Instance, flavor: Flavor, host: str, storage: Storage) -> None:
    """Raises Refused when another ephemeral disk would take the old one's place."""
    if storage is Storage.SHARED and flavor.ephemeral_gib != instance.flavor.ephemeral_gib:
        raise Refused(f"{instance.name}: its ephemeral disk is shared with {host}, it has no other there")


def _files(instance: Instance, flavor: Flavor) -> list[str]:
    """Whose content goes with it: another ephemeral disk is made empty."""
    same = flavor.ephemeral_gib == instance.flavor.ephemeral_gib
    return [file for file in guest.overlays(instance) if file == "disk" or (file == "disk.local" and same)]


def _look(world: World, moved: Instance, name: str, sizes: dict[str, tuple[int, int]]) -> Storage:
    """Whether the host has the disks, when it is fit to take the instance; Refused when it is not."""
    there = world.hypervisor(name)
    look = there.look(moved.uuid, sorted({port.bridge for port in moved.ports}))
    if look.missing_bridges:
        raise Refused(f"{moved.name}: {name} has no bridge {', '.join(look.missing_bridges)}")
    if look.domain:
        raise Refused(f"{moved.name}: {name} has a domain with its uuid", hint="novactl audit shows it")
    if moving.shared(world, str(moved.host), name):
        return Storage.SHARED
    blanks.check(world, moved, sizes, name)
    needed = MARGIN + sum(takes for _, takes in sizes.values())
    if look.disk_free < needed:
        raise Refused(
            f"{moved.name}: {name} has {look.disk_free // MIB} MiB free on {there.instances_path}, its disks"
            f" need {needed // MIB}",
            hint="free some space there, or choose another host",
        )
    return Storage.COPIED


# --- the steps ---


def plan(
    world: World,
    tx: Tx,
    op_id: str,
    action: Any,
    kind: MigrationKind,
    found: Way,
    *,
    reason: str | None = None,
    **request: Any,
) -> Plan:
    """The plan of a move to another host."""
    instance = still(tx, found.seen.instance)
    epoch = instances.raise_epoch(tx, instance.uuid)
    move = moving.claim(
        world,
        tx,
        op_id,
        instance,
        kind,
        storage=found.storage,
        epoch=epoch,
        host=found.host,
        flavor=found.flavor,
        reason=reason,
    )
    steps = list(_steps(world, tx, op_id, move, found, confirm=action.confirm))
    status = instance.status if action.confirm else "VERIFY_RESIZE"
    return move.plan(action.kind, steps, status=status, confirm=action.confirm, **request)


def _steps(
    world: World, tx: Tx, op_id: str, move: moving.Move, found: Way, *, confirm: bool
) -> Iterator[Step]:
    instance, moved, uuid = move.instance, move.moved, move.instance.uuid
    source, target, copied = move.source.name, move.target.name, found.storage is Storage.COPIED
    ends = {"host": source, "target": target}
    uefi = firmware(instance.image) == "uefi"
    files = [*found.sizes, *(["nvram"] if uefi else [])] if copied else []
    yield SetTask(uuid=uuid, task=TaskState.RESIZING)
    copies = sum(takes for _, takes in found.sizes.values()) if copied else 0
    yield guest.check_step(moved, move.target, copied_bytes=copies)
    if copied:
        most = {file: guest.most_bytes(instance, file) for file in files}
        yield OpenTrust(receives=world.hypervisor(target).receive_words(uuid, most), **ends)
    yield from guest.bridge_steps(tx, moved, move.target)
    yield from _bases(instance, moved, target)
    if copied:
        yield from blanks.steps(instance, files, target)
        yield MakeDirectory(host=target, uuid=uuid)
    yield power_off(instance, source, ran=found.runs)
    xml = acting.domain_xml(world, tx, op_id, instance, move.epoch)
    yield LeaveHost(host=source, uuid=uuid, xml=xml, aside=copied, nvram=uefi and not copied)
    for file in files:
        size = found.sizes[file][0] if file in found.sizes else NVRAM_BYTES
        yield CopyDisk(uuid=uuid, file=file, size_bytes=size, **ends)
    if uefi:
        yield PlaceNvram(host=target, uuid=uuid)
    yield from disks(instance, moved, target, anew=copied)
    yield guest.config_drive_step(moved, move.target)
    yield DefineThere(
        host=target, uuid=uuid, xml=move.domain_xml(world, op_id, waits=not confirm), before=None
    )
    if found.runs:
        yield StartDomain(host=target, uuid=uuid)
    yield recorded(move.migration, target, source, found, confirm=confirm)
    if copied:
        yield EndTrust(**ends)
    if confirm:
        yield CleanUp(host=source, uuid=uuid, left="aside" if copied else "nothing")
        yield ReleaseHold(host=source, uuid=uuid, role=SOURCE)


def _bases(instance: Instance, moved: Instance, target: str) -> Iterator[Step]:
    """What the disks that come, and those that are made there, are overlays of."""
    seen: list[Step] = []
    for one in (instance, moved):
        for step in guest.base_steps(one, target):
            if step not in seen:
                seen.append(step)
                yield step
