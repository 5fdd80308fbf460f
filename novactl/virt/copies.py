"""An instance that goes to another host while its guest is off (remote/copies.sh)."""

from collections.abc import Mapping, Sequence
from typing import Literal

from novactl.virt.calls import Calls, check_uuid, job_words

Left = Literal["directory", "aside", "nothing"]


class Copies(Calls):
    """What cold moves do on their two hosts. Each may be done twice."""

    def leave_domain(self, uuid: str, epoch: int) -> None:
        """No longer defined; its files and NVRAM stay. HostFault while its guest runs."""
        self._fenced(uuid, epoch, "nv_leave_domain", uuid)

    def set_aside(self, uuid: str, epoch: int) -> None:
        """leave_domain(), and its directory is `<uuid>_resize`, with a copy of its NVRAM."""
        self._fenced(uuid, epoch, "nv_set_aside", self.directory(uuid), uuid, self.nvram(uuid))

    def bring_back(self, uuid: str, epoch: int) -> None:
        """`<uuid>_resize` is its directory again."""
        self._fenced(uuid, epoch, "nv_bring_back", self.directory(uuid))

    def clean_up(self, uuid: str, epoch: int, left: Left) -> None:
        """Its directory, or `<uuid>_resize`, is gone, and its NVRAM. HostFault while it is defined there."""
        words = ("nv_clean_up", self.directory(uuid), uuid, self.nvram(uuid), left)
        self._fenced(uuid, epoch, *words)

    def copy_nvram(self, uuid: str, epoch: int) -> None:
        """A copy of its NVRAM is with its files."""
        self._fenced(uuid, epoch, "nv_copy_nvram", self.directory(uuid), self.nvram(uuid))

    def place_nvram(self, uuid: str, epoch: int) -> None:
        """The copy that is with its files is its domain's NVRAM, and is gone; none is there: libvirt makes
        it."""
        self._fenced(uuid, epoch, "nv_place_nvram", self.directory(uuid), self.nvram(uuid))

    def grow(self, uuid: str, epoch: int, file: str, size: int) -> None:
        """The qcow2 disk has `size` bytes at least. It never shrinks."""
        self._fenced(uuid, epoch, "nv_grow", self.directory(uuid), file, str(size))

    def remake(self, uuid: str, epoch: int, file: str, base: str | None, size: int) -> None:
        """An empty overlay is in the file's place; without `base` nothing is."""
        self._fenced(uuid, epoch, "nv_remake", self.directory(uuid), file, base or "", str(size))

    def disk_sizes(self, uuid: str, files: Sequence[str]) -> dict[str, tuple[int, int]]:
        """(length, what it takes of the host's disk) in bytes of each of these files that is there."""
        lines = self._ours("nv_disk_sizes", self.directory(uuid), *files).splitlines()
        found = (line.split() for line in lines if line)
        return {file: (int(length), int(takes)) for file, length, takes in found}

    def send_words(self, uuid: str, epoch: int, op: str, file: str) -> list[str]:
        """The file in `<uuid>_resize` is at the target of the operation's key; the words of a job."""
        where = f"{self.directory(uuid)}_resize"
        return ["nv_fenced", check_uuid(uuid), str(epoch), "nv_send", job_words(op, 0)[0], where, file]

    def receive_words(self, uuid: str, most: Mapping[str, int]) -> list[str]:
        """All that the operation's key may do here: receive these files of the instance, of so many bytes at
        most, under its epoch."""
        bounds = [f"{file}={size}" for file, size in most.items()]
        return ["nv_fenced", check_uuid(uuid), "@epoch", "nv_receive", self.directory(uuid), *bounds]
