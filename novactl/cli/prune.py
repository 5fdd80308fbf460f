"""novactl image prune."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from novactl.cli import render, verbs
from novactl.cli.options import DryRun
from novactl.errors import NovactlError, PartlyDone, UsageError

if TYPE_CHECKING:
    from novactl.actions.prune import HostPruned
    from novactl.actions.share import Pruned

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
    from novactl.actions import share
    from novactl.objects.duration import parse_duration

    if everything == bool(on):
        raise UsageError("give hosts with --on, or --all", hint="novactl host list shows what exists")
    seconds = parse_duration(older_than, "--older-than")
    found = actions.caches(ctx.obj.cloud.world, None if everything else on, seconds, remove=not dry_run)
    shared = list(share.prune(ctx.obj.cloud.operator, seconds, remove=not dry_run)) if everything else []
    rows = [row for one in found for row in _rows(one)] + [row for one in shared for row in _shared(one)]
    render.listing(ctx.obj, rows, COLUMNS)
    _raise_failed([(one.host, one.error) for one in found] + [(str(one.place), one.error) for one in shared])


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


def _shared(one: "Pruned") -> list[dict[str, Any]]:
    """What no image needs of what operators share. A place that does not answer is a row."""
    row = dict.fromkeys(COLUMNS) | {"host": str(one.place), "removed": one.removed}
    if one.error is not None:
        return [{**row, "reason": one.error.message}]
    return [{**row, "file": file, "reason": "no image needs it"} for file in one.files]


def _raise_failed(looked: list[tuple[str, NovactlError | None]]) -> None:
    """Hosts and shared stores that all failed alike give that code, some of several 3."""
    failed = [(name, error) for name, error in looked if error is not None]
    for name, error in failed:
        verbs.tell_error(name, error)
    if not failed:
        return
    told, (_, first) = f"{len(failed)} of {len(looked)} places: nothing was pruned", failed[0]
    if len(failed) == len(looked) and len({error.code for _, error in failed}) == 1:
        raise type(first)(told, hint=first.hint)
    raise PartlyDone(told)
