"""Files that an operation makes of an instance, on its host (remote/snapshot.sh)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from novactl.objects.states import PowerState
from novactl.virt.calls import Calls, Take, check_uuid, job_words

Freeze = Literal["must", "may", "not"]

_RUNS = {PowerState.RUNNING: "running", PowerState.PAUSED: "paused"}


@dataclass(frozen=True)
class DiskToCopy:
    """A disk: the size that its guest sees, what it takes on its host, and what its base file takes."""

    virtual_bytes: int
    own_bytes: int
    base_bytes: int

    @property
    def whole_bytes(self) -> int:
        """What all of it may take by itself."""
        return min(self.virtual_bytes, self.own_bytes + self.base_bytes)


@dataclass
class SnapshotLook:
    """A host before a snapshot. `silent`: why the guest's agent does not answer, "" when it does, None when
    it was not asked; `sources`: the files that the guest has open as disks, by libvirt."""

    room_bytes: int = 0
    silent: str | None = None
    sources: list[str] = field(default_factory=list)
    disks: dict[str, DiskToCopy] = field(default_factory=dict)


class Snapshots(Calls):
    """What a host does for snapshots. Its files are `<operation>.<file>`, in the instance's directory."""

    def snapshot_look(self, uuid: str, power: PowerState, files: Sequence[str]) -> SnapshotLook:
        """What there is to copy, and what it will take."""
        words = ("nv_snapshot_look", self.directory(uuid), uuid, _RUNS.get(power, "off"), *files)
        seen, bases = SnapshotLook(), {}
        for line in self._ours(*words).splitlines():
            key, _, value = line.partition(" ")
            match key:
                case "room":
                    seen.room_bytes = int(value)
                case "silent":
                    seen.silent = value.strip()
                case "source":
                    seen.sources.append(value)
                case "base":
                    file, _, size = value.partition(" ")
                    bases[file] = int(size)
                case "disk":
                    file, _, said = value.partition(" ")
                    disk = json.loads(said)
                    seen.disks[file] = DiskToCopy(disk["virtual-size"], disk["actual-size"], bases[file])
        return seen

    def copy_live_words(
        self, uuid: str, epoch: int, op: str, freeze: Freeze, files: Sequence[str]
    ) -> list[str]:
        """A job: each file has a copy of one moment, `<op>.<file>.delta`. It says "copied MS" (its file
        systems were frozen for so long), "copied - WHY" (they were not), or "cannot WHY"."""
        words = ["nv_copy_live", self.directory(uuid), uuid, job_words(op, 0)[0], freeze, *files]
        return ["nv_fenced", check_uuid(uuid), str(epoch), *words]

    def extract_words(
        self, uuid: str, epoch: int, op: str, file: str, source: str, format_: str, *, compressed: bool
    ) -> list[str]:
        """A job: `<op>.<file>` is all of the disk that `source` is an overlay of; a copy is gone then."""
        made = (job_words(op, 0)[0], file, source, format_, "yes" if compressed else "no")
        return ["nv_fenced", check_uuid(uuid), str(epoch), "nv_extract", self.directory(uuid), *made]

    def drop_files(self, uuid: str, epoch: int, op: str) -> None:
        """Nothing is left of what the operation made there, nor does QEMU write to it."""
        self._fenced(uuid, epoch, "nv_drop_files", self.directory(uuid), uuid, job_words(op, 0)[0])

    def file_sum_words(self, uuid: str, file: str) -> list[str]:
        """A job that says the SHA-256 and the length of a file in the instance's directory."""
        return ["nv_file_sum", self.directory(uuid), file]

    def file_send(self, uuid: str, file: str, start: int, take: Take) -> None:
        """What the file holds from `start` on; `take` receives it (images.transfer.take)."""
        words = ("nv_file_send", self.directory(uuid), file, str(start))
        self.shell.fetch("nv_ours", self.fleet, self.mark, *words, take=take)
