"""The hostile corpus: images that each break one rule of novactl.images.inspector, made byte by byte.

`CORPUS` rows are (name, bytes, declared format, phrase of the refusal). The makers' defaults are good images.
Run as a script to write the corpus into a directory: `python hostile_images.py DIR`.
"""

import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

CLUSTER = 4096
L1, REFCOUNTS, BLOCK, L2, DATA = (CLUSTER * n for n in range(1, 6))  # where the good qcow2 has its parts
COPIED = 1 << 63
MIB = 1 << 20

BACKING_FORMAT, DATA_FILE_NAME, CRYPTO, BITMAPS = 0xE2792ACA, 0x44415441, 0x0537BE77, 0x23852875
FEATURE_NAMES = 0x6803F857


def qcow2(
    *,
    magic: bytes = b"QFI\xfb",
    version: int = 3,
    backing_offset: int = 0,
    backing_size: int = 0,
    cluster_bits: int = 12,
    size: int = MIB,
    crypt: int = 0,
    l1_size: int = 1,
    l1_offset: int = L1,
    refcounts: int = REFCOUNTS,
    refcount_clusters: int = 1,
    snapshots: int = 0,
    snapshots_offset: int = 0,
    incompatible: int = 0,
    compatible: int = 0,
    autoclear: int = 0,
    refcount_order: int = 4,
    header_length: int = 112,
    compression: int = 0,
    extensions: bytes = b"",
    l1: tuple[int, ...] = (L2 | COPIED,),
    blocks: tuple[int, ...] = (BLOCK,),
    l2: tuple[int, ...] = (DATA | COPIED,),
    length: int | None = None,
    patches: tuple[tuple[int, bytes], ...] = (),
) -> bytes:
    """Six clusters of 4 KiB: header, L1, refcount table, its block, L2, data; `length` cuts or pads."""
    fields = (magic, version, backing_offset, backing_size, cluster_bits, size, crypt, l1_size, l1_offset)
    header = struct.pack(">4sIQIIQIIQ", *fields)
    header += struct.pack(">QIIQ", refcounts, refcount_clusters, snapshots, snapshots_offset)
    if version != 2:
        header += struct.pack(">QQQII", incompatible, compatible, autoclear, refcount_order, header_length)
        header = (header + bytes([compression])).ljust(112, b"\0")
        header = header[: max(104, min(header_length, 112))]
    image = bytearray(DATA) + b"D" * CLUSTER
    for offset, data in (
        (0, header + extensions),
        (L1, struct.pack(f">{len(l1)}Q", *l1)),
        (REFCOUNTS, struct.pack(f">{len(blocks)}Q", *blocks)),
        (L2, struct.pack(f">{len(l2)}Q", *l2)),
        *patches,
    ):
        if len(image) < offset + len(data):
            image.extend(bytes(offset + len(data) - len(image)))
        image[offset : offset + len(data)] = data
    return bytes(image[:length]).ljust(length or 0, b"\0")


def extension(kind: int, data: bytes = b"", length: int | None = None) -> bytes:
    """A qcow2 header extension."""
    padded = data + bytes(-len(data) % 8)
    return struct.pack(">II", kind, len(data) if length is None else length) + padded


DESCRIPTOR = """# Disk DescriptorFile
version=1
CID=12345678
parentCID=ffffffff
createType="monolithicSparse"

# Extent description
RW 2048 SPARSE "disk.vmdk"

ddb.adapterType = "ide"
"""
GD, GT, GRAIN = 21, 22, 26  # sectors of the good vmdk
GRAIN_SECTORS = 128
AT_END = (1 << 64) - 1


def vmdk_header(
    *,
    version: int = 1,
    flags: int = 1,
    capacity: int = 2048,
    grain: int = GRAIN_SECTORS,
    descriptor_offset: int = 1,
    descriptor_size: int = 20,
    entries: int = 512,
    redundant: int = 0,
    directory: int = GD,
    overhead: int = GRAIN,
    newlines: bytes = b"\n \r\n",
    compression: int = 0,
) -> bytes:
    fields = (
        version,
        flags,
        capacity,
        grain,
        descriptor_offset,
        descriptor_size,
        entries,
        redundant,
        directory,
    )
    return (b"KDMV" + struct.pack("<IIQQQQIQQQx4sH", *fields, overhead, newlines, compression)).ljust(
        512, b"\0"
    )


