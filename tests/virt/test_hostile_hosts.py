"""What a host that was taken over may send to others: nothing but what was asked for gets in, in every shell
that /bin/sh may be."""

import hashlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.local_shell import with_library
from tests.virt.ground import sparse
from tests.virt.test_receiver import end, piece

OP = "op-12"
KEY = f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA+/= novactl {OP}"
SHELLS = [name for name in ("dash", "bash") if shutil.which(name)]


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def told(shell: str, path: Path, *words: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """A call of a host's function; what would get into root's authorized_keys is in `keys`."""
    kept = f"nv_change_keys() {{ printf '%s\\n' \"$2\" >>'{path}/keys'; }}"
    begins = with_library(shell, path, f"nv_state='{path}/state'\n{kept}\nset -e\n\"$@\"")
    return subprocess.run([*begins, *words], input=data, capture_output=True, check=False, timeout=60)


def test_a_key_and_an_address_are_let_in(shell: str, tmp_path: Path) -> None:
    for address in ("10.0.0.1", "fd00::12"):
        allowed = told(
            shell, tmp_path, "nv_trust_allow", OP, address, "60", "forward", data=f"{KEY}\n".encode()
        )
        assert allowed.returncode == 0, allowed.stderr
    first, second = (tmp_path / "keys").read_text().splitlines()
    assert first.startswith('restrict,from="10.0.0.1",expiry-time="') and first.endswith(f" {KEY}")
    assert 'from="fd00::12"' in second


def test_what_it_has_under_way_ends_with_it(shell: str, tmp_path: Path) -> None:
    """And nothing of another operation, or of one of its steps."""
    running = []
    for op in (OP, f"{OP}-3", "op-123"):
        key = f"ssh-ed25519 AAAA novactl {op}\n".encode()
        words = ("nv_trust_allow", op, "10.0.0.1", "60", "receive", "nv_receive", str(tmp_path))
        allowed = told(shell, tmp_path, *words, data=key + b"read -r nv_line\n")
        assert allowed.returncode == 0, allowed.stderr
        receive = tmp_path / "state" / "trust" / op / "receive"
        running.append(subprocess.Popen(["/bin/sh", str(receive), str(tmp_path)], stdin=subprocess.PIPE))
    try:
        ended = told(shell, tmp_path, "nv_trust_end", OP)
        assert ended.returncode == 0, ended.stderr
        assert running[0].wait(10) == -signal.SIGTERM
        assert [one.poll() for one in running[1:]] == [None, None]
        assert not (tmp_path / "state" / "trust" / OP).exists()
    finally:
        for one in running:
            one.kill()
            one.communicate()


@pytest.mark.parametrize(
    ("key", "address"),
    [
        (rf"ssh-ed25519 AAAA x\nssh-ed25519 EVIL backdoor\n# novactl {OP}", "10.0.0.1"),
        (f"ssh-ed25519 AAAA\rssh-ed25519 EVIL novactl {OP}", "10.0.0.1"),
        (f'ssh-ed25519 AAAA" novactl {OP}', "10.0.0.1"),
        (f"ssh-ed25519  novactl {OP}", "10.0.0.1"),
        (f"ssh-rsa AAAA novactl {OP}", "10.0.0.1"),
        ("ssh-ed25519 AAAA novactl op-13", "10.0.0.1"),
        (KEY, r"10.0.0.1\0042,command=\0042id"),
        (KEY, '10.0.0.1",command="id'),
        (KEY, "*"),
        (KEY, ""),
    ],
)
def test_nothing_else_is(shell: str, tmp_path: Path, key: str, address: str) -> None:
    refused = told(shell, tmp_path, "nv_trust_allow", OP, address, "60", "forward", data=f"{key}\n".encode())
    assert refused.returncode == 2, refused.stderr
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize(
    "sent",
    [
        piece(0, b"x" * 2000) + end(1000),
        piece(990, b"x" * 20) + end(1000),
        piece(500, b"x" * 10) + piece(0, b"x" * 10) + end(1000),
        piece(2000, b"x") + end(1000),
    ],
)
def test_pieces_of_a_base_file_come_in_turn_and_within_it(shell: str, tmp_path: Path, sent: bytes) -> None:
    taken = told(shell, tmp_path, "nv_base_take", str(tmp_path / "base"), "1000", "0", "5", data=sent)
    assert taken.returncode == 2 and b"out of turn" in taken.stderr
    assert (tmp_path / "base.part").stat().st_size <= 1000


@pytest.mark.parametrize("kind", ["sparse:", ""])
@pytest.mark.parametrize("honest", [True, False])
def test_what_was_made_elsewhere_is_what_was_offered(
    shell: str, tmp_path: Path, kind: str, honest: bool
) -> None:
    name, content = "ab" * 32, b"made elsewhere".ljust(70_000, b"\0")
    offered = sparse(content) if kind else hashlib.sha256(content).hexdigest()
    copy = tmp_path / f".{name}.copy.part"
    copy.write_bytes(content if honest else b"M" + content[1:])
    words = (str(tmp_path), name, "qcow2", "novactl", f"{kind}{offered} {len(content)}")
    finished = told(shell, tmp_path, "nv_base_finish_copy", *words)
    assert finished.returncode == (0 if honest else 1), finished.stderr
    assert (tmp_path / name).exists() is honest
    assert not copy.exists()
    if honest:
        offer = told(shell, tmp_path, "nv_offered", str(tmp_path), name)
        assert offer.stdout.decode() == f"raw {kind}{offered} {len(content)}\n"


@pytest.mark.parametrize("kind", ["raw", "file"])
def test_nothing_is_made_of_what_is_its_own_base_file(shell: str, tmp_path: Path, kind: str) -> None:
    name, content = "ab" * 32, b"anything".ljust(70_000, b"\0")
    (tmp_path / f".{name}.copy.part").write_bytes(content)
    words = (str(tmp_path), name, kind, "novactl", f"sparse:{sparse(content)} {len(content)}")
    assert told(shell, tmp_path, "nv_base_finish_copy", *words).returncode == 76
    assert not (tmp_path / name).exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root starts a process of somebody else")
def test_who_only_calls_himself_so_is_not_thrown_out(shell: str, tmp_path: Path) -> None:
    """He could have an sshd killed with him."""
    receive = tmp_path / "state" / "trust" / OP / "receive"
    receive.parent.mkdir(parents=True)
    other = subprocess.Popen(
        ["/bin/sh", str(receive), "-f", "/dev/null"], executable=shutil.which("tail"), user=65534, stderr=-3
    )
    try:
        ended = told(shell, tmp_path, "nv_trust_end", OP)
        assert ended.returncode == 0, ended.stderr
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def disk(path: Path, *options: str) -> None:
    made = ["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), "1M"]
    subprocess.run(made, cwd=path.parent, check=True)


@pytest.mark.parametrize("names", ["secret", "elsewhere", "above", "guessed", "data"])
def test_a_disk_that_names_another_file_is_not_read(shell: str, tmp_path: Path, names: str) -> None:
    """It came from another host, and its header was made there."""
    instance = tmp_path / "instances" / "uuid"
    (tmp_path / "instances" / "_base").mkdir(parents=True)
    instance.mkdir()
    (tmp_path / "secret").write_bytes(b"the host's own".ljust(1 << 20))
    (tmp_path / "instances" / "_base" / "ab12").write_bytes(bytes(1 << 20))
    (instance / "other").write_bytes(b"another's".ljust(1 << 20))
    backing = {
        "secret": ["-F", "raw", "-b", str(tmp_path / "secret")],
        "elsewhere": ["-F", "raw", "-b", "other"],
        "above": ["-F", "raw", "-b", "../_base/../../secret"],
        "guessed": ["-F", "raw", "-b", "../_base/ab12"],
        "data": ["-o", "data_file=other,data_file_raw=on"],
    }[names]
    disk(instance / "disk", *backing)
    if names == "guessed":
        rebase = ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "../_base/ab12", "disk"]
        subprocess.run(rebase, cwd=instance, check=True)
    refused = told(shell, tmp_path, "nv_extract", str(instance), OP, "disk", "disk", "raw", "no")
    assert refused.returncode == 76, refused.stderr
    assert not list(instance.glob("op-*"))


def test_a_disk_of_ours_is_read(shell: str, tmp_path: Path) -> None:
    instance = tmp_path / "instances" / "uuid"
    (tmp_path / "instances" / "_base").mkdir(parents=True)
    instance.mkdir()
    (tmp_path / "instances" / "_base" / "ab12").write_bytes(b"base".ljust(1 << 20))
    disk(instance / "disk", "-F", "raw", "-b", "../_base/ab12")
    read = told(shell, tmp_path, "nv_extract", str(instance), OP, "disk", "disk", "raw", "no")
    assert read.returncode == 0, read.stderr
    assert (instance / f"{OP}.disk").read_bytes().startswith(b"base")


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_firmware_variables_go_through_storage_that_hosts_share(
    shell: str, tmp_path: Path, kind: str
) -> None:
    """No link that another host's root has made there is followed."""
    instance, secret = tmp_path / "uuid", tmp_path / "secrets" / "secret"
    instance.mkdir()
    secret.parent.mkdir()
    secret.write_bytes(b"root's")
    (tmp_path / "source").write_bytes(b"variables")
    copy = ("nv_copy_nvram", str(instance), str(tmp_path / "source"))
    place = ("nv_place_nvram", str(instance), str(tmp_path / "vars" / "target"))
    for link in (".nvram.new", "nvram"):
        (instance / link).symlink_to(secret if kind == "file" else secret.parent)
    refused = told(shell, tmp_path, *place)
    assert refused.returncode == 76 and b"is a link" in refused.stderr
    for words in (copy, copy, place, place):  # each twice, as after a death
        done = told(shell, tmp_path, *words)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "vars" / "target").read_bytes() == (tmp_path / "source").read_bytes() == b"variables"
    assert secret.read_bytes() == b"root's" and list(secret.parent.iterdir()) == [secret]
    assert list(instance.iterdir()) == []
    assert told(shell, tmp_path, copy[0], str(instance), str(tmp_path / "none")).returncode == 0
    assert list(instance.iterdir()) == []


