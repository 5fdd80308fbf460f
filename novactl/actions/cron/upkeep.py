"""Tasks that keep the fleet tidy: operations that nobody works on, caches, old records."""

from novactl.actions import prune, share
from novactl.actions.cron.task import Context, Report
from novactl.db import operations
from novactl.db.session import Tx
from novactl.engine.operation import Operation
from novactl.objects.duration import UNITS
from novactl.objects.image import MIB


def leases(context: Context) -> Report:
    """Operations whose owner is gone are somebody's concern: cron tells of them, it does not resume them."""
    operator = context.operator

    def left(tx: Tx) -> list[Operation]:
        active = [op for op, _, _ in operations.listed(tx, active=True) if op.parent is None]
        return [op for op in active if operator.is_left(tx, op)]

    report = Report()
    for op in context.world.db.read(left):
        words = f"{op.kind} of {op.target} is {op.state} since {op.started_at[:19]}Z and nobody works on it"
        report.note(op.id, f"{words}: novactl op resume {op.id}")
    return report


def caches(context: Context) -> Report:
    """Base files and blanks that no instance of a host uses, and what transfers left, are gone."""
    report, world = Report(), context.world
    found = prune.caches(world, None, context.older, remove=not context.dry_run, go_on=context.go_on)
    for one in found:
        if one.error is not None:
            report.note(one.host, f"nothing was pruned: {one.error.message}")
        gone = [file for file in one.files if file.state in ("removed", "unused")]
        report.changes += [f"{one.host}: {file.name}: {file.size_bytes // MIB} MiB" for file in gone]
    for pruned in share.prune(context.operator, context.older, remove=not context.dry_run):
        if pruned.error is not None:
            report.note(str(pruned.place), f"nothing was pruned: {pruned.error.message}")
        report.changes += [f"{pruned.place}: {name}" for name in pruned.files]
    report.partial = not context.go_on()
    return report


def records(context: Context) -> Report:
    """Old operations, events and deleted instances are gone from the database."""
    older = context.older
    pruned = prune.records(context.world, older, dry_run=context.dry_run, go_on=context.go_on)
    counts = {name: getattr(pruned, name) for name in ("operations", "events", "instances")}
    changes = [
        f"{count} {name} older than {older / UNITS['d']:g} days" for name, count in counts.items() if count
    ]
    return Report(changes=changes, partial=not pruned.whole)