def vmdk(
    *,
    descriptor: str = DESCRIPTOR,
    tables: tuple[int, ...] = (GT,),
    grains: tuple[int, ...] = (GRAIN,),
    grain_data: bytes = b"G" * GRAIN_SECTORS * 512,
    footer: bytes = b"",
    length: int | None = None,
    **header: int | bytes,
) -> bytes:
    """Header, descriptor, grain directory, one grain table, one grain."""
    image = vmdk_header(**header)  # type: ignore[arg-type]
    image += descriptor.encode().ljust(20 * 512, b"\0")
    image += struct.pack(f"<{len(tables)}I", *tables).ljust(512, b"\0")
    image += struct.pack(f"<{len(grains)}I", *grains).ljust(2048, b"\0")
    return (image + grain_data + footer)[:length]


STREAM = {"version": 3, "flags": 0x30001, "compression": 1}
STREAM_DESCRIPTOR = DESCRIPTOR.replace("monolithicSparse", "streamOptimized")


def stream_vmdk(footer: bytes | None = None, size: int = 500, **changes: int) -> bytes:
    """A streamOptimized vmdk whose footer has the grain directory; `size` is the grain's own claim."""
    data = (struct.pack("<QI", 0, size) + b"z" * 500).ljust(512, b"\0")
    if footer is None:
        footer = vmdk_footer()
    header = {**STREAM, "directory": AT_END, **changes}
    return vmdk(descriptor=STREAM_DESCRIPTOR, grain_data=data, footer=footer, **header)


def vmdk_footer(**changes: int) -> bytes:
    marker = struct.pack("<QII", 1, 0, 3).ljust(512, b"\0")
    return marker + vmdk_header(**{**STREAM, **changes}) + bytes(512)  # type: ignore[arg-type]


def iso(
    *,
    kind: int = 1,
    version: int = 1,
    blocks: int = 20,
    blocks_be: int | None = None,
    block: int = 2048,
    length: int = 20 * 2048,
    head: bytes = b"",
) -> bytes:
    """Twenty sectors, the primary volume descriptor in the sixteenth."""
    volume = bytearray(2048)
    volume[:7] = bytes([kind]) + b"CD001" + bytes([version])
    volume[80:88] = struct.pack("<I", blocks) + struct.pack(">I", blocks if blocks_be is None else blocks_be)
    volume[128:132] = struct.pack("<H", block) + struct.pack(">H", block)
    return (
        (head.ljust(16 * 2048, b"\0") + bytes(volume)).ljust(20 * 2048, b"\0")[:length].ljust(length, b"\0")
    )


def raw(head: bytes = b"", tail: bytes = b"", length: int = 65536) -> bytes:
    return head + bytes(length - len(head) - len(tail)) + tail


class Hostile(NamedTuple):
    name: str
    make: Callable[[], bytes]
    declared: str | None
    phrase: str


def compressed(offset: int, sectors: int) -> int:
    """A qcow2 L2 entry for compressed data in `sectors` sectors more than the first (4 KiB clusters)."""
    return 1 << 62 | sectors << 58 | offset


_MBR = raw(bytes(510) + b"\x55\xaa")
_GPT = bytes(510) + b"\x55\xaaEFI PART"

