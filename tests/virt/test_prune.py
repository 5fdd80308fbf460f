"""Pruning of base files: what a host promises (simulated and real), and what only real files show."""

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from novactl.errors import HostFault, HostRefused, UsageError
from novactl.images.transfer import feed, header
from tests.virt.ground import BASE, CONTENT, OPERATION, UUID, Ground, quiet, real, source

DAY = 86400
OLD = 8 * DAY
WEEK = 7 * DAY
OTHER_BASE = hashlib.sha256(b"another").hexdigest()


def states(ground: Ground, keep: set[str] = frozenset(), *, remove: bool = True) -> dict[str, str]:  # type: ignore[assignment]
    found = ground.hypervisor.prune(keep, WEEK, remove=remove)
    return {f"{'.' if one.part else ''}{one.name}": one.state for one in found}


# --- the contract ---


def test_what_nothing_needs_goes_when_it_is_old(ground: Ground) -> None:
    ground.base()
    ground.hypervisor.base_blank("swap_64", 1 << 20, "swap")
    assert states(ground) == {BASE: "young", "swap_64": "young"}
    ground.age(OLD)
    assert states(ground, remove=False) == {BASE: "unused", "swap_64": "unused"}
    assert states(ground) == {BASE: "removed", "swap_64": "removed"}
    assert states(ground) == {}
    assert ground.hypervisor.base_state(BASE) == (False, 0)  # and the next boot fetches it again
    ground.base()
    assert ground.hypervisor.base_state(BASE) == (True, 0)


def test_what_the_database_or_an_overlay_needs_stays(ground: Ground) -> None:
    ground.guest()
    ground.hypervisor.base_blank("swap_64", 1 << 20, "swap")
    ground.age(OLD)
    assert states(ground, {"swap_64"}) == {BASE: "used-here", "swap_64": "used-in-database"}
    assert states(ground, set()) == {
        BASE: "used-here",
        "swap_64": "young",
    }  # its time counts from its last use


def test_blank_base_files_of_before_and_of_now(ground: Ground) -> None:
    """An overlay needs the one that it names, and not the other."""
    names = ["swap_2", "swap_2_v2", "ephemeral_1_ext4", "ephemeral_1_ext4_v2"]
    for name in names:
        ground.hypervisor.base_blank(name, 1 << 20, "swap")
    ground.hypervisor.make_directory(UUID, 1, OPERATION)
    ground.hypervisor.overlay(UUID, 1, "disk.local", "ephemeral_1_ext4_v2", 1 << 20)
    ground.hypervisor.overlay(UUID, 1, "disk.swap", "swap_2", 1 << 20)
    ground.age(OLD)
    found = states(ground)
    assert found == dict(zip(names, ["used-here", "removed", "removed", "used-here"], strict=True))


def test_used_a_moment_ago_it_stays(ground: Ground) -> None:
    ground.base()
    ground.hypervisor.base_blank("swap_64", 1 << 20, "swap")
    ground.age(OLD)
    assert ground.hypervisor.base_state(BASE) == (True, 0)
    ground.hypervisor.base_blank("swap_64", 1 << 20, "swap")
    assert states(ground) == {BASE: "young", "swap_64": "young"}


def test_what_a_transfer_left_goes_when_it_is_old(ground: Ground, tmp_path: Path) -> None:
    name, path = source(tmp_path, CONTENT)

    def cut(read_line: object, write: object) -> None:
        read_line()  # type: ignore[operator]
        write(header(0, 4))  # type: ignore[operator]
        write(b"abcd")  # type: ignore[operator]

    with pytest.raises(HostFault, match="the transfer was cut"):
        ground.hypervisor.base_receive(name, len(CONTENT), 0, cut)
    assert states(ground) == {f".{name}": "young"}
    ground.age(OLD)
    assert states(ground, {name}, remove=False) == {f".{name}": "unused"}
    assert states(ground) == {f".{name}": "removed"}
    assert ground.hypervisor.base_state(name) == (False, 0)
    ground.hypervisor.base_receive(name, len(CONTENT), 0, feed(path, 0, quiet))


def test_only_ours_and_only_names(ground: Ground) -> None:
    with pytest.raises(UsageError, match="is not a base file"):
        ground.hypervisor.prune(["../x"], WEEK, remove=True)
    ground.hypervisor.fleet = "22222222-2222-4333-8444-555555555555"
    with pytest.raises(HostRefused, match="this host is not enrolled in this fleet"):
        ground.hypervisor.prune([], WEEK, remove=True)


# --- real files ---


@pytest.fixture
def here(tmp_path: Path) -> Ground:
    made = real(tmp_path)
    made.base()
    return made


def overlay(path: Path, base: Path | str, *options: str) -> None:
    path.parent.mkdir(exist_ok=True)
    make = [
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "raw",
        *options,
        "-b",
        str(base),
        str(path),
        "64M",
    ]
    subprocess.run(make, check=True)


