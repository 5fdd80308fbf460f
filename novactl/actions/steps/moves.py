"""Steps in the database only that a move of an instance is made of: its claim, and where it is."""

from dataclasses import dataclass
from typing import Any, ClassVar

from novactl.actions.steps.registry import REGISTRY
from novactl.db import hosts, instances, moves, projects
from novactl.db.session import dumps
from novactl.engine.step import Kind, RecordStep
from novactl.objects.migration import MigrationStatus
from novactl.objects.states import PowerState, VmState

TARGET, SOURCE, HOME = "move-target", "move-source", "instance"
"""Roles of holds."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class ClaimTarget(RecordStep):
    """The instance holds its share of the host it moves to, and what it needs more of its project's quota.
    Carried out by the transaction that journals it."""

    type: ClassVar[str] = "claim-target"
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

    def revert(self, tx: Any, ctx: Any) -> None:
        instance = instances.get(tx, self.uuid)
        if instance.deleted_at is not None:
            return
        assert self.host
        hosts.release(tx, self.host, self.uuid, TARGET)
        projects.give_back(tx, instance.project, **self.more)
        moves.turn(tx, self.migration, MigrationStatus.FAILED, ctx.world.clock.now())


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
            power_state=PowerState(self.power_state),
            task_state=None,
            fault=None,
        )
        moves.turn(tx, self.migration, MigrationStatus(self.status), ctx.world.clock.now())


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RecordMoved(_Arrives):
    """The record says where the instance is: from here on there is no way back but a revert."""

    type: ClassVar[str] = "record-moved"
    kind: ClassVar[Kind] = Kind.PIVOT


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RecordArrived(_Arrives):
    """The record says where the instance is, since it is there already."""

    type: ClassVar[str] = "record-arrived"
    kind: ClassVar[Kind] = Kind.RETRIABLE
