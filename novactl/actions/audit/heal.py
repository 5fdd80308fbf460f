"""Healing: findings become operations, one for each instance, host, and the database itself."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from novactl.actions import restored
from novactl.actions.steps import heals
from novactl.actions.steps.copies import ComeBack
from novactl.actions.steps.rescues import SettleDisks
from novactl.actions.world import World
from novactl.db import instances
from novactl.db.session import Tx
from novactl.engine.operation import Lock, Mode, Plan
from novactl.engine.step import Step
from novactl.errors import Busy
from novactl.objects.finding import Finding
from novactl.objects.instance import Instance
from novactl.objects.survey import Survey

DATABASE = "database"


def groups(found: Iterable[Finding]) -> list[list["Heal"]]:
    """What heals the findings, in three parts to be done one after the other: an ended operation's lock would
    keep the others out, and a host as a whole is healed while no instance on it is."""
    healed = [finding for finding in found if finding.heal is not None]
    by_database = [one for one in healed if one.uuid is None and one.host is None]
    by_host = [one for one in healed if one.uuid is None and one.host is not None]
    by_instance = [one for one in healed if one.uuid is not None]
    return [
        list(_heals(by_database, lambda one: DATABASE)),
        list(_heals(by_host, lambda one: str(one.host))),
        list(_heals(by_instance, lambda one: str(one.uuid))),
    ]


def _heals(found: Sequence[Finding], key: Callable[[Finding], str]) -> Iterator["Heal"]:
    for each in sorted({key(finding) for finding in found}):
        yield Heal(findings=tuple(finding for finding in found if key(finding) == each))


@dataclass(frozen=True, kw_only=True)
class Heal:
    """All that heals one instance, one host, or the database: an operation like any other."""

    findings: tuple[Finding, ...]
    project: str = ""
    kind: str = "heal"

    @property
    def uuid(self) -> str | None:
        return self.findings[0].uuid

    @property
    def target(self) -> str:
        first = self.findings[0]
        return first.target if first.uuid else first.host or DATABASE

    def check(self, world: World) -> Instance | None:
        """The record, after a look at each host that something will be done on. Raises Busy when the record
        is not what the audit saw, Refused when the database turns out to be an older copy."""
        uuid = self.uuid
        for host in self._touched():
            if uuid is None:
                self._look(world, host)
            else:
                greeting = world.hypervisor(host).greet(uuid)
                restored.check_mark(world, host, greeting.mark)
                restored.check_epoch(world, world.db.read(lambda tx: instances.get(tx, uuid)), greeting)
        return world.db.read(lambda tx: self._still(tx))

    def _look(self, world: World, host: str) -> None:
        survey: Survey = world.hypervisor(host).survey()
        restored.check_mark(world, host, survey.mark)

    def _still(self, tx: Tx) -> Instance | None:
        if self.uuid is None:
            return None
        now = instances.get(tx, self.uuid)
        if now.version != self.findings[0].version:
            raise Busy(f"{now.name}: was changed since the audit", hint="novactl audit looks again")
        return now

    def plan(self, world: World, tx: Tx, op_id: str, _: Instance | None) -> Plan | None:
        instance = self._still(tx)
        return Plan(
            kind=self.kind,
            target=self.target,
            target_uuid=self.uuid,
            project=instance.project if instance else "",
            request={"findings": [finding.finding for finding in self.findings]},
            locks=self._locks(instance),
            attempt=tuple(step for finding in self.findings for step in steps(finding, instance)),
            epoch=instances.raise_epoch(tx, self.uuid) if self.uuid else 0,
            host=next((finding.host for finding in self.findings if finding.host), None),
            changes={finding.finding: [finding.message, finding.heal] for finding in self.findings},
        )

    def _locks(self, instance: Instance | None) -> frozenset[Lock]:
        named = {finding.host for finding in self.findings if finding.host}
        if self.uuid is None:
            held = {Lock("host", host, Mode.EXCLUSIVE) for host in named}
            return frozenset(held or {Lock(DATABASE, DATABASE, Mode.EXCLUSIVE)})
        if instance is not None and instance.host:
            named.add(instance.host)
        shared = {Lock("host", host, Mode.SHARED) for host in named}
        return frozenset(shared | {Lock("instance", self.uuid, Mode.EXCLUSIVE)})

    def _touched(self) -> list[str]:
        """Hosts that it acts on."""
        return sorted({str(one.host) for one in self.findings if one.finding not in heals.RECORDS})


def steps(finding: Finding, instance: Instance | None) -> list[Step]:
    """What heals one finding. Pure."""
    if finding.finding in heals.RECORDS:
        words = f"{finding.target}: {finding.heal}"
        names: dict[str, Any] = {"finding": finding.finding, "uuid": finding.uuid, "subject": finding.subject}
        return [heals.HealRecord(host=finding.host, words=words, **names)]
    return ON_HOSTS[finding.finding](finding, instance)


def _copy(finding: Finding, _: Instance | None) -> list[Step]:
    uuid = str(finding.uuid)
    files = heals.RemoveLeftFiles(host=finding.host, uuid=uuid)
    if not finding.subject:
        return [files]
    return [heals.RemoveLeftDomain(host=finding.host, uuid=uuid, made_by=finding.subject), files]


def _domain(finding: Finding, _: Instance | None) -> list[Step]:
    uuid = str(finding.uuid)
    return [heals.RemoveLeftDomain(host=finding.host, uuid=uuid, made_by=finding.subject)]


def _files(finding: Finding, _: Instance | None) -> list[Step]:
    return [heals.RemoveLeftFiles(host=finding.host, uuid=str(finding.uuid))]


def _brought_back(finding: Finding, _: Instance | None) -> list[Step]:
    return [ComeBack(host=finding.host, uuid=str(finding.uuid))]


def _stray(finding: Finding, _: Instance | None) -> list[Step]:
    return [heals.RemoveStray(host=finding.host, uuid=str(finding.uuid), entry=finding.subject)]


def _kept_disks(finding: Finding, _: Instance | None) -> list[Step]:
    op, way, *files = finding.subject.split(" ")
    uuid = str(finding.uuid)
    return [SettleDisks(host=finding.host, uuid=uuid, of=op, files=files, back=way == "back")]


def _left(finding: Finding, _: Instance | None) -> list[Step]:
    return [heals.DropLeft(host=finding.host, uuid=str(finding.uuid), of=finding.subject)]


def _autostart(finding: Finding, _: Instance | None) -> list[Step]:
    return [heals.AutostartOff(host=finding.host, uuid=str(finding.uuid))]


def _seen(finding: Finding, instance: Instance | None) -> list[Step]:
    uuid, home = str(finding.uuid), instance.host if instance else None
    not_on = home if home != finding.host else None
    return [
        heals.LookAgain(host=finding.host, uuid=uuid, not_on=not_on),
        heals.RecordSeen(host=finding.host, uuid=uuid),
    ]


def _part(finding: Finding, _: Instance | None) -> list[Step]:
    return [heals.RemovePart(host=finding.host, name=finding.subject)]


def _job(finding: Finding, _: Instance | None) -> list[Step]:
    op, n = finding.subject.split(" ")
    return [heals.EndJob(host=finding.host, of=op, n=int(n))]


def _trust(finding: Finding, _: Instance | None) -> list[Step]:
    return [heals.EndKey(host=finding.host, of=finding.subject)]


ON_HOSTS: dict[str, Callable[[Finding, Instance | None], list[Step]]] = {
    "deleted-domain": _copy,
    "stale-copy": _copy,
    "stale-domain": _domain,
    "directory-without-instance": _files,
    "files-aside": _brought_back,
    "stray-directory": _stray,
    "files-left": _left,
    "disks-aside": _kept_disks,
    "autostart-on": _autostart,
    "power-differs": _seen,
    "wrong-host": _seen,
    "part-left": _part,
    "job-left": _job,
    "trust-left": _trust,
}
"""Findings that are healed on a host."""
