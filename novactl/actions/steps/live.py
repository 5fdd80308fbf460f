"""Steps of a live migration. Where the guest is decides what happened, never what was said of it."""

from dataclasses import dataclass
from typing import Any, ClassVar

from novactl.actions import last_copy, transports
from novactl.actions.steps import jobs, trust
from novactl.actions.steps.files import SEALED
from novactl.actions.steps.moves import POWER, SOURCE
from novactl.actions.steps.registry import REGISTRY
from novactl.db import hosts, instances, moves
from novactl.engine.step import Answer, Kind, RecordStep, Step
from novactl.errors import HostFault, HostRefused, Interrupted
from novactl.objects.migration import MigrationStatus
from novactl.virt.domain import marked
from novactl.virt.files import disk_info
from novactl.virt.live import Drive, Whereabouts, fixed_devices, moved_xml, virsh_words
from novactl.virt.survey import power_state

ENDED = ("shutdown", "destroyed", "crashed")
"""Reasons of a guest that ended where it was: it has not gone away."""
ENDED_WITH_IT = Whereabouts("shut off", "destroyed")
"""A guest whose host is down for certain."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class BringFiles(Step):
    """The instance's small files are on its new host.

    The config drive as it is (the guest may have it mounted), the sealed user-data, the console's log so
    far, disk.info."""

    type: ClassVar[str] = "bring-files"
    source: str
    uuid: str
    disks: list[list[str]]

    def do(self, ctx: Any) -> None:
        source, target = ctx.world.hypervisor(self.source), ctx.world.hypervisor(self.host)
        for file, mode in (("disk.config", "0400"), (SEALED, "0600"), ("console.log", "0600")):
            if content := source.instance_file(self.uuid, file):
                target.put(self.uuid, ctx.epoch, file, mode, content)
        pairs = [(file, format_) for file, format_ in self.disks]
        info = disk_info(target.directory(self.uuid), pairs)
        target.put(self.uuid, ctx.epoch, "disk.info", "0600", info)

    def undo(self, ctx: Any) -> None:
        """Nothing by itself: it goes with the directory."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class OpenSockets(Step):
    """The guest's memory and disks may come in by sockets."""

    type: ClassVar[str] = "open-sockets"

    def do(self, ctx: Any) -> dict[str, Any]:
        libvirt = ctx.world.hypervisor(self.host).listen(ctx.operation_id)
        return {"libvirt": libvirt, "epoch": ctx.epoch}

    def undo(self, ctx: Any) -> None:
        """They are gone."""
        ctx.world.hypervisor(self.host).unlisten(ctx.operation_id)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class ReadyGuest(trust.BetweenHosts):
    """The guest can go: its domain's XML lies ready, and nothing of an earlier try is on the new host.
    `xml`: its domain there by the record; `paused`: it stands still before and after."""

    type: ClassVar[str] = "ready-guest"
    uuid: str
    xml: str
    paused: bool

    def do(self, ctx: Any) -> dict[str, Any]:
        source, target = ctx.world.hypervisor(self.host), ctx.world.hypervisor(self.target)
        source.end_migration(self.uuid, ctx.epoch)
        target.drop_arrival(self.uuid, ctx.epoch, ctx.operation_id)
        live, persistent = self.texts(ctx)
        source.put(self.uuid, ctx.epoch, "migrate.xml", "0600", live.encode())
        source.put(self.uuid, ctx.epoch, "migrate-persistent.xml", "0600", persistent.encode())
        return {"epoch": ctx.epoch}

    def texts(self, ctx: Any) -> tuple[str, str]:
        """The running domain as the other host is to run it, and the one that it is to keep."""
        source, target = ctx.world.hypervisor(self.host), ctx.world.hypervisor(self.target)
        persistent = marked(self.xml, epoch=ctx.epoch)
        paths = (source.instances_path, target.instances_path)
        return moved_xml(source.migratable_xml(self.uuid), persistent, paths), persistent

    def undo(self, ctx: Any) -> None:
        """The guest is where it was, as it was, and nothing of it on the other host. It may have ended by
        itself meanwhile."""
        source, target = ctx.world.hypervisor(self.host), ctx.world.hypervisor(self.target)
        for record in ctx.op.records:
            if isinstance(record.step, MoveGuest) and self.host not in ctx.gone:
                source.job_end(ctx.operation_id, record.n)
        here, there = _settled(ctx, self)
        if decide(here, there) is not Answer.NO:
            raise HostFault(
                f"{self.host}: its guest is {here.state} here, and {there.state} on {self.target}"
            )
        if self.target not in ctx.gone:
            target.drop_arrival(self.uuid, ctx.epoch, ctx.operation_id)
        if self.host in ctx.gone:
            return
        if here.state == "paused" and not self.paused:
            source.unpause(self.uuid, ctx.epoch)
        source.forget_move(self.uuid, ctx.epoch)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class MoveGuest(trust.BetweenHosts):
    """The guest runs on its new host. `disks`: those that are copied (vda), none on shared storage; 0: no
    limit."""

    type: ClassVar[str] = "move-guest"
    kind: ClassVar[Kind] = Kind.PIVOT
    uuid: str
    paused: bool
    disks: list[str]
    max_downtime_ms: int
    bandwidth_mibps: int
    auto_converge: bool
    transport: str = "ssh"

    def summary(self) -> str:
        how = "stands still" if self.paused else "runs"
        copied = f", {', '.join(self.disks)} copied" if self.disks else ", its disks stay where they are"
        way = "" if self.transport == transports.SSH else f", by {self.transport}"
        return f"the guest {how} on {self.target}{copied}{way}"

    def do(self, ctx: Any) -> dict[str, Any] | None:
        source = ctx.world.hypervisor(self.host)
        if source.job_wait(ctx.operation_id, ctx.record.n, 0).state == "none":
            trust.again(ctx)
            trust.again(ctx, OpenSockets)
            trust.again(ctx, ReadyGuest)
            self._check_transport(ctx)
        words = source.live_words(
            self.uuid,
            ctx.epoch,
            ctx.operation_id,
            ctx.result(OpenSockets.type)["libvirt"],
            paused=self.paused,
            downtime_ms=self.max_downtime_ms,
            how=virsh_words(
                source.directory(self.uuid),
                ctx.operation_id,
                self.disks,
                bandwidth_mibps=self.bandwidth_mibps,
                auto_converge=self.auto_converge,
                transport=self.transport,
                address=ctx.world.db.read(lambda tx: hosts.get(tx, self.target)).address,
            ),
        )
        try:
            jobs.carry_out(ctx, source, *words)
        except Interrupted:
            jobs.end(ctx, source)
            raise
        return None

    def _check_transport(self, ctx: Any) -> None:
        """Raises HostRefused for a certificate that was revoked, or a network that is trusted no more."""
        ends, now = (str(self.host), self.target), ctx.world.clock.now()
        if why := ctx.world.db.read(lambda tx: transports.unfit(tx, self.transport, *ends, now)):
            raise HostRefused(f"{self.target}: not by {self.transport}: {why}")

    def happened(self, ctx: Any) -> Answer:
        """Decided by where the guest is (docs/live-migration.md). A job that runs is attached to, or ended
        when the operation is to be undone."""
        if ctx.gone.issuperset(self.hosts):
            return Answer.NO  # nor does it run anywhere
        if self.host in ctx.gone:
            return self._left_behind(ctx)
        source = ctx.world.hypervisor(self.host)
        if source.job_wait(ctx.operation_id, ctx.record.n, 0).state == "running" and not ctx.back:
            return Answer.IN_PROGRESS
        jobs.end(ctx, source)
        here, there = _settled(ctx, self)
        answer = decide(here, there)
        if answer is Answer.YES and there.state == "paused" and not self.paused:
            ctx.world.hypervisor(self.target).unpause(self.uuid, ctx.epoch)
        elif answer is Answer.YES:
            ctx.record.result = {POWER: power_state(self.target, there.state)}
        return answer

    def _left_behind(self, ctx: Any) -> Answer:
        """Decided by the target alone. Of a guest that stands still there nobody knows whether all of it has
        come."""
        here, there = _settled(ctx, self)
        return Answer.UNKNOWN if there.state == "paused" else decide(here, there)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class DriveGuest(MoveGuest):
    """The guest runs on its new host. This process drives the migration, and it ends with it."""

    type: ClassVar[str] = "drive-guest"

    def summary(self) -> str:
        return f"{super().summary()}, driven from here"

    def do(self, ctx: Any) -> dict[str, Any]:
        trust.again(ctx, ReadyGuest)
        self._check_transport(ctx)
        source, target = (ctx.world.hypervisor(name) for name in self.hosts)
        live, persistent = self._texts(ctx)
        move = Drive(
            uuid=self.uuid,
            xml=live,
            persistent=persistent,
            address=ctx.world.db.read(lambda tx: hosts.get(tx, self.target)).address,
            tls=self.transport == transports.TLS,
            disks=tuple(self.disks),
            max_downtime_ms=self.max_downtime_ms,
            bandwidth_mibps=self.bandwidth_mibps,
            auto_converge=self.auto_converge,
        )

        def begin() -> None:
            """libvirt lets a client go that is silent for half a minute, which is less than a lease: one that
            was taken over meanwhile either has no connection any more, or is refused here."""
            for host in (source, target):
                host.fence(self.uuid, ctx.epoch)

        ctx.world.drive(
            self.hosts,
            move,
            begin=begin,
            check=ctx.check,
            tell=lambda said: ctx.observe(ctx.op, ctx.record, "progress", said),
        )
        if self.happened(ctx) is not Answer.YES:
            raise HostFault(f"{self.target}: the guest has not come")
        source.forget_move(self.uuid, ctx.epoch)
        result: dict[str, Any] = ctx.record.result
        return result

    def _texts(self, ctx: Any) -> tuple[str, str]:
        """Made here, never read back: root on the source is not to choose what the target's libvirt defines.
        Raises HostRefused for what preflight refuses."""
        (ready,) = (record.step for record in ctx.op.records if isinstance(record.step, ReadyGuest))
        live, persistent = ready.texts(ctx)
        target = ctx.world.hypervisor(self.target)
        if found := fixed_devices(live, target.directory(self.uuid), target.base_path):
            raise HostRefused(f"{self.host}: its guest cannot move: {', '.join(found)}")
        return live, persistent


