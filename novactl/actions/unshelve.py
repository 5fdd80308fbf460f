"""unshelve: a shelved instance runs again, where it is or on a host that is chosen for it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from novactl.actions import acting, guest, placement, restored, wishes
from novactl.actions.acting import Seen, still
from novactl.actions.boot import APPLIED, ATTEMPTS
from novactl.actions.rescue import swapped
from novactl.actions.steps.domains import DefineGiven, StartDomain
from novactl.actions.steps.files import MakeDirectory
from novactl.actions.steps.records import ClaimHost, SetTask
from novactl.actions.steps.shelving import NoteUnshelving, RecordUnshelved, dropped
from novactl.actions.world import World
from novactl.db import hosts, instances
from novactl.db.session import Tx
from novactl.engine.operation import Attempt, Lock, Mode, Operation, Plan
from novactl.engine.step import Step
from novactl.errors import NoValidHost, Refused
from novactl.objects.image import Image
from novactl.objects.instance import Instance
from novactl.objects.request import Wishes
from novactl.objects.states import PowerState, TaskState, VmState
from novactl.virt.domain import Marks

NOT_NEW = frozenset({""})  # no host's name: it has its place in its group, and others may name it


@dataclass(frozen=True, kw_only=True)
class Unshelve:
    """The guest runs. `host` and `zone` are for one that is on no host: where it goes; the zone stays."""

    name: str
    project: str
    host: str | None = None
    zone: str | None = None
    kind: str = "unshelve"

    @property
    def target(self) -> str:
        return self.name

    def check(self, world: World) -> Seen:
        instance = world.db.read(lambda tx: instances.find(tx, self.name, self.project))
        if instance.host is None:
            seen = acting.check(world, self.kind, Seen(instance, PowerState.NOSTATE))
            if not restored.check_record(world, instance):
                raise Refused(
                    f"{instance.name}: its record is not in this store: another database has unshelved it",
                    hint="if this one was restored from a copy: novactl audit --adopt",
                )
            return seen
        seen = acting.check(world, self.kind, acting.look(world, self.name, self.project))
        if self.host is not None or self.zone is not None:
            raise Refused(
                f"{instance.name}: is on {instance.host}, and --host and --zone choose another",
                hint=f"novactl shelve {instance.name} --offload, to free it from its host",
            )
        acting.check_disks(world, instance)
        return seen

    def plan(self, world: World, tx: Tx, op_id: str, seen: Seen) -> Plan:
        shelved = still(tx, seen.instance)
        if shelved.host is not None:
            return self._started(world, tx, op_id, shelved)
        return self._spawned(world, tx, op_id, shelved)

    def _started(self, world: World, tx: Tx, op_id: str, shelved: Instance) -> Plan:
        """Where its disks are."""
        instance, uuid = replace(shelved, shelved_image=None), shelved.uuid
        epoch = instances.raise_epoch(tx, uuid)
        steps = (
            SetTask(uuid=uuid, task=TaskState.UNSHELVING),
            *guest.prepared_steps(tx, instance),
            *swapped(world, tx, op_id, instance, shelved, epoch),
            RecordUnshelved(uuid=uuid, image=None, placement=None),
            *dropped(shelved),
        )
        made = acting.plan_of(self.kind, shelved, steps, epoch, status="ACTIVE", host=None, zone=None)
        return replace(made, locks=made.locks | _image_lock(shelved))

    def _spawned(self, world: World, tx: Tx, op_id: str, shelved: Instance) -> Plan:
        """On a host that is claimed now, from the image that is kept of it."""
        uuid, request = shelved.uuid, {"host": self.host, "zone": self.zone}
        epoch = instances.raise_epoch(tx, uuid)
        wanted = wished(tx, shelved, self.zone)
        claimed = placement.claim(tx, wanted, host=self.host, tried=NOT_NEW)
        instances.update(tx, uuid, host=claimed.host)
        moved = replace(wanted, host=claimed.host, numa=claimed.numa, epoch=epoch)
        return Plan(
            kind=self.kind,
            target=shelved.name,
            target_uuid=uuid,
            project=shelved.project,
            request=request,
            locks=acting.instance_locks(moved) | _image_lock(shelved),
            common=(SetTask(uuid=uuid, task=TaskState.UNSHELVING), NoteUnshelving(uuid=uuid)),
            attempt=tuple(_steps(world, tx, op_id, shelved, moved)),
            applied=APPLIED,
            epoch=epoch,
            host=claimed.host,
            alternates=tuple(claimed.alternates),
            changes={"status": [shelved.status, "ACTIVE"], "host": [None, claimed.host]},
        )


def wished(tx: Tx, shelved: Instance, zone: str | None) -> Instance:
    """As it will be but for its host: its disks are made from what is kept of it, under the name of the image
    that it was booted from. Raises Refused for a zone without hosts."""
    kept, placed = shelved.shelved_image, shelved.placement
    assert kept is not None
    if zone is not None:
        wishes.resolve(tx, Wishes(zone=zone), shelved.project)
        placed = replace(placed, zone=zone)
    image = kept if shelved.image is None else _made_from(shelved.image, kept)
    return replace(shelved, image=image, shelved_image=None, placement=placed)


def _made_from(image: Image, kept: Image) -> Image:
    bytes_of = ("sha256", "disk_format", "size_bytes", "virtual_size_bytes", "locations", "disks")
    return replace(image, **{name: getattr(kept, name) for name in bytes_of})


def _steps(world: World, tx: Tx, op_id: str, shelved: Instance, moved: Instance) -> Iterator[Step]:
    """One attempt on one host."""
    uuid, host = moved.uuid, hosts.get(tx, str(moved.host))
    yield ClaimHost(host=host.name, uuid=uuid, **vars(moved.resources))
    yield guest.check_step(moved, host, bridged=False)
    yield from guest.bridge_steps(tx, moved, host)
    yield from guest.base_steps(moved, host.name)
    yield MakeDirectory(host=host.name, uuid=uuid)
    yield from guest.disk_steps(moved, host.name)
    yield guest.config_drive_step(moved, host)
    marks = Marks(fleet=world.fleet, operation=op_id, epoch=moved.epoch, generation=moved.version + 1)
    xml = guest.domain_xml(moved, host, marks, world.template("domain.xml"))
    yield DefineGiven(host=host.name, uuid=uuid, xml=xml)
    yield StartDomain(host=host.name, uuid=uuid)
    rezoned = moved.placement != shelved.placement
    yield RecordUnshelved(
        uuid=uuid,
        image=moved.image.as_dict() if moved.image else None,
        placement=moved.placement.as_dict() if rezoned else None,
    )
    yield from dropped(shelved)
    yield from acting.sweep_steps(tx, replace(shelved, shelved_image=None))


def _image_lock(shelved: Instance) -> frozenset[Lock]:
    image = shelved.shelved_image
    return frozenset() if image is None else frozenset({Lock("image", image.id, Mode.EXCLUSIVE)})


def next_attempt(world: World, tx: Tx, op: Operation, failure: str) -> Attempt | None:
    """Another host claimed for one whose host failed, and its steps. None when none is left, or it was named,
    or its disks are where it failed."""
    failed = [record.step.host for record in op.records if isinstance(record.step, ClaimHost)]
    if not failed or op.attempt >= ATTEMPTS or op.request["host"] is not None:
        return None
    shelved = instances.get(tx, str(op.target_uuid))
    if shelved.vm_state is not VmState.SHELVED_OFFLOADED:
        return None
    wanted = wished(tx, shelved, op.request["zone"])
    try:
        claimed = placement.claim(tx, wanted, tried=frozenset(map(str, failed)))
    except NoValidHost:
        return None
    instances.update(tx, shelved.uuid, host=claimed.host)
    moved = replace(wanted, host=claimed.host, numa=claimed.numa, epoch=op.epoch)
    world.tell(f"{op.target}: {failure}; trying {claimed.host}")
    steps: Any = _steps(world, tx, op.id, shelved, moved)
    return Attempt(
        steps=tuple(steps),
        applied=APPLIED,
        locks=frozenset({Lock("host", claimed.host, Mode.SHARED)}),
    )
