"""novactl recover: one instance, or one operation, after something went wrong."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from novactl.cli import render, verbs
from novactl.cli.options import DryRun

if TYPE_CHECKING:
    from novactl.actions.diagnosis import Diagnosis

SIGHT_COLUMNS = ("where", "says")
FINDING_COLUMNS = ("severity", "finding", "host", "message", "heal")
DRIFT = 10


def register(app: typer.Typer) -> None:
    """Hang the command on the root."""
    app.command("recover")(recover)


def recover(
    ctx: typer.Context,
    target: Annotated[
        str, typer.Argument(metavar="NAME|OP", help="Name or uuid of an instance, or an operation's id.")
    ],
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep", metavar="HOST", help="Of a guest that runs on two: the other one is powered off."
        ),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """End what was left half way, after a look everywhere.

    Tells what the journal, the record and every host say of it. An operation whose owner is gone goes on, or
    back when a host that it needs does not answer; a record follows its guest to where it is. No guest is
    started or stopped but by the operation's own steps, and with --keep: that of a guest which runs on two
    hosts, and is not on this one.

    novactl recover web1 --dry-run

    novactl recover web1

    novactl recover web1 --keep kvm2 --dry-run
    """
    from novactl.actions import diagnosis

    session = ctx.obj
    operator = session.cloud.operator
    instance, named = diagnosis.subject(operator, target, session.settings.project)
    found = diagnosis.diagnose(operator, instance, named)
    if keep is not None and _keeps(session, found, keep, dry_run):
        return
    if found.course is diagnosis.Course.NOTHING:
        _show(session, found, found.as_dict())
        _end(session, found)
        return
    if dry_run:
        _show(session, found, diagnosis.plan(operator, found))
        return
    _tell(session, found)
    try:
        diagnosis.follow(operator, found)
    finally:
        session.progress.clear()
    _end(session, _again(session, found))


def _keeps(session: Any, found: "Diagnosis", host: str, dry_run: bool) -> bool:
    """The guest is powered off where it is not kept; False when it runs on no other host."""
    from novactl.actions import keep

    verbs.check_host(session, host)
    operator = session.cloud.operator
    stops = keep.others(found, host)
    if not stops:
        return False
    found = keep.course(found, host, stops)
    if dry_run:
        _show(session, found, keep.plan(operator, found, host, stops))
        return True
    _tell(session, found)
    where = ", ".join(stops)
    session.confirm(f"power {found.target} off on {where}? What it wrote there alone is lost")
    try:
        keep.follow(operator, found, host, stops)
    finally:
        session.progress.clear()
    _end(session, _again(session, found))
    return True


def _again(session: Any, before: "Diagnosis") -> "Diagnosis":
    """Look once more; what the operation left on hosts is healed as well. It is this look that is shown."""
    from novactl.actions import diagnosis

    operator = session.cloud.operator
    found = diagnosis.diagnose(operator, before.instance, before.operation)
    if found.course is diagnosis.Course.HEAL and before.course is not diagnosis.Course.HEAL:
        _tell(session, found)
        diagnosis.follow(operator, found)
        found = diagnosis.diagnose(operator, before.instance, before.operation)
    _show(session, found, found.as_dict())
    return found


def _tell(session: Any, found: "Diagnosis") -> None:
    """What was found before anything was done, for people."""
    for sight in found.sights:
        session.tell(f"{sight.where}: {sight.says}")
    for finding in found.findings:
        session.tell(f"{finding.message}{f': {finding.heal}' if finding.heal else ''}")
    session.tell(f"{found.course}: {found.why}")


def _show(session: Any, found: "Diagnosis", item: dict[str, Any]) -> None:
    if session.output != "table":
        render.show(session, item)
        return
    render.listing(session, item["found"], SIGHT_COLUMNS)
    render.listing(session, item["findings"], FINDING_COLUMNS)
    render.listing(session, item.get("steps", []), verbs.PLAN_COLUMNS)
    session.tell(f"{found.target}: {found.course}: {found.why}")


def _end(session: Any, found: "Diagnosis") -> None:
    """The code: 0 when all is well, 7 when its host does not answer, 10 when something remains."""
    from novactl.errors import HostUnreachable

    if found.well:
        return
    if found.dark and found.operation is None:
        raise HostUnreachable(
            f"{found.target}: {', '.join(found.dark)} does not answer",
            hint=f"when the host is off for certain: novactl evacuate {found.target}",
        )
    raise typer.Exit(DRIFT)
