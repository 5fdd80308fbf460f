"""A guest's memory, kept on its host while it is suspended (libvirt's managed save)."""

from novactl.objects.names import domain_name
from novactl.virt.calls import Calls

SAVES = "/var/lib/libvirt/qemu/save"
"""Where libvirt saves; nothing configures it."""


class Memory(Calls):
    """What saving and restoring need. Both may take longer than a call may: they are jobs (virt.jobs),
    whose words are here."""

    save_path = SAVES

    def room_to_save(self) -> int:
        """Free bytes where libvirt saves."""
        return int(self._ours("nv_room_to_save", self.save_path))

    def qemu_versions(self, uuid: str) -> tuple[str, str]:
        """(of the QEMU that saved the guest, "" when that is not known; of the one that would restore it)."""
        answer = self._ours("nv_qemu_versions", self.directory(uuid))
        found = dict(line.partition(" ")[::2] for line in answer.splitlines())
        return found["saved"], found["now"]

    def save_words(self, uuid: str, epoch: int, size: int) -> list[str]:
        """Its memory is on disk, which takes `size` bytes at most, and it is off. HostFault without space."""
        return self._fenced_words(
            uuid, epoch, "nv_save", self.directory(uuid), uuid, str(size), self._save(uuid)
        )

    def unsave_words(self, uuid: str, epoch: int) -> list[str]:
        """It runs on, whether or not it was saved by then; one that went off by itself stays off."""
        return self._fenced_words(uuid, epoch, "nv_unsave", self.directory(uuid), uuid, self._save(uuid))

    def restore_words(self, uuid: str, epoch: int) -> list[str]:
        """It runs on from its saved memory. HostFault when that is gone: it never starts from its disk."""
        return self._fenced_words(uuid, epoch, "nv_restore", self.directory(uuid), uuid, self._save(uuid))

    def _save(self, uuid: str) -> str:
        """Where libvirt keeps the memory of the instance's domain."""
        return f"{self.save_path}/{domain_name(uuid)}.save"

    def _fenced_words(self, uuid: str, epoch: int, *words: str) -> list[str]:
        return ["nv_fenced", uuid, str(epoch), *words]
