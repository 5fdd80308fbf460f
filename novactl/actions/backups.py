"""backup create: the disks of an instance, whole or what changed in them, in the image store."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from novactl.actions import acting, guest, notes
from novactl.actions.acting import Seen, plan_of, still
from novactl.actions.steps.backups import CopyDisks, ForgetCheckpoint, RecordBackup, RemoveUnneeded
from novactl.actions.steps.domains import OFF
from novactl.actions.steps.images import PullFile
from novactl.actions.steps.records import SetTask
from novactl.actions.steps.snapshots import DropFiles, ExtractDisk
from novactl.actions.world import World
from novactl.db import backups, instances
from novactl.db.secrets import sealed
from novactl.db.session import Tx
from novactl.engine.operation import Lock, Mode, Plan
from novactl.engine.step import Step
from novactl.errors import Refused, UsageError
from novactl.objects.backup import Backup, chain, check_request
from novactl.objects.image import MARGIN, MIB
from novactl.objects.instance import Instance
from novactl.objects.moments import before
from novactl.objects.states import PowerState, TaskState
from novactl.virt.domain import devices_of, record
from novactl.virt.snapshots import SnapshotLook


@dataclass(frozen=True, kw_only=True)
class Found:
    """What check saw. `sizes`: bytes of each disk; `bytes`: what all of them take at most. `parent`: what
    the backup is a difference to, else the reason why it is whole. `notes`: checkpoints in the disks."""

    seen: Seen
    sizes: dict[str, int]
    bytes: int
    parent: Backup | None
    reason: str
    notes: list[str]

    @property
    def live(self) -> bool:
        return self.seen.power not in OFF and not self.seen.saved


@dataclass(frozen=True, kw_only=True)
class BackUp:
    """The disks of one instance as they are at one moment, of which `rotation` of this type are kept. `full`:
    all of them; `incremental`: what changed, or nothing at all; neither: what changed, when that is known."""

    name: str
    project: str
    backup: str
    type: str
    rotation: int
    full: bool = False
    incremental: bool = False
    quiesce: bool = False
    kind: str = "backup"

    @property
    def target(self) -> str:
        return self.name

    def check(self, world: World) -> Found:
        check_request(self.backup, self.type, self.rotation)
        if self.full and self.incremental:
            raise UsageError("--full and --incremental exclude each other")
        seen = acting.check(world, self.kind, acting.look(world, self.name, self.project))
        instance = seen.instance
        world.db.read(lambda tx: backups.refuse_taken(tx, instance.project, self.backup))
        acting.check_disks(world, instance)
        files = local_disks(instance)
        look = world.hypervisor(str(instance.host)).snapshot_look(instance.uuid, seen.power, files)
        self._check_agent(seen, look)
        found = self._found(world, seen, look)
        if self.incremental and found.parent is None:
            raise Refused(
                f"{instance.name}: no incremental backup: {found.reason}",
                hint="without --incremental it is a full one",
            )
        return found

    def _check_agent(self, seen: Seen, look: SnapshotLook) -> None:
        name = seen.instance.name
        if not self.quiesce:
            return
        if seen.power is not PowerState.RUNNING:
            raise Refused(f"{name}: does not run: nothing can be frozen", hint="leave --quiesce out")
        if look.silent:
            raise Refused(
                f"{name}: its file systems cannot be frozen: no agent answers in it ({look.silent})",
                hint="qemu-guest-agent must run in it, and its image have hw_qemu_guest_agent=yes",
            )

    def _found(self, world: World, seen: Seen, look: SnapshotLook) -> Found:
        """What is copied. Raises Refused where there is no room for it; how much has changed in the disks is
        known when they are copied."""
        instance = seen.instance
        sizes = {file: disk.virtual_bytes for file, disk in look.disks.items()}
        whole = sum(disk.whole_bytes for disk in look.disks.values())
        before = world.db.read(lambda tx: backups.of_instance(tx, instance.uuid, self.type))
        parent, reason = self._parent(world, seen, sizes, before)
        needed = 0 if parent else whole
        for place, room in (
            (str(instance.host), look.room_bytes),
            ("the store", world.store.room()),
        ):
            if room - MARGIN < needed:
                raise Refused(
                    f"{instance.name}: its backup may take {needed // MIB} MiB on {place},"
                    f" {max(0, room - MARGIN) // MIB} MiB are free",
                    hint="free some space there",
                )
        notes_ = world.hypervisor(str(instance.host)).checkpoints(instance.uuid, list(sizes))
        return Found(seen=seen, sizes=sizes, bytes=whole + MARGIN, parent=parent, reason=reason, notes=notes_)

    def _parent(
        self, world: World, seen: Seen, sizes: dict[str, int], before: Sequence[Backup]
    ) -> tuple[Backup | None, str]:
        """What it can be a difference to, else why it is whole."""
        if self.full:
            return None, "asked for"
        if seen.power in OFF or seen.saved:
            return None, "the guest is off"
        kept = [one for one in before if one.checkpoint]
        if not kept:
            return None, "it is the first"
        parts = chain(kept[-1], {one.id: one for one in before})
        if not parts or not all(world.store.has(sum_) for one in parts for sum_ in one.sums):
            return None, f"files of {kept[-1].name} are gone"
        if len(parts) >= self.rotation:
            return None, f"{len(parts)} hang together already"
        if {file: one["virtual_size_bytes"] for file, one in kept[-1].files.items()} != sizes:
            return None, "the disks have other sizes"
        return kept[-1], ""

    def plan(self, world: World, tx: Tx, op_id: str, found: Found) -> Plan | None:
        instance = still(tx, found.seen.instance)
        backups.refuse_taken(tx, instance.project, self.backup)
        epoch = instances.raise_epoch(tx, instance.uuid)
        steps = self._steps(world, tx, op_id, instance, found)
        request = {"backup": self.backup, "type": self.type, "rotation": self.rotation}
        made = plan_of(self.kind, instance, steps, epoch, status=instance.status, **request)
        named = hashlib.sha256(f"{instance.project}/{self.backup}".encode()).hexdigest()
        locks = made.locks | {Lock("backup", named, Mode.EXCLUSIVE)}  # nobody else makes one of its name
        what = f"incremental to {found.parent.name}" if found.parent else f"full: {found.reason}"
        return replace(made, locks=locks, changes={"backup": [None, self.backup], "copies": [None, what]})

    def _steps(self, world: World, tx: Tx, op_id: str, instance: Instance, found: Found) -> Iterator[Step]:
        where: dict[str, Any] = {"host": instance.host, "uuid": instance.uuid}
        devices, parent = devices_of(instance), found.parent
        backup = self._draft(world, tx, instance, found)
        yield SetTask(uuid=instance.uuid, task=TaskState.BACKING_UP)
        if found.live:
            yield CopyDisks(
                **where,
                checkpoint=noted(backup, devices),
                parent=noted(parent, devices) if parent else None,
                files={file: {"device": devices[file], "size": size} for file, size in found.sizes.items()},
                size_bytes=found.bytes,
                freeze=self.quiesce,
                only_incremental=self.incremental,
                reason=found.reason,
            )
        else:
            for file in found.sizes:
                yield ExtractDisk(**where, file=file, disk_format="qcow2", compressed=False)
        for file in found.sizes:
            yield PullFile(**where, file=f"{op_id}.{file}", what=file, disk_format="qcow2")
        yield DropFiles(**where)
        yield RecordBackup(uuid=instance.uuid, backup=vars(backup))
        older = [one for one in backups.of_instance(tx, instance.uuid, self.type) if one.checkpoint]
        if found.live and older:
            yield ForgetCheckpoint(**where, checkpoint=noted(older[-1], devices))
        for left in notes.unneeded(tx, instance, found.notes, found.sizes):
            yield ForgetCheckpoint(**where, checkpoint=left)
        yield RemoveUnneeded()

    def _draft(self, world: World, tx: Tx, instance: Instance, found: Found) -> Backup:
        """Newer than all others, whatever the clock of whoever made those: else it would rotate out."""
        others = backups.of_instance(tx, instance.uuid, self.type)
        newest = max((one.created_at for one in others), default="")
        now = world.clock.now()
        id_, user_data = world.ids.uuid(), instance.user_data
        return Backup(
            id=id_,
            name=self.backup,
            instance_uuid=instance.uuid,
            instance_name=instance.name,
            project=instance.project,
            type=self.type,
            rotation=self.rotation,
            parent=found.parent.id if found.parent else None,
            files={file: {"virtual_size_bytes": size} for file, size in found.sizes.items()},
            checkpoint=f"novactl-{id_}" if found.live else "",
            reason=found.reason,
            quiesced=self.quiesce,
            instance=record(instance) | ({"user_data": sealed(tx, user_data)} if user_data else {}),
            created_at=now if now > newest else before(newest, -0.001),
        )


def local_disks(instance: Instance) -> list[str]:
    """The disks that a backup holds: what no base file and no record brings back; swap is nobody's."""
    return [file for file in guest.overlays(instance) if file != "disk.swap"]


def noted(one: Backup, devices: Mapping[str, str]) -> dict[str, Any]:
    """Its checkpoint (virt.backups.Checkpoint), as it stands in a step."""
    seconds = int(datetime.fromisoformat(one.created_at).timestamp())
    return {"name": one.checkpoint, "seconds": seconds, "devices": [devices[file] for file in one.files]}
