"""Opening SSH connections: only to hosts whose key is pinned."""

import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from novactl.errors import HostUnreachable, HostUntrusted
from novactl.remote.knock import CONNECT_TIMEOUT
from novactl.remote.ssh_config import SshFiles, way

KEEPALIVE = 5  # seconds
DEAD_LINK_MS = 20_000


def load_paramiko() -> Any:
    """paramiko without invoke, half of its start-up, which is for `Match exec` alone: our files have none."""
    if "paramiko" not in sys.modules:
        missing: Any = None  # in sys.modules this is an ImportError, which paramiko is prepared for
        sys.modules.setdefault("invoke", missing)
    import paramiko

    if sys.modules.get("invoke") is None:
        sys.modules.pop("invoke", None)
    return paramiko


def connect(host: str, files: SshFiles, sock: socket.socket | None = None) -> Any:
    """An open paramiko client for a host of the generated ssh_config, over `sock` if it was connected
    before (remote.knock).

    Raises HostUnreachable for every way it can fail, saying which. A connection that the server drops
    before authentication (MaxStartups) is tried again.
    """
    import tenacity

    paramiko = load_paramiko()
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_was_dropped),
        stop=tenacity.stop_after_attempt(4),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=2),
        reraise=True,
    )
    socks = [sock] if sock is not None else []  # of the first try
    try:
        known = way(files, host)
        config = paramiko.SSHConfig.from_text(known.config)
        return retrying(_open, paramiko, config, known.known_hosts, host, socks)
    except paramiko.BadHostKeyException as error:
        raise HostUntrusted(
            f"{host}: the host key of {error.hostname} is not the pinned one: somebody may be in between",
            hint="if the host was reinstalled, give the new key: novactl host add … --fingerprint",
        ) from error
    except paramiko.AuthenticationException as error:
        raise HostUntrusted(
            f"{host}: it accepts none of your keys", hint="novactl host add … --identity FILE names the key"
        ) from error
    except _Silence as error:
        silent = unreachable(host, error.cause)
        silent.silent = True
        raise silent from error
    except (OSError, EOFError, paramiko.SSHException) as error:
        if "no authentication methods" in str(error).lower():
            raise HostUntrusted(
                f"{host}: you have no key for it", hint="novactl host add … --identity FILE names the key"
            ) from error
        raise unreachable(host, error) from error


class _Silence(Exception):
    """Nothing takes a connection there, and nothing refuses one."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = cause


def unreachable(host: str, error: Exception) -> HostUnreachable:
    """The error for a host that cannot be connected to."""
    return HostUnreachable(f"{host}: {_words(error)}")


def _open(paramiko: Any, config: Any, keys: Iterable[str], host: str, socks: list[socket.socket]) -> Any:
    """A client of the host, and of the one that it is reached through, which lives as long."""
    said = config.lookup(host)
    address, port, identity = said["hostname"], int(said["port"]), said.get("identityfile")
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    _pin(paramiko, client, keys)
    try:
        if "proxyjump" in said:
            client.novactl_jump = _open(paramiko, config, keys, said["proxyjump"], [])
            way_in = _through(paramiko, client.novactl_jump, address, port)
        else:
            way_in = _socket(socks.pop() if socks else _knocked(address, port))
        client.connect(
            address,
            port=port,
            username=said["user"],
            key_filename=identity,
            allow_agent=not identity,
            look_for_keys=not identity,
            timeout=CONNECT_TIMEOUT,
            banner_timeout=10,
            auth_timeout=10,
            sock=way_in,
            transport_factory=_transport,
        )
    except BaseException:
        client.close()
        raise
    client.get_transport().set_keepalive(KEEPALIVE)
    return client


def _through(paramiko: Any, jump: Any, address: str, port: int) -> Any:
    try:
        return jump.get_transport().open_channel(
            "direct-tcpip", (address, port), ("", 0), timeout=CONNECT_TIMEOUT
        )
    except paramiko.SSHException as error:  # which does not say whether it was refused
        raise _Silence(error) from error


def _knocked(address: str, port: int) -> socket.socket:
    try:
        return _plain_socket(address, port)
    except ConnectionRefusedError:
        raise  # by somebody who is there
    except OSError as error:
        raise _Silence(error) from error


def _transport(*words: Any, **options: Any) -> Any:
    """Prefers AES-GCM, which takes a fifth less of both processors than AES and a MAC apart."""
    import paramiko

    transport = paramiko.Transport(*words, **options)
    offered = transport.get_security_options()
    offered.ciphers = sorted(offered.ciphers, key=lambda name: "gcm" not in name)
    return transport


def _pin(paramiko: Any, client: Any, lines: Iterable[str]) -> None:
    for line in lines:
        entry = paramiko.hostkeys.HostKeyEntry.from_line(line)
        client.get_host_keys().add(entry.hostnames[0], entry.key.get_name(), entry.key)


class _Socket(socket.socket):
    """Acknowledges at once what it has read: sshd's first answers are short packets, each of which waits
    for the acknowledgement of the one before, and the kernel would delay that by 40 ms (tcp(7))."""

    def recv(self, *words: int) -> bytes:
        data = super().recv(*words)
        self.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return data


def _plain_socket(address: str, port: int) -> socket.socket:
    return socket.create_connection((address, port), timeout=CONNECT_TIMEOUT)


def _socket(plain: socket.socket) -> socket.socket:
    """A connection that the kernel ends when its packets (a keepalive's at the latest) are not
    acknowledged; without that a cut link shows only after a quarter of an hour (TCP_USER_TIMEOUT)."""
    sock = _Socket(fileno=plain.detach())
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_LINK_MS)
    return sock


def _was_dropped(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, EOFError) or "protocol banner" in text or "connection reset" in text


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text[0].lower() + text[1:]


def scan_host_key(address: str, port: int, via: Any = None) -> tuple[str, bytes]:
    """The host key a server shows: its known_hosts text ("type base64") and its blob. `via` is an
    open client of the jump host. Raises HostUnreachable."""
    paramiko = load_paramiko()
    try:
        transport = paramiko.Transport(_socket_to(address, port, via))
        try:
            options = transport.get_security_options()
            options.key_types = sorted(options.key_types, key=lambda kind: kind != "ssh-ed25519")
            transport.start_client(timeout=10)
            key = transport.get_remote_server_key()
        finally:
            transport.close()
    except (OSError, EOFError, paramiko.SSHException) as error:
        raise HostUnreachable(f"{address}: port {port}: {_words(error)}") from error
    return f"{key.get_name()} {key.get_base64()}", key.asbytes()


def _socket_to(address: str, port: int, via: Any) -> Any:
    if via is None:
        return _plain_socket(address, port)
    return via.get_transport().open_channel("direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=10)


def libvirt_uri(host: str, files: SshFiles) -> str:
    """The qemu+ssh URI that goes through the same ssh_config and pinned keys."""
    from urllib.parse import quote

    wrapper = quote(str(Path(files.wrapper).absolute()), safe="")
    return f"qemu+ssh://{host}/system?command={wrapper}&no_tty=1"
