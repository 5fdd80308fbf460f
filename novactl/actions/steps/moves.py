"""Steps in the database only that a move of an instance is made of: its claim, and where it is."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from novactl.actions.steps.registry import REGISTRY
from novactl.db import hosts, instances, moves, projects
from novactl.db.session import dumps
from novactl.engine.operation import TOUCHED, StepState
from novactl.engine.step import Kind, RecordStep
from novactl.objects.host import Resources
from novactl.objects.migration import OPEN, Migration, MigrationStatus, Storage, most
from novactl.objects.states import PowerState, VmState

TARGET, SOURCE, HOME = "move-target", "move-source", "instance"
"""Roles of holds."""
POWER = "power"
"""In the result of the step that has moved a guest: how it was seen on its new host, when that was asked."""


@dataclass(frozen=True, kw_only=True)
class _Claims(RecordStep):
    """Carried out by the transaction that journals it. `more`: what the project's quota counts more."""

    uuid: str
    migration: str
    vcpus: int
    memory_mib: int
    disk_gib: int
    more: dict[str, int]

    def summary(self) -> str:
        return f"{self.vcpus} vcpus, {self.memory_mib} MiB and {self.disk_gib} GiB of {self.host} are claimed"

    def apply(self, tx: Any, ctx: Any) -> None:
        """Already there: it was claimed with the plan."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class ClaimTarget(_Claims):
    """The instance holds its share of the host it moves to, and what it needs more of its project's quota."""

    type: ClassVar[str] = "claim-target"

    def revert(self, tx: Any, ctx: Any) -> None:
        """A disk that grew where both hosts have it stays so, and record and hold say it: it is there, with
        or without room."""
        instance, migration = instances.get(tx, self.uuid), moves.get(tx, self.migration)
        if instance.deleted_at is not None:
            return
        assert self.host
        hosts.release(tx, self.host, self.uuid, TARGET)
        projects.give_back(tx, instance.project, **self.more)
        moves.turn(tx, self.migration, MigrationStatus.FAILED, ctx.world.clock.now())
        if migration is None or migration.storage is not Storage.SHARED or not _grew(ctx):
            return
        instances.update(tx, self.uuid, flavor=dumps(migration.with_its_disk().as_dict()))
        instances.note_copy(tx, self.uuid, behind=True)  # the domain was brought back as it was
        needed = instances.get(tx, self.uuid).resources
        amounts = most(needed, hosts.hold_of(tx, migration.source, self.uuid) or needed)
        hosts.change_hold(tx, migration.source, self.uuid, amounts, forced=True)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class ClaimHere(_Claims):
    """The instance holds the larger of what both flavors need of its host. `held`: what it held before, which
    is more than its flavor needs when its guest has more."""

    type: ClassVar[str] = "claim-here"
    held: dict[str, int] = field(default_factory=dict)

    def revert(self, tx: Any, ctx: Any) -> None:
        """A disk that grew stays so, and the record says it."""
        instance, migration = instances.get(tx, self.uuid), moves.get(tx, self.migration)
        if instance.deleted_at is not None or migration is None:
            return
        flavor = migration.with_its_disk() if _grew(ctx) else migration.old_flavor
        instances.update(tx, self.uuid, flavor=dumps(flavor.as_dict()))
        _settle(tx, migration, MigrationStatus.FAILED, ctx.world.clock.now())
        if self.held and self.host:
            needed = instances.get(tx, self.uuid).resources
            hosts.change_hold(tx, self.host, self.uuid, most(needed, Resources(**self.held)))


def _grew(ctx: Any) -> bool:
    """Whether a disk may have, whatever else was undone."""
    return any(r.name == "grow-disk" and r.state in TOUCHED | {StepState.UNDONE} for r in ctx.op.records)


def _settle(tx: Any, migration: Migration, status: MigrationStatus, now: str) -> None:
    """The move has come to its end: quota counts the flavor that the record has now, and so does the hold
    when it was on one host."""
    instance = instances.get(tx, migration.instance_uuid)
    moves.settle(tx, migration, status, instance.project, instance.flavor, now)
    if migration.here:
        hosts.change_hold(tx, migration.target, instance.uuid, instance.resources)


