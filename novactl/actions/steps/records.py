"""Steps in the database only: each commits together with its journal entry."""

from dataclasses import dataclass
from typing import Any, ClassVar

from novactl.actions.steps.registry import REGISTRY
from novactl.db import hosts, instances, placement
from novactl.engine.step import Kind, RecordStep
from novactl.objects.states import PowerState, TaskState, VmState


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RecordInstance(RecordStep):
    """The instance has its row, name and addresses. Carried out by the transaction that journals it."""

    type: ClassVar[str] = "record-instance"
    uuid: str
    name: str

    def summary(self) -> str:
        return f"instance {self.name} has its record, name and addresses"

    def apply(self, tx: Any, ctx: Any) -> None:
        """Already there: it was written with the plan."""

    def revert(self, tx: Any, ctx: Any) -> None:
        instances.bury(tx, self.uuid, ctx.world.clock.now(), ctx.op.error or "failed")


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class ClaimHost(RecordStep):
    """The instance holds its share of the host. Carried out by the transaction that journals it."""

    type: ClassVar[str] = "claim-host"
    uuid: str
    vcpus: int
    memory_mib: int
    disk_gib: int

    def summary(self) -> str:
        return f"{self.vcpus} vcpus, {self.memory_mib} MiB and {self.disk_gib} GiB of {self.host} are claimed"

    def apply(self, tx: Any, ctx: Any) -> None:
        """Already there: it was claimed with the plan."""

    def revert(self, tx: Any, ctx: Any) -> None:
        assert self.host
        hosts.release(tx, self.host, self.uuid)
        instances.update(tx, self.uuid, host=None)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class SetTask(RecordStep):
    """The instance shows what is being done to it."""

    type: ClassVar[str] = "set-task"
    uuid: str
    task: str

    def summary(self) -> str:
        return f"the instance shows {self.task}"

    def apply(self, tx: Any, ctx: Any) -> None:
        instances.update(tx, self.uuid, task_state=TaskState(self.task))

    def revert(self, tx: Any, ctx: Any) -> None:
        instances.update(tx, self.uuid, task_state=None)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class MarkActive(RecordStep):
    """The instance is ACTIVE: from here on it is the user's."""

    type: ClassVar[str] = "mark-active"
    kind: ClassVar[Kind] = Kind.PIVOT
    uuid: str

    def apply(self, tx: Any, ctx: Any) -> None:
        instances.update(
            tx,
            self.uuid,
            vm_state=VmState.ACTIVE,
            task_state=None,
            power_state=PowerState.RUNNING,
            launched_at=ctx.result("define-domain").get("launched_at") or ctx.world.clock.now(),
        )
        placement.succeeded(tx, self.uuid)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RecordPower(RecordStep):
    """The record says what the guest is now, and that nothing is being done to it."""

    type: ClassVar[str] = "record-power"
    kind: ClassVar[Kind] = Kind.RETRIABLE
    uuid: str
    vm_state: str
    power_state: str

    def summary(self) -> str:
        return f"the record says {self.vm_state}"

    def apply(self, tx: Any, ctx: Any) -> None:
        instances.update(
            tx,
            self.uuid,
            vm_state=VmState(self.vm_state),
            power_state=PowerState(self.power_state),
            task_state=None,
            fault=None,
        )
        _note_copy(tx, ctx, self.uuid)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class MarkSuspended(RecordPower):
    """The record says that the guest is suspended: from here on only a resume brings it back."""

    type: ClassVar[str] = "mark-suspended"
    kind: ClassVar[Kind] = Kind.PIVOT


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class ChangeRecord(RecordStep):
    """The record says what was asked for. Carried out by the transaction that journals it."""

    type: ClassVar[str] = "change-record"
    kind: ClassVar[Kind] = Kind.PIVOT
    uuid: str
    values: dict[str, Any]

    def summary(self) -> str:
        return f"the record has another {', '.join(self.values)}"

    def apply(self, tx: Any, ctx: Any) -> None:
        """Already there: it was written with the plan."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RecordCopied(RecordStep):
    """It is written down whether the second copy is as new as the record."""

    type: ClassVar[str] = "record-copied"
    kind: ClassVar[Kind] = Kind.RETRIABLE
    uuid: str

    def apply(self, tx: Any, ctx: Any) -> None:
        _note_copy(tx, ctx, self.uuid)


def _note_copy(tx: Any, ctx: Any, uuid: str) -> None:
    """The second copy is not behind any more, if a step of this operation has written it."""
    if any(ctx.result(step).get("written") for step in ("redefine-domain", "define-anew", "write-copy")):
        instances.note_copy(tx, uuid, behind=False)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class MarkDeleting(RecordStep):
    """The instance is being deleted: there is no way back."""

    type: ClassVar[str] = "mark-deleting"
    kind: ClassVar[Kind] = Kind.PIVOT
    uuid: str

    def apply(self, tx: Any, ctx: Any) -> None:
        instances.update(tx, self.uuid, task_state=TaskState.DELETING)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RecordDeleted(RecordStep):
    """Name, addresses and capacity are free. The last step: nothing of the instance is left by now."""

    type: ClassVar[str] = "record-deleted"
    kind: ClassVar[Kind] = Kind.RETRIABLE
    uuid: str

    def apply(self, tx: Any, ctx: Any) -> None:
        for hold in hosts.holds_of(tx, self.uuid):
            hosts.release(tx, hold["host"], self.uuid, hold["role"])
        instances.bury(tx, self.uuid, ctx.world.clock.now(), None)
