"""The inspector: the hostile corpus is refused, what qemu-img makes is accepted, no other error escapes."""

import os
import shutil
import struct
import subprocess
import sys
import time
from array import array
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from novactl.errors import ImageRefused, NotFound
from novactl.images import imagefile, inspector
from novactl.images import qcow2 as qcow2_module
from novactl.images import vmdk as vmdk_module
from novactl.images.inspector import inspect, inspect_fd
from novactl.images.qcow2 import _all_lie_below
from novactl.images.store import LocalStore

sys.path.insert(0, str(Path(__file__).parent))
import hostile_images as hostile
from hostile_images import CLUSTER, CORPUS, DATA, L1, L2, MIB, extension, iso, qcow2, raw, stream_vmdk, vmdk

needs_qemu = pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is not installed")


def inspect_bytes(data: bytes, declared: str | None = None) -> inspector.ImageInfo:
    fd = os.memfd_create("image")
    try:
        os.write(fd, data)
        return inspect_fd(fd, "image", declared)
    finally:
        os.close(fd)


def qemu_img(*args: object) -> None:
    subprocess.run(["qemu-img", *map(str, args)], check=True, capture_output=True)


# The corpus


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.name)
def test_hostile_image_is_refused(case: hostile.Hostile, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(case.make())
    with pytest.raises(ImageRefused) as refusal:
        inspect(path, case.declared)
    assert case.phrase in refusal.value.message.removeprefix(f"{path}: ")
    assert refusal.value.message.startswith(f"{path}: ")
    assert not refusal.value.message.endswith(".")


def test_corpus_is_large_and_its_names_are_unique() -> None:
    assert len({case.name for case in CORPUS}) == len(CORPUS) >= 40


@pytest.mark.parametrize(
    ("data", "declared", "format_", "size"),
    [
        (qcow2(), None, "qcow2", MIB),
        (qcow2(), "qcow2", "qcow2", MIB),
        (qcow2(version=2), None, "qcow2", MIB),
        (qcow2(header_length=104), None, "qcow2", MIB),
        (qcow2(size=1), None, "qcow2", 1),
        (qcow2(size=2 * MIB), None, "qcow2", 2 * MIB),
        (qcow2(compatible=1, autoclear=1), None, "qcow2", MIB),
        (
            qcow2(extensions=extension(hostile.FEATURE_NAMES, bytes(48)) + extension(99, b"abc")),
            None,
            "qcow2",
            MIB,
        ),
        (qcow2(extensions=extension(99, bytes(CLUSTER - 112 - 8))), None, "qcow2", MIB),
        (qcow2(l2=(hostile.compressed(DATA + 100, 7),)), None, "qcow2", MIB),
        (qcow2(l2=(1 << 40 | 1,)), None, "qcow2", MIB),  # reads as zeros: where it would be does not matter
        (qcow2(size=100, length=DATA + 100), None, "qcow2", 100),  # the disk ends within its only cluster
        (vmdk(), None, "vmdk", MIB),
        (vmdk(grains=(0, 1)), "vmdk", "vmdk", MIB),
        (stream_vmdk(), "vmdk", "vmdk", MIB),
        (iso(), None, "iso", 40960),
        (iso(head=bytes(510) + b"\x55\xaaEFI PART"), None, "iso", 40960),  # hybrid
        (iso(), "raw", "raw", 40960),
        (iso(length=81920), None, "iso", 81920),
        (raw(), "raw", "raw", 65536),
        (raw(bytes(510) + b"\x55\xaa"), None, "raw", 65536),
        (raw(bytes(510) + b"\x55\xaaEFI PART"), None, "raw", 65536),
        (raw(length=512), "raw", "raw", 512),
    ],
)
def test_good_image_is_accepted(data: bytes, declared: str | None, format_: str, size: int) -> None:
    info = inspect_bytes(data, declared)
    assert (info.format, info.virtual_size_bytes, info.size_bytes) == (format_, size, len(data))


def test_the_limit_of_a_virtual_size() -> None:
    length = 2 * MIB * 5 + 256 * 1024
    layout = {
        "cluster_bits": 21,
        "l1_offset": 2 * MIB,
        "refcounts": 4 * MIB,
        "blocks": (),
        "l1": (),
        "l2": (),
    }
    at_limit = qcow2(size=64 << 40, l1_size=1 << 7, length=length, **layout)  # type: ignore[arg-type]
    assert inspect_bytes(at_limit).virtual_size_bytes == imagefile.MAX_VIRTUAL_SIZE
    with pytest.raises(ImageRefused, match="virtual size"):
        inspect_bytes(qcow2(size=(64 << 40) + 1, l1_size=1 << 8, length=length, **layout))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "declared", "hint"),
    [
        (qcow2(), "raw", "--format qcow2"),
        (raw(), None, "--format raw"),
        (raw(b"vhdxfile"), None, "qemu-img convert -f vhdx"),
        (qcow2(incompatible=1), None, "qemu-img check -f qcow2 -r all"),
        (qcow2(backing_offset=512), None, "qemu-img convert"),
    ],
)
def test_refusal_says_what_to_do(data: bytes, declared: str | None, hint: str) -> None:
    with pytest.raises(ImageRefused) as refusal:
        inspect_bytes(data, declared)
    assert hint in refusal.value.hint


