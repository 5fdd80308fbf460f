"""Backups of a guest's disks on its host (remote/backup.sh)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from novactl.virt.calls import Calls, check_uuid, job_words
from novactl.virt.xml import el, render

CHECKPOINT = re.compile(r"novactl-[0-9a-f-]{36}")
MOST = 16  # checkpoints of one instance that are looked at in one go


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A bitmap of that name in each of these disks (vda): what changed since `seconds` (since 1970)."""

    name: str
    seconds: int
    devices: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A disk that is copied: what libvirt calls it (vda), and the bytes that its guest sees."""

    device: str
    size: int


class Backups(Calls):
    """What a host does for backups. Copies are `<operation>.<file>`, in the instance's directory."""

    def backup_words(
        self,
        uuid: str,
        epoch: int,
        op: str,
        checkpoint: Checkpoint,
        parent: Checkpoint | None,
        files: Mapping[str, Disk],
        *,
        freeze: bool,
        size: int,
    ) -> list[str]:
        """A job that copies these disks of a running guest as they are at one moment, or what changed in them
        since `parent`; it says which, and why not. All of it takes `size` bytes at most."""
        where, op = self.directory(uuid), job_words(op, 0)[0]
        words = ["nv_backup", where, uuid, op, checkpoint.name]
        words += [backup_xml(where, op, files, None), checkpoint_xml(checkpoint)]
        words += (backup_xml(where, op, files, parent), checkpoint_xml(parent)) if parent else ("", "")
        words += ["yes" if freeze else "no", str(size)]
        words += [word for file, disk in files.items() for word in (file, str(disk.size))]
        return ["nv_fenced", check_uuid(uuid), str(epoch), *words]

    def unback(self, uuid: str, epoch: int, op: str, checkpoint: Checkpoint) -> None:
        """No backup of the guest goes on, nothing is frozen; neither copies nor the checkpoint are there."""
        words = ("nv_unback", self.directory(uuid), uuid, job_words(op, 0)[0])
        self._fenced(uuid, epoch, *words, checkpoint.name, checkpoint_xml(checkpoint))

    def forget_checkpoint(self, uuid: str, epoch: int, checkpoint: Checkpoint) -> None:
        """Neither libvirt nor the disks know it."""
        words = ("nv_forget_checkpoint", self.directory(uuid), uuid)
        self._fenced(uuid, epoch, *words, checkpoint.name, checkpoint_xml(checkpoint))

    def checkpoints(self, uuid: str, files: Sequence[str]) -> list[str]:
        """The names of ours that libvirt or these disks know; some, when they are absurdly many."""
        names = self._ours("nv_checkpoints", self.directory(uuid), check_uuid(uuid), *files).split()
        return [name for name in names if CHECKPOINT.fullmatch(name)][:MOST]

    def swap_disk(self, uuid: str, epoch: int, file: str, base: str, size: int, op: str) -> None:
        """An overlay of the base file takes the file's place, which is kept as `<file>.<op>`."""
        words = ("nv_swap_disk", self.directory(uuid), uuid, file, base, str(size), op)
        self._fenced(uuid, epoch, *words)

    def unswap_disk(self, uuid: str, epoch: int, file: str, op: str) -> None:
        """It has its place again."""
        self._fenced(uuid, epoch, "nv_unswap_disk", self.directory(uuid), uuid, file, op)

    def drop_aside(self, uuid: str, epoch: int, file: str, op: str) -> None:
        """What swap_disk() kept is gone."""
        self._fenced(uuid, epoch, "nv_drop_aside", self.directory(uuid), file, op)


def backup_xml(directory: str, op: str, files: Mapping[str, Disk], since: Checkpoint | None) -> str:
    """libvirt's <domainbackup> of these disks; the others are left out."""
    disks = (
        el(
            "disk",
            el("target", file=f"{directory}/{op}.{file}"),
            el("driver", type="qcow2"),
            name=disk.device,
            type="file",
            backup="yes",
        )
        for file, disk in files.items()
    )
    wanted = el("incremental", text=since.name) if since else None
    return render(el("domainbackup", wanted, el("disks", *disks), mode="push"))


def checkpoint_xml(checkpoint: Checkpoint) -> str:
    """libvirt's <domaincheckpoint>, new or as it was made. Its disks have libvirt's names: it looks for the
    bitmaps of no other."""
    disks = (
        el("disk", name=device, checkpoint="bitmap", bitmap=checkpoint.name) for device in checkpoint.devices
    )
    return render(
        el(
            "domaincheckpoint",
            el("name", text=checkpoint.name),
            el("creationTime", text=checkpoint.seconds),
            el("disks", *disks),
        )
    )
