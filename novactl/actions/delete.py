"""delete: marks first, frees capacity last."""

from dataclasses import dataclass

from novactl.actions import restored
from novactl.actions.acting import instance_locks, still, sweep_steps
from novactl.actions.steps.domains import RemoveDomain
from novactl.actions.steps.files import RemoveFiles
from novactl.actions.steps.records import MarkDeleting, RecordDeleted
from novactl.actions.steps.shelving import dropped
from novactl.actions.world import World
from novactl.db import hosts, instances
from novactl.db.session import Tx
from novactl.engine.operation import Plan
from novactl.engine.step import Step
from novactl.errors import NotFound
from novactl.objects.instance import Instance
from novactl.objects.states import check_allowed, check_unlocked


@dataclass(frozen=True, kw_only=True)
class Delete:
    """Remove an instance and all that is its."""

    name: str
    project: str
    if_exists: bool = False
    kind: str = "delete"

    @property
    def target(self) -> str:
        return self.name

    def check(self, world: World) -> Instance | None:
        """The instance, when its hosts answer: nothing may be forgotten that may still run."""
        try:
            instance = world.db.read(lambda tx: instances.find(tx, self.name, self.project))
        except NotFound:
            if self.if_exists:
                return None
            raise
        check_unlocked("delete", instance.name, instance.locked)
        check_allowed("delete", instance.name, instance.vm_state)
        if instance.host is None:
            restored.check_record(world, instance)
        for host in world.db.read(lambda tx: _hosts(tx, instance)):
            greeting = world.hypervisor(host).greet(instance.uuid)
            restored.check_mark(world, host, greeting.mark)
            restored.check_epoch(world, instance, greeting)
        return instance

    def plan(self, world: World, tx: Tx, op_id: str, seen: Instance | None) -> Plan | None:
        if seen is None:
            return None
        instance = still(tx, seen)
        uuid = instance.uuid
        on_hosts: list[Step] = []
        for host in _hosts(tx, instance):
            on_hosts += [RemoveDomain(host=host, uuid=uuid), RemoveFiles(host=host, uuid=uuid)]
        return Plan(
            kind=self.kind,
            target=instance.name,
            target_uuid=uuid,
            project=instance.project,
            request={},
            locks=instance_locks(instance),
            attempt=(
                MarkDeleting(uuid=uuid),
                *on_hosts,
                RecordDeleted(uuid=uuid),
                *dropped(instance),
                *sweep_steps(tx, instance),
            ),
            epoch=instances.raise_epoch(tx, uuid),
            host=instance.host,
            changes={"status": [instance.status, "DELETED"]},
        )


def _hosts(tx: Tx, instance: Instance) -> list[str]:
    """Where something of it may be: its host, and those that an operation left half way claimed."""
    claimed = {str(hold["host"]) for hold in hosts.holds_of(tx, instance.uuid)}
    return sorted(claimed | ({instance.host} if instance.host else set()))
