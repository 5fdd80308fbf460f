"""Steps of an instance that boots from another disk than its own for a while."""

from dataclasses import dataclass
from typing import Any, ClassVar

from novactl.actions.steps.registry import REGISTRY
from novactl.db import hosts, instances, secrets
from novactl.db.session import dumps
from novactl.engine.step import Kind, RecordStep, Step
from novactl.errors import HostFault
from novactl.objects.host import Resources
from novactl.objects.states import PowerState, VmState
from novactl.virt.domain import RESCUE_DISK


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class MakeRescueDisk(Step):
    """disk.rescue is a new overlay of the rescue image, as large as that."""

    type: ClassVar[str] = "make-rescue-disk"
    uuid: str
    base: str
    size_bytes: int

    def do(self, ctx: Any) -> None:
        host = ctx.world.hypervisor(self.host)
        host.remake(self.uuid, ctx.epoch, RESCUE_DISK, self.base, self.size_bytes)

    def undo(self, ctx: Any) -> None:
        """Gone."""
        ctx.world.hypervisor(self.host).remake(self.uuid, ctx.epoch, RESCUE_DISK, None, 0)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class DropRescueDisk(Step):
    """disk.rescue is gone."""

    type: ClassVar[str] = "drop-rescue-disk"
    kind: ClassVar[Kind] = Kind.RETRIABLE
    uuid: str

    def do(self, ctx: Any) -> None:
        ctx.world.hypervisor(self.host).remake(self.uuid, ctx.epoch, RESCUE_DISK, None, 0)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RecordRescue(RecordStep):
    """The record says which image the guest boots in rescue; without one, that it boots its own disk."""

    type: ClassVar[str] = "record-rescue"
    kind: ClassVar[Kind] = Kind.PIVOT
    uuid: str
    image: dict[str, Any] | None

    def summary(self) -> str:
        if self.image is None:
            return "the record says active, and no rescue image"
        return f"the record says rescued, by image {self.image['name']}"

    def apply(self, tx: Any, ctx: Any) -> None:
        instances.update(
            tx,
            self.uuid,
            vm_state=VmState.ACTIVE if self.image is None else VmState.RESCUED,
            power_state=PowerState.RUNNING,
            task_state=None,
            fault=None,
            rescue_image=None if self.image is None else dumps(self.image),
        )
        instances.note_copy(tx, self.uuid, behind=False)  # the domain was defined from this very record


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class NoteBehind(RecordStep):
    """Its domain, wherever that is, is not as the record has it: the next start defines it anew."""

    type: ClassVar[str] = "note-behind"
    kind: ClassVar[Kind] = Kind.RETRIABLE
    uuid: str

    def apply(self, tx: Any, ctx: Any) -> None:
        instances.note_copy(tx, self.uuid, behind=True)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class HoldMore(RecordStep):
    """The instance holds what both its images need of its host. Carried out by the transaction that journals
    it. `held`: what it held before."""

    type: ClassVar[str] = "hold-more"
    uuid: str
    held: dict[str, int]
    disk_gib: int

    def summary(self) -> str:
        return f"{self.disk_gib} GiB of {self.host} are claimed"

    def apply(self, tx: Any, ctx: Any) -> None:
        """Already there: it was claimed with the plan."""

    def revert(self, tx: Any, ctx: Any) -> None:
        assert self.host
        hosts.change_hold(tx, self.host, self.uuid, Resources(**self.held))


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class SetDisksAside(Step):
    """The instance's disks are kept under other names; others can be made."""

    type: ClassVar[str] = "set-disks-aside"
    uuid: str
    files: list[str]

    def summary(self) -> str:
        return f"{', '.join(self.files)} {'is' if len(self.files) == 1 else 'are'} kept aside"

    def do(self, ctx: Any) -> None:
        ctx.world.hypervisor(self.host).disks_aside(self.uuid, ctx.epoch, ctx.operation_id, self.files)

    def undo(self, ctx: Any) -> None:
        """They have their names again, and what was made instead is gone."""
        ctx.world.hypervisor(self.host).disks_back(self.uuid, ctx.epoch, ctx.operation_id, self.files)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RecordRebuilt(RecordStep):
    """The record says which image the disks are made from now: the old ones may go."""

    type: ClassVar[str] = "record-rebuilt"
    kind: ClassVar[Kind] = Kind.PIVOT
    uuid: str
    image: dict[str, Any]
    vm_state: str
    power_state: str

    def summary(self) -> str:
        return f"the record says {self.vm_state}, of image {self.image['name']}"

    def apply(self, tx: Any, ctx: Any) -> None:
        assert self.host
        instances.update(
            tx,
            self.uuid,
            image=dumps(self.image),
            vm_state=VmState(self.vm_state),
            power_state=PowerState(self.power_state),
            task_state=None,
            fault=None,
        )
        hosts.change_hold(tx, self.host, self.uuid, instances.get(tx, self.uuid).resources)
        instances.note_copy(tx, self.uuid, behind=False)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class DropOldDisks(Step):
    """The disks that were kept aside are gone."""

    type: ClassVar[str] = "drop-old-disks"
    kind: ClassVar[Kind] = Kind.RETRIABLE
    uuid: str
    files: list[str]

    def do(self, ctx: Any) -> None:
        ctx.world.hypervisor(self.host).disks_gone(self.uuid, ctx.epoch, ctx.operation_id, self.files)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class SettleDisks(Step):
    """Disks that an operation has kept aside, and that ended without their host, are in their places again
    (`back`), or gone. `host` shares its storage with the instance's own, or is that."""

    type: ClassVar[str] = "settle-disks"
    uuid: str
    of: str
    files: list[str]
    back: bool

    def summary(self) -> str:
        what = "in its place again" if self.back else "gone"
        return f"what {self.of} kept of {', '.join(self.files)} is {what}"

    def do(self, ctx: Any) -> None:
        host = ctx.world.hypervisor(self.host)
        if not self.back:
            host.disks_gone(self.uuid, ctx.epoch, self.of, self.files)
            return
        state = host.settled_state(self.uuid, ctx.epoch)
        if state not in (PowerState.SHUTDOWN, PowerState.CRASHED, PowerState.NOSTATE):
            raise HostFault(f"{self.host}: the guest is {state}, and uses what came instead")
        host.disks_back(self.uuid, ctx.epoch, self.of, self.files)

    def undo(self, ctx: Any) -> None:
        """Nothing: they were nobody's."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class KeepSecret(RecordStep):
    """The new user-data is sealed. Carried out by the transaction that journals it."""

    type: ClassVar[str] = "keep-secret"
    uuid: str
    secret: str

    def apply(self, tx: Any, ctx: Any) -> None:
        """Already there: it was sealed with the plan."""

    def revert(self, tx: Any, ctx: Any) -> None:
        secrets.erase(tx, self.secret)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RecordLogin(RecordStep):
    """The record has the key and the user-data that its guest is given now. `was`: those before."""

    type: ClassVar[str] = "record-login"
    uuid: str
    now: dict[str, str | None]
    was: dict[str, str | None]

    def apply(self, tx: Any, ctx: Any) -> None:
        instances.update(tx, self.uuid, **self.now)

    def revert(self, tx: Any, ctx: Any) -> None:
        instances.update(tx, self.uuid, **self.was)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class EraseSecret(RecordStep):
    """The user-data before is gone."""

    type: ClassVar[str] = "erase-secret"
    kind: ClassVar[Kind] = Kind.RETRIABLE
    uuid: str
    secret: str

    def apply(self, tx: Any, ctx: Any) -> None:
        secrets.erase(tx, self.secret)