def _settled(ctx: Any, step: ReadyGuest | MoveGuest) -> tuple[Whereabouts, Whereabouts]:
    """How the guest is on either host, once no migration is under way; on one that is gone it has ended."""
    both = [ctx.world.hypervisor(name) for name in step.hosts if name not in ctx.gone]
    found = {host.name: host.whereabouts(step.uuid, ctx.epoch) for host in both}
    if any(one.moving for one in found.values()):
        for host in both:
            host.end_migration(step.uuid, ctx.epoch)
        found = {host.name: host.whereabouts(step.uuid, ctx.epoch) for host in both}
    here, there = (found.get(name, ENDED_WITH_IT) for name in step.hosts)
    return here, there


def decide(here: Whereabouts, there: Whereabouts) -> Answer:
    """Whether a guest has gone from `here` to `there`, when no migration is under way. The target's guest
    stands still until somebody sees that the source's is gone: one that runs there has arrived, one that
    stands still there has not while the source's lives."""
    if here.alive:
        return Answer.UNKNOWN if there.state == "running" else Answer.NO
    if there.state == "running":
        return Answer.YES
    ended = here.reason in ENDED and here.state != "none"
    if there.state == "paused":
        return Answer.NO if ended else Answer.YES
    if there.state == "none":
        return Answer.UNKNOWN if here.state == "none" else Answer.NO
    return Answer.UNKNOWN if ended else Answer.YES  # it arrived, and went off there


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class SettleArrival(Step):
    """libvirt.xml is the domain on its new host, and the sockets are gone."""

    type: ClassVar[str] = "settle-arrival"
    kind: ClassVar[Kind] = Kind.RETRIABLE
    uuid: str
    xml: str

    def do(self, ctx: Any) -> None:
        host = ctx.world.hypervisor(self.host)
        host.unlisten(ctx.operation_id)
        xml = marked(self.xml, epoch=ctx.epoch)
        host.put(self.uuid, ctx.epoch, "libvirt.xml", "0600", xml.encode())


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class LeaveSource(Step):
    """Nothing of the guest is left on the host that it came from."""

    type: ClassVar[str] = "leave-source"
    kind: ClassVar[Kind] = Kind.RETRIABLE
    uuid: str
    shared: bool

    def do(self, ctx: Any) -> None:
        """Raises Refused while it is all that is left of the instance."""
        assert self.host
        if not self.shared:
            last_copy.spare(ctx, self.host, self.uuid)
        host = ctx.world.hypervisor(self.host)
        host.leave_source(self.uuid, ctx.epoch, shared=self.shared)
        host.unlisten(ctx.operation_id)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RecordLeft(RecordStep):
    """The instance claims nothing of the host that it left, and the move is completed."""

    type: ClassVar[str] = "record-left"
    kind: ClassVar[Kind] = Kind.RETRIABLE
    uuid: str
    migration: str

    def apply(self, tx: Any, ctx: Any) -> None:
        assert self.host
        hosts.release(tx, self.host, self.uuid, SOURCE)
        moves.turn(tx, self.migration, MigrationStatus.COMPLETED, ctx.world.clock.now())
        instances.note_copy(tx, self.uuid, behind=False)  # its domain was made from this very record
