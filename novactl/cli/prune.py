"""novactl image prune."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from novactl.cli import render, verbs
from novactl.cli.options import DryRun
from novactl.errors import PartlyDone, UsageError

if TYPE_CHECKING:
    from novactl.actions.prune import HostPruned

COLUMNS = ("host", "file", "size_bytes", "last_used", "removed", "reason")


def prune(
    ctx: typer.Context,
    on: Annotated[
        list[str] | None, typer.Option("--on", metavar="HOST", help="This host; repeatable.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All hosts, and where operators share images.")
    ] = False,
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="TIME", help="Last used so long ago: 90m, 12h, 7d.")
    ] = "7d",
    dry_run: DryRun = False,
) -> None:
    """Remove base files from hosts that no instance there uses; the next boot brings them again.

    novactl image prune --all --older-than 30d --dry-run
    """
    from novactl.actions import prune as actions
    from novactl.objects.duration import parse_duration

    if everything == bool(on):
        raise UsageError("give hosts with --on, or --all", hint="novactl host list shows what exists")
    seconds = parse_duration(older_than, "--older-than")
    found = actions.caches(ctx.obj.cloud.world, None if everything else on, seconds, remove=not dry_run)
    rows = [row for one in found for row in _rows(one)]
    if everything:
        rows += _shared(ctx.obj, seconds, remove=not dry_run)
    render.listing(ctx.obj, rows, COLUMNS)
    _raise_failed(found)


def _rows(one: "HostPruned") -> list[dict[str, Any]]:
    from datetime import UTC, datetime

    from novactl.actions.prune import REASONS

    if one.error is not None:
        row = dict.fromkeys(COLUMNS)
        return [{**row, "host": one.host, "removed": False, "reason": one.error.message}]
    return [
        {
            "host": one.host,
            "file": f"{file.name}{' (part)' if file.part else ''}",
            "size_bytes": file.size_bytes,
            "last_used": datetime.fromtimestamp(file.last_used, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "removed": file.state == "removed",
            "reason": REASONS[file.state],
        }
        for file in one.files
    ]


def _shared(session: Any, seconds: int, *, remove: bool) -> list[dict[str, Any]]:
    """What no image needs of what operators share. A place that does not answer is a row."""
    from novactl.actions import share

    rows = []
    for one in share.prune(session.cloud.operator, seconds, remove=remove):
        row = dict.fromkeys(COLUMNS) | {"host": str(one.place), "removed": one.removed}
        if one.error is not None:
            rows.append({**row, "reason": one.error.message})
        rows += [{**row, "file": file, "reason": "no image needs it"} for file in one.files]
    return rows


def _raise_failed(found: list["HostPruned"]) -> None:
    """Hosts that all failed alike give that code, some of several 3."""
    failed = [one for one in found if one.error is not None]
    for one in failed:
        assert one.error
        verbs.tell_error(one.host, one.error)
    if not failed:
        return
    first = failed[0].error
    assert first
    if len(failed) == len(found) and len({one.error.code for one in failed if one.error}) == 1:
        raise type(first)(f"{len(failed)} of {len(found)} hosts: nothing was pruned", hint=first.hint)
    raise PartlyDone(f"{len(failed)} of {len(found)} hosts: nothing was pruned")
