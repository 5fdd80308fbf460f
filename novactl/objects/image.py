"""What an instance's root disk is made from."""

from dataclasses import dataclass, field
from typing import Any

FORMATS = ("raw", "qcow2", "vmdk", "iso")
"""What a file of an image can be."""
GIB = 1 << 30
MIB = 1 << 20
MARGIN = 64 * MIB  # what stays free where disks and images are: a guest whose disk is full stands still

CONVERTED = ("qcow2", "vmdk")
"""Of these hosts make a RAW base file; of all else it is the file itself."""


def base_format(disk_format: str) -> str:
    """What a host makes a base file of such a file as: an ISO, a kernel or an initrd is as it is."""
    return disk_format if disk_format in CONVERTED else "raw"


@dataclass(frozen=True, kw_only=True)
class Image:
    """One image of the catalogue. `sha256` is of the source file as it was added; the format was
    read once from its header, is pinned here, and is never probed again. `disks` are those beside the root
    disk that a snapshot has, by their file: sha256, size_bytes, virtual_size_bytes, disk_format. One that
    is `saving` has no file yet. `raw_sums`: what the RAW file that was first made of a source hashes to
    (docs/design/0017), by the SHA-256 of the source; of one that no host has converted yet there is none."""

    id: str
    name: str
    status: str = "active"
    sha256: str
    disk_format: str
    size_bytes: int
    virtual_size_bytes: int
    min_disk_gib: int = 0
    min_memory_mib: int = 0
    properties: dict[str, str] = field(default_factory=dict)
    locations: tuple[str, ...] = ()
    kernel_sha256: str | None = None
    kernel_size_bytes: int = 0
    initrd_sha256: str | None = None
    initrd_size_bytes: int = 0
    cmdline: str | None = None
    disks: dict[str, dict[str, Any]] = field(default_factory=dict)
    raw_sums: dict[str, str] = field(default_factory=dict, compare=False)
    created_at: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "locations": list(self.locations)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Image":
        return cls(**{**data, "locations": tuple(data["locations"])})

    @property
    def sums(self) -> set[str]:
        """SHA-256 of every file of the store that it is made of."""
        parts = (self.sha256, self.kernel_sha256, self.initrd_sha256)
        return {sum_ for sum_ in parts if sum_} | {disk["sha256"] for disk in self.disks.values()}

    @property
    def base_formats(self) -> dict[str, str]:
        """What hosts make a base file of each file as: qcow2, vmdk, or raw, which is as it is."""
        blobs = {sha256: "raw" for sha256 in (self.kernel_sha256, self.initrd_sha256) if sha256}
        disks = {disk["sha256"]: base_format(disk["disk_format"]) for disk in self.disks.values()}
        return {**blobs, **disks, self.sha256: base_format(self.disk_format)}

    @property
    def needs_gib(self) -> int:
        """The smallest disk in GiB that holds it."""
        return max(self.min_disk_gib, -(-self.virtual_size_bytes // GIB))

    def kept_of(self, uuid: str) -> bool:
        """Whether it is what `shelve` keeps of this instance."""
        return self.properties.get("image_type") == "shelved" and self.properties.get("instance_uuid") == uuid
