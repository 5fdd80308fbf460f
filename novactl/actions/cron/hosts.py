"""Tasks that look at every host."""

import concurrent.futures
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from novactl.actions import host_checks, restored, second_copies
from novactl.actions.cron.task import Context, Report
from novactl.actions.refresh import refresh, taken_for_down
from novactl.db import hosts, second_copy
from novactl.errors import HostUnreachable, NovactlError
from novactl.objects.host import Host

PARALLEL = 16
NOBODY = "00000000-0000-0000-0000-000000000000"  # look() wants to be asked about an instance

T = TypeVar("T")


def each(context: Context, chosen: Iterable[T], work: Callable[[T], None], report: Report) -> None:
    """work() of each, 16 at a time; those that no time is left for make the report a partial one."""

    def one(item: T) -> None:
        if context.go_on():
            work(item)
        else:
            report.partial = True

    with concurrent.futures.ThreadPoolExecutor(max_workers=PARALLEL) as pool:
        for future in [pool.submit(one, item) for item in chosen]:
            future.result()


def facts(context: Context) -> Report:
    """What hosts are and have is measured anew. One that does not say it is somebody's concern, and down by
    the same rule as for `list --refresh`; one that was removed meanwhile is nobody's."""
    report, db = Report(), context.world.db
    known = db.read(hosts.everything)
    looks: dict[str, Host | NovactlError] = {}

    def look(host: Host) -> None:
        try:
            looks[host.name] = _patiently(context, host)
        except NovactlError as error:
            looks[host.name] = error

    each(context, known, look, report)
    there = {host.name for host in db.read(hosts.everything)}
    down = taken_for_down({name: seen for name, seen in looks.items() if name in there})
    for host in known:
        if host.name in looks and host.name in there:
            _record(context, host, looks[host.name], host.name in down, report)
    return report


def _record(context: Context, host: Host, seen: Host | NovactlError, down: bool, report: Report) -> None:
    world = context.world
    if isinstance(seen, NovactlError):
        report.note(host.name, seen.message)
        if not down:
            return
        seen = replace(host, state="down", checked_at=world.clock.now())
    if seen.facts.get("boot_id") != host.facts.get("boot_id"):
        report.changes.append(f"{host.name}: was started anew")
    if seen.state != host.state:
        report.changes.append(f"{host.name}: is {seen.state}, was {host.state}")
    if not context.dry_run and world.db.write(partial(hosts.measured, before=host, now=seen)):
        report.changes.append(f"{host.name}: what is known of it changed")


def power_states(context: Context) -> Report:
    """Records follow what hosts say of their guests. Hosts that do not answer are the concern of `facts`."""
    report = Report()
    if context.dry_run:
        return report
    for row in refresh(context.world, user=context.operator.journal.owner.user):
        report.changes += [f"{one.name}: {one.before} -> {one.after}" for one in row.changes]
        for name in row.missing:
            report.note(name, f"{row.host} has no domain of it: novactl audit")
        if row.error is not None and not isinstance(row.error, HostUnreachable):
            report.note(row.host, row.error.message)
    return report


def copies(context: Context) -> Report:
    """Hosts with an older copy of the catalogue get today's."""
    report, world = Report(), context.world
    newest = world.db.read(second_copy.version)
    known = [host.name for host in world.db.read(hosts.everything) if host.state == "up"]

    def one(name: str) -> None:
        try:
            seen = world.hypervisor(name).look(NOBODY, [])
            restored.check_mark(world, name, seen.mark)
        except HostUnreachable:
            return
        except NovactlError as error:
            report.note(name, error.message)
            return
        if seen.copy < newest:
            report.changes.append(f"{name}: has copy {seen.copy} of the catalogue, gets {newest}")
            if not context.dry_run:
                second_copies.refresh(world, [name])

    each(context, known, one, report)
    return report


def _patiently(context: Context, host: Host) -> Host:
    """A host that was up has a second try: one lost packet takes no host out of the fleet."""
    try:
        return host_checks.refreshed(context.world, context.reach, host)
    except NovactlError:
        if host.state != "up" or not context.go_on():
            raise
    return host_checks.refreshed(context.world, context.reach, host)
