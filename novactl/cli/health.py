"""novactl check, metrics."""

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from novactl.cli import render
from novactl.cli.exposition import exposition
from novactl.errors import NovactlError, Refused, UsageError

if TYPE_CHECKING:
    from novactl.actions.health import Seen

COLUMNS = ("check", "result", "message", "hint")
DRIFT = 10
NAGIOS = {"ok": (0, "OK"), "warn": (1, "WARNING"), "fail": (2, "CRITICAL")}
UNKNOWN = 3


def register(app: typer.Typer) -> None:
    """Hang the commands on the root."""
    app.command()(check)
    app.command()(metrics)


# --- check ---


def check(
    ctx: typer.Context,
    nagios: Annotated[
        bool, typer.Option("--nagios", help="As a Nagios plugin: one line; ends with 0, 1, 2 or 3.")
    ] = False,
    warning: Annotated[
        float, typer.Option("--warning", metavar="PERCENT", help="Of the capacity claimed.")
    ] = 90,
    critical: Annotated[float, typer.Option("--critical", metavar="PERCENT", help="The same.")] = 98,
    stale: Annotated[
        str, typer.Option("--stale", metavar="TIME", help="Hosts looked at longer ago; 90m, 12h.")
    ] = "1h",
) -> None:
    """Tell what needs attention, from the database alone: 10 when something does.

    novactl check --nagios --warning 85
    """
    from novactl.actions import health
    from novactl.objects.duration import parse_duration

    if not 0 < warning <= critical:
        raise UsageError("--warning is more than 0 and no more than --critical")
    limits = health.Limits(
        warn_percent=warning, fail_percent=critical, stale=parse_duration(stale, "--stale")
    )
    if nagios:
        _nagios(ctx.obj, limits)
    found = health.checks(health.look(ctx.obj.cloud.operator), limits)
    render.listing(ctx.obj, [vars(one) for one in found], COLUMNS)
    if any(one.result != "ok" for one in found):
        raise typer.Exit(DRIFT)


def _nagios(session: Any, limits: Any) -> None:
    """Print the plugin's line and end as Nagios wants it. What keeps us from looking is UNKNOWN."""
    from novactl.actions import health

    try:
        seen = health.look(session.cloud.operator)
        found = health.checks(seen, limits)
    except NovactlError as error:
        print(render.visible(f"NOVACTL UNKNOWN - {_plain(error.message)}", keep=""))
        raise typer.Exit(UNKNOWN) from error
    worst = max(found, key=lambda one: NAGIOS[one.result][0]).result
    code, word = NAGIOS[worst]
    wrong = sorted((one for one in found if one.result != "ok"), key=lambda one: -NAGIOS[one.result][0])
    text = "; ".join(one.message for one in (wrong or found))
    print(render.visible(f"NOVACTL {word} - {_plain(text)} | {_perfdata(seen, limits)}", keep=""))
    raise typer.Exit(code)


def _plain(text: str) -> str:
    """Without the sign that ends the text of a plugin, in one line."""
    return " ".join(text.replace("|", "/").split())


def _perfdata(seen: "Seen", limits: Any) -> str:
    """label=value[unit];warn;crit;min;max"""
    down = sum(1 for host in seen.hosts if host["state"] != "up")
    total = len(seen.hosts)
    parts = [f"hosts={total};;;0;", f"hosts_not_up={down};0;0;0;{total}"]
    parts += [f"instances={sum(seen.instances.values())};;;0;"]
    parts += [
        f"instances_error={seen.instances.get('ERROR', 0)};0;;0;",
        f"operations_left={len(seen.left)};0;;0;",
    ]
    parts += [
        f"{size}_used={percent:.1f}%;{limits.warn_percent:g};{limits.fail_percent:g};0;"
        for size, percent in seen.used_percent.items()
    ]
    return " ".join(parts)


# --- metrics ---


def metrics(
    ctx: typer.Context,
    textfile: Annotated[
        Path | None, typer.Option("--textfile", metavar="FILE", help="Write it there, at once as a whole.")
    ] = None,
) -> None:
    """Figures of the fleet for Prometheus, from the database alone.

    novactl metrics --textfile /var/lib/prometheus/node-exporter/novactl.prom
    """
    from novactl.actions import health

    text = exposition(health.look(ctx.obj.cloud.operator))
    if textfile is None:
        sys.stdout.write(text)
        return
    try:
        _write_whole(textfile, text)
    except OSError as error:
        raise Refused(f"--textfile {textfile}: {error.strerror or error}") from error


def _write_whole(path: Path, text: str) -> None:
    """The file is the old one or the new one for every reader, and everybody may read it."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")  # collectors read *.prom
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(descriptor, 0o644)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        fresh.replace(path)
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink()
