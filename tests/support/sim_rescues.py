"""What virt.rescues.Rescues promises, of a simulated host."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any


class SimRescues:
    """Disks that others take the place of; None stands for one that was not there."""

    _fenced: Any
    _files: Any
    _half: Any
    _die: Any

    def _disks(self, call: str, uuid: str, epoch: int) -> AbstractContextManager[None]:
        made: AbstractContextManager[None] = self._fenced(call, uuid, epoch)
        return made

    def disks_aside(self, uuid: str, epoch: int, op: str, files: Sequence[str]) -> None:
        with self._disks("disks_aside", uuid, epoch):
            there = self._files(uuid)
            for file in files:
                if f"{file}.{op}" not in there:
                    self._alone(there, file)
                    there[f"{file}.{op}"] = there.pop(file, None)
                    self._half("disks_aside")

    def _alone(self, there: dict[str, Any], file: str) -> None:
        for kept in there:
            if kept.startswith(f"{file}.op-"):
                self._die(76, f"{kept} is kept aside: novactl audit --heal decides which one is its disk")

    def disks_back(self, uuid: str, epoch: int, op: str, files: Sequence[str]) -> None:
        with self._disks("disks_back", uuid, epoch):
            there = self._files(uuid)
            for file in files:
                if f"{file}.{op}" not in there:
                    continue
                there.pop(file, None)
                if (kept := there.pop(f"{file}.{op}")) is not None:
                    there[file] = kept
                self._half("disks_back")

    def disks_gone(self, uuid: str, epoch: int, op: str, files: Sequence[str]) -> None:
        with self._disks("disks_gone", uuid, epoch):
            for file in files:
                self._files(uuid).pop(f"{file}.{op}", None)
                self._half("disks_gone")
