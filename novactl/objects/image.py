"""What an instance's root disk is made from."""

from dataclasses import dataclass, field
from typing import Any

GIB = 1 << 30
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Image:
    """One image of the catalogue. `sha256` is of the source file as it was added; the format was
    read once from its header, is pinned here, and is never probed again."""

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
    created_at: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "locations": list(self.locations)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Image":
        return cls(**{**data, "locations": tuple(data["locations"])})

    @property
    def needs_gib(self) -> int:
        """The smallest disk in GiB that holds it."""
        return max(self.min_disk_gib, -(-self.virtual_size_bytes // GIB))