@dataclass(frozen=True, kw_only=True)
class _Arrives(RecordStep):
    """The record says that the instance is on `host`, with the flavor of the move."""

    uuid: str
    migration: str
    source: str
    vm_state: str
    power_state: str
    status: str
    kept: bool  # the hold on the source stays until the move is confirmed

    def summary(self) -> str:
        return f"the record says that the instance is on {self.host}, {self.vm_state}"

    def apply(self, tx: Any, ctx: Any) -> None:
        """One transaction: the host is changed exactly once, whoever runs this and however often."""
        migration = moves.get(tx, self.migration)
        assert migration is not None and self.host
        status, now = MigrationStatus(self.status), ctx.world.clock.now()
        if self.host != self.source:
            if self.kept:
                hosts.change_role(tx, self.source, self.uuid, HOME, SOURCE)
            else:
                hosts.release(tx, self.source, self.uuid, HOME)
            hosts.change_role(tx, self.host, self.uuid, TARGET, HOME)
        instances.update(
            tx,
            self.uuid,
            host=self.host,
            flavor=dumps(migration.new_flavor.as_dict()),
            vm_state=VmState(self.vm_state),
            power_state=PowerState(self._seen(ctx) or self.power_state),
            task_state=None,
            fault=None,
        )
        if status in OPEN:
            moves.turn(tx, self.migration, status, now)
        else:
            _settle(tx, migration, status, now)

    def _seen(self, ctx: Any) -> str | None:
        """It may have gone off, or on, meanwhile."""
        return next((one.result[POWER] for one in ctx.op.records if POWER in one.result), None)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RecordMoved(_Arrives):
    """The record says where the instance is: from here on there is no way back but a revert."""

    type: ClassVar[str] = "record-moved"
    kind: ClassVar[Kind] = Kind.PIVOT

    def apply(self, tx: Any, ctx: Any) -> None:
        """Its domain was defined from this very record."""
        super().apply(tx, ctx)
        instances.note_copy(tx, self.uuid, behind=False)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RecordArrived(_Arrives):
    """The record says where the instance is, since it is there already."""

    type: ClassVar[str] = "record-arrived"
    kind: ClassVar[Kind] = Kind.RETRIABLE


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RecordConfirmed(RecordStep):
    """The move is confirmed: what is left of it on the host that the instance left may go. Its domain, which
    carries that it waits, is behind."""

    type: ClassVar[str] = "record-confirmed"
    kind: ClassVar[Kind] = Kind.PIVOT
    uuid: str
    migration: str
    vm_state: str
    power_state: str

    def apply(self, tx: Any, ctx: Any) -> None:
        migration = moves.get(tx, self.migration)
        assert migration is not None
        states = {"vm_state": VmState(self.vm_state), "power_state": PowerState(self.power_state)}
        instances.update(tx, self.uuid, task_state=None, fault=None, **states)
        instances.note_copy(tx, self.uuid, behind=True)
        _settle(tx, migration, MigrationStatus.CONFIRMED, ctx.world.clock.now())


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RecordReverted(RecordStep):
    """The record says that the instance is where, and as large as, it was before the move."""

    type: ClassVar[str] = "record-reverted"
    kind: ClassVar[Kind] = Kind.PIVOT
    uuid: str
    migration: str
    vm_state: str
    power_state: str

    def apply(self, tx: Any, ctx: Any) -> None:
        """What it has left of its second host is released when nothing of it is there any more."""
        migration = moves.get(tx, self.migration)
        assert migration is not None
        if not migration.here:
            hosts.change_role(tx, migration.target, self.uuid, HOME, TARGET)
            hosts.change_role(tx, migration.source, self.uuid, SOURCE, HOME)
        instances.update(
            tx,
            self.uuid,
            host=migration.source,
            flavor=dumps(migration.reverted.as_dict()),
            vm_state=VmState(self.vm_state),
            power_state=PowerState(self.power_state),
            task_state=None,
            fault=None,
        )
        instances.note_copy(tx, self.uuid, behind=False)
        _settle(tx, migration, MigrationStatus.REVERTED, ctx.world.clock.now())


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class ReleaseHold(RecordStep):
    """What the instance held of a host that it is not on is free. The last step: nothing of it is there."""

    type: ClassVar[str] = "release-hold"
    kind: ClassVar[Kind] = Kind.RETRIABLE
    uuid: str
    role: str

    def summary(self) -> str:
        return f"what the instance held of {self.host} is free"

    def apply(self, tx: Any, ctx: Any) -> None:
        assert self.host
        hosts.release(tx, self.host, self.uuid, self.role)
