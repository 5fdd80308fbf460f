"""backup restore: an instance that begins as it was, a new one or the same."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from novactl.actions import acting, guest
from novactl.actions.acting import Seen, plan_of, still
from novactl.actions.backups import local_disks
from novactl.actions.boot import Boot
from novactl.actions.reimage import check_host, claimed
from novactl.actions.steps.backups import DropAside, RecordRestored, SwapDisk
from novactl.actions.steps.images import FetchBase
from novactl.actions.steps.records import SetTask
from novactl.actions.steps.rescues import HoldMore
from novactl.actions.wanted import Wanted, give
from novactl.actions.world import World
from novactl.db import catalogue, groups, instances
from novactl.db.session import Tx
from novactl.engine.operation import Plan
from novactl.engine.step import Step
from novactl.errors import Refused
from novactl.objects.backup import Backup
from novactl.objects.flavor import Flavor
from novactl.objects.image import GIB, Image
from novactl.objects.instance import Instance
from novactl.objects.keypair import parse_public_key
from novactl.objects.placement import Placement
from novactl.objects.request import BootRequest, NetworkRequest
from novactl.objects.states import TaskState


def image_of(backup: Backup) -> Image:
    """The backup as what an instance is made from; its files need no others."""
    was = backup.instance["image"] or {}
    kept = ["min_memory_mib", "properties", "kernel_sha256", "kernel_size_bytes"]
    kept += ["initrd_sha256", "initrd_size_bytes", "cmdline"]
    others = {file: stored for file, stored in backup.files.items() if file != "disk"}
    return Image(
        id=backup.id,
        name=backup.name,
        disks=others,
        created_at=backup.created_at,
        **{key: was[key] for key in kept if key in was},
        **backup.files["disk"],
    )


def request_of(backup: Backup, name: str, host: str | None) -> BootRequest:
    """A boot of an instance like the one that it is of: its own address is asked for nowhere, since that one
    may have it."""
    was = backup.instance
    return BootRequest(
        name=name,
        flavor=was["flavor"]["name"],
        image=backup.name,
        project=backup.project,
        networks=tuple(NetworkRequest(network=port["network"]) for port in was["ports"]),
        key=was["key_name"],
        metadata=was["metadata"],
        tags=tuple(was["tags"]),
        host=host,
    )


@dataclass(frozen=True, kw_only=True)
class RestoreAs(Boot):
    """A new instance with the flavor, key, networks and metadata of the one that the backup is of."""

    backup: Backup

    def check(self, world: World) -> dict[str, Any]:
        super().check(world)
        return {}  # what was looked up before says that the image is in the catalogue

    def _prepared(self, world: World, tx: Tx) -> dict[str, Any]:
        give(tx, self.request, self._meant(tx))
        return super()._prepared(world, tx)

    def plan(self, world: World, tx: Tx, op_id: str, found_before: dict[str, Any]) -> Plan | None:
        meant = replace(self, request=replace(self.request, user_data=self._user_data(world)))
        give(tx, meant.request, self._meant(tx))
        made = super(RestoreAs, meant).plan(world, tx, op_id, found_before)
        return made and replace(made, request=made.request | {"backup": self.backup.id})

    def _user_data(self, world: World) -> bytes | None:
        """As it was, where this operator's key opens it."""
        if (sealed := self.backup.instance.get("user_data")) is None:
            return None
        try:
            return world.secrets.unseal(sealed)
        except Refused as error:
            world.tell(f"{self.name}: has no user-data: {error.message} ({error.hint})")
            return None

    def _meant(self, tx: Tx) -> Wanted:
        """As it was, though flavor and key may have been deleted since."""
        was = self.backup.instance
        key = was["public_key"]
        group = groups.get(tx, was["group_id"]) if was.get("group_id") else None
        return Wanted(
            image=image_of(self.backup),
            flavor=Flavor(**was["flavor"]),
            key=parse_public_key(was["key_name"], key) if key else None,
            networks=[catalogue.network(tx, wanted.network) for wanted in self.request.networks],
            placement=Placement.from_dict(was["placement"]),
            group=group,
        )


@dataclass(frozen=True, kw_only=True)
class RestoreHere:
    """The disks of the instance itself are as they were; those before are kept until all of them are."""

    name: str
    project: str
    backup: Backup
    kind: str = "restore"

    @property
    def target(self) -> str:
        return self.name

    def check(self, world: World) -> Seen:
        seen = acting.check(world, "backup restore", acting.look(world, self.name, self.project))
        instance, backup = seen.instance, self.backup
        if instance.uuid != backup.instance_uuid:
            raise Refused(
                f"{instance.name}: backup {backup.name} is of another instance, {backup.instance_name}",
                hint="novactl backup restore BACKUP --as NEWNAME",
            )
        if set(local_disks(instance)) != set(backup.files):
            raise Refused(
                f"{instance.name}: has other disks than backup {backup.name}",
                hint="novactl backup restore BACKUP --as NEWNAME",
            )
        acting.check_disks(world, instance)
        return seen

    def plan(self, world: World, tx: Tx, op_id: str, seen: Seen) -> Plan | None:
        instance = still(tx, seen.instance)
        restored = replace(instance, image=image_of(self.backup))
        check_host(tx, instance, restored)
        epoch, claim = instances.raise_epoch(tx, instance.uuid), claimed(tx, instance, restored)
        steps = [claim, *self._steps(restored), *acting.sweep_steps(tx, instance)]
        made = plan_of(self.kind, instance, steps, epoch, status="SHUTOFF")
        return replace(made, request={"backup": self.backup.id}, applied=frozenset({HoldMore.type}))

    def _steps(self, restored: Instance) -> Iterator[Step]:
        host, uuid, image = restored.host, restored.uuid, image_of(self.backup)
        yield SetTask(uuid=uuid, task=TaskState.REBUILDING)
        yield from (one for one in guest.base_steps(restored, str(host)) if isinstance(one, FetchBase))
        for file, stored in self.backup.files.items():
            size = max(stored["virtual_size_bytes"], _size(restored, file))
            yield SwapDisk(host=host, uuid=uuid, file=file, base=stored["sha256"], size_bytes=size)
        yield RecordRestored(host=host, uuid=uuid, image=image.as_dict())
        for file in self.backup.files:
            yield DropAside(host=host, uuid=uuid, file=file)


def _size(instance: Instance, file: str) -> int:
    """Bytes of the disk as the flavor has it."""
    return (instance.root_gib if file == "disk" else instance.flavor.ephemeral_gib) * GIB
