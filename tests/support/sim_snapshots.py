"""Snapshots on a simulated host, as remote/snapshot.sh makes them."""

import hashlib
from collections.abc import Sequence
from typing import Any

from novactl.errors import HostUnreachable
from novactl.images.transfer import header
from novactl.objects.image import MIB
from novactl.objects.states import PowerState
from novactl.virt.calls import Take
from novactl.virt.snapshots import DiskToCopy, SnapshotLook, Snapshots
from tests.unit.hostile_images import qcow2

COPY_TAKES = 2.0  # seconds that copies of disks take
EXTRACT_TAKES = 2.0  # seconds that a file takes that is made of one
OFF = frozenset({PowerState.SHUTDOWN, PowerState.CRASHED})


def content_of(disk: Any, format_: str) -> bytes:
    """A file made of a disk, other bytes for each."""
    what = repr(disk).encode()
    return qcow2(patches=((20480, what),)) if format_ == "qcow2" else what.ljust(MIB, b"\0")


def file_sum(host: Any, directory: str, file: str) -> tuple[int, str]:
    content = host.files_of(directory.rpartition("/")[2]).get(file)
    if content is None:
        return 1, f"cannot read {file}"
    return 0, f"{hashlib.sha256(content).hexdigest()} {len(content)}\n"


def snapshot_work(host: Any, uuid: str, words: Sequence[str]) -> tuple[int, str]:
    """What a job does, its exit status and log."""
    files, domain = host.files_of(uuid), host.domains.get(uuid)
    if words[0] == "nv_extract":
        return _extract(files, domain, *words[2:])
    op, freeze = words[3], words[4]
    if f"{op}.copied" in files:
        return 0, files[f"{op}.copied"].decode()
    if domain is None or domain.state in OFF:
        return 1, "error: Requested operation is not valid: domain is not running"
    if domain.refuses_copies:
        return (1, "refused") if freeze == "must" else (0, "cannot Operation not supported\n")
    if freeze == "must" and not domain.agent:
        return 1, "the guest's file systems were not frozen: it does not answer"
    for file in words[5:]:
        files[f"{op}.{file}.delta"] = files[file]
    files[f"{op}.copied"] = b"copied 12 \n" if freeze != "not" and domain.agent else b"copied - \n"
    return 0, files[f"{op}.copied"].decode()


def _extract(
    files: dict[str, Any], domain: Any, op: str, file: str, source: str, format_: str, compressed: str
) -> tuple[int, str]:
    made = f"{op}.{file}"
    if made not in files:
        if source not in files:
            return 1, f"qemu-img cannot convert {source}"
        if source == file and domain is not None and domain.state not in OFF:
            return 1, 'Failed to get shared "write" lock'
        files[made] = content_of(files[source], format_)
    files.pop(f"{made}.delta", None)
    return 0, ""


class SimSnapshots:
    """virt.snapshots.Snapshots of a SimHypervisor."""

    copy_live_words = Snapshots.copy_live_words
    extract_words = Snapshots.extract_words
    file_sum_words = Snapshots.file_sum_words

    def snapshot_look(self: Any, uuid: str, power: PowerState, files: Sequence[str]) -> SnapshotLook:
        with self._call("snapshot_look"):
            self._ours()
            there, domain = self._files(uuid), self.host.domains.get(uuid)
            look = SnapshotLook(self.host.free)
            if power is PowerState.RUNNING:
                look.silent = "" if domain.agent else "it is not connected"
            if power not in OFF:
                look.sources = [f"{self.directory(uuid)}/{file}" for file in there]
            look.disks = {file: DiskToCopy(MIB, MIB // 2, MIB // 2) for file in files if file in there}
            return look

    def drop_files(self: Any, uuid: str, epoch: int, op: str) -> None:
        with self._fenced("drop_files", uuid, epoch):
            files = self.host.files_of(uuid)
            for file in [file for file in files if file.startswith(f"{op}.")]:
                del files[file]
                self._half("drop_files")

    def file_send(self: Any, uuid: str, file: str, start: int, take: Take) -> None:
        with self._call("file_send"):
            self._ours()
            content = self._files(uuid).get(file)
            if content is None:
                self._die(1, f"cannot read {file}")
            middle = max(start, len(content) // 2)
            pieces = [(start, content[start:middle]), (middle, content[middle:])]
            sent = [header(at, len(piece)) + piece for at, piece in pieces if piece]
            size = f"{len(content)}".encode().ljust(63) + b"\n"
            take(_Sender(self, [size, *sent, header(len(content), 0)]).read)


class _Sender:
    """The other end of images.transfer.take: nv_file_send. The process can die, or the link be cut, before
    the last piece."""

    def __init__(self, hypervisor: Any, pieces: list[bytes]) -> None:
        self.hypervisor = hypervisor
        self._pieces = pieces
        self._rest = b""

    def read(self, count: int) -> bytes:
        while len(self._rest) < count and self._pieces:
            if len(self._pieces) == 2:  # the last piece and the end
                self.hypervisor._half("file_send")
                if self.hypervisor._due("file_send", "cut"):
                    raise HostUnreachable(f"{self.hypervisor.name}: the connection was cut")
            self._rest += self._pieces.pop(0)
        data, self._rest = self._rest[:count], self._rest[count:]
        return data
