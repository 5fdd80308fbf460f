"""migrate --live: a guest that runs goes to another host (docs/live-migration.md)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from novactl.actions import acting, blanks, guest, moving, preflight, transports
from novactl.actions.acting import Seen, still
from novactl.actions.preflight import Report
from novactl.actions.steps.files import CreateDisk, MakeDirectory
from novactl.actions.steps.live import (
    BringFiles,
    DriveGuest,
    LeaveSource,
    MoveGuest,
    OpenSockets,
    ReadyGuest,
    RecordLeft,
    SettleArrival,
)
from novactl.actions.steps.moves import RecordArrived
from novactl.actions.steps.records import SetTask
from novactl.actions.steps.trust import EndTrust, OpenTrust
from novactl.actions.world import World
from novactl.db import hosts, instances
from novactl.db.session import Tx
from novactl.engine.operation import Plan
from novactl.engine.step import Step
from novactl.errors import HostFault, HostUnreachable, Refused, UsageError
from novactl.objects.migration import MigrationKind, MigrationStatus, Storage
from novactl.objects.states import PowerState, TaskState
from novactl.virt import domain

ATTEMPTS = 3  # hosts that are looked at, as Nova's scheduler max_attempts


@dataclass(frozen=True, kw_only=True)
class Found:
    """What check saw: the guest, and the host it goes to."""

    seen: Seen
    report: Report


@dataclass(frozen=True, kw_only=True)
class LiveMigrate:
    """Move a running or paused guest. `block`: its disks are copied (True), stay (False), or as the hosts'
    storage has it. `reason`: what asked for it when no person did for this instance alone."""

    name: str
    project: str
    host: str | None = None
    block: bool | None = None
    direct: bool = False
    transport: str = "ssh"
    skip_cpu_check: bool = False
    max_downtime_ms: int | None = None
    bandwidth_mibps: int | None = None
    auto_converge: bool = False
    post_copy: bool = False
    reason: str | None = None
    kind: str = "live-migrate"

    @property
    def target(self) -> str:
        return self.name

    def check(self, world: World) -> Found:
        """Both hosts are looked at; a host that cannot take the guest is passed over for another one, unless
        it was named."""
        self._check_options()
        if self.host is not None:
            world.warm(self.host)
        seen = acting.look(world, self.name, self.project)
        acting.check(world, "migrate --live", seen)
        report = self._look(world, seen)
        if not world.rehearsal:
            for item in report.items:
                world.tell(f"{self.name}: preflight: {item.host}: {item.item}: {item.result}: {item.message}")
        if report.failed:
            raise Refused(
                f"{self.name}: cannot go to {report.target}: "
                + "; ".join(f"{item.item}: {item.message}" for item in report.failed),
                targets=report.as_dicts(),
            )
        return Found(seen=seen, report=report)

    def _check_options(self) -> None:
        if self.post_copy:
            raise Refused(
                "migrate --post-copy cannot be done by this novactl: libvirt gives it only without --suspend,"
                " and then one lost reply can leave the guest running twice",
                hint="--auto-converge slows a guest down that writes faster than the link",
            )
        if self.transport not in transports.TRANSPORTS:
            raise UsageError(f"--transport is one of {', '.join(transports.TRANSPORTS)}")
        if self.direct and self.transport == transports.SSH:
            raise UsageError("--direct goes with --transport tls or tcp: ssh would be from host to host")
        if self.max_downtime_ms is not None and not 1 <= self.max_downtime_ms <= 2_000_000:
            raise UsageError("--max-downtime is 1 to 2000000 milliseconds")
        check_bandwidth(self.bandwidth_mibps)

    def _look(self, world: World, seen: Seen) -> Report:
        """A host that can take it; else what was seen of the first one."""
        if (named := self.host) is not None:
            world.db.read(lambda tx: hosts.get(tx, named))
        first: Report | None = None
        failure: Exception | None = None
        tried: set[str] = set()
        for _ in range(1 if self.host else ATTEMPTS):
            try:
                chosen = world.db.rehearse(
                    lambda tx: moving.choose(tx, seen.instance, host=self.host, tried=frozenset(tried)).host
                )
            except Refused:
                if not tried:
                    raise
                break
            tried.add(chosen)
            try:
                report = preflight.look(
                    world,
                    seen,
                    chosen,
                    block=self.block,
                    skip_cpu_check=self.skip_cpu_check,
                    transport=self.transport,
                )
            except (HostUnreachable, HostFault) as error:
                failure = failure or error
                continue
            if not report.failed:
                return report
            first = first or report
        if first is not None:
            return first
        assert failure is not None
        raise failure

    def plan(self, world: World, tx: Tx, op_id: str, found: Found) -> Plan:
        instance, report = still(tx, found.seen.instance), found.report
        acting.check_hold(tx, instance)
        epoch = instances.raise_epoch(tx, instance.uuid)
        move = moving.claim(
            world,
            tx,
            op_id,
            instance,
            MigrationKind.LIVE,
            storage=Storage.SHARED if report.shared else Storage.COPIED,
            epoch=epoch,
            host=report.target,
            reason=self.reason,
        )
        steps = self._steps(world, op_id, move, found)
        plan = move.plan(self.kind, steps, status=instance.status, **self._request())
        return replace(plan, preflight=report.as_dicts())

    def _request(self) -> dict[str, Any]:
        names = ("host", "block", "direct", "transport")
        return {"live": True, **{name: getattr(self, name) for name in names}}

    def _steps(self, world: World, op_id: str, move: moving.Move, found: Found) -> Iterator[Step]:
        uuid, source, target = move.instance.uuid, move.source.name, move.target.name
        xml = move.domain_xml(world, op_id)
        paused = found.seen.power is PowerState.PAUSED
        yield SetTask(uuid=uuid, task=TaskState.MIGRATING)
        yield from _prepared(move, found)
        if not self.direct:
            yield OpenTrust(host=source, target=target, receives=[])
            yield OpenSockets(host=target)
        ends: dict[str, Any] = {"host": source, "target": target, "uuid": uuid, "paused": paused}
        yield ReadyGuest(xml=xml, **ends)
        yield (DriveGuest if self.direct else MoveGuest)(
            **ends,
            disks=found.report.devices,
            max_downtime_ms=self.max_downtime_ms or 0,
            bandwidth_mibps=self.bandwidth_mibps or 0,
            auto_converge=self.auto_converge,
            transport=self.transport,
        )
        yield RecordArrived(
            host=target,
            uuid=uuid,
            migration=move.migration.id,
            source=source,
            vm_state=found.seen.vm_state,
            power_state=found.seen.power,
            status=MigrationStatus.MIGRATING,
            kept=True,
        )
        yield SettleArrival(host=target, uuid=uuid, xml=xml)
        yield LeaveSource(host=source, uuid=uuid, shared=found.report.shared)
        yield RecordLeft(host=source, uuid=uuid, migration=move.migration.id)
        if not self.direct:
            yield EndTrust(host=source, target=target)


def check_bandwidth(mibps: int | None) -> None:
    """Raises UsageError for what libvirt does not take."""
    if mibps is not None and not 1 <= mibps <= 1_000_000:
        raise UsageError("--bandwidth is 1 to 1000000 MiB/s")


def _prepared(move: moving.Move, found: Found) -> Iterator[Step]:
    """All that the guest needs of its new host besides its memory and what is in its disks."""
    uuid, target, instance = move.instance.uuid, move.target, move.moved
    yield guest.check_step(instance, target)
    if found.report.shared:
        return
    yield from guest.base_steps(instance, target.name)
    yield from blanks.steps(move.instance, found.report.disks, target.name)
    yield MakeDirectory(host=target.name, uuid=uuid)
    for file, size in found.report.disks.items():
        base = size.base.rpartition("/")[2]
        yield CreateDisk(host=target.name, uuid=uuid, file=file, base=base, size_bytes=size.virtual_bytes)
    disks = [[file, format_] for file, format_ in domain.disks_of(instance)]
    yield BringFiles(host=target.name, source=move.source.name, uuid=uuid, disks=disks)
