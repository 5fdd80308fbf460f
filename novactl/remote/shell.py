"""A host as a set of shell functions (host.sh), called by name over one SSH connection.

Words are quoted once, here; data goes by stdin. A call costs one round trip: the functions stay loaded
in a few persistent `sh` channels that threads borrow.
"""

import base64
import contextlib
import logging
import secrets
import shlex
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from novactl.errors import Busy, Fenced, HostFault, HostRefused, HostUnreachable, NovactlError
from novactl.remote.connection import load_paramiko

log = logging.getLogger(__name__)

CHANNELS = 6  # sshd's MaxSessions is 10 by default; streams and tunnels need some too
DEADLINE = 180.0
CHUNK = 1 << 16
MOST = 256 << 20  # bytes that a call may answer: some thousands of domains are a tenth of it
FIRST_FROM_STDIN = 'eval "$(head -c "$1")"; shift; set -e; "$@"'
"""A shell that reads its functions before its data: Linux takes no word of a command over 128 KiB."""
PARTS = (
    "host.sh",
    "jobs.sh",
    "commands.sh",
    "memory.sh",
    "survey.sh",
    "states.sh",
    "prune.sh",
    "trust.sh",
    "copies.sh",
    "pki.sh",
    "evacuate.sh",
    "live.sh",
    "sizes.sh",
    "distribute.sh",
    "store.sh",
    "rescue.sh",
    "snapshot.sh",
    "backup.sh",
)


@cache
def library() -> str:
    """All functions of a host: the text of host.sh and of what belongs to it."""
    return "".join((Path(__file__).parent / part).read_text() for part in PARTS)


def job_script(words: Sequence[str]) -> bytes:
    """What a job runs by itself: the library and one call. The braces make a shell that got only a part
    of it run nothing."""
    return f"{library()}\n{{\nnv_state=$1 nv_job=$2\nnv_job_run {shlex.join(words)}\nexit\n}}\n".encode()


def receiver() -> bytes:
    """What a host runs for an operation's key that may call one function there (trust.sh)."""
    return f'{library()}\n{{\nset -e\n"$@"\nexit\n}}\n'.encode()


def failure(host: str, status: int, message: str) -> NovactlError:
    """host.sh's exit statuses as errors."""
    lines = [line.removeprefix("error: ") for line in message.splitlines() if line]  # virsh's words
    text = f"{host}: {'; '.join(lines) or f'exit status {status}'}".replace("\0", "\ufffd")
    match status:
        case 75:
            return Fenced(text, hint="another novactl took this operation over")
        case 76:
            return HostRefused(text)
        case 77:
            return Busy(text)
        case 79:
            return HostUnreachable(text, hint="libvirt there does not answer in time")
        case 28:
            return HostFault(text, hint="free some space there, or choose another host")
        case _ if "failed to connect to the hypervisor" in text:
            return HostUnreachable(text, hint="is libvirtd (or virtqemud) running there?")
        case _:
            return HostFault(text)


def _as_text(data: bytes | None) -> tuple[str, str]:
    """(form, text) for nv_call's here-document: lines of plain ASCII as they are, all else packed."""
    if data is None:
        return "none", ""
    if data.isascii() and b"\0" not in data and data.endswith(b"\n"):
        return "text", data.decode()
    packer = zlib.compressobj(level=1, wbits=31)
    return "packed", base64.encodebytes(packer.compress(data) + packer.flush()).decode()