def test_disks_that_another_operation_keeps_aside(shell: str, tmp_path: Path) -> None:
    """Which one is the guest's is for an audit: neither evacuated beside nor replaced once more."""
    instance = tmp_path / "instances" / "uuid"
    instance.mkdir(parents=True)
    disk(instance / "disk")
    looked = told(shell, tmp_path, "nv_held", str(instance), "disk")
    assert looked.returncode == 0 and looked.stdout.strip() == b"", looked.stderr
    aside = ("nv_disks_aside", str(instance), str(tmp_path / "nvram"))
    assert told(shell, tmp_path, *aside, "op-1", "disk").returncode == 0
    assert told(shell, tmp_path, *aside, "op-1", "disk").returncode == 0
    disk(instance / "disk")
    for words in (("nv_held", str(instance), "disk"), (*aside, "op-2", "disk")):
        refused = told(shell, tmp_path, *words)
        assert refused.returncode == 76 and b"novactl audit --heal" in refused.stderr
    assert {one.name for one in instance.iterdir()} == {"disk", "disk.op-1"}
    assert told(shell, tmp_path, "nv_disks_gone", str(instance), "op-1", "disk").returncode == 0
    assert told(shell, tmp_path, "nv_held", str(instance), "disk").returncode == 0
    (instance / "disk.config.op-1").touch()
    assert told(shell, tmp_path, "nv_held", str(instance), "disk").returncode == 76