# What is at the path


def test_only_a_regular_file_is_opened(tmp_path: Path) -> None:
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to("/dev/zero")
    for path in (fifo, link, tmp_path, Path("/dev/null")):
        with pytest.raises(ImageRefused, match="not a regular file"):
            inspect(path, "raw")


def test_link_to_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(qcow2())
    (tmp_path / "link").symlink_to("image")
    assert inspect(tmp_path / "link").format == "qcow2"


def test_missing_and_empty(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        inspect(tmp_path / "none")
    (tmp_path / "dangling").symlink_to("none")
    with pytest.raises(NotFound):
        inspect(tmp_path / "dangling")
    (tmp_path / "empty").touch()
    with pytest.raises(ImageRefused, match="is empty"):
        inspect(tmp_path / "empty", "raw")
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "loop", Path("a\0b"), tmp_path / "empty" / "below"):
        with pytest.raises(ImageRefused, match=r"cannot be opened: (Too many|embedded null|Not a dir)"):
            inspect(path)


def test_error_of_the_disk_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(imagefile.os, "pread", fail)
    with pytest.raises(ImageRefused, match="cannot be read: Input/output error"):
        inspect_bytes(qcow2())


def test_file_cut_meanwhile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pread = os.pread
    monkeypatch.setattr(imagefile.os, "pread", lambda *args: pread(*args)[:-1])
    with pytest.raises(ImageRefused, match="changed while it was read"):
        inspect_bytes(qcow2())


def test_allocated_is_less_than_size_for_a_sparse_file(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 1 << 30)
    info = inspect(path, "raw")
    assert (info.size_bytes, info.allocated_bytes) == (1 << 30, 0)


# Hostile bytes at large


GOOD = {"qcow2": qcow2(), "vmdk": vmdk(), "stream": stream_vmdk(), "iso": iso()}
TABLES = {"qcow2": (0, L2 + 64), "vmdk": (0, 26 * 512), "stream": (0, 30 * 512), "iso": (32768, 34816)}


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(sorted(GOOD)), st.data())
def test_mutated_headers_raise_nothing_else(kind: str, data: st.DataObject) -> None:
    image = bytearray(GOOD[kind])
    low, high = TABLES[kind]
    for _ in range(data.draw(st.integers(1, 4))):
        patch = data.draw(st.binary(min_size=1, max_size=8))
        at = data.draw(st.integers(low, low + 128) | st.integers(low, high))
        image[at : at + len(patch)] = patch
    for declared in (None, "raw", "qcow2", "vmdk", "iso"):
        try:
            info = inspect_bytes(bytes(image), declared)
        except ImageRefused:
            continue
        assert 0 < info.virtual_size_bytes <= imagefile.MAX_VIRTUAL_SIZE


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"QFI\xfb\0\0\0\2", b"QFI\xfb\0\0\0\3", b"KDMV", b"# Disk"]),
)
def test_noise_raises_nothing_else(noise: bytes, magic: bytes) -> None:
    for declared in (None, "raw", "qcow2", "vmdk", "iso"):
        with pytest.raises(ImageRefused):
            inspect_bytes((magic + noise + b"x")[:511], declared)