class Channel:
    """One `sh` with the library loaded."""

    def __init__(self, host: str, transport: Any, sudo: bool) -> None:
        self.host = host
        self._mark = secrets.token_hex(16)
        self._channel = transport.open_session(timeout=10)
        self._channel.exec_command("exec sudo -n sh -s" if sudo else "exec sh -s")
        with self._last_words():
            self._channel.sendall(library().encode())

    def call(self, words: list[str], data: bytes | None, deadline: float) -> tuple[int, bytes, str]:
        """Exit status, stdout and stderr of one function. Raises OSError and SSHException when the
        link or the deadline ends it."""
        form, text = _as_text(data)
        line = shlex.join(["nv_call", self._mark, form, *words])
        if data is not None:
            # Without braces a link that is cut would make the shell go on with the part that came.
            line = f"{{ {line} <<'{self._mark}'\n{text}{self._mark}\n}}"
        self._channel.settimeout(deadline)
        with self._last_words():
            self._channel.sendall(line.encode() + b"\n")
            out, status = self._until_mark(self._channel.recv)
            err, _ = self._until_mark(self._channel.recv_stderr)
        return int(status or b"1"), out, err.decode(errors="replace")

    def _until_mark(self, receive: Callable[[int], bytes]) -> tuple[bytes, bytes]:
        mark = f"\n{self._mark}".encode()
        buffer = bytearray()
        while True:
            start = buffer.find(mark, max(0, len(buffer) - 2 * CHUNK))
            if start >= 0 and (end := buffer.find(b"\n", start + 1)) >= 0:
                return bytes(buffer[:start]), bytes(buffer[start + len(mark) : end]).strip()
            piece = receive(CHUNK)
            if not piece:
                raise EOFError("the shell on the host ended")
            buffer += piece
            if len(buffer) > MOST:
                raise EOFError(f"the shell on the host says more than {MOST >> 20} MiB")

    @contextlib.contextmanager
    def _last_words(self) -> Iterator[None]:
        """When the shell ends: what it said, that sudo wants a password for instance."""
        try:
            yield
        except TimeoutError:
            raise
        except (OSError, EOFError) as error:
            self._channel.settimeout(5)
            said = self._channel.recv_stderr(CHUNK).decode(errors="replace").strip()
            raise EOFError(f"the shell on the host ended: {said}" if said else str(error)) from error

    def close(self) -> None:
        self._channel.close()


