"""A host as placement looks at it: few words, quickly read for ten thousand of them."""

import json
from collections.abc import Mapping
from typing import Any

COLUMNS = (
    "name",
    "zone",
    "state",
    "enabled",
    "disabled_reason",
    "arch",
    "vcpus",
    "memory_mib",
    "disk_gib",
    "vcpus_used",
    "memory_mib_used",
    "disk_gib_used",
    "reserved_vcpus",
    "reserved_memory_mib",
    "reserved_disk_gib",
    "foreign_vcpus",
    "foreign_memory_mib",
    "foreign_disk_gib",
    "huge_memory_mib",
    "cpu_ratio",
    "memory_ratio",
    "disk_ratio",
    "failed_builds",
    "dedicated_cpus",
    "dedicated_vcpus",
    "labels",
    "facts",
)
"""Columns of the hosts table in the order of Candidate's arguments."""


class Candidate:
    """One host. What may be claimed is `*_limit`, what is claimed `*_used`: vcpus, MiB, GiB. Claims made in
    memory (take) change it, so a decision over many instances sees those before it."""

    __slots__ = (
        "_facts",
        "_facts_text",
        "_labels",
        "_labels_text",
        "aggregates",
        "arch",
        "busy",
        "cpu_ratio",
        "dedicated_cpus",
        "disabled_reason",
        "disk_limit",
        "disk_used",
        "enabled",
        "failed_builds",
        "instances",
        "memory_limit",
        "memory_ratio",
        "memory_used",
        "name",
        "numa_holds",
        "state",
        "vcpus_limit",
        "vcpus_used",
        "zone",
    )

    def __init__(
        self,
        name: str,
        zone: str,
        state: str,
        enabled: int,
        disabled_reason: str | None,
        arch: str | None,
        vcpus: int,
        memory_mib: int,
        disk_gib: int,
        vcpus_used: int,
        memory_mib_used: int,
        disk_gib_used: int,
        reserved_vcpus: int,
        reserved_memory_mib: int,
        reserved_disk_gib: int,
        foreign_vcpus: int,
        foreign_memory_mib: int,
        foreign_disk_gib: int,
        huge_memory_mib: int,
        cpu_ratio: float,
        memory_ratio: float,
        disk_ratio: float,
        failed_builds: int,
        dedicated_cpus: str | None,
        dedicated_vcpus: int,
        labels: str,
        facts: str,
    ) -> None:
        self.name = name
        self.zone = zone
        self.state = state
        self.enabled = enabled
        self.disabled_reason = disabled_reason
        self.arch = arch
        self.vcpus_limit = (vcpus - reserved_vcpus - foreign_vcpus - dedicated_vcpus) * cpu_ratio
        self.cpu_ratio = cpu_ratio
        self.memory_limit = (
            memory_mib - reserved_memory_mib - foreign_memory_mib - huge_memory_mib
        ) * memory_ratio
        self.memory_ratio = memory_ratio
        self.disk_limit = (disk_gib - reserved_disk_gib - foreign_disk_gib) * disk_ratio
        self.vcpus_used = vcpus_used
        self.memory_used = memory_mib_used
        self.disk_used = disk_gib_used
        self.failed_builds = failed_builds
        self.dedicated_cpus = dedicated_cpus
        self._labels_text = labels
        self._labels: dict[str, str] | None = None
        self._facts_text = facts
        self._facts: dict[str, Any] | None = None
        self.instances = 0
        self.busy = 0  # operations that work on it now
        self.aggregates: Mapping[str, Mapping[str, str]] = {}  # the metadata of those it is in, by name
        self.numa_holds: tuple[Mapping[str, Any], ...] = ()

    @property
    def labels(self) -> dict[str, str]:
        if self._labels is None:
            self._labels = json.loads(self._labels_text)
        return self._labels

    @property
    def facts(self) -> dict[str, Any]:
        if self._facts is None:
            self._facts = json.loads(self._facts_text)
        return self._facts

    def free(self) -> dict[str, int]:
        """What may still be claimed; below 0 it is overcommitted."""
        return {
            "vcpus": int(self.vcpus_limit - self.vcpus_used),
            "memory_mib": int(self.memory_limit - self.memory_used),
            "disk_gib": int(self.disk_limit - self.disk_used),
        }

    def take(self, vcpus: int, memory_mib: int, disk_gib: int) -> None:
        """Count a claim that is made in memory."""
        self.vcpus_used += vcpus
        self.memory_used += memory_mib
        self.disk_used += disk_gib
        self.instances += 1
        self.busy += 1

    def give_back(self, vcpus: int, memory_mib: int, disk_gib: int) -> None:
        """The opposite of take()."""
        self.vcpus_used -= vcpus
        self.memory_used -= memory_mib
        self.disk_used -= disk_gib
        self.instances -= 1
        self.busy -= 1
