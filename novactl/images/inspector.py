"""What a disk image is, read from its own bytes before any tool opens it.

A format is stated, never guessed: the operator says it, or `image add` takes it from the magic and it is
pinned for ever; the bytes must agree. What would make QEMU open another file or read past the end is refused.
Rules: QEMU docs/interop/qcow2.rst, block/qcow2.c and block/vmdk.c; VMware Virtual Disk Format 5.0; ECMA-119.
Reads are bounded, and hostile bytes end in ImageRefused, never in another exception.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from novactl.errors import ImageRefused
from novactl.images.imagefile import SECTOR, ImageFile, convert_hint, opened
from novactl.images.qcow2 import read_qcow2
from novactl.images.vmdk import read_vmdk
from novactl.objects.image import FORMATS


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


def inspect_fd(fd: int, name: str, declared: str | None = None, *, pinned: bool = False) -> ImageInfo:
    """As `inspect`, for an open file; `name` is what messages call it. `pinned`: it was declared by what made
    the file. A guest may write into its disk what looks like another format: raw bytes are all its own, and
    so may be the last ones of a file with a header, of which the first cluster is not."""
    image = ImageFile(fd, name)
    try:
        kind = declared if pinned and declared == "raw" else _agreed(image, declared, ends=not pinned)
        size = _READERS[kind](image)
    except OSError as error:
        raise ImageRefused(f"{name}: cannot be read: {error.strerror}") from error
    return ImageInfo(kind, size, image.size, image.allocated)


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


def _agreed(image: ImageFile, declared: str | None, *, ends: bool) -> str:
    """The format that both the operator and the bytes name, or raise. `ends`: its end counts too."""
    if declared is not None and declared not in FORMATS:
        image.refuse(f"format {declared} is not supported", f"one of {', '.join(FORMATS)}")
    found = _magics(image, ends=ends)
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


def _magics(image: ImageFile, *, ends: bool) -> set[str]:
    """Every format whose magic stands in the file; without `ends`, before its last bytes."""
    head, tail = image.peek(0, 32774), image.peek(max(0, image.size - 512), 512) if ends else b""
    found = {kind for kind, at, magic in _MAGICS if at >= 0 and head.startswith(magic, at)}
    found |= {kind for kind, at, magic in _MAGICS if at < 0 and tail[at:].startswith(magic)}
    if _DESCRIPTOR_FILE.match(head[:4096]):
        found.add("vmdk descriptor")
    return found


def _refuse_unsupported(image: ImageFile, kind: str) -> NoReturn:
    if kind == "vmdk descriptor":
        image.refuse("is a vmdk descriptor: its data is in other files", convert_hint("vmdk"))
    source = "vmdk" if kind == "cowd" else kind
    image.refuse(f"format {'vhd' if kind == 'vpc' else kind} is not supported", convert_hint(source))


def _read_raw(image: ImageFile) -> int:
    whole = image.size % SECTOR == 0
    image.check(whole, f"length {image.size} is not a multiple of {SECTOR}", "is it truncated?")
    return image.virtual(image.size)


def _read_iso(image: ImageFile) -> int:
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


_READERS = {"raw": _read_raw, "qcow2": read_qcow2, "vmdk": read_vmdk, "iso": _read_iso}
