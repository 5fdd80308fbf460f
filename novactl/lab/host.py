"""One lab host, as tests and the command line handle it: its switch, its cable, its daemons."""

import socket
import subprocess
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from novactl.lab import network
from novactl.lab.errors import LabError
from novactl.lab.processes import (
    environment,
    in_namespace_of,
    init_of,
    kill_all,
    kill_marked,
    marked,
    spawn,
    wait_until,
)
from novactl.lab.state import LabState, locked

_BOOT = Path(__file__).with_name("boot.sh")
_NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid")
_BOOT_TIMEOUT = 60.0


@dataclass(frozen=True)
class LabHost:
    """A hypervisor of the lab. `port` and `user` are for ssh; `fingerprint` is its ed25519 host key's."""

    name: str
    address: str
    fingerprint: str
    host_key: str
    directory: Path
    lab: LabState = field(repr=False)
    port: int = 22
    user: str = "root"

    @property
    def pid(self) -> int | None:
        """Return the pid of its init on the machine, or None if it is switched off."""
        return init_of(self.lab.mark(self.name))

    def alive(self) -> bool:
        """Say whether it is switched on (its daemons may be dead, its cable cut)."""
        return self.pid is not None

    def run(
        self, argv: Sequence[str], *, stdin: str = "", timeout: float | None = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside, not through ssh; the exit code is the caller's to judge."""
        return subprocess.run(
            [*self._enter(), *argv],
            input=stdin,
            capture_output=True,
            text=True,
            env=environment(),
            check=False,
            timeout=timeout,
        )

    def start(self) -> None:
        """Switch it on, and return when ssh and libvirt answer: same disk, new boot id, no guest running."""
        with locked(self.directory.parent):
            if self.alive():
                raise LabError(f"lab host {self.name} is on already")
            self.boot()

    def stop(self) -> None:
        """Cut its power: everything in it ends at once. No effect if it is off."""
        with locked(self.directory.parent):
            kill_marked(self.lab.token, self.name)
            network.unplug(self.lab, self.name)

    def cut(self) -> None:
        """Pull its network cable, at the switch."""
        network.set_cable(self.lab, self.name, up=False)

    def mend(self) -> None:
        """Put its network cable back; switching it on again does so too."""
        network.set_cable(self.lab, self.name, up=True)

    def kill_libvirtd(self) -> None:
        """End libvirtd with SIGKILL; guests go on. No effect if it does not run."""
        kill_all(self._libvirtd(), lambda pid: pid in self._libvirtd())

    def start_libvirtd(self) -> None:
        """Start libvirtd and return when it answers. No effect if it runs."""
        if not self._libvirtd():
            self.run(["libvirtd", "--daemon"]).check_returncode()
        wait_until(self._libvirt_answers, _BOOT_TIMEOUT, f"libvirt on {self.name}")

    def boot(self) -> None:
        """Switch it on; the caller holds the lab's lock and knows that it is off."""
        (self.directory / "boot_id").write_text(f"{uuid.uuid4()}\n")
        mark = self.lab.mark(self.name)
        # From the switch's mounts, where a disk of limited size is mounted.
        outside = ["nsenter", "--target", str(network.switch_pid(self.lab)), "--mount"]
        inside = ["unshare", *_NAMESPACES, "--fork", "--mount-proc", "--kill-child"]
        init = ["tini", "--", "/bin/sh", str(_BOOT), str(self.directory.parent), self.name]
        spawn(["setsid", "--fork", *outside, *inside, *init], mark, self._console)
        self._wait_for(self.alive, "init")
        network.plug(self.lab, self.name)
        self._wait_for(self._ssh_answers, "ssh")
        self._wait_for(self._libvirt_answers, "libvirt")

    @property
    def _console(self) -> Path:
        return self.directory / "console.log"

    def _wait_for(self, answers: Callable[[], bool], what: str) -> None:
        def ended() -> bool:
            return all(process.member != self.name for process in marked(self.lab.token))

        # A host whose boot failed is off again: there is nothing to wait for.
        wait_until(lambda: answers() or ended(), _BOOT_TIMEOUT, f"{what} on lab host {self.name}")
        if ended():
            said = self._console.read_text(errors="replace").strip().splitlines()[-5:]
            raise LabError(f"lab host {self.name} did not boot", hint="its console: " + " / ".join(said))

    def _enter(self) -> list[str]:
        pid = self.pid
        if pid is None:
            raise LabError(f"lab host {self.name} is off")
        return ["nsenter", "--target", str(pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--"]

    def _ssh_answers(self) -> bool:
        try:
            with socket.create_connection((self.address, self.port), timeout=1) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def _libvirt_answers(self) -> bool:
        pid = self.pid
        if pid is None or not Path(f"/proc/{pid}/root/run/libvirt/libvirt-sock").is_socket():
            return False
        return self.run(["virsh", "-c", "qemu:///system", "version"]).returncode == 0

    def _libvirtd(self) -> list[int]:
        pid = self.pid
        return [] if pid is None else in_namespace_of(pid, "libvirtd")
