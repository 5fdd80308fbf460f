"""What is on disk of a lab: its state file, written before the things it names, and the lock.

The lab's own directory is the lock (flock), so that nothing is left to clear away after the directory.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from ipaddress import IPv4Network
from pathlib import Path

from novactl.lab.errors import LabError, NoLabError
from novactl.lab.processes import Mark

_FILE = "lab.json"
_NEW_FILE = "lab.json.new"
_FILES = (_NEW_FILE, _FILE)
_FIRST_HOST = 11


@dataclass(frozen=True)
class LabState:
    """The names of everything a lab is made of, chosen before any of it is made."""

    name: str
    token: str
    network: str
    link: str
    hosts: tuple[str, ...]
    instances_mib: int | None
    ready: bool = False

    @property
    def gateway(self) -> str:
        """The machine's own address in the lab's network."""
        return str(IPv4Network(self.network)[1])

    @property
    def prefix_length(self) -> int:
        """The length of the network's prefix, in bits."""
        return IPv4Network(self.network).prefixlen

    @property
    def switch(self) -> Mark:
        """The mark of the process that holds the switch's namespaces."""
        return Mark(self.token, "switch")

    @property
    def tool(self) -> Mark:
        """The mark of short commands run for the lab."""
        return Mark(self.token, "tool")

    def address(self, host: str) -> str:
        """Return a host's address: kvm1 has .11."""
        return str(IPv4Network(self.network)[_FIRST_HOST + self.hosts.index(host)])

    def mark(self, host: str) -> Mark:
        """Return the mark of a host's processes."""
        return Mark(self.token, host)


def read(directory: Path) -> LabState | None:
    """Return the state of the lab in `directory`, or None if none was written."""
    try:
        values = json.loads((directory / _FILE).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return LabState(**{**values, "hosts": tuple(values["hosts"])})


def write(directory: Path, state: LabState) -> None:
    """Replace the lab's state file; a crash leaves the old one or the new one."""
    new = directory / _NEW_FILE
    with new.open("w") as file:
        json.dump(asdict(state), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    new.replace(directory / _FILE)


def directories(root: Path) -> list[Path]:
    """Return the directories of all labs under `root`, by name."""
    return sorted(path.parent for path in root.glob(f"*/{_FILE}"))


@contextmanager
def locked(directory: Path, *, create: bool = False) -> Iterator[None]:
    """Hold the lab's lock; wait for whoever holds it. NoLabError if there is no directory.

    A process started meanwhile holds it too, until its exec: after a crash, whoever gets the lock finds all
    that was started by its mark.
    """
    while True:
        handle = _open(directory, create)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_at(handle, directory):
                yield
                return
        finally:
            os.close(handle)


def check_ours(directory: Path) -> None:
    """Raise LabError if there are files in `directory` and they are not a lab's."""
    entries = {entry.name for entry in directory.iterdir()}
    if entries and entries.isdisjoint(_FILES):
        raise LabError(f"{directory} is not a lab's directory", hint="nothing in it was touched")


def remove(directory: Path) -> None:
    """Remove the lab's directory, the state file last, and its parent if that is empty now."""
    check_ours(directory)
    for entry in directory.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name not in _FILES:
            entry.unlink()
    for name in _FILES:
        (directory / name).unlink(missing_ok=True)
    directory.rmdir()
    with suppress(OSError):
        directory.parent.rmdir()


def _open(directory: Path, create: bool) -> int:
    while True:
        try:
            if create:
                directory.parent.mkdir(parents=True, exist_ok=True)
                directory.mkdir(mode=0o700, exist_ok=True)
            return os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            if not create:
                raise NoLabError(directory.name) from None
        except (FileExistsError, NotADirectoryError):
            raise LabError(f"{directory} is not a directory", hint="it was not touched") from None


def _is_at(handle: int, directory: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), directory.stat())
    except FileNotFoundError:
        return False
