"""Chains of backups, their rotation, and disks put together from them."""

import os
import struct
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from novactl.errors import HostFault, NovactlError, Refused, UsageError
from novactl.images import assemble, blocks, transfer
from novactl.objects.backup import Backup, beyond, chain, check_request, unneeded
from novactl.objects.image import MARGIN

MIB = 1 << 20


def backup(name: str, parent: str | None = None, *, out: bool = False) -> Backup:
    return Backup(
        id=name,
        name=name,
        instance_uuid="u",
        instance_name="web1",
        project="default",
        type="daily",
        rotation=2,
        parent=parent,
        created_at=name,
        rotated_at="then" if out else None,
    )


A, B, C = backup("a", out=True), backup("b", "a"), backup("c", "b")


def test_a_chain_begins_with_the_whole_one() -> None:
    by_id = {one.id: one for one in (A, B, C)}
    assert [one.id for one in chain(C, by_id)] == ["a", "b", "c"]
    assert chain(A, by_id) == [A]
    assert chain(C, {"b": B, "c": C}) == []


def test_one_that_another_hangs_on_stays() -> None:
    assert unneeded([A, B, C]) == []
    loose = [backup("a", out=True), backup("b", "a", out=True), backup("c")]
    assert [one.id for one in unneeded(loose)] == ["a", "b"]


def test_the_newest_are_kept() -> None:
    some = [backup(name) for name in "abcd"]
    assert [one.id for one in beyond(some, 2)] == ["a", "b"]
    assert beyond(some, 4) == [] and beyond([], 1) == []


@pytest.mark.parametrize(
    ("name", "type_", "rotation", "says"),
    [
        ("b", "daily", 0, "--rotate 0: at least 1 backup is kept"),
        ("b", "daily", -3, "--rotate -3: at least 1 backup is kept"),
        ("b", "daily", 10**20, f"--rotate {10**20}: at most 1000000 backups are kept"),
        ("b", "hourly", 1, "--type 'hourly' is not one of daily, weekly"),
        ("../b", "daily", 1, "backup name '../b' is not acceptable"),
    ],
)
def test_what_is_refused(name: str, type_: str, rotation: int, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_request(name, type_, rotation)
    assert caught.value.message.startswith(says)


# --- putting together ---


def qemu_img(*words: str) -> str:
    return subprocess.run(["qemu-img", *words], check=True, capture_output=True, text=True).stdout


def written(path: Path, *patterns: tuple[int, int, int]) -> Path:
    """A qcow2 of 4 MiB with these (byte, offset, length); a byte of 0 is written as zeros."""
    qemu_img("create", "-q", "-f", "qcow2", str(path), str(4 * MIB))
    for byte, offset, length in patterns:
        write = f"write -z {offset} {length}" if byte == 0 else f"write -P {byte} {offset} {length}"
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", write, str(path)], check=True, capture_output=True)
    return path


@pytest.mark.parametrize("disk_format", ["qcow2", "raw"])
def test_a_difference_lies_over_what_is_below(tmp_path: Path, disk_format: str) -> None:
    """Zeros that were written hide what is below; what was not written shows it."""
    whole = written(tmp_path / "whole", (1, 0, MIB), (2, MIB, MIB))
    first = written(tmp_path / "first", (3, 0, MIB // 2))
    second = written(tmp_path / "second", (0, MIB, MIB // 2))
    out, raw = tmp_path / "out", tmp_path / "raw"
    assemble.assemble([whole, first, second], out, disk_format, 4 * MIB)
    qemu_img("convert", "-f", disk_format, "-O", "raw", str(out), str(raw))
    half = MIB // 2
    expected = b"\3" * half + b"\1" * half + bytes(half) + b"\2" * half
    assert raw.read_bytes() == expected.ljust(4 * MIB, b"\0")
    assert "backing" not in qemu_img("info", "-f", disk_format, str(out))


def test_a_backing_file_that_one_names_does_not_count(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_bytes(b"secret" * MIB)
    hostile = tmp_path / "hostile"
    qemu_img("create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(canary), str(hostile), str(4 * MIB))
    assemble.assemble([hostile], tmp_path / "out", "raw", 4 * MIB)
    assert b"secret" not in (tmp_path / "out").read_bytes()


def test_what_is_no_disk_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no disk")
    with pytest.raises(NovactlError, match="Image is not in qcow2 format"):
        assemble.assemble([tmp_path / "text"], tmp_path / "out", "qcow2", MIB)
    assert not (tmp_path / "out").exists()


def test_without_qemu_img(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refused, match="qemu-img is not here"):
        assemble.assemble([tmp_path / "a"], tmp_path / "out", "qcow2", MIB)


def test_one_that_says_to_be_larger_than_its_disk_leaves_nothing(tmp_path: Path) -> None:
    """It has come from a host: what the record says of its size is what counts."""
    hostile = tmp_path / "hostile"
    qemu_img("create", "-q", "-f", "qcow2", str(hostile), "1T")
    with pytest.raises(NovactlError):
        assemble.assemble([hostile], tmp_path / "out", "raw", 4 * MIB)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("disk_format", ["qcow2", "raw"])
def test_what_is_small_and_unpacks_to_a_whole_disk(
    tmp_path: Path, disk_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every cluster is one and the same, compressed: there must be room for all of them."""
    plain, hostile, out = tmp_path / "plain", tmp_path / "hostile", tmp_path / "out"
    plain.write_bytes(os.urandom(256) * 256)
    os.truncate(plain, 64 * MIB)
    qemu_img("convert", "-q", "-c", "-f", "raw", "-O", "qcow2", str(plain), str(hostile))
    data = bytearray(hostile.read_bytes())
    (table,) = struct.unpack_from(">Q", data, struct.unpack_from(">Q", data, 40)[0])
    at = table & 0x00FFFFFFFFFFFE00
    for cluster in range(64 * MIB >> 16):
        data[at + 8 * cluster : at + 8 * cluster + 8] = data[at : at + 8]
    hostile.write_bytes(data)
    assert hostile.stat().st_size < MIB
    free = MARGIN + 32 * MIB
    monkeypatch.setattr(blocks.os, "fstatvfs", lambda fd: SimpleNamespace(f_bavail=free, f_frsize=1))
    with pytest.raises(Refused, match=r"no room for out: 6[4-9] MiB are to come, 32 MiB are free"):
        assemble.assemble([hostile], out, disk_format, 64 * MIB)
    assert not out.exists()
    free += 64 * MIB
    assemble.assemble([hostile], out, disk_format, 64 * MIB)
    qemu_img("create", "-q", "-f", "qcow2", str(plain), "64M")  # holes take none
    free = MARGIN + 2 * MIB
    assemble.assemble([plain], out, disk_format, 64 * MIB)


def test_a_host_sends_no_more_than_a_disk_can_have() -> None:
    """Not even as a hole: nothing of it is taken."""

    class Nothing:
        def write_at(self, offset: int, data: bytes) -> None:
            raise AssertionError

        stands_at = write_at

    said = iter([f"{1 << 40}".encode().ljust(63) + b"\n", transfer.header(1 << 40, 0)])
    receive = transfer.take(Nothing(), lambda done, size: None, limit=MIB)  # type: ignore[arg-type]
    with pytest.raises(HostFault, match="1048576 are the most"):
        receive(lambda count: next(said))
