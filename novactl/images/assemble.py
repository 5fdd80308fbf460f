"""One disk out of a whole copy and the differences to it, by a limited qemu-img."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from novactl.errors import NovactlError, Refused
from novactl.images.blocks import need_room

MEMORY = 4 << 30  # bytes
CPU = 1800  # seconds
OVERHEAD = 16 << 20  # bytes
LONGEST = 3600  # seconds


def assemble(parts: Sequence[Path], out: Path, disk_format: str, size: int) -> None:
    """`out` is the disk of `size` bytes that the last of these qcow2 files ends, over the one before it, and
    so on. The chain and its formats are stated here; what the files themselves say of a backing file does not
    count, nor is `out` larger than such a disk can be. Refused without room for it: some KiB can hold a whole
    disk of data."""
    most = size + size // 256 + OVERHEAD  # a raw file is that long, a qcow2 file has its tables besides
    chain = f"json:{json.dumps(_node(parts))}"
    # of qcow2, as it counts no holes, which a raw file has as well
    measured = json.loads(_qemu_img(out, most, "measure", "--output=json", "-O", "qcow2", chain))
    _need_room(out, min(int(measured["required"]), most))
    _qemu_img(out, most, "convert", "-q", "-O", disk_format, chain, str(out))


def _need_room(out: Path, size: int) -> None:
    """Raises Refused."""
    fd = os.open(out.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        need_room(fd, size, out.name, out.parent)
    finally:
        os.close(fd)


def _qemu_img(out: Path, most: int, *words: str) -> str:
    """What it says; nothing is left of `out` when it fails."""
    tool = shutil.which("qemu-img")
    if tool is None:
        raise Refused("qemu-img is not here", hint="install qemu-utils on this machine")
    limits = ["prlimit", f"--as={MEMORY}", f"--cpu={CPU}", f"--fsize={most}"]
    try:
        ended = subprocess.run(
            [*limits, tool, *words], capture_output=True, text=True, check=False, timeout=LONGEST
        )
    except subprocess.TimeoutExpired as error:
        out.unlink(missing_ok=True)
        raise NovactlError(f"{out}: qemu-img did not end within {LONGEST} s") from error
    if ended.returncode:
        out.unlink(missing_ok=True)
        said = ended.stderr.strip() or f"qemu-img ended with {ended.returncode}"
        full = "No space left" in said
        raise NovactlError(f"{out}: {said}", hint="free some space there" if full else "")
    return ended.stdout


def _node(parts: Sequence[Path]) -> dict[str, Any]:
    """QEMU's description of the last one."""
    file = {"driver": "file", "filename": str(parts[-1].absolute())}
    below = _node(parts[:-1]) if parts[:-1] else None
    return {"driver": "qcow2", "file": file, "backing": below}
