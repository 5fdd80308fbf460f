"""qcow2 headers and tables (QEMU docs/interop/qcow2.rst, block/qcow2.c)."""

import struct
from typing import NamedTuple

from novactl.images.imagefile import SECTOR, TABLE_BUDGET, ImageFile, convert_hint

_MAX_L1, _MAX_REFCOUNT_TABLE = 32 << 20, 8 << 20  # bytes; QEMU's own limits
_OFFSET, _COMPRESSED = 0x00FF_FFFF_FFFF_FE00, 1 << 62  # of an L1 or L2 entry: bits 9 to 55, bit 62
_BITMAPS, _MAX_EXTENSIONS = 0x23852875, 64
_FORBIDDEN = {
    0xE2792ACA: "has a backing file format",
    0x44415441: "has an external data file name",
    0x0537BE77: "is encrypted",
}
_FLATTEN = convert_hint("qcow2")
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


def read_qcow2(image: ImageFile) -> int:
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


def _qcow2_features(image: ImageFile, cluster_bits: int) -> tuple[int, bool]:
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


def _check_extensions(image: ImageFile, h: _Qcow2, at: int) -> None:
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


def _check_refcounts(image: ImageFile, h: _Qcow2, table: int, length: int) -> None:
    valid = 0 < length <= _MAX_REFCOUNT_TABLE
    image.check(valid, f"refcount table of {length} bytes is not within 1 to {_MAX_REFCOUNT_TABLE}")
    _require_cluster(image, h, table, length, "refcount table")
    for index, offset in image.entries(table, length // 8, ">Q", "refcount table"):
        _require_cluster(image, h, offset, h.cluster, "refcount block", index)


def _check_mapping(image: ImageFile, h: _Qcow2, table: int, count: int) -> None:
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


def _check_clusters(image: ImageFile, h: _Qcow2, table: int, first: int) -> None:
    """Every cluster that an L2 table names lies in the file; its first entry is for guest cluster `first`."""
    data = image.read(table, h.cluster, "an L2 table")
    if not data.strip(b"\0"):
        return
    if not h.extended and _all_lie_below(data, image.size - h.cluster, h.cluster_bits):
        return
    words = struct.unpack(f">{len(data) // 8}Q", data)
    entries, bitmaps = (words[::2], words[1::2]) if h.extended else (words, words)
    for guest, (entry, bitmap) in enumerate(zip(entries, bitmaps, strict=True), first):
        if entry and (end := _cluster_end(image, h, entry, bitmap, guest)) > image.size:
            image.require(end, 0, f"guest cluster {guest}")


def _all_lie_below(table: bytes, offset: int, cluster_bits: int) -> bool:
    """Whether each entry is none, or a plain one of a cluster at its boundary that begins below `offset`.

    Told from one byte of all entries at a time, since a table of 100 GiB has a million and a half; False when
    that takes a look at each."""
    if offset < 0 or table[::8].translate(None, b"\x00\x80"):  # other flags: compressed, or unknown
        return False
    whole, bits = divmod(cluster_bits, 8)  # of the offset within a cluster
    aligned, none = bytes(range(0, 256, 1 << bits)), bytes(len(table) // 8)
    if any(table[at::8] != none for at in range(8 - whole, 8)):
        return False
    if table[7 - whole :: 8].translate(None, aligned):
        return False
    for at, limit in enumerate(offset.to_bytes(8, "big")[1:], 1):
        if limit or table[at::8] != none:
            return not table[at::8].translate(None, bytes(range(limit)))
    return False


def _cluster_end(image: ImageFile, h: _Qcow2, entry: int, bitmap: int, guest: int) -> int:
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


def _require_cluster(
    image: ImageFile, h: _Qcow2, offset: int, length: int, what: str, index: int = 0
) -> None:
    if offset % h.cluster or offset == 0:
        image.refuse(f"{what} {index} is at byte {offset}, not at a cluster boundary after the header")
    if offset + length > image.size:
        image.require(offset, length, f"{what} {index}")
