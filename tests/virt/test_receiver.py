"""What the key of an operation may do on the host that an instance goes to: the script behind it, by itself,
in every shell that /bin/sh may be."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from novactl.remote.shell import receiver
from tests.unit.hostile_images import qcow2

CONTENT = qcow2() + os.urandom(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
KEY, IV = (1).to_bytes(16, "big"), bytes(12)
SHELLS = [name for name in ("dash", "bash") if shutil.which(name)]


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> "Receiver":
    return Receiver(request.param, tmp_path)


class Receiver:
    """One connection of the key after the other."""

    def __init__(self, shell: str, path: Path) -> None:
        self.shell, self.path = shell, path
        self.directory = path / "instance"
        self.directory.mkdir()
        self.script = path / "receive"
        self.script.write_bytes(receiver())

    def asked(
        self, command: str, data: bytes = b"", bounds: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [self.shell, str(self.script), "nv_receive", str(self.directory), *bounds],
            input=data,
            capture_output=True,
            env={**os.environ, "SSH_ORIGINAL_COMMAND": command},
            check=False,
        )

    def files(self) -> set[str]:
        return {one.name for one in self.directory.iterdir() if not one.name.endswith(".lock")}


def gmac(content: bytes) -> str:
    """SP 800-38D: the tag of GCM over data that is not enciphered."""
    return AESGCM(KEY).encrypt(IV, b"", content).hex().upper()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def piece(offset: object, data: bytes) -> bytes:
    return f"{f'{offset} {len(data)}':<63}\n".encode() + data


def end(size: int, sum_: str = "") -> bytes:
    return f"{f'{size} 0':<63}\n{sum_}\n".encode()


@pytest.mark.parametrize("digest", [gmac, sha256])
def test_a_file_arrives_in_pieces(shell: Receiver, digest: Callable[[bytes], str]) -> None:
    """What lies between two pieces is empty."""
    assert shell.asked("hello").returncode == 0
    size, late = 8_000_000, 6_000_000
    whole = CONTENT + bytes(late - len(CONTENT)) + b"last" + bytes(size - late - 4)
    sent = piece(0, CONTENT) + piece(late, b"last") + end(size, digest(whole))
    kind = digest.__name__
    assert shell.asked(f"take disk {size} 0 {kind}", sent).returncode == 0
    assert (shell.directory / "disk").read_bytes() == whole
    assert shell.files() == {"disk"}
    assert shell.asked("have disk").stdout == b"ready\n"
    assert shell.asked(f"take disk {size} 0 {kind}", sent).returncode == 77


def test_an_openssl_that_has_no_gmac_says_so(shell: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 1.1 does not know the command `mac`."""
    old = shell.path / "bin" / "openssl"
    old.parent.mkdir()
    old.write_text('#!/bin/sh\n[ "$1" != mac ] || exit 1\nexec /usr/bin/openssl "$@"\n')
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{old.parent}:{os.environ['PATH']}")
    sent = piece(0, CONTENT) + end(len(CONTENT), SHA256)
    assert shell.asked(f"take disk {len(CONTENT)} 0 gmac", sent).returncode == 69
    assert shell.files() == set()
    assert shell.asked(f"take disk {len(CONTENT)} 0 sha256", sent).returncode == 0
    assert shell.files() == {"disk"}


def test_one_that_was_cut_goes_on_where_it_was(shell: Receiver) -> None:
    half = len(CONTENT) // 2
    cut = piece(0, CONTENT[:half]) + piece(half, CONTENT[half:])[:-1000]
    assert shell.asked(f"take disk {len(CONTENT)} 0 gmac", cut).returncode != 0
    have = int(shell.asked("have disk").stdout)
    assert have == half
    assert shell.asked(f"take disk {len(CONTENT)} 0 gmac", b"").returncode == 77
    rest = piece(have, CONTENT[have:]) + end(len(CONTENT), gmac(CONTENT))
    assert shell.asked(f"take disk {len(CONTENT)} {have} gmac", rest).returncode == 0
    assert (shell.directory / "disk").read_bytes() == CONTENT


def test_one_whose_sum_did_not_come_is_asked_for_nothing_else(shell: Receiver) -> None:
    size = len(CONTENT)
    cut = shell.asked(f"take disk {size} 0 gmac", piece(0, CONTENT) + end(size)[:64])
    assert cut.returncode == 1 and b"cut" in cut.stderr
    assert "disk" not in shell.files()
    assert shell.asked("have disk").stdout == f"{size}\n".encode()
    assert shell.asked(f"take disk {size} {size} gmac", end(size, gmac(CONTENT))).returncode == 0
    assert (shell.directory / "disk").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "sent",
    [
        piece(0, b"x" * 2000) + end(1000),
        piece(500, b"x" * 10) + piece(0, b"x" * 10) + end(1000),
        piece(2000, b"x") + end(1000),
    ],
)
def test_pieces_come_in_turn_and_within_the_file(shell: Receiver, sent: bytes) -> None:
    refused = shell.asked("take disk 1000 0 gmac", sent)
    assert refused.returncode == 2 and b"out of turn" in refused.stderr
    assert (shell.directory / ".disk.part").stat().st_size <= 1000


