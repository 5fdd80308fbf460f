"""Backups on a simulated host, as remote/backup.sh makes them."""

from collections.abc import Sequence
from typing import Any

from novactl.virt.backups import Backups, Checkpoint
from tests.support.sim_snapshots import OFF, content_of


def backup_work(host: Any, uuid: str, words: Sequence[str]) -> tuple[int, str]:
    """What the job does, its exit status and log."""
    op, name, incremental, parent, freeze = words[3], words[4], words[7], words[8], words[9]
    files, domain = host.files_of(uuid), host.domains.get(uuid)
    if domain is None or domain.state in OFF:
        return 1, "error: Requested operation is not valid: domain is not running"
    if freeze == "yes" and not domain.agent:
        return 1, "the guest's file systems were not frozen: it does not answer"
    domain.checkpoints.discard(name)
    how = "full"
    if incremental:
        known = [one for one in domain.checkpoints if f"<name>{one}</name>" in parent]
        how = "incremental" if known else "full the disks do not tell what changed: no bitmap"
    for file in words[11::2]:
        files[f"{op}.{file}"] = content_of((how, op, files[file]), "qcow2")
    domain.checkpoints.add(name)
    return 0, f"{how}\n"


class SimBackups:
    """virt.backups.Backups of a SimHypervisor."""

    backup_words = Backups.backup_words

    def unback(self: Any, uuid: str, epoch: int, op: str, checkpoint: Checkpoint) -> None:
        with self._fenced("unback", uuid, epoch):
            files = self.host.files_of(uuid)
            for file in [file for file in files if file.startswith(f"{op}.")]:
                del files[file]
                self._half("unback")
            self._forget_checkpoint(uuid, checkpoint)

    def forget_checkpoint(self: Any, uuid: str, epoch: int, checkpoint: Checkpoint) -> None:
        with self._fenced("forget_checkpoint", uuid, epoch):
            self._forget_checkpoint(uuid, checkpoint)

    def checkpoints(self: Any, uuid: str, files: Sequence[str]) -> list[str]:
        with self._call("checkpoints"):
            self._ours()
            domain = self.host.domains.get(uuid)
            return sorted(domain.checkpoints) if domain else []

    def _forget_checkpoint(self: Any, uuid: str, checkpoint: Checkpoint) -> None:
        if domain := self.host.domains.get(uuid):
            domain.checkpoints.discard(checkpoint.name)

    def swap_disk(self: Any, uuid: str, epoch: int, file: str, base: str, size: int, op: str) -> None:
        with self._fenced("swap_disk", uuid, epoch):
            files = self._swappable(uuid)
            if base not in self.host.bases:
                self._die(1, f"base file {base} is not here")
            if f"{file}.{op}" not in files:
                self._alone(files, file)
                files[f"{file}.{op}"] = files.pop(file)
            self._half("swap_disk")
            files[file] = (base, size)

    def unswap_disk(self: Any, uuid: str, epoch: int, file: str, op: str) -> None:
        with self._fenced("unswap_disk", uuid, epoch):
            files = self._swappable(uuid)
            if f"{file}.{op}" in files:
                files[file] = files.pop(f"{file}.{op}")

    def _swappable(self: Any, uuid: str) -> dict[str, Any]:
        if (domain := self.host.domains.get(uuid)) and domain.state not in OFF:
            self._die(1, f"the guest is {domain.state}")
        files: dict[str, Any] = self._files(uuid)
        return files

    def drop_aside(self: Any, uuid: str, epoch: int, file: str, op: str) -> None:
        with self._fenced("drop_aside", uuid, epoch):
            self.host.files_of(uuid).pop(f"{file}.{op}", None)