@pytest.mark.parametrize("kind", sorted(GOOD))
def test_truncated_anywhere_is_refused(kind: str) -> None:
    image = GOOD[kind]
    needed = len(image)
    if kind == "iso":
        assert inspect_bytes(image, "iso")
    for cut in sorted({*range(1, needed, 131), *(needed - n for n in range(1, 9))}):
        with pytest.raises(ImageRefused):
            inspect_bytes(image[:cut], "vmdk" if kind == "stream" else kind)


def test_a_budget_bounds_the_tables_read(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = qcow2(l2=(1 << 45,))
    for module in (qcow2_module, vmdk_module):
        monkeypatch.setattr(module, "TABLE_BUDGET", 0)
    assert inspect_bytes(outside).format == "qcow2"
    assert inspect_bytes(vmdk(grains=(1 << 30,))).format == "vmdk"
    for image in (qcow2(l1=(1 << 45,)), vmdk(tables=(1 << 30,))):  # all tables are still looked for
        with pytest.raises(ImageRefused, match="truncated"):
            inspect_bytes(image)


def test_hostile_tables_cost_little(tmp_path: Path) -> None:
    """A million L1 entries, each naming another L2 table: only those in the budget are read."""
    path, entries = tmp_path / "image", MIB
    l1 = array("Q", range(16 * MIB, 16 * MIB + entries * 512, 512))
    l1.byteswap()
    header = qcow2(cluster_bits=9, size=512, l1_size=entries, refcounts=2048, blocks=(), l1=(), l2=())
    with path.open("wb") as file:
        file.write(header[:L1])
        file.write(l1.tobytes())
        file.truncate(16 * MIB + entries * 512)
    start = time.process_time()
    assert inspect(path).format == "qcow2"
    assert time.process_time() - start < 5


# What qemu-img makes

FAST_LUKS = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,encrypt.hash-alg=sha1"

QCOW2 = [
    f"compat={compat},cluster_size={cluster},preallocation={preallocation}"
    for compat in ("0.10", "1.1")
    for cluster, preallocation in ((512, "off"), (4096, "off"), (65536, "metadata"), (2 * MIB, "metadata"))
] + [
    "extended_l2=on",
    "extended_l2=on,cluster_size=16k",
    "compression_type=zstd",
    "lazy_refcounts=on",
    "refcount_bits=1",
    "refcount_bits=64",
]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw disk of 5 MiB and 3 sectors with data at its start, in its middle and at its end."""
    path = tmp_path_factory.mktemp("disk") / "disk.raw"
    with path.open("wb") as file:
        for at in (0, 3 * MIB, 5 * MIB - 2048):
            file.seek(at)
            file.write(os.urandom(1024) + b"compressible " * 200)
        file.truncate(5 * MIB + 1536)
    return path


@needs_qemu
@pytest.mark.parametrize("words", [(), ("-c",)], ids=["plain", "compressed"])
@pytest.mark.parametrize("magic", [b"conectix", b"koly"])
def test_what_a_guest_wrote_does_not_make_its_own_disk_another_format(
    magic: bytes, words: tuple[str, ...], tmp_path: Path
) -> None:
    """In the last bytes of what was made of its disk; from elsewhere such a file stays refused."""
    raw, image = tmp_path / "raw", tmp_path / "image"
    raw.write_bytes(os.urandom(MIB - 512) + magic + bytes(512 - len(magic)))
    qemu_img("convert", *words, "-f", "raw", "-O", "qcow2", raw, image)
    if words:  # what is packed does not end with it
        image.write_bytes(image.read_bytes() + magic + bytes(512 - len(magic)))
    with image.open("rb") as file:
        with pytest.raises(ImageRefused, match=r"format (vhd|dmg) is not supported"):
            inspect_fd(file.fileno(), "image", "qcow2")
        assert inspect_fd(file.fileno(), "image", "qcow2", pinned=True).virtual_size_bytes == MIB
        with pytest.raises(ImageRefused, match="holds qcow2, not vmdk"):
            inspect_fd(file.fileno(), "image", "vmdk", pinned=True)
    stored = LocalStore(tmp_path / "store").take(image, declared="qcow2")
    assert stored.info.format == "qcow2"


@pytest.mark.parametrize(
    "case", [case for case in CORPUS if case.declared in ("qcow2", "vmdk")], ids=lambda case: case.name
)
def test_a_hostile_image_is_refused_when_its_format_is_pinned_too(
    case: hostile.Hostile, tmp_path: Path
) -> None:
    path = tmp_path / "image"
    path.write_bytes(case.make())
    with path.open("rb") as file, pytest.raises(ImageRefused):
        inspect_fd(file.fileno(), "image", case.declared, pinned=True)


@needs_qemu
@pytest.mark.parametrize("options", QCOW2)
def test_qcow2_of_qemu(options: str, disk: Path, tmp_path: Path) -> None:
    empty, full, packed = (tmp_path / name for name in ("empty", "full", "packed"))
    qemu_img("create", "-f", "qcow2", "-o", options, empty, 10 * MIB)
    assert inspect(empty).virtual_size_bytes == 10 * MIB
    qemu_img("convert", "-f", "raw", "-O", "qcow2", "-o", options, disk, full)
    assert inspect(full, "qcow2").virtual_size_bytes == 5 * MIB + 1536
    if "preallocation=metadata" not in options:
        qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, disk, packed)
        assert inspect(packed, "qcow2").virtual_size_bytes == 5 * MIB + 1536


@needs_qemu
@pytest.mark.parametrize(
    "options", ["subformat=monolithicSparse", "subformat=streamOptimized", "zeroed_grain=on"]
)
def test_vmdk_of_qemu(options: str, disk: Path, tmp_path: Path) -> None:
    path = tmp_path / "image.vmdk"
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", options, disk, path)
    assert inspect(path).virtual_size_bytes == 5 * MIB + 1536


@needs_qemu
@pytest.mark.parametrize(
    "options", ["-c", "-ocluster_size=4k", "-oextended_l2=on", "vmdk", "-osubformat=streamOptimized"]
)
def test_truncated_image_of_qemu_is_refused_or_as_good(options: str, disk: Path, tmp_path: Path) -> None:
    """Accepted only while what is cut off is what no guest reads: the rest of the disk's last cluster."""
    path = tmp_path / "image"
    kind = "vmdk" if "subformat" in options or options == "vmdk" else "qcow2"
    qemu_img("convert", *([] if options == "vmdk" else [options]), "-f", "raw", "-O", kind, disk, path)
    for cut in (1, 100, 511, 513, 700, 3000, 5000, 70_000, 100_000, path.stat().st_size - 100):
        shorter = tmp_path / "shorter"
        shutil.copy(path, shorter)
        os.truncate(shorter, max(1, path.stat().st_size - cut))
        try:
            inspect(shorter, kind)
        except ImageRefused as refusal:
            assert "truncated" in refusal.message
        else:
            assert cut < 100_000
            qemu_img("compare", "-f", "raw", "-F", kind, disk, shorter)


@needs_qemu
@pytest.mark.parametrize("subformat", ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
def test_vmdk_of_qemu_in_several_files(subformat: str, tmp_path: Path) -> None:
    qemu_img("create", "-f", "vmdk", "-o", f"subformat={subformat}", tmp_path / "image.vmdk", MIB)
    with pytest.raises(ImageRefused, match="vmdk descriptor"):
        inspect(tmp_path / "image.vmdk", "vmdk")
    for extent in tmp_path.glob("image-s*.vmdk"):
        with pytest.raises(ImageRefused, match=r"subformat|no known magic"):
            inspect(extent, "vmdk")


@needs_qemu
def test_vmdk_of_qemu_with_a_parent(tmp_path: Path) -> None:
    qemu_img("create", "-f", "vmdk", tmp_path / "base.vmdk", MIB)
    qemu_img("create", "-f", "vmdk", "-b", tmp_path / "base.vmdk", "-F", "vmdk", tmp_path / "image.vmdk")
    with pytest.raises(ImageRefused, match="has a parent"):
        inspect(tmp_path / "image.vmdk")


@needs_qemu
@pytest.mark.parametrize(
    ("args", "phrase"),
    [
        ("-f qcow2 -b base -F raw", "backing file"),
        ("-f qcow2 -u -b json:{} -F raw", "backing file"),
        ("-f qcow2 -o data_file=other", "external data file"),
        ("-f qcow2 -o data_file=other,data_file_raw=on", "external data file"),
        (f"--object secret,id=s,data=abc -f qcow2 -o {FAST_LUKS}", "encrypted"),
        ("--object secret,id=s,data=abc -f qcow2 -o encrypt.format=aes,encrypt.key-secret=s", "encrypted"),
        ("-f vdi", "format vdi"),
        ("-f vpc", "format vhd"),
        ("-f vpc -o subformat=fixed", "format vhd"),
        ("-f vhdx", "format vhdx"),
        ("-f qed", "format qed"),
        ("-f parallels", "format parallels"),
        ("-f qcow", "qcow2 version 1"),
    ],
)
def test_forbidden_of_qemu(args: str, phrase: str, tmp_path: Path) -> None:
    with (tmp_path / "base").open("wb") as file:
        file.truncate(MIB)
    command = ["qemu-img", "create", *args.split(), "image", str(MIB)]
    for _ in range(10):  # LUKS measures the processor, and gives up when others use it
        made = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
        if "CPU usage" not in made.stderr:
            break
    assert made.returncode == 0, made.stderr
    with pytest.raises(ImageRefused) as refusal:
        inspect(tmp_path / "image")
    assert phrase in refusal.value.message
    with pytest.raises(ImageRefused):
        inspect(tmp_path / "image", "raw")


@needs_qemu
def test_snapshot_of_qemu(tmp_path: Path) -> None:
    qemu_img("create", "-f", "qcow2", tmp_path / "image", MIB)
    qemu_img("snapshot", "-c", "one", tmp_path / "image")
    with pytest.raises(ImageRefused, match="1 internal snapshots"):
        inspect(tmp_path / "image")


@needs_qemu
def test_bitmap_of_qemu_is_tolerated(tmp_path: Path) -> None:
    qemu_img("create", "-f", "qcow2", tmp_path / "image", MIB)
    qemu_img("bitmap", "--add", "-f", "qcow2", tmp_path / "image", "dirty")
    assert inspect(tmp_path / "image").format == "qcow2"


@needs_qemu
def test_100_gib_in_50_ms(tmp_path: Path) -> None:
    qemu_img("create", "-f", "qcow2", tmp_path / "image", 100 << 30)

    def seconds() -> float:
        start = time.perf_counter()
        assert inspect(tmp_path / "image", "qcow2").virtual_size_bytes == 100 << 30
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.05


@given(
    bits=st.sampled_from([9, 12, 16, 21]),
    words=st.lists(st.integers(0, 1 << 40) | st.integers(0, (1 << 64) - 1), min_size=1, max_size=6),
    limit=st.integers(-(1 << 21), 1 << 41),
    flags=st.sampled_from([0, 1 << 63]),
)
def test_a_look_at_all_entries_of_a_table_misses_none(
    bits: int, words: list[int], limit: int, flags: int
) -> None:
    """What it lets pass needs no look at each."""
    entries = [*words, *(flags | word >> bits << bits for word in words)]
    for several in (entries, entries[len(words) :]):
        if _all_lie_below(struct.pack(f">{len(several)}Q", *several), limit, bits):
            offsets = [entry & ~(1 << 63) for entry in several]
            assert all(offset < limit and offset % (1 << bits) == 0 for offset in offsets if offset)
