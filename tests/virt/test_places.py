"""The image store that operators share, on a host: a directory, and a pool of RBD by a stand-in for `rbd`;
simulated and real."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from novactl.errors import Busy, HostFault, UsageError
from novactl.images.transfer import EXTENT, feed
from novactl.remote.shell import receiver
from tests.virt.ground import Ground, quiet, real, source
from tests.virt.jobs import JOB, carry_out

POOL = "images"


@pytest.fixture(params=["directory", "pool"])
def where(request: pytest.FixtureRequest, ground: Ground) -> str:
    """Where it is; it can be used."""
    place = str(ground.path.parent / "shared") if request.param == "directory" else POOL
    ground.hypervisor.store_ready(place)
    return place


def stored(ground: Ground, where: str, path: Path, content: bytes) -> str:
    name, path = source(path, content)
    hypervisor = ground.hypervisor
    hypervisor.store_receive(where, name, len(content), 0, feed(path, 0, quiet))
    carry_out(hypervisor, hypervisor.store_finish_words(where, name, len(content)))
    return name


def rot(ground: Ground, where: str, name: str) -> None:
    """A byte is another one."""
    if ground.local is None:
        ground.hypervisor.host.rotten.add(name)
        return
    root = Path(where) / ground.hypervisor.fleet if where != POOL else ground.local.pools / POOL
    path = root / (name if where != POOL else f"{ground.hypervisor.fleet}.{name}")
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])


def test_a_file_comes_is_there_and_goes(ground: Ground, where: str, tmp_path: Path) -> None:
    hypervisor, content = ground.hypervisor, os.urandom(300_001)
    name = hashlib.sha256(content).hexdigest()
    assert hypervisor.store_state(where, name) == (False, 0)
    assert hypervisor.store_files(where) == {}
    assert hypervisor.store_verify(where, name, act=True) == "gone"
    assert stored(ground, where, tmp_path, content) == name
    assert hypervisor.store_state(where, name, JOB) == (True, 0)
    assert list(hypervisor.store_files(where)) == [name]
    assert hypervisor.store_verify(where, name, act=True) == "ok"
    assert stored(ground, where, tmp_path, content) == name  # once more
    for _ in range(2):
        hypervisor.store_drop(where, name)
        assert hypervisor.store_files(where) == {}
        assert hypervisor.store_state(where, name) == (False, 0)


def test_what_is_damaged_on_its_way_is_not_there(ground: Ground, where: str, tmp_path: Path) -> None:
    hypervisor, name = ground.hypervisor, "ab" * 32
    _, path = source(tmp_path, b"something else" * 100)
    hypervisor.store_receive(where, name, 1400, 0, feed(path, 0, quiet))
    assert hypervisor.store_state(where, name) == (False, 1400)
    assert list(hypervisor.store_files(where)) == [name]
    with pytest.raises(HostFault, match="arrived damaged"):
        carry_out(hypervisor, hypervisor.store_finish_words(where, name, 1400))
    assert hypervisor.store_state(where, name) == (False, 0)
    with pytest.raises(Busy, match="stands at byte 0 by now"):
        hypervisor.store_receive(where, name, 1400, 700, feed(path, 700, quiet))


def test_what_is_damaged_there_is_found(ground: Ground, where: str, tmp_path: Path) -> None:
    hypervisor = ground.hypervisor
    name = stored(ground, where, tmp_path, os.urandom(EXTENT + 5))
    rot(ground, where, name)
    for _ in range(2):
        assert hypervisor.store_verify(where, name, act=False) == "corrupt"
    assert hypervisor.store_verify(where, name, act=True) == "corrupt"
    assert hypervisor.store_verify(where, name, act=True) == "gone"
    assert hypervisor.store_state(where, name) == (False, 0)


@pytest.mark.parametrize("name", ["../x", "ab" * 31, "AB" * 32, "$(id)", ""])
def test_names_are_checked(ground: Ground, where: str, name: str) -> None:
    hypervisor = ground.hypervisor
    for call in (
        lambda: hypervisor.store_state(where, name),
        lambda: hypervisor.store_receive(where, name, 1, 0, quiet),
        lambda: hypervisor.store_finish_words(where, name, 1),
        lambda: hypervisor.store_verify(where, name, act=True),
        lambda: hypervisor.store_drop(where, name),
        lambda: hypervisor.store_serve_words(where, name),
    ):
        with pytest.raises(UsageError):
            call()


# --- what a key of one file may do there ---


class Served:
    """Connections of such a key, one after the other."""

    def __init__(self, tmp_path: Path, where: str) -> None:
        self.ground = real(tmp_path)
        self.where = str(tmp_path / "shared") if where == "directory" else POOL
        self.ground.hypervisor.store_ready(self.where)
        self.content = os.urandom(70_000) + bytes(3 << 20) + os.urandom(5000)
        self.name = stored(self.ground, self.where, tmp_path, self.content)
        self.script = tmp_path / "receive"
        self.script.write_bytes(receiver())

    def asked(self, command: str) -> "subprocess.CompletedProcess[bytes]":
        assert self.ground.local is not None
        words = self.ground.hypervisor.store_serve_words(self.where, self.name)
        environment = {**self.ground.local.environment, "SSH_ORIGINAL_COMMAND": command}
        return subprocess.run(["sh", self.script, *words], env=environment, capture_output=True, check=False)


def pieces(said: bytes, size: int) -> dict[int, bytes]:
    """What `give` gave, by offset."""
    assert said[:8] == b"plain  \n"
    at, found = 8, {}
    while True:
        offset, length = map(int, said[at : at + 64].split())
        at += 64
        if not length:
            assert (offset, at) == (size, len(said))
            return found
        found[offset] = said[at : at + length]
        at += length


@pytest.mark.parametrize("where", ["directory", "pool"])
def test_a_key_of_one_file_gets_it_from_any_byte_on(tmp_path: Path, where: str) -> None:
    served = Served(tmp_path, where)
    size = len(served.content)
    assert served.asked("hello").returncode == 0
    assert served.asked("offer").stdout == b"source\n"
    for start in (0, 1, 65_000, 1 << 20, size - 1, size):
        got = bytearray(served.content[:start].ljust(size, b"\0"))
        for offset, data in pieces(served.asked(f"give source {start} {size} plain").stdout, size).items():
            assert offset >= start
            got[offset : offset + len(data)] = data
        assert got == served.content, start


@pytest.mark.parametrize("where", ["directory", "pool"])
@pytest.mark.parametrize(
    "command", ["", "id", "give", "give source 0", "give source $(id) 5 plain", "give source -1 5 plain"]
)
def test_and_nothing_else(tmp_path: Path, where: str, command: str) -> None:
    ended = Served(tmp_path, where).asked(command)
    assert (ended.returncode, ended.stdout) == (2, b"")
