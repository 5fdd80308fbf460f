"""rebuild: an instance gets new disks, of the same image or another, and keeps all else."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from novactl.actions import acting, guest, placement
from novactl.actions.acting import Seen, still
from novactl.actions.move_parts import power_off
from novactl.actions.rescue import chosen, swapped
from novactl.actions.steps.domains import OFF
from novactl.actions.steps.files import DRIVE
from novactl.actions.steps.records import SetTask
from novactl.actions.steps.rescues import (
    DropOldDisks,
    EraseSecret,
    HoldMore,
    KeepSecret,
    RecordLogin,
    RecordRebuilt,
    SetDisksAside,
)
from novactl.actions.wanted import check_fit, check_user_data
from novactl.actions.world import World
from novactl.db import catalogue, hosts, instances
from novactl.db.session import Tx
from novactl.engine.operation import Lock, Mode, Plan
from novactl.engine.step import Step
from novactl.errors import NoValidHost, Refused
from novactl.objects.extra_specs import numa_request
from novactl.objects.image import Image
from novactl.objects.instance import Instance
from novactl.objects.migration import most
from novactl.objects.states import PowerState, TaskState, VmState


@dataclass(frozen=True, kw_only=True)
class Reimage:
    """The instance is made anew where it is. `image`: by default the one that it was made from;
    `preserve_ephemeral`: disk.local stays as it is. `key` and `user_data`: others than it has."""

    name: str
    project: str
    image: str | None = None
    preserve_ephemeral: bool = False
    key: str | None = None
    user_data: bytes | None = None
    kind: str = "rebuild"

    @property
    def target(self) -> str:
        return self.name

    def check(self, world: World) -> tuple[Seen, Image]:
        """A disk that is lost is no reason against it."""
        seen = acting.check(world, self.kind, acting.look(world, self.name, self.project))
        image = world.db.read(lambda tx: chosen(tx, seen.instance, self.image))
        check_fit(seen.instance.flavor, image)
        check_user_data(self.user_data)
        if self.user_data is None and not world.rehearsal:  # that opens no secret, nor makes a key
            check_opened(world, seen.instance)
        return seen, image

    def plan(self, world: World, tx: Tx, op_id: str, found: tuple[Seen, Image]) -> Plan:
        seen, image = found
        instance = still(tx, seen.instance)
        login = self._login(world, tx, instance)
        rebuilt = replace(instance, image=self._with_kept(instance, image), **login)
        check_host(tx, instance, rebuilt)
        epoch, claim = instances.raise_epoch(tx, instance.uuid), claimed(tx, instance, rebuilt)
        steps = [claim, *_sealed(instance, rebuilt)]
        steps += self._steps(world, tx, op_id, instance, rebuilt, epoch, seen)
        if instance.user_data and rebuilt.user_data != instance.user_data:
            steps.append(EraseSecret(uuid=instance.uuid, secret=instance.user_data))
        steps += acting.sweep_steps(tx, instance)
        status = "SHUTOFF" if instance.vm_state is VmState.STOPPED else "ACTIVE"
        made = acting.plan_of(self.kind, instance, steps, epoch, status=status, image=image.name)
        changes = {"image": [instance.image.name if instance.image else None, image.name]}
        return replace(
            made,
            locks=made.locks | {Lock("image", image.id, Mode.SHARED)},
            applied=frozenset({HoldMore.type, KeepSecret.type}),
            changes=made.changes | changes,
        )

    def _steps(
        self,
        world: World,
        tx: Tx,
        op_id: str,
        instance: Instance,
        rebuilt: Instance,
        epoch: int,
        seen: Seen,
    ) -> Iterator[Step]:
        host, uuid = str(instance.host), instance.uuid
        anew = [step for step in guest.disk_steps(rebuilt, host) if not self._stays(step.file)]
        files = [*(step.file for step in anew), *DRIVE]
        runs = seen.vm_state is not VmState.STOPPED
        yield SetTask(uuid=uuid, task=TaskState.REBUILDING)
        *prepared, drive = guest.prepared_steps(tx, rebuilt)
        yield from prepared
        yield power_off(instance, host, ran=seen.power not in OFF)
        yield SetDisksAside(host=host, uuid=uuid, files=files)
        yield drive
        yield from anew
        yield from swapped(world, tx, op_id, rebuilt, instance, epoch, runs=runs)
        if login_of(rebuilt) != login_of(instance):
            yield RecordLogin(uuid=uuid, now=login_of(rebuilt), was=login_of(instance))
        yield RecordRebuilt(
            host=host,
            uuid=uuid,
            image=rebuilt.image.as_dict() if rebuilt.image else {},
            vm_state=VmState.ACTIVE if runs else VmState.STOPPED,
            power_state=PowerState.RUNNING if runs else PowerState.SHUTDOWN,
        )
        yield DropOldDisks(host=host, uuid=uuid, files=files)

    def _login(self, world: World, tx: Tx, instance: Instance) -> dict[str, Any]:
        """What of it is others than it has. Raises NotFound for a key that is not there."""
        changed: dict[str, Any] = {}
        if self.key is not None:
            key = catalogue.keypair(tx, self.project, self.key)
            changed |= {"key_name": key.name, "public_key": key.public_key}
        if self.user_data is not None:
            secret = world.secrets.seal(tx, world.ids.uuid(), instance.uuid, self.user_data)
            changed["user_data"] = secret
        return changed

    def _with_kept(self, instance: Instance, image: Image) -> Image:
        """A disk.local that stays stands on the file that it stood on, whatever the new image has for it."""
        was = instance.image.disks if instance.image else {}
        return replace(image, disks=was) if self.preserve_ephemeral else image

    def _stays(self, file: str) -> bool:
        return self.preserve_ephemeral and file == "disk.local"


def check_opened(world: World, instance: Instance) -> None:
    """Raises Refused when its user-data, which its guest is given again, cannot be opened here."""
    if (secret := instance.user_data) is None:
        return
    try:
        world.db.read(lambda tx: world.secrets.open(tx, secret))
    except Refused as error:
        raise Refused(
            f"{instance.name}: its user-data cannot be opened: {error.message}",
            hint="; or ".join(filter(None, (error.hint, "give it other ones: --user-data"))),
        ) from error


def login_of(instance: Instance) -> dict[str, str | None]:
    """What its guest lets who in by, as the record's columns."""
    return {name: getattr(instance, name) for name in ("key_name", "public_key", "user_data")}


