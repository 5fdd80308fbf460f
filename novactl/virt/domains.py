"""An instance's domain on a host: every act on it."""

import re

from novactl.errors import HostFault
from novactl.virt.calls import Calls


class Domains(Calls):
    """Acts on domains, by virsh under the instance's lock."""

    def define(self, uuid: str, epoch: int, xml: str) -> None:
        self._fenced(uuid, epoch, "nv_define", self.directory(uuid), uuid, data=xml.encode())

    def undefine_if_made_by(self, uuid: str, epoch: int, operation: str) -> None:
        self._fenced(uuid, epoch, "nv_undefine_if_made_by", uuid, operation)

    def start(self, uuid: str, epoch: int) -> None:
        """Running. HostFault with QEMU's words when the guest dies at start."""
        try:
            self._fenced(uuid, epoch, "nv_start", uuid)
        except HostFault as error:
            raise HostFault(_start_failure(self.name, error.message)) from error

    def pause(self, uuid: str, epoch: int) -> None:
        """Its processors stand still."""
        self._fenced(uuid, epoch, "nv_pause", uuid)

    def unpause(self, uuid: str, epoch: int) -> None:
        """They go on."""
        self._fenced(uuid, epoch, "nv_unpause", uuid)

    def shutdown(self, uuid: str, epoch: int) -> None:
        """The guest was asked to power off (ACPI); it may take its time or ignore it."""
        self._fenced(uuid, epoch, "nv_shutdown", uuid)

    def destroy(self, uuid: str, epoch: int) -> None:
        """Powered off."""
        self._fenced(uuid, epoch, "nv_destroy", uuid)

    def autostart_off(self, uuid: str, epoch: int) -> None:
        """libvirt does not start it when the host boots; no domain is fine."""
        self._fenced(uuid, epoch, "nv_autostart_off", uuid)

    def drop_domain(self, uuid: str, epoch: int) -> None:
        """Powered off and no longer defined, to be defined anew: its NVRAM stays, saved memory does not."""
        self._fenced(uuid, epoch, "nv_clear_domain", self.directory(uuid), uuid)

    def remove_domain(self, uuid: str, epoch: int) -> None:
        """Powered off and no longer defined, its saved state and NVRAM with it."""
        self._fenced(uuid, epoch, "nv_remove_domain", uuid)


def _start_failure(host: str, text: str) -> str:
    """QEMU's own words out of libvirt's, in one line, without virsh's last word on the state."""
    words = re.sub(r"\s+", " ", text.removeprefix(f"{host}: ")).removesuffix("; shut off")
    return f"{host}: the guest does not start: {words}"