CORPUS = [
    # --- qcow2: other files
    Hostile("backing-file", lambda: qcow2(backing_offset=512, backing_size=11), "qcow2", "backing file"),
    Hostile(
        "backing-file-v2", lambda: qcow2(version=2, backing_offset=512, backing_size=11), None, "backing file"
    ),
    Hostile("backing-offset-only", lambda: qcow2(backing_offset=512), "qcow2", "backing file"),
    Hostile("backing-size-only", lambda: qcow2(backing_size=11), "qcow2", "backing file"),
    Hostile(
        "backing-format",
        lambda: qcow2(extensions=extension(BACKING_FORMAT, b"raw")),
        "qcow2",
        "backing file f",
    ),
    Hostile("data-file-bit", lambda: qcow2(incompatible=4), "qcow2", "external data file"),
    Hostile(
        "data-file-name",
        lambda: qcow2(extensions=extension(DATA_FILE_NAME, b"/etc/shadow")),
        None,
        "data file",
    ),
    Hostile("raw-data-bit", lambda: qcow2(autoclear=2), "qcow2", "external data file"),
    Hostile("encrypted-aes", lambda: qcow2(crypt=1), "qcow2", "encrypted"),
    Hostile("encrypted-luks", lambda: qcow2(crypt=2), "qcow2", "encrypted"),
    Hostile("crypto-extension", lambda: qcow2(extensions=extension(CRYPTO, bytes(16))), "qcow2", "encrypted"),
    Hostile("snapshots", lambda: qcow2(snapshots=3, snapshots_offset=DATA), "qcow2", "3 internal snapshots"),
    # --- qcow2: features
    Hostile("dirty", lambda: qcow2(incompatible=1), "qcow2", "dirty"),
    Hostile("corrupt", lambda: qcow2(incompatible=2), "qcow2", "corrupt"),
    Hostile("unknown-bit-5", lambda: qcow2(incompatible=1 << 5), "qcow2", "feature bit 5"),
    Hostile("unknown-bit-63", lambda: qcow2(incompatible=1 << 63), "qcow2", "feature bit 63"),
    Hostile(
        "compression-unknown", lambda: qcow2(incompatible=8, compression=2), "qcow2", "compression type 2"
    ),
    Hostile("compression-unannounced", lambda: qcow2(compression=1), "qcow2", "compression type 1"),
    Hostile(
        "compression-missing", lambda: qcow2(incompatible=8, header_length=104), "qcow2", "compression type 0"
    ),
    Hostile("extended-l2-small", lambda: qcow2(incompatible=16), "qcow2", "extended L2"),
    Hostile("version-1", lambda: qcow2(version=1), "qcow2", "version 1"),
    Hostile("version-4", lambda: qcow2(version=4), "qcow2", "version 4"),
    Hostile("refcount-order", lambda: qcow2(refcount_order=7), "qcow2", "refcount order 7"),
    # --- qcow2: header
    Hostile("header-short", lambda: qcow2(header_length=96), "qcow2", "header length 96"),
    Hostile("header-odd", lambda: qcow2(header_length=107), "qcow2", "header length 107"),
    Hostile("header-huge", lambda: qcow2(header_length=1 << 31), "qcow2", "header length"),
    Hostile("cluster-bits-8", lambda: qcow2(cluster_bits=8), "qcow2", "cluster_bits 8"),
    Hostile("cluster-bits-22", lambda: qcow2(cluster_bits=22), "qcow2", "cluster_bits 22"),
    Hostile("cluster-bits-huge", lambda: qcow2(cluster_bits=0xFFFFFFFF), "qcow2", "cluster_bits"),
    Hostile("extension-overrun", lambda: qcow2(extensions=extension(7, length=CLUSTER)), "qcow2", "overruns"),
    Hostile("extension-4gib", lambda: qcow2(extensions=extension(7, length=0xFFFFFFFF)), "qcow2", "overruns"),
    Hostile("extensions-endless", lambda: qcow2(extensions=extension(7) * 400), "qcow2", "more than 64"),
    Hostile(
        "bitmaps-outside",
        lambda: qcow2(extensions=extension(BITMAPS, struct.pack(">IIQQ", 1, 0, 4096, 1 << 40))),
        "qcow2",
        "bitmap directory",
    ),
    # --- qcow2: sizes and tables
    Hostile("size-0", lambda: qcow2(size=0), "qcow2", "virtual size 0"),
    Hostile("size-1-eib", lambda: qcow2(size=1 << 60), "qcow2", "virtual size"),
    Hostile("size-all-ones", lambda: qcow2(size=(1 << 64) - 1), "qcow2", "virtual size"),
    Hostile("l1-too-small", lambda: qcow2(size=4 * MIB), "qcow2", "L1 table of 1 entries"),
    Hostile("l1-none", lambda: qcow2(l1_size=0), "qcow2", "L1 table of 0 entries"),
    Hostile("l1-4-gib", lambda: qcow2(l1_size=0xFFFFFFFF), "qcow2", "L1 table of"),
    Hostile("l1-32-mib-outside", lambda: qcow2(l1_size=4 * MIB), "qcow2", "truncated"),
    Hostile("l1-outside", lambda: qcow2(l1_offset=1 << 40), "qcow2", "truncated"),
    Hostile("l1-past-64-bits", lambda: qcow2(l1_offset=(1 << 64) - CLUSTER), "qcow2", "truncated"),
    Hostile("l1-unaligned", lambda: qcow2(l1_offset=L1 + 8), "qcow2", "cluster boundary"),
    Hostile("l1-on-header", lambda: qcow2(l1_offset=0), "qcow2", "cluster boundary"),
    Hostile("l2-outside", lambda: qcow2(l1=(1 << 40 | COPIED,)), "qcow2", "L2 table 0 ends"),
    Hostile("l2-unaligned", lambda: qcow2(l1=(L2 + 512 | COPIED,)), "qcow2", "cluster boundary"),
    Hostile("l2-reserved-bits", lambda: qcow2(l1=(L2 | 1 << 60,)), "qcow2", "truncated"),
    Hostile("l2-twice", lambda: qcow2(size=4 * MIB, l1_size=2, l1=(L2, L2)), "qcow2", "used twice"),
    Hostile("refcounts-none", lambda: qcow2(refcount_clusters=0), "qcow2", "refcount table of 0"),
    Hostile("refcounts-huge", lambda: qcow2(refcount_clusters=1 << 31), "qcow2", "refcount table of"),
    Hostile("refcounts-outside", lambda: qcow2(refcounts=1 << 50), "qcow2", "truncated"),
    Hostile("refcounts-unaligned", lambda: qcow2(refcounts=REFCOUNTS + 1), "qcow2", "cluster boundary"),
    Hostile("refcount-block-outside", lambda: qcow2(blocks=(1 << 30,)), "qcow2", "refcount block 0 ends"),
    Hostile("refcount-block-odd", lambda: qcow2(blocks=(BLOCK + 8,)), "qcow2", "cluster boundary"),
    Hostile("cluster-outside", lambda: qcow2(l2=(1 << 45 | COPIED,)), "qcow2", "guest cluster 0 ends"),
    Hostile("cluster-unaligned", lambda: qcow2(l2=(DATA + 512,)), "qcow2", "cluster boundary"),
    Hostile("compressed-outside", lambda: qcow2(l2=(compressed(1 << 40, 3),)), "qcow2", "truncated"),
    Hostile("compressed-past-end", lambda: qcow2(l2=(compressed(DATA + 100, 8),)), "qcow2", "truncated"),
    Hostile("header-only", lambda: qcow2(length=72), "qcow2", "truncated"),
    Hostile("magic-only", lambda: b"QFI\xfb", "qcow2", "truncated"),
    Hostile("cut-in-data", lambda: qcow2(length=DATA + 100), "qcow2", "truncated"),
    Hostile("cut-in-l2", lambda: qcow2(length=L2 + 8), "qcow2", "truncated"),
    # --- a lie about the format
    Hostile("qcow2-as-raw", qcow2, "raw", "holds qcow2, not raw"),
    Hostile("qcow2-as-vmdk", qcow2, "vmdk", "holds qcow2, not vmdk"),
    Hostile("vmdk-as-raw", vmdk, "raw", "holds vmdk, not raw"),
    Hostile("iso-as-qcow2", iso, "qcow2", "holds iso, not qcow2"),
    Hostile("raw-as-qcow2", lambda: _MBR, "qcow2", "holds raw, not qcow2"),
    Hostile("raw-as-iso", lambda: _MBR, "iso", "holds raw, not iso"),
    Hostile("zeros-as-qcow2", raw, "qcow2", "no known magic"),
    Hostile("zeros-undeclared", raw, None, "no format is guessed"),
    Hostile("unknown-format", raw, "vhd", "format vhd is not supported"),
    Hostile("polyglot-qcow2-iso", lambda: iso(head=qcow2()), "qcow2", "at once"),
    Hostile("polyglot-iso-qcow2", lambda: iso(head=qcow2()), "iso", "at once"),
    Hostile("polyglot-as-raw", lambda: iso(head=qcow2()), "raw", "at once"),
    Hostile("polyglot-qcow2-gpt", lambda: qcow2(patches=((512, b"EFI PART"),)), "qcow2", "at once"),
    Hostile(
        "polyglot-iso-gpt-qcow2",
        lambda: iso(head=qcow2(patches=((510, b"\x55\xaaEFI PART"),))),
        None,
        "at once",
    ),
    Hostile("polyglot-vmdk-iso", lambda: iso(head=vmdk(length=16 * 2048)), "vmdk", "at once"),
    # --- raw and iso
    Hostile("raw-odd", lambda: raw(length=65537), "raw", "not a multiple of 512"),
    Hostile("raw-tiny", lambda: b"x", "raw", "not a multiple of 512"),
    Hostile("gpt-odd", lambda: raw(_GPT, length=65537), None, "not a multiple of 512"),
    Hostile("iso-truncated", lambda: iso(blocks=21), "iso", "truncated"),
    Hostile("iso-cut-in-descriptor", lambda: iso(length=32774), "iso", "truncated"),
    Hostile("iso-4-gib-blocks", lambda: iso(blocks=0xFFFFFFFF), None, "truncated"),
    Hostile("iso-two-sizes", lambda: iso(blocks_be=19), "iso", "twice"),
    Hostile("iso-empty-volume", lambda: iso(blocks=0), "iso", "smaller"),
    Hostile("iso-block-0", lambda: iso(block=0), "iso", "logical block of 0"),
    Hostile("iso-boot-record-first", lambda: iso(kind=0), "iso", "no primary volume descriptor"),
    Hostile("iso-version", lambda: iso(version=9), "iso", "no primary volume descriptor"),
    # --- formats that are not supported
    Hostile("vhd", lambda: raw(b"conectix"), "raw", "format vhd"),
    Hostile("vhd-fixed", lambda: raw(tail=b"conectix".ljust(512, b"\0")), "raw", "format vhd"),
    Hostile("vhd-fixed-old", lambda: raw(tail=b"conectix".ljust(511, b"\0")), "raw", "format vhd"),
    Hostile("vhdx", lambda: raw(b"vhdxfile"), None, "format vhdx"),
    Hostile("vdi", lambda: raw(bytes(64) + b"\x7f\x10\xda\xbe"), "raw", "format vdi"),
    Hostile("luks", lambda: raw(b"LUKS\xba\xbe\x00\x01"), "raw", "format luks"),
    Hostile("qed", lambda: raw(b"QED\0"), "raw", "format qed"),
    Hostile("parallels", lambda: raw(b"WithoutFreeSpace"), "raw", "format parallels"),
    Hostile("parallels-ext", lambda: raw(b"WithouFreSpacExt"), "raw", "format parallels"),
    Hostile("bochs", lambda: raw(b"Bochs Virtual HD Image"), "raw", "format bochs"),
    Hostile("dmg", lambda: raw(tail=b"koly".ljust(512, b"\0")), "raw", "format dmg"),
    Hostile("vmdk-cowd", lambda: raw(b"COWD"), "vmdk", "format cowd"),
    # --- vmdk
    Hostile("vmdk-descriptor-file", lambda: DESCRIPTOR.encode(), "vmdk", "data is in other files"),
    Hostile("vmdk-descriptor-as-raw", lambda: raw(DESCRIPTOR.encode()), "raw", "vmdk descriptor"),
    Hostile(
        "vmdk-descriptor-disguised", lambda: raw(b"# hello\n\n  \nversion=1\n"), "raw", "vmdk descriptor"
    ),
    Hostile(
        "vmdk-flat",
        lambda: vmdk(descriptor=DESCRIPTOR.replace("SPARSE", "FLAT").replace('vmdk"', 'vmdk" 0')),
        "vmdk",
        "extents",
    ),
    Hostile(
        "vmdk-flat-type",
        lambda: vmdk(descriptor=DESCRIPTOR.replace("cSparse", "cFlat")),
        "vmdk",
        "monolithicflat",
    ),
    Hostile(
        "vmdk-two-gb",
        lambda: vmdk(descriptor=DESCRIPTOR.replace("monolithic", "twoGbMaxExtent")),
        "vmdk",
        "subformat",
    ),
    Hostile("vmdk-no-type", lambda: vmdk(descriptor="# Disk DescriptorFile\n"), "vmdk", "subformat unnamed"),
    Hostile(
        "vmdk-two-extents",
        lambda: vmdk(descriptor=DESCRIPTOR + 'RW 2048 FLAT "/etc/shadow" 0\n'),
        "vmdk",
        "extents",
    ),
    Hostile(
        "vmdk-path",
        lambda: vmdk(descriptor=DESCRIPTOR.replace("disk.vmdk", "/etc/shadow")),
        "vmdk",
        "extents",
    ),
    Hostile(
        "vmdk-other-size", lambda: vmdk(descriptor=DESCRIPTOR.replace("2048", "4096")), "vmdk", "extents"
    ),
    Hostile(
        "vmdk-parent", lambda: vmdk(descriptor=DESCRIPTOR.replace("ffffffff", "12345678")), "vmdk", "parent"
    ),
    Hostile(
        "vmdk-parent-hint",
        lambda: vmdk(descriptor=DESCRIPTOR + 'parentFileNameHint="/etc/shadow"\n'),
        "vmdk",
        "parent",
    ),
    Hostile(
        "vmdk-parent-in-comment",
        lambda: vmdk(descriptor=DESCRIPTOR + '#parentFileNameHint="/etc/shadow"\n'),
        "vmdk",
        "parent",
    ),
    Hostile(
        "vmdk-two-parents", lambda: vmdk(descriptor=DESCRIPTOR + "#parentCID=12345678\n"), "vmdk", "parent"
    ),
    Hostile("vmdk-descriptor-elsewhere", lambda: vmdk(descriptor_offset=30), "vmdk", "descriptor is not"),
    Hostile(
        "vmdk-no-descriptor",
        lambda: vmdk(descriptor_offset=0, descriptor_size=0),
        "vmdk",
        "descriptor is not",
    ),
    Hostile("vmdk-descriptor-huge", lambda: vmdk(descriptor_size=1 << 40), "vmdk", "descriptor is not"),
    Hostile("vmdk-capacity-0", lambda: vmdk(capacity=0), "vmdk", "capacity of 0"),
    Hostile("vmdk-capacity-huge", lambda: vmdk(capacity=1 << 60), "vmdk", "capacity of"),
    Hostile("vmdk-version-9", lambda: vmdk(version=9), "vmdk", "vmdk version 9"),
    Hostile("vmdk-grain-0", lambda: vmdk(grain=0), "vmdk", "grain of 0"),
    Hostile("vmdk-grain-100", lambda: vmdk(grain=100), "vmdk", "grain of 100"),
    Hostile("vmdk-entries", lambda: vmdk(entries=1 << 31), "vmdk", "grain tables of"),
    Hostile("vmdk-compression", lambda: vmdk(compression=7), "vmdk", "compression 7"),
    Hostile("vmdk-text-mode", lambda: vmdk(newlines=b"\n \n\n"), "vmdk", "text"),
    Hostile("vmdk-overhead", lambda: vmdk(overhead=1 << 60), "vmdk", "its metadata ends"),
    Hostile("vmdk-directory-outside", lambda: vmdk(directory=1 << 50), "vmdk", "grain directory ends"),
    Hostile("vmdk-redundant-outside", lambda: vmdk(flags=3, redundant=1 << 50), "vmdk", "redundant"),
    Hostile("vmdk-table-outside", lambda: vmdk(tables=(1 << 30,)), "vmdk", "grain table 0 ends"),
    Hostile("vmdk-grain-outside", lambda: vmdk(grains=(1 << 30,)), "vmdk", "last grain ends"),
    Hostile("vmdk-cut-in-grain", lambda: vmdk(length=GRAIN * 512 + 1000), "vmdk", "truncated"),
    Hostile("vmdk-header-only", lambda: vmdk(length=60), "vmdk", "truncated"),
    Hostile("vmdk-no-footer", lambda: stream_vmdk(footer=b""), "vmdk", "footer"),
    Hostile("vmdk-footer-differs", lambda: stream_vmdk(vmdk_footer(capacity=1 << 30)), "vmdk", "footer"),
    Hostile("vmdk-footer-again", lambda: stream_vmdk(vmdk_footer(directory=AT_END)), "vmdk", "footer"),
    Hostile(
        "vmdk-stream-cut", lambda: stream_vmdk(footer=b"", directory=GD, size=5000), "vmdk", "last grain ends"
    ),
]


if __name__ == "__main__":
    for case in CORPUS:
        (Path(sys.argv[1]) / case.name).write_bytes(case.make())
