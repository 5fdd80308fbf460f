"""A hypervisor as the database knows it."""

from dataclasses import dataclass, field
from typing import Any

MOST_RESERVED = 64 << 20
"""MiB, GiB or vcpus that are kept for a host itself."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """One host. Sizes in MiB and GiB; `*_used` is what our instances have claimed, `foreign_*` what
    guests that are not ours take; `huge_memory_mib` is set aside as huge pages, `dedicated_cpus` (so
    many are `dedicated_vcpus`) for pinned guests; `failed_builds`: boots that failed there in a row."""

    id: str
    name: str
    address: str
    port: int = 22
    user: str = "root"
    jump: str | None = None
    host_keys: tuple[str, ...] = ()
    instances_path: str
    virt_type: str
    zone: str = "nova"
    labels: dict[str, str] = field(default_factory=dict)
    state: str = "up"
    enabled: bool = True
    disabled_reason: str | None = None
    vcpus: int
    memory_mib: int
    disk_gib: int
    vcpus_used: int = 0
    memory_mib_used: int = 0
    disk_gib_used: int = 0
    reserved_vcpus: int = 0
    reserved_memory_mib: int = 512
    reserved_disk_gib: int = 0
    foreign_vcpus: int = 0
    foreign_memory_mib: int = 0
    foreign_disk_gib: int = 0
    cpu_ratio: float = 4.0
    memory_ratio: float = 1.0
    disk_ratio: float = 1.0
    facts: dict[str, Any] = field(default_factory=dict)
    arch: str | None = None
    huge_memory_mib: int = 0
    dedicated_cpus: str | None = None
    dedicated_vcpus: int = 0
    failed_builds: int = 0
    instances: int = 0
    checked_at: str | None = None
    version: int = 0

    def capacity(self) -> dict[str, float]:
        """What may be claimed in all: (total - reserved - foreign - set aside) x ratio (docs/design.md)."""
        return {
            "vcpus": max(0, self.vcpus - self.reserved_vcpus - self.foreign_vcpus - self.dedicated_vcpus)
            * self.cpu_ratio,
            "memory_mib": max(
                0, self.memory_mib - self.reserved_memory_mib - self.foreign_memory_mib - self.huge_memory_mib
            )
            * self.memory_ratio,
            "disk_gib": max(0, self.disk_gib - self.reserved_disk_gib - self.foreign_disk_gib)
            * self.disk_ratio,
        }

    def used(self) -> dict[str, int]:
        return {
            "vcpus": self.vcpus_used,
            "memory_mib": self.memory_mib_used,
            "disk_gib": self.disk_gib_used,
        }


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What an instance takes of a host."""

    vcpus: int
    memory_mib: int
    disk_gib: int
