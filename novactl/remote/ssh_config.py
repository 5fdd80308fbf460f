"""One generated ssh_config, known_hosts and libvirt wrapper for both SSH stacks.

Identities (private keys) are this operator's own and live in identities.json of the config directory;
addresses, users and pinned host keys come from the database.
"""

import fcntl
import functools
import json
import os
import re
import shlex
import stat
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from novactl.errors import UsageError
from novactl.objects.host import Host

OPTIONS = """\
    StrictHostKeyChecking yes
    GlobalKnownHostsFile /dev/null
    UpdateHostKeys no
    HashKnownHosts no
    BatchMode yes
    ForwardAgent no
    ForwardX11 no
    PermitLocalCommand no
    ConnectTimeout 5
    ServerAliveInterval 5
    ServerAliveCountMax 3
    ControlMaster auto
    ControlPersist 60
"""


@dataclass(frozen=True)
class SshFiles:
    """Where the generated files stand."""

    config: Path
    known_hosts: Path
    wrapper: Path


@dataclass(frozen=True)
class Way:
    """What the generated files say of one host and of those it is reached through: blocks of the ssh_config,
    and lines of known_hosts. In the whole files paramiko would search for long, and for the other stack's
    ControlPath it would ask the name service."""

    config: str
    known_hosts: tuple[str, ...]


def way(files: SshFiles, host: str) -> Way:
    """The part of the files that concerns the host. Raises OSError when they are not there."""
    blocks, keys = (
        _config(files.config, _stamp(files.config)),
        _keys(files.known_hosts, _stamp(files.known_hosts)),
    )
    chosen: dict[str, str] = {}
    known: list[str] = []
    while host in blocks and host not in chosen:
        chosen[host] = blocks[host]
        said = dict(line.split(None, 1) for line in blocks[host].splitlines() if " " in line.strip())
        known += keys.get(_place(said["HostName"], int(said["Port"])), ())
        host = said.get("ProxyJump", "")
    return Way("".join(chosen.values()), tuple(known))


def _stamp(path: Path) -> tuple[int, ...]:
    """Changes with the file, which is only ever replaced as a whole."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


@functools.lru_cache(maxsize=4)
def _config(path: Path, stamp: tuple[int, ...]) -> dict[str, str]:
    """The blocks of the ssh_config by their host."""
    blocks = re.split(r"^(?=Host )", path.read_text(), flags=re.MULTILINE)
    return {block.split(None, 2)[1]: block for block in blocks if block.startswith("Host ")}


@functools.lru_cache(maxsize=4)
def _keys(path: Path, stamp: tuple[int, ...]) -> dict[str, list[str]]:
    """The lines of known_hosts by where they are for."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        found.setdefault(line.partition(" ")[0], []).append(line)
    return found


def _place(address: str, port: int) -> str:
    """What both stacks look up in known_hosts."""
    return address if port == 22 else f"[{address}]:{port}"


class SshDirectory:
    """The generated files of one config directory, rewritten whenever the inventory changed."""

    def __init__(self, directory: Path, control_dir: Path) -> None:
        self.directory = directory
        self.control_dir = control_dir
        self.files = _files(directory)
        self._identities = directory / "identities.json"

    def identities(self) -> dict[str, str]:
        """This operator's private key file for each host that has one of its own."""
        try:
            loaded = json.loads(self._identities.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise UsageError(f"{self._identities}: not JSON: {error}") from error
        return {str(name): str(path) for name, path in loaded.items()}

    def set_identity(self, host: str, identity: Path | None) -> None:
        """Remember (or, with None, forget) the private key file for a host."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.directory / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = self.identities()
            if identity is None:
                known.pop(host, None)
            else:
                known[host] = str(identity)
            write_file(self._identities, json.dumps(known, indent=1, sort_keys=True) + "\n")

    def write(self, hosts: Iterable[Host]) -> SshFiles:
        """Bring the files in line with the inventory; unchanged ones are not touched."""
        return self._write(hosts, self.identities(), self.files)

    def write_aside(self, hosts: Iterable[Host], host: str, identity: Path | None) -> SshFiles:
        """Files of this process alone, for a host that is being added or removed."""
        identities = self.identities() | ({host: str(identity)} if identity else {})
        return self._write(hosts, identities, _files(self.directory, f".{host}.{os.getpid()}"))

    def remove_aside(self, host: str) -> None:
        """The files of write_aside() are gone."""
        aside = _files(self.directory, f".{host}.{os.getpid()}")
        for path in (aside.config, aside.known_hosts, aside.wrapper):
            path.unlink(missing_ok=True)

    def _write(self, hosts: Iterable[Host], identities: Mapping[str, str], files: SshFiles) -> SshFiles:
        ordered = sorted(hosts, key=lambda host: host.name)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.control_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (found := self.control_dir.lstat()).st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
            raise UsageError(f"{self.control_dir}: is not a directory of yours")
        write_file(files.config, render_config(ordered, identities, files, self.control_dir))
        write_file(files.known_hosts, render_known_hosts(ordered))
        write_file(files.wrapper, render_wrapper(files.config), mode=0o700)
        return files


def _files(directory: Path, suffix: str = "") -> SshFiles:
    return SshFiles(*(directory / f"{name}{suffix}" for name in ("config", "known_hosts", "libvirt-ssh")))


def render_config(
    hosts: Iterable[Host], identities: Mapping[str, str], files: SshFiles, control_dir: Path
) -> str:
    """The ssh_config both stacks read. Every name in it was validated when the host was added."""
    lines = ["# Written by novactl from its database; changes made here are lost.\n"]
    for host in hosts:
        lines.append(
            f"Host {host.name}\n    HostName {host.address}\n    Port {host.port}\n    User {host.user}\n"
        )
        if host.jump:
            lines.append(f"    ProxyJump {host.jump}\n")
        if host.name in identities:
            lines.append(f"    IdentityFile {_quoted(identities[host.name])}\n    IdentitiesOnly yes\n")
    lines.append(f"Host *\n    UserKnownHostsFile {_quoted(str(files.known_hosts))}\n")
    lines.append(f"    ControlPath {_quoted(str(control_dir / '%C'))}\n")
    return "".join(lines) + OPTIONS


def render_known_hosts(hosts: Iterable[Host]) -> str:
    """Each host's pinned keys under the address that both stacks look up."""
    lines: list[str] = []
    for host in hosts:
        lines.extend(f"{_place(host.address, host.port)} {key}\n" for key in host.host_keys)
    return "".join(lines)


def render_wrapper(config: Path) -> str:
    """What libvirt runs for qemu+ssh: our ssh_config, away from the terminal's Ctrl-C."""
    return f'#!/bin/sh\nexec setsid ssh -F {shlex.quote(str(config))} "$@"\n'


def _quoted(path: str) -> str:
    plain = path.removesuffix("%C")
    if any(ch in plain for ch in '"\n\\%'):
        raise UsageError(f'path {path!r} cannot stand in an ssh_config: it has one of " \\ % or a newline')
    return f'"{path}"'


def write_file(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file in one step, only if its content differs."""
    try:
        if path.read_text() == text:
            return
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.chmod(mode)
    temporary.replace(path)
