"""What a disk image is, read from its own bytes before any tool opens it.

A format is stated, never guessed: the operator says it, or `image add` takes it from the magic and it is
pinned for ever; the bytes must agree. What would make QEMU open another file or read past the end is refused.
Rules: QEMU docs/interop/qcow2.rst, block/qcow2.c and block/vmdk.c; VMware Virtual Disk Format 5.0; ECMA-119.
Reads are bounded, and hostile bytes end in ImageRefused, never in another exception.
"""

import os
import re
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

from novactl.errors import ImageRefused, NotFound

FORMATS = ("raw", "qcow2", "vmdk", "iso")
MAX_VIRTUAL_SIZE = 64 << 40  # bytes
SECTOR = 512  # bytes
TABLE_BUDGET = (
    16 << 20
)  # bytes of second-level tables read to find a truncated file; a bigger image is read in part
CHUNK = 64 << 10  # bytes of a first-level table read at once


@dataclass(frozen=True)
class ImageInfo:
    """What the bytes say; every size is in bytes. `size_bytes` is the file's length, holes counted."""

    format: str
    virtual_size_bytes: int
    size_bytes: int
    allocated_bytes: int


def inspect(path: Path, declared: str | None = None) -> ImageInfo:
    """What `path` holds, or raise ImageRefused (NotFound when it is not there).

    `declared` is one of FORMATS, and the bytes must agree; without it they must carry a magic of their own.
    """
    with opened(path) as fd:
        return inspect_fd(fd, str(path), declared)


