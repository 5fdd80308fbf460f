"""Disks of an instance that others take the place of for a while, or for good (remote/rescue.sh)."""

from collections.abc import Sequence

from novactl.virt.calls import Calls, job_words


class Rescues(Calls):
    """Each may be done twice."""

    def disks_aside(self, uuid: str, epoch: int, op: str, files: Sequence[str]) -> None:
        """These are kept under the operation's name, and its NVRAM: there is room for others."""
        self._fenced(
            uuid, epoch, "nv_disks_aside", self.directory(uuid), self.nvram(uuid), job_words(op, 0)[0], *files
        )

    def disks_back(self, uuid: str, epoch: int, op: str, files: Sequence[str]) -> None:
        """What was kept takes the place of what came instead; nothing kept is fine."""
        self._fenced(
            uuid, epoch, "nv_disks_back", self.directory(uuid), self.nvram(uuid), job_words(op, 0)[0], *files
        )

    def disks_gone(self, uuid: str, epoch: int, op: str, files: Sequence[str]) -> None:
        """What was kept is gone."""
        self._fenced(uuid, epoch, "nv_disks_gone", self.directory(uuid), job_words(op, 0)[0], *files)