@pytest.mark.parametrize(
    "place", ["somebodys/deep/disk.qcow2", ".hidden/disk", "beside.qcow2", f"{UUID}.del/disk"]
)
@pytest.mark.parametrize("options", [(), ("-o", "cluster_size=2M"), ("-o", "compat=0.10")])
def test_an_overlay_that_the_database_does_not_know(
    here: Ground, place: str, options: tuple[str, ...]
) -> None:
    path = here.path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    overlay(path, here.path / "_base" / BASE, *options)
    here.age(OLD)
    assert states(here) == {BASE: "used-here"}
    path.unlink()
    here.age(OLD)
    assert states(here) == {BASE: "removed"}


def test_a_disk_that_was_moved_and_linked(here: Ground, tmp_path: Path) -> None:
    overlay(tmp_path / "elsewhere" / "disk", here.path / "_base" / BASE)
    (here.path / "instance").mkdir()
    (here.path / "instance" / "disk").symlink_to(tmp_path / "elsewhere" / "disk")
    here.age(OLD)
    assert states(here) == {BASE: "used-here"}


def test_an_open_file_stays(here: Ground) -> None:
    here.age(OLD)
    with (here.path / "_base" / BASE).open("rb"):
        assert states(here) == {BASE: "open"}


def test_a_file_that_is_being_fetched_stays(here: Ground) -> None:
    here.age(OLD)
    with (here.path / "_base" / f".lock.{BASE}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert states(here) == {BASE: "busy"}
    assert states(here) == {BASE: "removed"}


@pytest.mark.parametrize("read", ["", "a" * 32])
def test_what_cannot_be_read_prunes_nothing(here: Ground, tmp_path: Path, read: str) -> None:
    """A disk that fails to be read may name any of them, whatever of it was read."""
    here.age(OLD)
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "head").write_text(f"#!/bin/sh\nprintf %s {read}\nexit 1\n")
    (tools / "head").chmod(0o755)
    broken = real(tmp_path / "other")
    assert broken.local is not None
    broken.base()
    broken.age(OLD)
    (broken.path / "x").mkdir()
    (broken.path / "x" / "disk").write_bytes(b"x")
    broken.local.shell.close()
    broken = real_with_path(tmp_path / "other", tools)
    with pytest.raises(HostFault, match=r"^kvm1: cannot read all files in .*: nothing is pruned$"):
        broken.hypervisor.prune([], WEEK, remove=True)
    assert (broken.path / "_base" / BASE).exists()


@pytest.mark.parametrize("digits", [1, 32, 63])
def test_a_file_that_ends_in_hex_digits(here: Ground, digits: int) -> None:
    """What says that all was read is told from what was read."""
    (here.path / "x").mkdir()
    (here.path / "x" / "disk").write_bytes(b"x\n" + b"a" * digits)
    here.age(OLD)
    assert states(here) == {BASE: "removed"}


def test_pruned_while_somebody_comes_for_it(here: Ground, tmp_path: Path) -> None:
    """Who is told that it is ready has made it young before."""
    here.age(OLD)
    base, tools = here.path / "_base" / BASE, tmp_path / "bin"
    tools.mkdir()
    (tools / "touch").write_text(f'#!/bin/sh\nrm -f {base} {base}.json\nexec {shutil.which("touch")} "$@"\n')
    (tools / "touch").chmod(0o755)
    slow = real_with_path(tmp_path, tools)
    assert slow.path == here.path and base.exists()
    assert slow.hypervisor.base_state(BASE) == (False, 0)
    assert not base.exists()


def real_with_path(directory: Path, tools: Path) -> Ground:
    """The same host, with tools of ours before its own."""
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{tools}:{before}"
    try:
        return real(directory)
    finally:
        os.environ["PATH"] = before


def test_names_that_are_not_ours_stay(here: Ground) -> None:
    foreign = [
        "note.txt",
        "swap_x",
        "swap_v2",
        "ephemeral_1_ext4.bak",
        "ephemeral_1_v2_ext4",
        f"{BASE}_v2",
        "ABCDEF",
        "a" * 63,
        "g" * 64,
    ]
    for name in foreign:
        (here.path / "_base" / name).write_bytes(b"x")
    here.age(OLD)
    assert states(here) == {BASE: "removed"}
    assert sorted(p.name for p in (here.path / "_base").iterdir() if p.name[0] != ".") == sorted(foreign)


def test_a_killed_prune_is_finished_by_the_next(here: Ground) -> None:
    """The sidecar is set aside first: without it nobody takes the file for ready."""
    base = here.path / "_base"
    (base / f"{BASE}.json").rename(base / f".{BASE}.json")
    assert here.hypervisor.base_state(BASE) == (False, 0)
    here.age(OLD)
    assert states(here) == {BASE: "removed"}
    assert [p.name for p in base.iterdir() if not p.name.startswith((".lock", ".storage"))] == []


def test_what_it_takes_and_when_it_was_used(here: Ground) -> None:
    (one,) = here.hypervisor.prune([], WEEK, remove=False)
    path = here.path / "_base" / BASE
    assert (one.name, one.part, one.size_bytes) == (BASE, False, path.stat().st_blocks * 512)
    assert one.last_used == int((here.path / "_base" / f"{BASE}.json").stat().st_mtime)
