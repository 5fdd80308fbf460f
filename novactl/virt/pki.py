"""Certificates on a host, where its QEMU looks for them (remote/pki.sh)."""

from collections.abc import Mapping

from novactl.virt.calls import Calls


class Pki(Calls):
    """A host that proves who it is. All of it may be done twice."""

    def pki_where(self) -> str:
        """The directory that its QEMU reads. HostRefused when there are certificates of somebody else."""
        return self._ours("nv_pki_where").strip()

    def pki_place(self, crl_number: int, files: Mapping[str, str]) -> None:
        """These six files (name: PEM) are there, in one step. A revocation list of a higher number that is
        there already stays."""
        text = "".join(f"# {name}\n{content}" for name, content in files.items())
        self._ours("nv_pki_place", str(crl_number), data=text.encode())

    def pki_publish(self, crl_number: int, crl: str) -> int:
        """The revocation list there is this one, or a newer: its number. HostFault without certificates of
        ours."""
        return int(self._ours("nv_pki_publish", str(crl_number), data=crl.encode()))
