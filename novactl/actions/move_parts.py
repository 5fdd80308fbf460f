"""Parts that moves to another host, resizes on one and reverts have in common."""

from collections.abc import Iterator
from dataclasses import dataclass

from novactl.actions import guest
from novactl.actions.acting import Seen
from novactl.actions.power import STOP_TIMEOUT
from novactl.actions.steps.copies import GrowDisk, MakeSwap, PowerOff
from novactl.actions.steps.domains import OFF
from novactl.actions.steps.files import CreateDisk
from novactl.actions.steps.moves import RecordMoved
from novactl.engine.step import Step
from novactl.objects.flavor import Flavor
from novactl.objects.image import GIB, MIB
from novactl.objects.instance import Instance
from novactl.objects.migration import Migration, MigrationStatus, Storage
from novactl.objects.names import ephemeral_base, swap_base
from novactl.objects.states import PowerState, VmState


@dataclass(frozen=True, kw_only=True)
class Way:
    """Where it goes, and how: what check() found. `sizes`: of each file, and what it takes of the disk."""

    seen: Seen
    flavor: Flavor
    host: str
    storage: Storage
    sizes: dict[str, tuple[int, int]]

    @property
    def runs(self) -> bool:
        return self.seen.power not in OFF


def power_off(instance: Instance, host: str, *, ran: bool) -> PowerOff:
    timeout = guest.shutdown_timeout(instance, STOP_TIMEOUT)
    return PowerOff(host=host, uuid=instance.uuid, timeout=timeout, ran=ran)


def disks(instance: Instance, moved: Instance, host: str, *, anew: bool) -> Iterator[Step]:
    """Its disks as large as the new flavor has them. `anew`: the directory is new, nothing is in the way."""
    uuid, old, new = instance.uuid, instance.flavor, moved.flavor
    if moved.root_gib > instance.root_gib:
        yield GrowDisk(host=host, uuid=uuid, file="disk", size_bytes=moved.root_gib * GIB)
    if new.ephemeral_gib != old.ephemeral_gib:
        base, size = ephemeral_base(new.ephemeral_gib), new.ephemeral_gib * GIB
        yield CreateDisk(host=host, uuid=uuid, file="disk.local", base=base, size_bytes=size)
    if anew and new.swap_mib:
        base, size = swap_base(new.swap_mib), new.swap_mib * MIB
        yield CreateDisk(host=host, uuid=uuid, file="disk.swap", base=base, size_bytes=size)
    if not anew and new.swap_mib != old.swap_mib:
        yield MakeSwap(
            host=host,
            uuid=uuid,
            base=swap_base(new.swap_mib) if new.swap_mib else None,
            size_bytes=new.swap_mib * MIB,
            was=swap_base(old.swap_mib) if old.swap_mib else None,
            was_bytes=old.swap_mib * MIB,
        )


def recorded(migration: Migration, target: str, source: str, found: Way, *, confirm: bool) -> RecordMoved:
    """It is there; with `confirm` as if it had been confirmed."""
    runs = found.runs
    plain = VmState.ACTIVE if runs else VmState.STOPPED
    return RecordMoved(
        host=target,
        uuid=migration.instance_uuid,
        migration=migration.id,
        source=source,
        vm_state=plain if confirm else VmState.RESIZED,
        power_state=PowerState.RUNNING if runs else PowerState.SHUTDOWN,
        status=MigrationStatus.CONFIRMED if confirm else MigrationStatus.FINISHED,
        kept=True,
    )
