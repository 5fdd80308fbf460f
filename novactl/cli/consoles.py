"""novactl console-log, ssh: getting into guests."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from novactl.cli import render, verbs
from novactl.cli.options import Name
from novactl.errors import NovactlError, UsageError

SECRETS = frozenset({"NOVACTL_KEY", "NOVACTL_DB_PASSWORD"})
"""What other programs are not told."""

SSH_FAILED = 255  # as ssh's own: the guest's codes are below


def register(app: typer.Typer) -> None:
    """Hang the commands on the root."""
    app.command("console-log")(console_log)
    app.command()(ssh)


def console_log(
    ctx: typer.Context,
    name: Name,
    lines: Annotated[
        int, typer.Option("--lines", metavar="N", help="The last N lines; 0: all there is.")
    ] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until interrupted.")] = False,
) -> None:
    """Print what the guest wrote on its serial console.

    novactl console-log web1 --follow
    """
    from novactl.actions import watch

    session = ctx.obj
    if lines < 0:
        raise UsageError("--lines is negative")
    found = verbs.find(session, name, prefix=True)
    terminal = sys.stdout.isatty()
    for piece in watch.console(session.cloud.world, found, lines=lines, follow=follow):
        sys.stdout.buffer.write(render.harmless(piece) if terminal else piece)
        sys.stdout.buffer.flush()


def ssh(
    ctx: typer.Context,
    name: Name,
    command: Annotated[list[str] | None, typer.Argument(metavar="[-- COMMAND…]", help="Run this.")] = None,
    login: Annotated[str | None, typer.Option("--login", metavar="USER", help="User in the guest.")] = None,
    identity: Annotated[
        Path | None, typer.Option("--identity", "-i", metavar="FILE", help="Private key.")
    ] = None,
) -> None:
    """Log in to an instance through its host, or run a command there.

    novactl ssh web1 -- uptime
    """
    from novactl.guest_ssh import ssh_argv

    try:
        found = verbs.find(ctx.obj, name, prefix=True)
        argv = ssh_argv(ctx.obj.cloud, found, command or [], login, identity)
    except NovactlError as error:
        verbs.tell_error(name, error)
        raise typer.Exit(SSH_FAILED) from error
    ctx.obj.close()
    told = {name: value for name, value in os.environ.items() if name not in SECRETS}
    raise typer.Exit(subprocess.run(argv, check=False, env=told).returncode)