@pytest.mark.parametrize(
    ("command", "bounds", "status"),
    [
        ("take disk 1000 0 sha256", ("disk=1048576", "nvram=10"), 0),  # a MiB for its guest
        ("take nvram 1000 0 sha256", ("disk.local=9", "nvram=1000"), 0),
        ("take disk 1001 0 sha256", ("disk=1000", "nvram=5000"), 76),
        ("take disk 999999999999999 0 sha256", ("disk=1000",), 76),
        ("take disk.local 1000 0 sha256", ("disk=1000",), 76),
    ],
)
def test_a_file_is_not_larger_than_its_disk_can_make_it(
    shell: Receiver, command: str, bounds: tuple[str, ...], status: int
) -> None:
    """Else a source could have the target write without end."""
    content = qcow2().ljust(1000, b"\0")[:1000]
    sent = piece(0, content) + end(1000, sha256(content))
    ended = shell.asked(command, sent, bounds)
    assert ended.returncode == status, ended.stderr
    assert shell.files() == (set() if status else {command.split()[1]})
    if status:
        assert b"bytes is more than it can have" in ended.stderr


def test_a_disk_is_not_larger_for_its_guest_than_its_record_says(shell: Receiver) -> None:
    """It would fill the target as it is written to."""
    made = shell.path / "made"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(made), "8T"], check=True)
    content = made.read_bytes()
    sent = piece(0, content) + end(len(content), sha256(content))
    refused = shell.asked(f"take disk {len(content)} 0 sha256", sent, (f"disk={1 << 40}",))
    assert refused.returncode == 76 and b"is more than it can have" in refused.stderr
    assert shell.files() == set()
    assert shell.asked(f"take disk {len(content)} 0 sha256", sent, (f"disk={8 << 40}",)).returncode == 0


def test_one_that_is_damaged_is_sent_again(shell: Receiver) -> None:
    bad = piece(0, b"X" + CONTENT[1:]) + end(len(CONTENT), gmac(CONTENT))
    ended = shell.asked(f"take disk {len(CONTENT)} 0 gmac", bad)
    assert ended.returncode == 1 and b"arrived damaged" in ended.stderr
    assert shell.files() == set()
    assert shell.asked("have disk").stdout == b"0\n"


@pytest.mark.parametrize(
    "command",
    [
        "",
        "id",
        "take ../x 10 0 gmac",
        "take libvirt.xml 10 0 gmac",
        "take disk 10 0",
        "take disk 10 0 md5",
        "have /etc/passwd",
        "end .. 0",
        "rm disk",
        "take disk a[$(touch${IFS}owned)] 0 gmac",
        "take disk 10 a[$(touch${IFS}owned)] gmac",
        "take disk 10 0 a[$(touch${IFS}owned)]",
        "take disk -5 0 gmac",
        "take disk 99999999999999999999 0 gmac",
    ],
)
def test_it_may_do_nothing_else(shell: Receiver, command: str) -> None:
    assert shell.asked(command, end(10)).returncode == 2
    assert shell.files() == set()
    assert not list(shell.path.rglob("owned")) and not Path("owned").exists()


@pytest.mark.parametrize("header", ["a[$(touch${IFS}owned)] 5", "0 a[$(touch${IFS}owned)]", "x 5", "-1 5"])
def test_headers_are_numbers(shell: Receiver, header: str) -> None:
    """bash would carry out what stands in an index when it calculates."""
    ended = shell.asked("take disk 10 0 gmac", f"{header:<63}\n".encode() + b"12345" + end(10))
    assert ended.returncode != 0
    assert not list(shell.path.rglob("owned")) and not Path("owned").exists()
    assert "disk" not in shell.files()


@pytest.mark.parametrize("names", ["-b /etc/passwd -F raw", "-b ../_base/ab -F qcow2", "-b other -F raw"])
def test_a_disk_that_names_a_file_that_is_not_ours_does_not_arrive(shell: Receiver, names: str) -> None:
    made = shell.path / "made"
    create = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", *names.split(), str(made), "1M"]
    subprocess.run(create, check=True)
    content = made.read_bytes()
    sent = piece(0, content) + end(len(content), sha256(content))
    refused = shell.asked(f"take disk {len(content)} 0 sha256", sent)
    assert refused.returncode == 76, refused.stderr
    assert shell.files() == set()
    # a firmware's variables are no disk, and nobody reads a header in them
    assert shell.asked(f"take nvram {len(content)} 0 sha256", sent).returncode == 0


def test_what_a_host_says_by_the_way_is_bounded(shell: Receiver) -> None:
    """It would fill the disk of who asks it."""
    (shell.path / "bin").mkdir()
    ssh = shell.path / "bin" / "ssh"
    ssh.write_text("#!/bin/sh\nexec head -c 1000000 /dev/zero >&2\n")
    ssh.chmod(0o755)
    script = receiver().decode().rpartition("{\nset -e")[0]
    script += f"""
        nv_trust_find() {{ nv_trust={shell.path}; }}
        export PATH="{ssh.parent}:$PATH"
        echo 192.0.2.1 22 >{shell.path}/target
        nv_trust_ssh op-1 target give 2>{shell.path}/said
    """
    (shell.path / "script").write_text(script)
    subprocess.run([shell.shell, str(shell.path / "script")], check=False, capture_output=True)
    assert 0 < (shell.path / "said").stat().st_size <= 1 << 17