def test_firmware_variables_are_on_disk_before_the_others_go(shell: str, tmp_path: Path) -> None:
    """A host that loses its power has one of the two, whole."""
    instance, variables, log = tmp_path / "uuid", tmp_path / "nvram" / "vars", tmp_path / "log"
    for path in (instance, variables.parent):
        path.mkdir()
    variables.write_bytes(b"variables")
    noted = f"sync() {{ echo sync $1 >>'{log}'; }}; rm() {{ echo rm >>'{log}'; command rm \"$@\"; }}; "
    words = f"'{instance}' '{variables}' op-1"
    refused = told(shell, tmp_path, "eval", f"sync() {{ return 1; }}; nv_disks_aside {words}")
    assert refused.returncode == 1 and b"cannot copy its NVRAM" in refused.stderr
    assert variables.read_bytes() == b"variables" and not (instance / "nvram.op-1").exists()
    assert told(shell, tmp_path, "eval", f"{noted}nv_disks_aside {words}").returncode == 0
    assert log.read_text().split("\n")[:3] == ["sync .nvram.new", "sync .", "rm"]
    refused = told(shell, tmp_path, "eval", f"sync() {{ return 1; }}; nv_disks_back {words}")
    assert refused.returncode == 1 and (instance / "nvram.op-1").read_bytes() == b"variables"
    log.unlink()
    assert told(shell, tmp_path, "eval", f"{noted}nv_disks_back {words}").returncode == 0
    assert log.read_text().split("\n")[:3] == [f"sync {variables}", f"sync {variables.parent}", "rm"]
    assert variables.read_bytes() == b"variables"
    assert [one.name for one in instance.iterdir()] == []
