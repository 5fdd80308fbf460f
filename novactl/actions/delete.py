"""delete: marks first, frees capacity last."""

from dataclasses import dataclass

from novactl.actions.power import instance_locks, still
from novactl.actions.steps.domains import RemoveDomain
from novactl.actions.steps.files import RemoveFiles
from novactl.actions.steps.records import MarkDeleting, RecordDeleted
from novactl.actions.world import World
from novactl.db import instances
from novactl.db.session import Tx
from novactl.engine.operation import Plan
from novactl.engine.step import Step
from novactl.errors import NotFound, Refused
from novactl.objects.instance import Instance
from novactl.objects.states import check_allowed


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
        """The instance, when its host answers: nothing may be forgotten that may still run."""
        try:
            with world.db.read() as tx:
                instance = instances.find(tx, self.name, self.project)
        except NotFound:
            if self.if_exists:
                return None
            raise
        if instance.locked:
            raise Refused(f"{instance.name}: is locked")
        check_allowed("delete", instance.name, instance.vm_state)
        if instance.host is not None:
            world.hypervisor(instance.host).power_state(instance.uuid)
        return instance

    def plan(self, world: World, tx: Tx, op_id: str, seen: Instance | None) -> Plan | None:
        if seen is None:
            return None
        instance = still(tx, seen)
        uuid, host = instance.uuid, instance.host
        on_host: tuple[Step, ...] = ()
        if host is not None:
            on_host = (RemoveDomain(host=host, uuid=uuid), RemoveFiles(host=host, uuid=uuid))
        return Plan(
            kind=self.kind,
            target=instance.name,
            target_uuid=uuid,
            project=instance.project,
            request={},
            locks=instance_locks(instance),
            attempt=(MarkDeleting(uuid=uuid), *on_host, RecordDeleted(uuid=uuid)),
            epoch=instances.raise_epoch(tx, uuid),
            host=host,
            changes={"status": [instance.status, "DELETED"]},
        )