class HostShell:
    """Calls host.sh functions on one host, from any number of threads."""

    def __init__(self, host: str, connect: Callable[[], Any], *, sudo: bool) -> None:
        self.host = host
        self._connect = connect
        self._sudo = sudo
        self._client: Any = None
        self._idle: list[Channel] = []
        self._warming: threading.Thread | None = None
        self._cold: NovactlError | None = None
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(CHANNELS)
        self._users = 0

    def job_script(self, words: Sequence[str]) -> bytes:
        """The script of a job that calls one function (nv_job_start)."""
        return job_script(words)

    def receiver(self) -> bytes:
        """The script behind an operation's key (nv_trust_allow)."""
        return receiver()

    def call(self, *words: str, data: bytes | None = None, deadline: float = DEADLINE) -> str:
        """stdout of a function. Raises HostUnreachable when the link fails (the effect may have
        happened), else what the exit status means (see failure())."""
        return self.call_bytes(*words, data=data, deadline=deadline).decode(errors="replace")

    def call_bytes(self, *words: str, data: bytes | None = None, deadline: float = DEADLINE) -> bytes:
        """As call(), for output that need not be text."""
        started = time.monotonic()
        with self._borrowed() as channel:
            status, out, err = channel.call(list(words), data, deadline)
        log.debug("%s: %s: %d in %.3f s", self.host, words[0], status, time.monotonic() - started)
        if status != 0:
            raise failure(self.host, status, err)
        return out

    def stream(
        self, *words: str, feed: Callable[[Callable[[], bytes], Callable[[bytes], None]], None]
    ) -> None:
        """Run a function on a channel of its own whose stdin is data, never commands. `feed` is given
        read-a-line and write. Errors as call()."""
        with self._stream(words) as channel:
            self._feed(channel, feed)

    def fetch(self, *words: str, take: Callable[[Callable[[int], bytes]], None]) -> None:
        """Run a function on a channel of its own whose stdout is data. `take` is given read: so many bytes,
        fewer at the end. Errors as call(), and before what `take` makes of data that ended early."""
        with self._stream(words) as channel:
            reader = channel.makefile("rb")
            try:
                take(reader.read)
            except EOFError:
                self._end(channel, reader)
                raise
            self._end(channel, reader)

    @contextlib.contextmanager
    def _stream(self, words: Sequence[str]) -> Iterator[Any]:
        functions = library().encode()
        argv = ["sh", "-c", FIRST_FROM_STDIN, "novactl", str(len(functions)), *words]
        command = shlex.join(["sudo", "-n", *argv] if self._sudo else argv)
        with self._using(), self._link_errors():
            channel = self.transport().open_session(timeout=10)
            channel.settimeout(DEADLINE)
            channel.exec_command("exec " + command)
            try:
                with contextlib.suppress(OSError):  # a shell that has ended says why, to who reads
                    channel.sendall(functions)
                yield channel
            finally:
                channel.close()

    def _feed(self, channel: Any, feed: Any) -> None:
        reader = channel.makefile("rb")
        try:
            feed(reader.readline, channel.sendall)
            channel.shutdown_write()
        except OSError:
            if not channel.exit_status_ready():
                raise  # the link, not the function: a function that ended early says why below
        self._end(channel, reader)

    def _end(self, channel: Any, reader: Any) -> None:
        """The function has ended, and well: it has no more to say than this."""
        reader.read(1 << 16)
        errors = channel.makefile_stderr("rb").read(1 << 16)
        status = channel.recv_exit_status()
        if status < 0:
            raise EOFError("the connection was cut")
        if status != 0:
            raise failure(self.host, status, errors.decode(errors="replace"))

    def open_tunnel(self, address: str, port: int, timeout: float) -> Any:
        """A socket-like channel from the host to an address it can reach. OSError when refused."""
        paramiko = load_paramiko()
        self._use()  # for good
        with self._link_errors():
            transport = self.transport()
        try:
            return transport.open_channel("direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=timeout)
        except paramiko.SSHException as error:
            raise ConnectionRefusedError(str(error)) from error

    def transport(self) -> Any:
        """The one connection, opened when first needed and again after it was lost."""
        with self._lock:
            if self._client is None or not self._client.get_transport().is_active():
                self._idle.clear()
                self._client = self._connect()
            return self._client.get_transport()

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[Channel]:
        with self._room, self._using(), self._link_errors():
            channel = self._take()
            try:
                yield channel
            except BaseException:
                channel.close()
                raise
            with self._lock:
                self._idle.append(channel)

    def warm(self) -> None:
        """The first channel is opened in the background: who calls next gets it, or what went wrong."""
        if self._client is None and self._warming is None:
            self._warming = threading.Thread(target=self._warm_up, daemon=True)
            self._warming.start()

    def _warm_up(self) -> None:
        try:
            with self._borrowed():
                pass
        except NovactlError as error:
            self._cold = error

    def _take(self) -> Channel:
        if self._warming not in (None, threading.current_thread()):
            self._warming.join()
            with self._lock:
                error, self._cold = self._cold, None
            if error is not None:
                raise error
        transport = self.transport()
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return Channel(self.host, transport, self._sudo)

    @contextlib.contextmanager
    def _link_errors(self) -> Iterator[None]:
        paramiko = load_paramiko()
        try:
            yield
        except TimeoutError as error:
            raise HostUnreachable(f"{self.host}: no answer in time") from error
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise HostUnreachable(f"{self.host}: {error or type(error).__name__}") from error

    def _use(self, count: int = 1) -> None:
        with self._lock:
            self._users += count

    @contextlib.contextmanager
    def _using(self) -> Iterator[None]:
        self._use()
        try:
            yield
        finally:
            self._use(-1)

    def answers(self) -> bool:
        """Whether anything there speaks to us, be it only to refuse. By a connection of its own: an older one
        says nothing of now, and what does not answer over it may live."""
        try:
            self._connect().close()
        except HostUnreachable as error:
            return not error.silent
        return True

    def hang_up(self) -> None:
        """Let the connection go, unless something uses it; the next call opens another."""
        with self._lock:
            if self._client is not None and self._users == 0:
                self._idle.clear()
                self._client.close()
                self._client = None

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None
