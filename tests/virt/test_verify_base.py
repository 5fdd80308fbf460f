"""What a host says of its base files when all bytes are read again: simulated and real."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from novactl.errors import UsageError
from novactl.images.transfer import feed
from tests.support.local_shell import with_library
from tests.virt.ground import BASE, CONTENT, Ground, quiet, real, source, sparse


def rot(ground: Ground, name: str = BASE) -> None:
    """A byte of the base file is another one, with nothing else to tell."""
    if ground.local is None:
        ground.hypervisor.host.rotten.add(name)
        return
    path = ground.path / "_base" / name
    status = path.stat()
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def said(ground: Ground, keep: tuple[str, ...] = (), *, act: bool = True) -> str:
    return ground.hypervisor.verify_base(BASE, keep, act=act)


def test_a_good_one_stays(ground: Ground) -> None:
    assert ground.hypervisor.bases() == {}
    assert said(ground) == "gone"
    ground.base()
    ground.hypervisor.base_blank("swap_64", 1 << 20, "swap")
    assert ground.hypervisor.bases() == {BASE: len(CONTENT)}
    assert said(ground) == "ok"
    assert ground.hypervisor.base_state(BASE) == (True, 0)


def test_a_corrupt_one_is_set_aside_and_fetched_again(ground: Ground) -> None:
    ground.base()
    rot(ground)
    assert said(ground, act=False) == "corrupt-unused"
    assert ground.hypervisor.base_state(BASE) == (True, 0)
    assert said(ground) == "corrupt-unused"
    assert said(ground) == "gone"
    assert ground.hypervisor.bases() == {}
    ground.base()
    assert said(ground) == "ok"


@pytest.mark.parametrize("by", ["overlay", "database"])
def test_one_that_guests_use_stays_until_it_is_fetched_again(ground: Ground, by: str) -> None:
    if by == "overlay":
        ground.guest()
    else:
        ground.base()
    rot(ground)
    keep = (BASE,) if by == "database" else ()
    assert said(ground, keep, act=False) == "corrupt-used"
    assert said(ground, keep) == "corrupt-used"
    assert said(ground, keep) == "unmarked"
    assert ground.hypervisor.bases() == {BASE: len(CONTENT)}
    assert ground.hypervisor.base_state(BASE) == (False, 0)
    ground.base()
    assert said(ground, keep) == "ok"


def test_names_are_checked(ground: Ground) -> None:
    with pytest.raises(UsageError):
        ground.hypervisor.verify_base("../x", (), act=True)
    with pytest.raises(UsageError):
        ground.hypervisor.verify_base(BASE, ("a\nb",), act=True)


# --- real files ---


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="no qemu-img")
def test_one_that_was_converted_has_its_sum_in_the_sidecar(tmp_path: Path) -> None:
    ground = real(tmp_path)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(tmp_path / "q"), "1M"], check=True)
    content = (tmp_path / "q").read_bytes()
    name, path = source(tmp_path, content)
    ground.hypervisor.base_receive(name, len(content), 0, feed(path, 0, quiet))
    ground.hypervisor.base_finish(name, "qcow2", 1 << 20)
    assert ground.hypervisor.verify_base(name, (), act=True) == "ok"
    base = ground.path / "_base" / name
    assert hashlib.sha256(base.read_bytes()).hexdigest() != name
    with base.open("r+b") as file:
        file.truncate((1 << 20) - 512)
    assert ground.hypervisor.verify_base(name, (), act=True) == "corrupt-unused"


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="no qemu-img")
def test_one_whose_sidecar_has_the_sum_of_all_bytes_is_judged_by_it(tmp_path: Path) -> None:
    """As those that were made by earlier versions."""
    ground = real(tmp_path)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(tmp_path / "q"), "1M"], check=True)
    content = (tmp_path / "q").read_bytes()
    name, path = source(tmp_path, content)
    ground.hypervisor.base_receive(name, len(content), 0, feed(path, 0, quiet))
    ground.hypervisor.base_finish(name, "qcow2", 1 << 20)
    base = ground.path / "_base" / name
    sidecar = base.with_name(f"{name}.json")
    old = {**json.loads(sidecar.read_text()), "raw_sha256": hashlib.sha256(bytes(1 << 20)).hexdigest()}
    del old["raw_sparse_sha256"]
    sidecar.write_text(json.dumps(old) + "\n")
    assert ground.hypervisor.verify_base(name, (), act=True) == "ok"
    with base.open("r+b") as file:
        file.write(b"x")
    assert ground.hypervisor.verify_base(name, (), act=True) == "corrupt-unused"


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="no qemu-img")
def test_one_without_any_sum_is_not_good(tmp_path: Path) -> None:
    ground = real(tmp_path)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(tmp_path / "q"), "1M"], check=True)
    content = (tmp_path / "q").read_bytes()
    name, path = source(tmp_path, content)
    ground.hypervisor.base_receive(name, len(content), 0, feed(path, 0, quiet))
    ground.hypervisor.base_finish(name, "qcow2", 1 << 20)
    base = ground.path / "_base" / name
    base.with_name(f"{name}.json").write_text('{"source_format": "qcow2"}\n')
    base.unlink()
    base.mkdir()  # what nobody can read
    assert ground.hypervisor.verify_base(name, (), act=False) == "corrupt-unused"


PIECE = 16 << 20


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="no qemu-img")
@pytest.mark.parametrize("shell", [name for name in ("dash", "bash") if shutil.which(name)])
@pytest.mark.parametrize(
    ("size", "data"),
    [
        (1, {0: b"x"}),
        (2 * PIECE, {}),
        (2 * PIECE + 512, {}),
        (5 * PIECE, {PIECE - 1: b"ends and begins", 3 * PIECE: b"x" * 4096, 5 * PIECE - 1: b"x"}),
        (3 * PIECE - 4096, {2 * PIECE: b"in the last one"}),
    ],
)
def test_a_sparse_sum_is_of_what_it_holds(
    tmp_path: Path, shell: str, size: int, data: dict[int, bytes]
) -> None:
    """Whatever of its zeros is a hole."""

    def summed(path: Path) -> str:
        words = [*with_library(shell, tmp_path, 'set -e\nnv_digest sparse "$1"'), str(path)]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    holes, whole, other = tmp_path / "holes", tmp_path / "whole", tmp_path / "other"
    with holes.open("wb") as file:
        for at, some in data.items():
            file.seek(at)
            file.write(some)
        file.truncate(size)
    content = holes.read_bytes()
    whole.write_bytes(content)
    assert summed(holes) == summed(whole) == sparse(content)
    other.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert summed(other) != sparse(content)
    other.write_bytes(content[:-1])
    assert summed(other) != sparse(content)


@pytest.mark.parametrize("shell", [name for name in ("dash", "bash") if shutil.which(name)])
@pytest.mark.parametrize("fails", ["dd", "qemu-img", "openssl"])
def test_what_cannot_be_read_has_no_sparse_sum(tmp_path: Path, shell: str, fails: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(PIECE + 1))
    fault = "nv_image_tool() { return 1; }" if fails == "qemu-img" else f"{fails}() {{ return 1; }}"
    words = [*with_library(shell, tmp_path, f'{fault}\nset -e\nnv_digest sparse "$1"'), str(path)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")


@pytest.mark.parametrize("shell", [name for name in ("dash", "bash") if shutil.which(name)])
@pytest.mark.parametrize("half", [0, 1])
def test_one_half_of_the_pieces_is_no_sum(tmp_path: Path, shell: str, half: int) -> None:
    """Each half is summed by a process of its own, which may be killed."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(2 * PIECE))
    killed = "kill -9 \"$(exec sh -c 'echo $PPID')\""
    fault = f'nv_piece_sums() {{ if [ "$2" = {half} ]; then {killed}; fi; echo "0 sum"; }}'
    words = [*with_library(shell, tmp_path, f'{fault}\nset -e\nnv_digest sparse "$1"'), str(path)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")


def test_a_sidecar_that_lies_does_not_make_a_raw_one_good(tmp_path: Path) -> None:
    ground = real(tmp_path)
    ground.base()
    rot(ground)
    base = ground.path / "_base" / BASE
    sidecar = base.with_name(f"{BASE}.json")
    sidecar.write_text(sidecar.read_text().replace(BASE, hashlib.sha256(base.read_bytes()).hexdigest()))
    assert said(ground) == "corrupt-unused"


def test_one_that_a_process_has_open_is_used(tmp_path: Path) -> None:
    ground = real(tmp_path)
    ground.base()
    rot(ground)
    with (ground.path / "_base" / BASE).open("rb"):
        assert said(ground) == "corrupt-used"


def test_what_lies_aside_goes_with_the_left_overs(tmp_path: Path) -> None:
    ground = real(tmp_path)
    ground.base()
    rot(ground)
    assert said(ground) == "corrupt-unused"
    aside = ground.path / "_base" / f".{BASE}.corrupt"
    assert aside.exists()
    ground.age(30 * 86400)
    gone = ground.hypervisor.prune((), 86400, remove=True)
    assert [(one.name, one.part, one.state) for one in gone] == [(BASE, True, "removed")]
    assert not aside.exists()