def _sealed(instance: Instance, rebuilt: Instance) -> list[Step]:
    secret = rebuilt.user_data
    changed = secret is not None and secret != instance.user_data
    return [KeepSecret(uuid=instance.uuid, secret=secret)] if secret and changed else []


def check_host(tx: Tx, instance: Instance, rebuilt: Instance) -> None:
    """Raises NoValidHost or Refused when the instance could not have been given its host with this image."""
    if instance.image == rebuilt.image:
        return
    image = rebuilt.image.name if rebuilt.image else None
    if numa_request(instance.flavor, instance.image) != numa_request(rebuilt.flavor, rebuilt.image):
        raise Refused(
            f"{instance.name}: image {image} asks for other processors or pages of its own",
            hint="those are given only when an instance is booted",
        )
    if reasons := placement.against_image(tx, rebuilt):
        raise NoValidHost(
            f"{instance.name}: {instance.host} may not have image {image}: {'; '.join(reasons)}"
        )


def claimed(tx: Tx, instance: Instance, rebuilt: Instance) -> HoldMore:
    """Room for the larger of both disks: what it holds is not claimed twice."""
    host = str(instance.host)
    held = hosts.hold_of(tx, host, instance.uuid) or instance.resources
    amounts = most(held, rebuilt.resources)
    if not hosts.change_hold(tx, host, instance.uuid, amounts):
        raise NoValidHost(f"{instance.name}: {host} has no room for {rebuilt.root_gib} GiB of root disk")
    return HoldMore(host=host, uuid=instance.uuid, held=dict(vars(held)), disk_gib=amounts.disk_gib)
