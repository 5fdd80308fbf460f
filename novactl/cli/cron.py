"""novactl cron."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from novactl.cli import render, views
from novactl.errors import UsageError

if TYPE_CHECKING:
    from novactl.actions.cron import Row

COLUMNS = ("task", "result", "message", "started_at", "finished_at", "due_at")
LIST_COLUMNS = ("task", "enabled", "due_at", "result", "finished_at", "message")
FAILED, PARTLY, ATTENTION, TIMED_OUT = 1, 3, 10, 124


EXAMPLES = {
    "cron.d": "cron.d/novactl",
    "service": "systemd/novactl-cron.service",
    "timer": "systemd/novactl-cron.timer",
}


def register(app: typer.Typer) -> None:
    app.command()(cron)


def cron(
    ctx: typer.Context,
    task: Annotated[
        str | None, typer.Option("--task", metavar="NAME", help="This task now, due or not.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show the tasks; do nothing.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be done.")] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SEC", help="Leave the rest to the next run after (124).")
    ] = 3600,
    example: Annotated[
        str | None, typer.Option("--example", metavar="|".join(EXAMPLES), help="Print what calls it.")
    ] = None,
) -> None:
    """Do all periodic work that is due. Prints nothing when all is well; of what is not, each thing once.

    novactl cron

    One line of a crontab is all that a fleet needs:

    novactl cron --example cron.d
    """
    if example is not None:
        _example(example)
        return
    from novactl.actions.cron import TASKS, Cron
    from novactl.engine.ports import SystemClock

    session = ctx.obj
    if timeout <= 0:
        raise UsageError("--timeout is more than 0 seconds")
    cloud = session.cloud
    running = Cron(
        cloud.db,
        SystemClock(),
        lambda: (cloud.operator, cloud),
        TASKS,
        tell=lambda row: _tell(session, row),
    )
    if list_:
        render.listing(session, [_listed(one) for one in running.listed()], LIST_COLUMNS)
        return
    if task is not None:
        rows = running.run_one(task, seconds=timeout, dry_run=dry_run)
    else:
        rows = running.run(seconds=timeout, dry_run=dry_run)
    session.progress.clear()
    for row in rows if dry_run and session.output == "table" else ():
        for line in (*row.changes, *row.attention):
            print(render.visible(f"{row.task}: {line}"))
    if session.output != "table":
        render.listing(session, [_row(row) for row in rows], COLUMNS)
    if code := _code(rows):
        raise typer.Exit(code)


def _example(name: str) -> None:
    from novactl import resources

    if name not in EXAMPLES:
        raise UsageError(f"--example {name!r} is not one of {', '.join(EXAMPLES)}")
    print((resources.directory("templates") / EXAMPLES[name]).read_text(), end="")


def _tell(session: Any, row: "Row") -> None:
    """For people, and so for cron's mail: what is new on stdout, with -v also what was done."""
    if session.output != "table":
        return
    session.progress.clear()
    for one in row.news:
        since = f" (since {views.time(one.since)})" if one.state != "new" else ""
        print(render.visible(f"{row.task}: {one.message}{since}"), flush=True)
    if session.verbose:
        doing = [f"{row.task}: {change}" for change in row.changes]
        for line in [*doing, f"{row.task}: {row.result}" + (f", {row.message}" if row.message else "")]:
            session.tell(line)


def _row(row: "Row") -> dict[str, Any]:
    return {
        "task": row.task,
        "result": row.result,
        "message": row.message,
        "changes": row.changes,
        "attention": row.attention,
        "news": [
            {"target": one.target, "state": one.state, "message": one.message, "since": views.time(one.since)}
            for one in row.news
        ],
        "started_at": views.time(row.started_at),
        "finished_at": views.time(row.finished_at),
        "due_at": views.time(row.due_at),
    }


def _listed(one: dict[str, Any]) -> dict[str, Any]:
    return {key: views.time(value) if key.endswith("_at") else value for key, value in one.items()}


def _code(rows: Sequence["Row"]) -> int:
    """Of the tasks that this run worked on: one that failed counts more than what needs attention."""
    worked = [row for row in rows if row.result != "skipped"]
    failed = [row for row in worked if row.result == "failed"]
    if failed:
        return FAILED if len(failed) == len(worked) else PARTLY
    if any(row.attention for row in worked):
        return ATTENTION
    return TIMED_OUT if any(row.cut for row in rows) else 0
