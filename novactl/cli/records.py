"""novactl set, unset, reset-state: verbs that change what is recorded of one instance."""

from typing import Annotated, Any

import typer

from novactl.cli import render, verbs, views
from novactl.cli.instances import SHOW_COLUMNS
from novactl.cli.options import DryRun, LockWait, NoWait, Timeout
from novactl.errors import UsageError
from novactl.objects.names import key_values

Which = Annotated[str, typer.Argument(metavar="NAME", help="Name or uuid of an instance.")]


def register(app: typer.Typer) -> None:
    """Hang the commands on the root."""
    app.command("set")(set_)
    app.command()(unset)
    app.command()(reset_state)


def set_(
    ctx: typer.Context,
    name: Which,
    new_name: Annotated[str | None, typer.Option("--name", metavar="NEW", help="Another name.")] = None,
    meta: Annotated[
        list[str] | None, typer.Option("--meta", metavar="K=V", help="Metadata; repeatable.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", metavar="T", help="A tag; repeatable.")] = None,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    timeout: Timeout = None,
    lock_wait: LockWait = 0.0,
) -> None:
    """Give an instance another name, more metadata or tags. Its guest is told at its next start.

    novactl set web1 --name web2 --meta role=web --tag new
    """
    from novactl.actions.describe import Describe

    if new_name is None and not meta and not tag:
        raise UsageError("nothing to set", hint="--name, --meta or --tag")
    action = Describe(
        name=name,
        project=ctx.obj.settings.project,
        new_name=new_name,
        metadata=key_values(meta or (), "--meta"),
        tags=tuple(tag or ()),
    )
    _verb(ctx.obj, action, dry_run, verbs.Waiting(no_wait, timeout, lock_wait))


def unset(
    ctx: typer.Context,
    name: Which,
    meta: Annotated[
        list[str] | None, typer.Option("--meta", metavar="K", help="A key of the metadata; repeatable.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", metavar="T", help="A tag; repeatable.")] = None,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    timeout: Timeout = None,
    lock_wait: LockWait = 0.0,
) -> None:
    """Take metadata or tags from an instance; what it does not have is no error.

    novactl unset web1 --meta role --tag new
    """
    from novactl.actions.describe import Describe

    if not meta and not tag:
        raise UsageError("nothing to unset", hint="--meta or --tag")
    if any("=" in key for key in meta or ()):
        raise UsageError("unset --meta takes a key, without a value")
    action = Describe(
        name=name,
        project=ctx.obj.settings.project,
        no_metadata=tuple(meta or ()),
        no_tags=tuple(tag or ()),
        kind="unset",
    )
    _verb(ctx.obj, action, dry_run, verbs.Waiting(no_wait, timeout, lock_wait))


def reset_state(
    ctx: typer.Context,
    name: Which,
    state: Annotated[str, typer.Option("--state", metavar="active|error", help="What the record is to say.")],
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    timeout: Timeout = None,
    lock_wait: LockWait = 0.0,
) -> None:
    """Record that an instance is active, or in error, whatever its host says; nothing is done there.

    novactl reset-state web1 --state error
    """
    from novactl.actions.describe import ResetState

    action = ResetState(name=name, project=ctx.obj.settings.project, state=state)
    _verb(ctx.obj, action, dry_run, verbs.Waiting(no_wait, timeout, lock_wait))


def _verb(session: Any, action: Any, dry_run: bool, waiting: verbs.Waiting) -> None:
    """Do it, and show the instance as it is then."""
    if dry_run:
        verbs.dry_run(session, [action], many=False)
        return
    outcomes = verbs.run(session, [action], many=False, waiting=waiting)
    if not waiting.no_wait:
        fresh = verbs.find(session, outcomes[0].uuid)
        render.show(session, views.instance(fresh), SHOW_COLUMNS)
