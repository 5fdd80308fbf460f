"""A move of an instance to another host or flavor: what Nova calls a migration."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from novactl.objects.flavor import Flavor
from novactl.objects.host import Resources
from novactl.objects.states import VmState


class MigrationKind(StrEnum):
    """Nova's names (nova/objects/migration.py)."""

    RESIZE = "resize"
    COLD = "migration"
    LIVE = "live-migration"
    EVACUATION = "evacuation"


class MigrationStatus(StrEnum):
    """How far it is; Nova's names as far as we have the state."""

    MIGRATING = "migrating"
    FINISHED = "finished"  # VERIFY_RESIZE: it may be confirmed or reverted
    CONFIRMED = "confirmed"
    REVERTED = "reverted"
    COMPLETED = "completed"  # live migrations and evacuations: nothing to confirm
    FAILED = "error"


class Storage(StrEnum):
    """What becomes of the disks."""

    HERE = "here"  # the same host: they stay
    SHARED = "shared"  # both hosts see them
    COPIED = "copied"
    REBUILT = "rebuilt"  # made anew from the image: what was on them is lost


OPEN = frozenset({MigrationStatus.MIGRATING, MigrationStatus.FINISHED})


@dataclass(frozen=True, kw_only=True)
class Migration:
    """`was`: the instance's vm_state before. `reason`: what asked for it when no person did for this instance
    alone ("drain", "evacuate", "rebalance"). While it is open its hold on the second host has the role
    move-target (before the instance is there) or move-source (after)."""

    id: str
    instance_uuid: str
    kind: MigrationKind
    status: MigrationStatus = MigrationStatus.MIGRATING
    source: str
    target: str
    storage: Storage
    old_flavor: Flavor
    new_flavor: Flavor
    was: VmState
    reason: str | None = None
    operation: str
    created_at: str
    updated_at: str

    @property
    def here(self) -> bool:
        """Whether it stays on its host."""
        return self.source == self.target

    @property
    def reverted(self) -> Flavor:
        """Its flavor when the move is undone: where the disks stay, one that grew does not shrink."""
        return self.old_flavor if self.storage is Storage.COPIED else self.with_its_disk()

    def carried(self, numa: Mapping[str, Any] | None) -> dict[str, Any]:
        """What the domain on the new host remembers of a move that waits, besides its flavor and where it is.
        `numa`: the instance's cells on its old host."""
        flavor = self.old_flavor.as_dict()
        names = ("id", "kind", "source", "storage", "was", "reason", "operation", "created_at")
        return {**{name: getattr(self, name) for name in names}, "old_flavor": flavor, "numa": numa}

    def with_its_disk(self) -> Flavor:
        """The old flavor, with a root disk as large as the larger of both."""
        grown = max(self.old_flavor.disk_gib, self.new_flavor.disk_gib)
        return replace(self.old_flavor, disk_gib=grown)


def most(one: Resources, other: Resources) -> Resources:
    """The larger of each: what must be held while either may be needed."""
    return Resources(**{size: max(amount, vars(other)[size]) for size, amount in vars(one).items()})


def most_use(*flavors: Flavor) -> dict[str, int]:
    """What the largest of these flavors counts against the quota of a project."""
    return {
        "cores": max(one.vcpus for one in flavors),
        "memory_mib": max(one.memory_mib for one in flavors),
    }
