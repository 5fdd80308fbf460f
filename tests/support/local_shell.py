"""A host that is this machine: remote/host.sh in a local `sh`, behind the very HostShell and Channel that
paramiko is behind, with a state directory of its own and the virsh of tests/support."""

import os
import queue
import secrets
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

from novactl.remote.shell import HostShell, library

STATE = "nv_state=/var/lib/novactl\n"
TOOLS = [Path(__file__).with_name(name) for name in ("virsh", "rbd")]


def with_library(shell: str, path: Path, script: str) -> list[str]:
    """The beginning of a command: this shell has the functions and runs the script. By a file in this
    directory: Linux takes no word as long as they are."""
    file = path / f"{secrets.token_hex(4)}.sh"
    file.write_text(f"{library()}\n{script}\n")
    return [shell, str(file)]


class LocalChannel:
    """What Channel and HostShell use of paramiko.Channel, around a process."""

    def __init__(self, transport: "LocalTransport") -> None:
        self.transport = transport
        self.process: Any = None
        self._timeout: float | None = None
        self._streams: dict[str, queue.Queue[bytes]] = {"out": queue.Queue(), "err": queue.Queue()}
        self._rest = {"out": b"", "err": b""}

    def exec_command(self, command: str) -> None:
        self.process = subprocess.Popen(
            [*self.transport.prefix, "sh", "-c", self.transport.measured(command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.transport.environment,
            start_new_session=True,
        )
        for name, pipe in (("out", self.process.stdout), ("err", self.process.stderr)):
            threading.Thread(target=self._pump, args=(name, pipe), daemon=True).start()

    def _pump(self, name: str, pipe: Any) -> None:
        while data := os.read(pipe.fileno(), self.transport.piece):
            self._streams[name].put(data)
        self._streams[name].put(b"")

    def settimeout(self, seconds: float) -> None:
        self._timeout = seconds

    def sendall(self, data: bytes) -> None:
        if not self.transport.active:
            raise OSError("Socket is closed")
        try:
            self.process.stdin.write(self.transport.moved(data.decode("latin-1")).encode("latin-1"))
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise OSError("Socket is closed") from error

    def _receive(self, name: str, size: int) -> bytes:
        if not self._rest[name]:
            try:
                self._rest[name] = self._streams[name].get(timeout=self._timeout)
            except queue.Empty:
                raise TimeoutError from None
            if not self._rest[name]:
                self._streams[name].put(b"")
        data, self._rest[name] = self._rest[name][:size], self._rest[name][size:]
        return data

    def recv(self, size: int) -> bytes:
        return self._receive("out", size)

    def recv_stderr(self, size: int) -> bytes:
        return self._receive("err", size)

    def makefile(self, mode: str) -> "_Reader":
        return _Reader(self.recv)

    def makefile_stderr(self, mode: str) -> "_Reader":
        return _Reader(self.recv_stderr)

    def shutdown_write(self) -> None:
        self.process.stdin.close()

    def exit_status_ready(self) -> bool:
        try:
            self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            return False
        return self.transport.active

    def recv_exit_status(self) -> int:
        status = int(self.process.wait(timeout=self._timeout))
        return status if self.transport.active else -1

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class _Reader:
    def __init__(self, receive: Any) -> None:
        self._receive = receive
        self._buffer = b""

    def readline(self) -> bytes:
        while b"\n" not in self._buffer and (piece := self._receive(1 << 16)):
            self._buffer += piece
        line, mark, self._buffer = self._buffer.partition(b"\n")
        return line + mark

    def read(self, count: int | None = None) -> bytes:
        while (count is None or len(self._buffer) < count) and (piece := self._receive(1 << 16)):
            self._buffer += piece
        data, self._buffer = self._buffer[:count], self._buffer[len(self._buffer[:count]) :]
        return data


class LocalTransport:
    """paramiko.Transport whose sessions are local processes; also the client it belongs to."""

    def __init__(self, state: Path, environment: dict[str, str], prefix: tuple[str, ...], piece: int) -> None:
        self.state = state
        self.environment = environment
        self.prefix = prefix
        self.piece = piece  # at most so many bytes arrive at once
        self.active = True
        self.channels: list[LocalChannel] = []

    def moved(self, text: str) -> str:
        """host.sh with its state directory and libvirt's configuration somewhere else."""
        conf = f"{self.state.parent}/qemu.conf"
        return text.replace(STATE, f"nv_state={self.state}\n").replace("/etc/libvirt/qemu.conf", conf)

    def measured(self, command: str) -> str:
        """A command that says how long the library is, which is of another length here."""
        there, here = (f" novactl {len(text)} " for text in (library(), self.moved(library())))
        return command.replace(there, here)

    def open_session(self, timeout: float) -> LocalChannel:
        self.channels.append(LocalChannel(self))
        return self.channels[-1]

    def is_active(self) -> bool:
        return self.active

    def get_transport(self) -> "LocalTransport":
        return self

    def cut(self) -> None:
        """The link is gone."""
        self.active = False
        self.close()

    def close(self) -> None:
        for channel in self.channels:
            channel.close()


class LocalHost:
    """A host in a directory: `state` is its /var/lib/novactl, `domains` what its virsh knows."""

    def __init__(
        self, directory: Path, name: str = "kvm1", *, prefix: tuple[str, ...] = (), piece: int = 1 << 16
    ) -> None:
        self.state = directory / "state"
        self.domains = directory / "domains"
        tools = directory / "bin"
        self.pools = directory / "pools"
        for made in (self.state, self.domains, tools, self.pools / "images"):
            made.mkdir(parents=True, exist_ok=True)
        for tool in TOOLS:
            shutil.copy(tool, tools)
        path = f"{tools}:{os.environ['PATH']}"
        fakes = {"FAKE_VIRSH": str(self.domains), "FAKE_RBD": str(self.pools)}
        environment = self.environment = {**os.environ, "PATH": path, **fakes}
        self.transports: list[LocalTransport] = []

        def connect() -> LocalTransport:
            self.transports.append(LocalTransport(self.state, environment, prefix, piece))
            return self.transports[-1]

        self.shell = HostShell(name, connect, sudo=False)

    def cut(self) -> None:
        self.transports[-1].cut()

    def close(self) -> None:
        for transport in self.transports:
            transport.close()
