"""NUMA: what a guest asks for, what a host has, and what of it became the guest's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LARGE = 0
"""As a page size: the largest huge pages that there are enough of."""


@dataclass(frozen=True, kw_only=True)
class NumaRequest:
    """A guest of `nodes` NUMA nodes alike. Each has so many vcpus and MiB, on a cell of the host of its own;
    `dedicated`: each vcpu on a processor that no other guest has. `page_kib`: None for ordinary memory,
    LARGE, or the size of huge pages."""

    nodes: int
    vcpus: int
    memory_mib: int
    dedicated: bool = False
    page_kib: int | None = None

    @property
    def huge(self) -> bool:
        """Its memory comes from huge pages, not from the host's ordinary memory."""
        return self.page_kib is not None


@dataclass(frozen=True, kw_only=True)
class HostCell:
    """A NUMA cell of a host. `cores`: the processors of each core (several with threads); `pages`: how many
    huge pages there are of each size in KiB."""

    id: int
    cores: tuple[tuple[int, ...], ...]
    memory_mib: int
    pages: Mapping[int, int] = field(default_factory=dict)

    @property
    def cpus(self) -> frozenset[int]:
        return frozenset(cpu for core in self.cores for cpu in core)

    @property
    def huge_mib(self) -> int:
        return sum(size * count for size, count in self.pages.items()) // 1024

    def as_dict(self) -> dict[str, Any]:
        """As it stands in a host's facts: short, since every host has some and all of them are copied."""
        return {
            "id": self.id,
            "cores": " ".join(",".join(map(str, core)) for core in self.cores),
            "memory_mib": self.memory_mib,
            "pages": {str(size): count for size, count in self.pages.items()},
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "HostCell":
        return cls(
            id=int(found["id"]),
            cores=tuple(tuple(int(cpu) for cpu in core.split(",")) for core in found["cores"].split()),
            memory_mib=int(found["memory_mib"]),
            pages={int(size): int(count) for size, count in found["pages"].items()},
        )


def topology_of(facts: Mapping[str, Any]) -> tuple[HostCell, ...]:
    """A host's cells by its facts; none when it was not looked at since novactl knows of them."""
    return tuple(HostCell.from_dict(cell) for cell in facts.get("topology", ()))


@dataclass(frozen=True, kw_only=True)
class FitCell:
    """A guest's node on a cell of its host. `cpus`: {vcpu: the host's processor}, empty for vcpus that share;
    `page_kib` 0: ordinary memory."""

    cell: int
    vcpus: tuple[int, ...]
    cpus: Mapping[int, int]
    memory_mib: int
    page_kib: int


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Where a guest's nodes are on its host, in the guest's order. A hold keeps it (holds.numa)."""

    cells: tuple[FitCell, ...]

    @property
    def pinned(self) -> frozenset[int]:
        """The host's processors that are this guest's alone."""
        return frozenset(cpu for cell in self.cells for cpu in cell.cpus.values())

    def as_dict(self) -> dict[str, Any]:
        return {
            "cells": [
                {
                    "cell": cell.cell,
                    "vcpus": list(cell.vcpus),
                    "cpus": {str(vcpu): cpu for vcpu, cpu in cell.cpus.items()},
                    "memory_mib": cell.memory_mib,
                    "page_kib": cell.page_kib,
                }
                for cell in self.cells
            ]
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "Fit":
        """Raises KeyError, TypeError, ValueError or AttributeError for what as_dict() never made."""
        fit = cls(
            cells=tuple(
                FitCell(
                    cell=_number(one["cell"]),
                    vcpus=tuple(_number(vcpu) for vcpu in one["vcpus"]),
                    cpus={int(vcpu): _number(cpu) for vcpu, cpu in one["cpus"].items()},
                    memory_mib=_number(one["memory_mib"]),
                    page_kib=_number(one["page_kib"]),
                )
                for one in found["cells"]
            )
        )
        if not fit.cells or any(cell.cpus and set(cell.cpus) != set(cell.vcpus) for cell in fit.cells):
            raise ValueError("its pinning makes no sense")
        return fit


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 31:
        raise ValueError(f"{value!r} is no number of a host's")
    return value


def shared_cpus(topology: Sequence[HostCell], dedicated: frozenset[int]) -> dict[int, tuple[int, ...]]:
    """Of each cell the processors that guests share."""
    return {cell.id: tuple(sorted(cell.cpus - dedicated)) for cell in topology}
