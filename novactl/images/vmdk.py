"""vmdk sparse extents (VMware Virtual Disk Format 5.0; QEMU block/vmdk.c)."""

import re
import struct
from typing import NamedTuple

from novactl.images.imagefile import SECTOR, TABLE_BUDGET, ImageFile, convert_hint

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


def read_vmdk(image: ImageFile) -> int:
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


def _vmdk_header(image: ImageFile, offset: int) -> _Vmdk:
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


def _check_descriptor(image: ImageFile, h: _Vmdk) -> None:
    """The embedded descriptor has this extent and no other, and no parent, wherever a reader might look."""
    valid = h.descriptor == 1 and 1 <= h.descriptor_size <= _DESCRIPTOR_SECTORS
    image.check(valid, f"descriptor is not in sectors 1 to {_DESCRIPTOR_SECTORS}")
    text = image.peek(SECTOR, _DESCRIPTOR_SECTORS * SECTOR).split(b"\0")[0].decode("latin-1").lower()
    kind = re.findall(r'createtype *= *"?([^"\n]*)', text)
    known = kind in (["monolithicsparse"], ["streamoptimized"])
    image.check(
        known, f"vmdk subformat {', '.join(kind) or 'unnamed'} is not supported", convert_hint("vmdk")
    )
    parents = text.count("parentcid") - 1 + text.count("parentfilenamehint")
    image.check(not parents and "parentcid=ffffffff" in text, "has a parent", convert_hint("vmdk"))
    words = [line.split() for line in text.split("\n")]
    extents = [line for line in words if line and line[0] in ("rw", "rdonly", "noaccess")]
    own = len(extents) == 1 and extents[0][1:3] == [str(h.capacity), "sparse"]
    own = own and not {*"/\\"} & {*"".join(extents[0])}
    image.check(own, "descriptor names other files as its extents", convert_hint("vmdk"))


def _check_grains(image: ImageFile, h: _Vmdk) -> None:
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