def inspect_fd(fd: int, name: str, declared: str | None = None) -> ImageInfo:
    """As `inspect`, for an open file; `name` is what messages call it."""
    image = _Image(fd, name)
    try:
        kind = _agreed(image, declared)
        size = _READERS[kind](image)
    except OSError as error:
        raise ImageRefused(f"{name}: cannot be read: {error.strerror}") from error
    return ImageInfo(kind, size, image.size, image.allocated)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor of the regular, non-empty file at `path`; follows links, never opens devices or pipes.

    Raises ImageRefused, or NotFound when there is nothing there.
    """
    try:
        _require_regular(path, path.stat())  # before opening: merely opening some devices acts on them
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise NotFound(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise ImageRefused(
            f"{path}: cannot be opened: {getattr(error, 'strerror', None) or error}"
        ) from error
    try:
        _require_regular(path, os.fstat(fd))
        yield fd
    finally:
        os.close(fd)


def _require_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ImageRefused(f"{path}: is not a regular file")
    if status.st_size == 0:
        raise ImageRefused(f"{path}: is empty")


class _Image:
    """Reads of one open file that never pass its end, and the refusals that name it."""

    def __init__(self, fd: int, name: str) -> None:
        status = os.fstat(fd)
        self._fd = fd
        self.name = name
        self.size = status.st_size
        self.allocated = status.st_blocks * 512

    def refuse(self, why: str, hint: str = "") -> NoReturn:
        raise ImageRefused(f"{self.name}: {why}", hint=hint)

    def check(self, holds: bool, otherwise: str, hint: str = "") -> None:
        if not holds:
            self.refuse(otherwise, hint)

    def require(self, offset: int, length: int, what: str) -> None:
        """The bytes lie in the file, or raise: it is truncated, or made up."""
        if offset + length > self.size:
            why = f"is truncated: {what} ends at byte {offset + length}, the file at {self.size}"
            self.refuse(why, "copy the whole file again and compare its sha256sum with the publisher's")

    def virtual(self, size: int) -> int:
        """`size` bytes as a disk's size, or raise."""
        self.check(0 < size <= MAX_VIRTUAL_SIZE, f"virtual size {size} is not within 1 to {MAX_VIRTUAL_SIZE}")
        return size

    def peek(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes: fewer at the end of the file."""
        return os.pread(self._fd, length, offset) if 0 <= offset < self.size else b""

    def read(self, offset: int, length: int, what: str) -> bytes:
        self.require(offset, length, what)
        data = self.peek(offset, length)
        self.check(len(data) == length, "changed while it was read", "stop what writes it, then try again")
        return data

    def entries(self, offset: int, count: int, code: str, what: str) -> Iterator[tuple[int, int]]:
        """(index, value) of the non-zero entries of a table; `code` is struct's, with its byte order."""
        width = struct.calcsize(code)
        for start in range(0, count * width, CHUNK):
            data = self.read(offset + start, min(CHUNK, count * width - start), what)
            if data.strip(b"\0"):
                entries = enumerate(struct.iter_unpack(code, data), start // width)
                yield from ((index, value) for index, (value,) in entries if value)


_MAGICS = (  # (format, offset, magic); a negative offset counts from the end of the file
    ("qcow2", 0, b"QFI\xfb"),
    ("vmdk", 0, b"KDMV"),
    ("iso", 32769, b"CD001"),
    ("gpt", 512, b"EFI PART"),
    ("mbr", 510, b"\x55\xaa"),
    ("cowd", 0, b"COWD"),
    ("vhdx", 0, b"vhdxfile"),
    ("vpc", 0, b"conectix"),
    ("vpc", -512, b"conectix"),
    ("vpc", -511, b"conectix"),  # Virtual PC before 2004 wrote a footer of 511 bytes
    ("vdi", 64, b"\x7f\x10\xda\xbe"),
    ("luks", 0, b"LUKS\xba\xbe"),
    ("qed", 0, b"QED\0"),
    ("parallels", 0, b"WithoutFreeSpace"),
    ("parallels", 0, b"WithouFreSpacExt"),
    ("bochs", 0, b"Bochs Virtual HD Image"),
    ("dmg", -512, b"koly"),
)
_PARTITIONED = {"gpt", "mbr"}
# As QEMU's vmdk_probe:
_DESCRIPTOR_FILE = re.compile(rb"# Disk DescriptorFile|(?:#[^\n]*\n| *\r?\n)*version=[123]\r?\n")


def _agreed(image: _Image, declared: str | None) -> str:
    """The format that both the operator and the bytes name, or raise."""
    if declared is not None and declared not in FORMATS:
        image.refuse(f"format {declared} is not supported", f"one of {', '.join(FORMATS)}")
    found = _magics(image)
    if unsupported := found - set(FORMATS) - _PARTITIONED:
        _refuse_unsupported(image, min(unsupported))
    kinds = found & {"qcow2", "vmdk", "iso"}
    if len(kinds) > 1 or ("gpt" in found and kinds - {"iso"}):
        several = " and ".join(sorted(kinds | found & {"gpt"}))
        image.refuse(f"is {several} at once", "get it from its publisher again: no tool makes such a file")
    held = next(iter(kinds), "raw" if found else None)
    if declared == "raw" and held in (None, "raw", "iso"):
        return "raw"
    if held is None and declared is None:
        image.refuse("has no known magic, and no format is guessed", "if it is raw, state --format raw")
    if held is None or declared not in (None, held):
        image.refuse(f"holds {held or 'no known magic'}, not {declared}", f"state --format {held or 'raw'}")
    return held


def _magics(image: _Image) -> set[str]:
    """Every format whose magic stands in the file."""
    head, tail = image.peek(0, 32774), image.peek(max(0, image.size - 512), 512)
    found = {kind for kind, at, magic in _MAGICS if at >= 0 and head.startswith(magic, at)}
    found |= {kind for kind, at, magic in _MAGICS if at < 0 and tail[at:].startswith(magic)}
    if _DESCRIPTOR_FILE.match(head[:4096]):
        found.add("vmdk descriptor")
    return found


def _refuse_unsupported(image: _Image, kind: str) -> NoReturn:
    if kind == "vmdk descriptor":
        image.refuse("is a vmdk descriptor: its data is in other files", _convert("vmdk"))
    source = "vmdk" if kind == "cowd" else kind
    image.refuse(f"format {'vhd' if kind == 'vpc' else kind} is not supported", _convert(source))


def _convert(source: str) -> str:
    return f"make one whole file of it: qemu-img convert -f {source} -O qcow2 FILE NEW.qcow2"


def _read_raw(image: _Image) -> int:
    whole = image.size % SECTOR == 0
    image.check(whole, f"length {image.size} is not a multiple of {SECTOR}", "is it truncated?")
    return image.virtual(image.size)


def _read_iso(image: _Image) -> int:
    """ECMA-119 8.4: the primary volume descriptor stands in sector 16, and the volume lies in the file."""
    volume = image.read(16 * 2048, 2048, "the primary volume descriptor")
    blocks, block = int.from_bytes(volume[80:84], "little"), int.from_bytes(volume[128:130], "little")
    twice = volume[84:88] == blocks.to_bytes(4, "big") and volume[130:132] == block.to_bytes(2, "big")
    image.check(volume[0] == volume[6] == 1, "has no primary volume descriptor in sector 16")
    image.check(twice, "says its volume size twice, and differently")
    image.check(block in (512, 1024, 2048), f"logical block of {block} bytes is not supported")
    image.check(blocks * block >= 17 * 2048, "volume is smaller than its own descriptors")
    image.require(0, blocks * block, "the volume")
    return _read_raw(image)


_MAX_L1, _MAX_REFCOUNT_TABLE = 32 << 20, 8 << 20  # bytes; QEMU's own limits
_OFFSET, _COMPRESSED = 0x00FF_FFFF_FFFF_FE00, 1 << 62  # of an L1 or L2 entry: bits 9 to 55, bit 62
_BITMAPS, _MAX_EXTENSIONS = 0x23852875, 64
_FORBIDDEN = {
    0xE2792ACA: "has a backing file format",
    0x44415441: "has an external data file name",
    0x0537BE77: "is encrypted",
}
_FLATTEN = _convert("qcow2")
_REPAIR = "repair it: qemu-img check -f qcow2 -r all FILE"


class _Qcow2(NamedTuple):
    """The part of a qcow2 header that its tables are read by; sizes and offsets in bytes."""

    size: int
    cluster_bits: int
    extended: bool

    @property
    def cluster(self) -> int:
        return 1 << self.cluster_bits

    @property
    def l2_entries(self) -> int:
        return self.cluster // (16 if self.extended else 8)


def _read_qcow2(image: _Image) -> int:
    """qcow2.rst, "Header": nothing but this file is needed, nothing in it is unknown, all of it is there."""
    header = image.read(0, 72, "the header")
    version, backing, backing_size, bits, size, crypt = struct.unpack_from(">IQIIQI", header, 4)
    l1_size, l1_offset, refs_offset, refs_clusters, snapshots = struct.unpack_from(">IQQII", header, 36)
    image.check(version in (2, 3), f"qcow2 version {version} is not supported", _FLATTEN)
    image.check(9 <= bits <= 21, f"cluster_bits {bits} is not within 9 to 21")
    image.check(not backing and not backing_size, "has a backing file", _FLATTEN)
    image.check(not crypt, f"is encrypted (method {crypt})", "store it decrypted, with qemu-img convert")
    image.check(not snapshots, f"has {snapshots} internal snapshots", _FLATTEN)
    length, extended = _qcow2_features(image, bits) if version == 3 else (72, False)
    h = _Qcow2(image.virtual(size), bits, extended)
    _check_extensions(image, h, length)
    _check_refcounts(image, h, refs_offset, refs_clusters * h.cluster)
    _check_mapping(image, h, l1_offset, l1_size)
    return h.size


def _qcow2_features(image: _Image, cluster_bits: int) -> tuple[int, bool]:
    """(length of a version 3 header, whether L2 entries are extended); raise for what cannot be accepted."""
    bits, autoclear, order, length = struct.unpack(">Q8xQII", image.read(72, 32, "the header"))
    dirty, corrupt, data_file, compressed, extended = (bool(bits >> bit & 1) for bit in range(5))
    unknown = bits >> 5 << 5
    lowest = (unknown & -unknown).bit_length() - 1
    image.check(not unknown, f"incompatible feature bit {lowest} is not known", _FLATTEN)
    image.check(not data_file and not autoclear & 2, "has an external data file", _FLATTEN)
    image.check(not dirty, "is marked dirty: it was not closed", _REPAIR)
    image.check(not corrupt, "is marked corrupt", _REPAIR)
    valid = 104 <= length <= 1 << cluster_bits and length % 8 == 0
    image.check(valid, f"header length {length} is not valid")
    kind = image.read(104, 1, "the header")[0] if length > 104 else 0
    image.check(kind == compressed, f"compression type {kind} is not known, or not announced", _FLATTEN)
    image.check(not extended or cluster_bits >= 14, "extended L2 entries need clusters of 16384 bytes")
    image.check(order <= 6, f"refcount order {order} is above 6")
    return length, extended


def _check_extensions(image: _Image, h: _Qcow2, at: int) -> None:
    """The header extensions, from byte `at`, end in the first cluster; none of them names another file."""
    area = image.read(0, h.cluster, "the header cluster")
    for _ in range(_MAX_EXTENSIONS):
        kind, length = struct.unpack_from(">II", area, at) if at + 8 <= h.cluster else (0, 0)
        if kind == 0:
            return
        inside = length <= h.cluster - at - 8
        image.check(inside, f"header extension 0x{kind:08x} overruns the header cluster")
        image.check(kind not in _FORBIDDEN, _FORBIDDEN.get(kind, ""), _FLATTEN)
        if kind == _BITMAPS and length >= 24:
            directory_size, directory = struct.unpack_from(">QQ", area, at + 16)
            image.require(directory, directory_size, "the bitmap directory")
        at += 8 + (length + 7) // 8 * 8
    image.refuse(f"has more than {_MAX_EXTENSIONS} header extensions")


def _check_refcounts(image: _Image, h: _Qcow2, table: int, length: int) -> None:
    valid = 0 < length <= _MAX_REFCOUNT_TABLE
    image.check(valid, f"refcount table of {length} bytes is not within 1 to {_MAX_REFCOUNT_TABLE}")
    _require_cluster(image, h, table, length, "refcount table")
    for index, offset in image.entries(table, length // 8, ">Q", "refcount table"):
        _require_cluster(image, h, offset, h.cluster, "refcount block", index)


def _check_mapping(image: _Image, h: _Qcow2, table: int, count: int) -> None:
    """Every L2 table lies in the file and, as far as the budget goes, so do the clusters they name."""
    valid = -(-h.size // (h.cluster * h.l2_entries)) <= count <= _MAX_L1 // 8
    image.check(valid, f"L1 table of {count} entries does not fit a virtual size of {h.size} bytes")
    _require_cluster(image, h, table, count * 8, "L1 table")
    seen: set[int] = set()
    for index, entry in image.entries(table, count, ">Q", "L1 table"):
        offset = entry & ~(1 << 63)
        _require_cluster(image, h, offset, h.cluster, "L2 table", index)
        if offset in seen:
            image.refuse(f"L2 table {index} is used twice")
        if len(seen) * h.cluster < TABLE_BUDGET:
            seen.add(offset)
            _check_clusters(image, h, offset, index * h.l2_entries)


def _check_clusters(image: _Image, h: _Qcow2, table: int, first: int) -> None:
    """Every cluster that an L2 table names lies in the file; its first entry is for guest cluster `first`."""
    data = image.read(table, h.cluster, "an L2 table")
    if not data.strip(b"\0"):
        return
    words = struct.unpack(f">{len(data) // 8}Q", data)
    entries, bitmaps = (words[::2], words[1::2]) if h.extended else (words, words)
    for guest, (entry, bitmap) in enumerate(zip(entries, bitmaps, strict=True), first):
        if entry and (end := _cluster_end(image, h, entry, bitmap, guest)) > image.size:
            image.require(end, 0, f"guest cluster {guest}")


def _cluster_end(image: _Image, h: _Qcow2, entry: int, bitmap: int, guest: int) -> int:
    """Where what an L2 entry needs ends in the file, 0 if it needs nothing (qcow2.rst, "Cluster mapping")."""
    if entry & _COMPRESSED:
        shift = 70 - h.cluster_bits
        offset, sectors = entry & ((1 << shift) - 1), (entry & (_COMPRESSED - 1)) >> shift
        return (offset // SECTOR + sectors + 1) * SECTOR
    offset = entry & _OFFSET
    if h.extended:  # 32 subclusters, each with a bit when it is allocated
        used = (bitmap & 0xFFFF_FFFF).bit_length() * (h.cluster // 32)
    else:  # bit 0: reads as zeros
        used = 0 if entry & 1 else h.cluster
    used = min(used, h.size - guest * h.cluster)  # the disk may end within its last cluster
    if not offset or used <= 0:
        return 0
    if offset % h.cluster:
        image.refuse(f"guest cluster {guest} is at byte {offset}, not at a cluster boundary")
    return offset + used


def _require_cluster(image: _Image, h: _Qcow2, offset: int, length: int, what: str, index: int = 0) -> None:
    if offset % h.cluster or offset == 0:
        image.refuse(f"{what} {index} is at byte {offset}, not at a cluster boundary after the header")
    if offset + length > image.size:
        image.require(offset, length, f"{what} {index}")


_GRAIN_TABLE = 512  # entries of 4 bytes
_DESCRIPTOR_SECTORS = 20  # what QEMU reads, always from sector 1
_MAX_EXTENT = 1 << 32  # sectors
_AT_END = (1 << 64) - 1  # of a grain directory offset: the footer has the true one


class _Vmdk(NamedTuple):
    """A sparse extent header (VMDK 5.0, "Hosted Sparse Extent Header"); sizes and offsets in sectors."""

    magic: bytes
    version: int
    flags: int
    capacity: int
    grain: int
    descriptor: int
    descriptor_size: int
    table_entries: int
    redundant_directory: int
    directory: int
    overhead: int
    newlines: bytes
    compression: int

    @property
    def compressed(self) -> bool:
        return bool(self.flags & 1 << 16)


def _read_vmdk(image: _Image) -> int:
    """A monolithicSparse or streamOptimized extent: whole, and naming no other file."""
    h = _vmdk_header(image, 0)
    _check_descriptor(image, h)
    if h.directory == _AT_END:
        footer = _vmdk_header(image, image.size - 2 * SECTOR)
        same = (footer.capacity, footer.grain, footer.flags) == (h.capacity, h.grain, h.flags)
        image.check(same and footer.directory != _AT_END, "footer does not agree with the header")
        h = footer
    _check_grains(image, h)
    return image.virtual(h.capacity * SECTOR)


def _vmdk_header(image: _Image, offset: int) -> _Vmdk:
    h = _Vmdk(*struct.unpack("<4sIIQQQQIQQQx4sH", image.read(max(0, offset), 79, "the header")))
    image.check(h.magic == b"KDMV", "has no footer, though its header announces one", "is it truncated?")
    image.check(h.version in (1, 2, 3), f"vmdk version {h.version} is not supported")
    image.check(h.newlines == b"\n \r\n", "was changed in a transfer as text", "copy it again in binary mode")
    valid = 0 < h.capacity <= _MAX_EXTENT
    image.check(valid, f"capacity of {h.capacity} sectors is not within 1 to {_MAX_EXTENT}")
    image.check(h.grain in (1 << bit for bit in range(3, 17)), f"grain of {h.grain} sectors is not supported")
    image.check(h.table_entries == _GRAIN_TABLE, f"grain tables of {h.table_entries} are not supported")
    agree = h.compression == h.compressed == bool(h.flags & 1 << 17)  # compressed grains have markers
    image.check(agree, f"compression {h.compression} is not known, or not announced")
    return h


def _check_descriptor(image: _Image, h: _Vmdk) -> None:
    """The embedded descriptor has this extent and no other, and no parent, wherever a reader might look."""
    valid = h.descriptor == 1 and 1 <= h.descriptor_size <= _DESCRIPTOR_SECTORS
    image.check(valid, f"descriptor is not in sectors 1 to {_DESCRIPTOR_SECTORS}")
    text = image.peek(SECTOR, _DESCRIPTOR_SECTORS * SECTOR).split(b"\0")[0].decode("latin-1").lower()
    kind = re.findall(r'createtype *= *"?([^"\n]*)', text)
    known = kind in (["monolithicsparse"], ["streamoptimized"])
    image.check(known, f"vmdk subformat {', '.join(kind) or 'unnamed'} is not supported", _convert("vmdk"))
    parents = text.count("parentcid") - 1 + text.count("parentfilenamehint")
    image.check(not parents and "parentcid=ffffffff" in text, "has a parent", _convert("vmdk"))
    words = [line.split() for line in text.split("\n")]
    extents = [line for line in words if line and line[0] in ("rw", "rdonly", "noaccess")]
    own = len(extents) == 1 and extents[0][1:3] == [str(h.capacity), "sparse"]
    own = own and not {*"/\\"} & {*"".join(extents[0])}
    image.check(own, "descriptor names other files as its extents", _convert("vmdk"))


def _check_grains(image: _Image, h: _Vmdk) -> None:
    """The grain directory, its tables and, as far as the budget goes, the last grain lie in the file."""
    count = -(-h.capacity // (h.grain * _GRAIN_TABLE))
    image.require(0, h.overhead * SECTOR, "its metadata")
    if h.flags & 2:
        image.require(h.redundant_directory * SECTOR, count * 4, "the redundant grain directory")
    last, owner = 0, 0
    tables = image.entries(h.directory * SECTOR, count, "<I", "the grain directory")
    for seen, (index, sector) in enumerate(tables):
        image.require(sector * SECTOR, _GRAIN_TABLE * 4, f"grain table {index}")
        if seen * _GRAIN_TABLE * 4 < TABLE_BUDGET:
            table = struct.unpack("<512I", image.read(sector * SECTOR, _GRAIN_TABLE * 4, "a grain table"))
            last, owner = max((last, owner), (max(table), index * _GRAIN_TABLE + table.index(max(table))))
    if last > 1:  # 0 is not allocated, 1 reads as zeros
        used = min(h.grain, h.capacity - owner * h.grain) * SECTOR
        if h.compressed:  # a marker (VMDK 5.0, "Markers"), then its data
            used = 12 + struct.unpack("<8xI", image.read(last * SECTOR, 12, "the last grain"))[0]
        image.require(last * SECTOR, used, "the last grain")


_READERS = {"raw": _read_raw, "qcow2": _read_qcow2, "vmdk": _read_vmdk, "iso": _read_iso}
