"""What is on hosts and has no living instance: domains, directories, parts, jobs, marks. Pure."""

import re
from collections.abc import Iterator, Mapping

from novactl.actions.audit.gather import Believed, Gone, Surveys, is_active
from novactl.actions.audit.records import of
from novactl.actions.audit.scene import Scene, is_operation
from novactl.actions.steps.domains import OFF
from novactl.errors import NovactlError
from novactl.objects.finding import Finding, Severity
from novactl.objects.names import UUID, operation_of
from novactl.objects.survey import SeenDomain, Survey

STRAY = re.compile(rf"({UUID.pattern})\.(del|op-[0-9a-f]+)")
ASIDE = re.compile(rf"({UUID.pattern})_resize")
IGNORED = frozenset({"lost+found"})
ADOPT = "novactl audit --adopt, or novactl db rebuild, takes over what the host knows"


def of_hosts(seen: Believed, surveys: Surveys) -> Iterator[Finding]:
    """Hosts that do not answer, or that are not this fleet's any more."""
    for name in seen.hosts:
        survey = surveys.get(name)
        if isinstance(survey, Survey) and survey.fleet != seen.fleet:
            whose = f"the mark of fleet {survey.fleet}" if survey.fleet else "no fleet's mark"
            message = f"{name}: carries {whose}: nothing on it is judged or touched"
            yield _host_finding("fleet-mark-missing", "error", name, message)
        elif isinstance(survey, NovactlError):
            message = f"{survey.message if survey.message.startswith(name) else f'{name}: {survey.message}'}"
            yield _host_finding("unreachable-host", "error", name, f"{message}; nothing on it is judged")


def of_leftovers(scene: Scene) -> Iterator[Finding]:
    """Domains and directories that no living instance has."""
    taps = {port["tap"] for port in scene.seen.ports}
    for name, survey in scene.hosts.items():
        for domain in survey.domains:
            yield from _domain(scene, name, domain, taps)
        for directory in survey.directories:
            if directory.entry not in IGNORED:
                yield from _entry(scene, name, directory.entry)


def of_memory(scene: Scene, copies: Mapping[str, int]) -> Iterator[Finding]:
    """What hosts remember and the database does not: it was restored from an older copy."""
    seen = scene.seen
    for name, survey in scene.hosts.items():
        op = survey.mark.partition(".")[2]
        if op and op not in seen.operations and survey.serial > seen.pruned:
            message = f"{name}: was told of operation {op}, which is not in the database: {ADOPT}"
            yield _host_finding("mark-unknown", "error", name, message, subject=op)
        if copies.get(name, 0) > seen.catalogue:
            message = f"{name}: has copy {copies[name]} of the catalogue, the database is at {seen.catalogue}"
            yield _host_finding("copy-ahead", "error", name, f"{message}: {ADOPT}")
        for uuid, epoch in sorted(survey.epochs.items()):
            known = seen.epoch(uuid)
            if known is not None and epoch > known:
                yield _ahead(scene, name, uuid, epoch, known)


def of_work(scene: Scene, busy_hosts: frozenset[str], earlier: Believed) -> Iterator[Finding]:
    """Parts of transfers, jobs and keys between hosts that nobody works on."""
    for name, survey in scene.hosts.items():
        for op, n, running in survey.jobs:
            known = scene.seen.operations.get(op)
            if is_active(scene.seen, op) or known != earlier.operations.get(op):
                continue
            state = "runs" if running else "is left"
            message = (
                f"{name}: job {op}.{n} {state}, and its operation {'has ended' if known else 'is unknown'}"
            )
            words = "ends it" if running else "forgets it"
            yield _host_finding("job-left", "info", name, message, words, subject=f"{op} {n}")
        for key in survey.trusts:
            op = operation_of(key)
            known = scene.seen.operations.get(op)
            if not is_active(scene.seen, op) and known == earlier.operations.get(op):
                message = f"{name}: has a key between hosts of operation {op}, which has ended"
                yield _host_finding("trust-left", "warning", name, message, "removes it", subject=key)
        for part in survey.parts if name not in busy_hosts else ():
            message = f"{name}: has a part of base file {part}; the next boot there goes on with it"
            yield _host_finding("part-left", "info", name, message, "removes it", subject=part)


def _host_finding(
    finding: str, severity: Severity, host: str, message: str, heal: str | None = None, subject: str = ""
) -> Finding:
    return Finding(
        finding=finding,
        severity=severity,
        host=host,
        target=host,
        message=message,
        heal=heal,
        subject=subject,
    )


