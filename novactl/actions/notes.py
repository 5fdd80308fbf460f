"""What disks note of what changed since a backup that is no more."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from novactl.actions import acting
from novactl.actions.acting import Seen, plan_of, still
from novactl.actions.steps.backups import ForgetNote
from novactl.actions.world import World
from novactl.db import backups, instances
from novactl.db.session import Tx
from novactl.engine.operation import Plan
from novactl.objects.instance import Instance
from novactl.virt.domain import devices_of


def unneeded(tx: Tx, instance: Instance, names: Iterable[str], files: Iterable[str]) -> list[dict[str, Any]]:
    """Those of the checkpoints that a host found in these disks which no backup will be a difference to, as
    they stand in steps: of each type its newest one's is needed."""
    needed = {one.type: one.checkpoint for one in backups.of_instance(tx, instance.uuid) if one.checkpoint}
    devices = devices_of(instance)
    gone = sorted(set(names) - set(needed.values()))
    there = [devices[file] for file in files if file in devices]
    return [{"name": name, "seconds": 1, "devices": there} for name in gone]


@dataclass(frozen=True, kw_only=True)
class ForgetNotes:
    """The disks of an instance note nothing that no backup needs: an action (actions.operate)."""

    name: str
    project: str
    files: tuple[str, ...]
    kind: str = field(default="backup-delete", init=False)

    @property
    def target(self) -> str:
        return self.name

    def check(self, world: World) -> tuple[Seen, list[str]]:
        seen = acting.check(world, "backup", acting.look(world, self.name, self.project))
        host = world.hypervisor(str(seen.instance.host))
        return seen, host.checkpoints(seen.instance.uuid, self.files)

    def plan(self, world: World, tx: Tx, op_id: str, found: tuple[Seen, list[str]]) -> Plan | None:
        instance = still(tx, found[0].instance)
        gone = unneeded(tx, instance, found[1], self.files)
        if not gone:
            return None
        epoch = instances.raise_epoch(tx, instance.uuid)
        steps = [ForgetNote(host=instance.host, uuid=instance.uuid, checkpoint=one) for one in gone]
        return plan_of(self.kind, instance, steps, epoch, status=instance.status)
