"""Steps of a resize whose guest runs on (actions/resize_live.py)."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from novactl.actions.steps.registry import REGISTRY
from novactl.db import hosts, instances, moves
from novactl.db.session import dumps
from novactl.engine.step import Kind, RecordStep, Step
from novactl.objects.migration import MigrationStatus, most
from novactl.virt.sizes import Size

NOW, NEXT_BOOT = "now", "next boot"
PATIENCE = 30.0  # seconds that a guest may take to give memory back
POLL = 0.5


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RecordFlavor(RecordStep):
    """The record has the new flavor, which the domain is defined by for its next boot."""

    type: ClassVar[str] = "record-flavor"
    kind: ClassVar[Kind] = Kind.PIVOT
    uuid: str
    migration: str

    def apply(self, tx: Any, ctx: Any) -> None:
        migration = moves.get(tx, self.migration)
        assert migration is not None
        instances.update(tx, self.uuid, flavor=dumps(migration.new_flavor.as_dict()))
        instances.note_copy(tx, self.uuid, behind=False)


@dataclass(frozen=True, kw_only=True)
class _Sets(Step):
    """The running guest has it, or gets it at its next boot: what cannot be now is no failure."""

    kind: ClassVar[Kind] = Kind.RETRIABLE
    what: ClassVar[str]
    uuid: str
    expected: str

    def do(self, ctx: Any) -> dict[str, Any]:
        host = ctx.world.hypervisor(self.host)
        size, why = host.size(self.uuid), "the guest is off"
        if size is not None and not self.reached(size):
            why = self.ask(host, ctx.epoch)
            size = self.wait(ctx, host) if not why else host.size(self.uuid)
        takes_effect = NOW if size is not None and self.reached(size) else NEXT_BOOT
        late = f"at its next boot: {why or 'the guest keeps what it has'}"
        ctx.world.tell(f"{ctx.op.target}: {self.words} {'now' if takes_effect == NOW else late}")
        return {"has": 0 if size is None else self.has(size), "takes_effect": {self.what: takes_effect}}

    @property
    def words(self) -> str:
        raise NotImplementedError

    def has(self, size: Size) -> int:
        """How much the guest has, of what this step gives it."""
        raise NotImplementedError

    def reached(self, size: Size) -> bool:
        """Whether it has neither more nor less than it is to have."""
        raise NotImplementedError

    def ask(self, host: Any, epoch: int) -> str:
        """Why it cannot be, "" when it was asked for."""
        raise NotImplementedError

    def wait(self, ctx: Any, host: Any) -> Size | None:
        """What the guest has when it has done it, or has not in time."""
        clock = ctx.world.clock
        began = clock.monotonic()
        while True:
            size: Size | None = host.size(self.uuid)
            if size is None or self.reached(size) or clock.monotonic() - began >= PATIENCE:
                return size
            clock.sleep(POLL)

    def summary(self) -> str:
        return f"the guest has {self.words} {self.expected}"


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class SetVcpus(_Sets):
    """The running guest has so many processors, or gets them at its next boot."""

    type: ClassVar[str] = "set-vcpus"
    what: ClassVar[str] = "vcpus"
    vcpus: int

    @property
    def words(self) -> str:
        return f"{self.vcpus} vcpus"

    def has(self, size: Size) -> int:
        return size.vcpus

    def reached(self, size: Size) -> bool:
        return size.vcpus == self.vcpus

    def ask(self, host: Any, epoch: int) -> str:
        return str(host.set_vcpus(self.uuid, epoch, self.vcpus))


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class SetMemory(_Sets):
    """The running guest has so much memory, or gets it at its next boot."""

    type: ClassVar[str] = "set-memory"
    what: ClassVar[str] = "memory"
    memory_mib: int

    @property
    def words(self) -> str:
        return f"{self.memory_mib} MiB"

    def has(self, size: Size) -> int:
        return size.memory_mib

    def reached(self, size: Size) -> bool:
        return size.memory_mib == self.memory_mib

    def ask(self, host: Any, epoch: int) -> str:
        return str(host.set_memory(self.uuid, epoch, self.memory_mib))


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RecordSizes(RecordStep):
    """The instance claims what its flavor needs, and what its guest has not given back."""

    type: ClassVar[str] = "record-sizes"
    kind: ClassVar[Kind] = Kind.RETRIABLE
    uuid: str
    migration: str

    def apply(self, tx: Any, ctx: Any) -> None:
        instance, migration = instances.get(tx, self.uuid), moves.get(tx, self.migration)
        assert migration is not None and self.host
        vcpus, memory = (ctx.result(step.type).get("has", 0) for step in (SetVcpus, SetMemory))
        kept = replace(instance.resources, vcpus=vcpus, memory_mib=memory)
        amounts = most(instance.resources, kept)
        hosts.change_hold(tx, self.host, self.uuid, amounts)
        instances.update(tx, self.uuid, task_state=None, fault=None)
        now = ctx.world.clock.now()
        moves.settle(tx, migration, MigrationStatus.COMPLETED, instance.project, instance.flavor, now)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class FreeHold(RecordStep):
    """The instance claims what its flavor needs: its guest that had more is off."""

    type: ClassVar[str] = "free-hold"
    kind: ClassVar[Kind] = Kind.RETRIABLE
    uuid: str

    def apply(self, tx: Any, ctx: Any) -> None:
        assert self.host
        hosts.change_hold(tx, self.host, self.uuid, instances.get(tx, self.uuid).resources)