def _ahead(scene: Scene, host: str, uuid: str, epoch: int, known: int) -> Finding:
    seen = scene.seen
    name = (seen.living.get(uuid) or seen.gone[uuid]).name
    return Finding(
        finding="epoch-ahead",
        severity="error",
        host=host,
        target=name,
        message=f"{name}: {host} has seen epoch {epoch}, the database has {known}: {ADOPT}",
        subject=uuid,
    )


# --- domains ---


def _domain(scene: Scene, host: str, domain: SeenDomain, taps: set[str]) -> Iterator[Finding]:
    uuid, seen = domain.uuid, scene.seen
    if not scene.ours(domain):
        used = taps & set(domain.taps)
        if used and uuid not in seen.living:
            message = f"{host}: domain {domain.name} is not ours and uses {', '.join(sorted(used))}, which is"
            yield Finding(
                finding="foreign-domain", severity="info", host=host, target=domain.name, message=message
            )
        return
    if uuid in seen.living or uuid in scene.busy:
        return
    gone = seen.gone.get(uuid)
    if gone is None:
        yield _unknown(host, domain)
    else:
        yield _deleted(host, domain, gone)


def _unknown(host: str, domain: SeenDomain) -> Finding:
    state = "off" if domain.state in OFF else str(domain.state)
    name = (domain.record or {}).get("name")
    return Finding(
        finding="unknown-domain",
        severity="error",
        host=host,
        target=name if isinstance(name, str) else domain.name,
        message=f"{host}: domain {domain.uuid} ({state}) is ours and not in the database: {ADOPT}",
        subject=domain.uuid,
    )


def _deleted(host: str, domain: SeenDomain, gone: Gone) -> Finding:
    off = domain.state in OFF
    state = "a domain that is off" if off else f"a domain that is {domain.state}"
    return Finding(
        finding="deleted-domain",
        severity="warning" if off else "error",
        host=host,
        target=gone.name,
        message=f"{gone.name}: is deleted; {host} has {state}"
        + ("" if off else ": nothing stops a guest here"),
        heal="removes the domain and its files" if off and is_operation(domain.operation) else None,
        uuid=gone.uuid,
        version=gone.version,
        subject=domain.operation or "",
    )


# --- directories ---


def _entry(scene: Scene, host: str, entry: str) -> Iterator[Finding]:
    stray = STRAY.fullmatch(entry)
    uuid = stray[1] if stray else entry
    if uuid in scene.busy:
        return
    if aside := ASIDE.fullmatch(entry):
        yield from _aside(scene, host, aside[1], entry)
    elif stray:
        yield _stray(scene, host, uuid, entry)
    elif not UUID.fullmatch(entry):
        message = f"{host}: {entry!r} among the instances' directories is not of novactl"
        yield Finding(finding="foreign-entry", severity="info", host=host, target=host, message=message)
    elif uuid not in scene.seen.living and scene.domain(host, uuid) is None:
        yield _orphan(scene, host, uuid, f"{host}: has a directory of {uuid}, which")


def _stray(scene: Scene, host: str, uuid: str, entry: str) -> Finding:
    known = scene.seen.living.get(uuid) or scene.seen.gone.get(uuid)
    what = "half removed" if entry.endswith(".del") else "half made"
    return Finding(
        finding="stray-directory",
        severity="warning",
        host=host,
        target=known.name if known else uuid,
        message=f"{host}: {entry} was {what}" + ("" if known else "; its instance is unknown"),
        heal="removes it" if known else None,
        uuid=known.uuid if known else None,
        version=known.version if known else None,
        subject=entry,
    )


def _aside(scene: Scene, host: str, uuid: str, entry: str) -> Iterator[Finding]:
    """What a move keeps, with its hold, until it is confirmed or reverted. Without such a move it goes, if
    the instance has its disk elsewhere; where it is all that the instance has, guests.of_guests() says so."""
    known = scene.seen.living.get(uuid)
    message = f"{host}: {entry} was set aside by a move that does not wait any more"
    if uuid in scene.busy or scene.may_go_back(host, uuid):
        return
    if known is None:
        yield _orphan(scene, host, uuid, f"{message}; its instance")
    elif known.host != host and scene.has_disk(known.host, uuid):
        yield of(known, "stale-copy", "warning", message, "removes it", host=host)
    elif known.host != host or scene.directory(host, uuid) is not None:
        yield of(known, "stray-directory", "warning", message, host=host)


def _orphan(scene: Scene, host: str, uuid: str, message: str) -> Finding:
    gone = scene.seen.gone.get(uuid)
    return Finding(
        finding="directory-without-instance",
        severity="warning",
        host=host,
        target=gone.name if gone else uuid,
        message=f"{message} is {'deleted' if gone else 'unknown'}",
        heal="removes it" if gone else None,
        uuid=gone.uuid if gone else None,
        version=gone.version if gone else None,
        subject=uuid,
    )
