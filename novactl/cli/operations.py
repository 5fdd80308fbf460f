"""novactl op, event …"""

from typing import Annotated

import typer

from novactl.cli import render, verbs, views
from novactl.errors import UsageError

op = typer.Typer(
    help="Operations: what was done, and what is left.", no_args_is_help=True, rich_markup_mode=None
)
event = typer.Typer(help="What happened to instances.", no_args_is_help=True, rich_markup_mode=None)

OP_COLUMNS = ("id", "kind", "target", "state", "steps_done", "steps_total", "owner", "started_at", "error")
STEP_COLUMNS = ("n", "attempt", "name", "kind", "host", "state", "started_at", "error")
EVENT_COLUMNS = ("time", "action", "result", "user", "operation", "message")


def register(root: typer.Typer) -> None:
    root.add_typer(op, name="op")
    root.add_typer(event, name="event")


@op.command("list")
def op_list(
    ctx: typer.Context,
    active: Annotated[bool, typer.Option("--active", help="Only those that have not ended.")] = False,
) -> None:
    """List operations, newest first."""
    from novactl.db import operations

    items = ctx.obj.cloud.db.read(
        lambda tx: [views.operation(*row) for row in operations.listed(tx, active=active)]
    )
    render.listing(ctx.obj, items, OP_COLUMNS)


@op.command("show")
def op_show(ctx: typer.Context, id_: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Show an operation with its steps."""
    from novactl.db import operations

    session = ctx.obj
    found = session.cloud.journal.load(id_)
    children = session.cloud.db.read(
        lambda tx: [views.operation(*row) for row in operations.listed(tx, parent=id_)]
    )
    item = views.operation_in_full(found, children)
    if session.output != "table":
        render.show(session, item)
        return
    render.show(session, {key: item[key] for key in item if key not in ("steps", "children")})
    render.listing(session, item["steps"], STEP_COLUMNS)
    render.listing(session, children, OP_COLUMNS)


@op.command("wait")
def op_wait(
    ctx: typer.Context,
    id_: Annotated[str, typer.Argument(metavar="ID")],
    timeout: Annotated[float, typer.Option("--timeout", metavar="SEC", help="Give up after.")] = 3600,
) -> None:
    """Wait until an operation has ended; ends with its code.

    novactl op wait op-1a205f389be1f3053cf --timeout 60
    """
    from novactl.actions import watch

    found = watch.operation(ctx.obj.cloud.operator, id_, timeout)
    ctx.obj.tell(f"{found.id}: {found.state}")


@op.command("resume")
def op_resume(
    ctx: typer.Context,
    id_: Annotated[str | None, typer.Argument(metavar="[ID]")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every one whose owner is gone.")] = False,
) -> None:
    """Finish an operation whose owner is gone.

    novactl op resume --all
    """
    from novactl.actions import recover

    session = ctx.obj
    if everything == (id_ is not None):
        raise UsageError("give an operation's id or --all")
    if id_ is not None:
        session.tell(f"{recover.take_over(session.cloud.operator, id_, back=False).id}: done")
        return
    verbs.report(session, recover.take_over_all(session.cloud.operator))


@op.command("run")
def op_run(
    ctx: typer.Context,
    id_: Annotated[str, typer.Argument(metavar="ID")],
    giver: Annotated[str | None, typer.Option("--from", hidden=True)] = None,
) -> None:
    """Run an operation that is journaled and has no runner; what --no-wait starts.

    novactl op run op-1a205f389be1f3053cf
    """
    from novactl import detach
    from novactl.actions import handover

    session = ctx.obj
    family = handover.take_up(session.cloud.operator, id_, giver)
    detach.taken()
    verbs.report(session, handover.carry_out(session.cloud.operator, family))


@op.command("cancel")
def op_cancel(ctx: typer.Context, id_: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Ask an operation to stop and undo; one whose owner is gone is undone here.

    novactl op cancel op-1a205f389be1f3053cf
    """
    from novactl.actions import recover

    found = recover.cancel(ctx.obj.cloud.operator, id_)
    ctx.obj.tell(f"{found.id}: {'undone' if found.state == 'undone' else 'will stop at its next step'}")


@op.command("rollback")
def op_rollback(ctx: typer.Context, id_: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Undo an operation whose owner is gone; past its point of no return: 5."""
    from novactl.actions import recover

    ctx.obj.tell(f"{recover.take_over(ctx.obj.cloud.operator, id_, back=True).id}: undone")


@event.command("list")
def event_list(ctx: typer.Context, name: Annotated[str, typer.Argument(metavar="NAME|UUID")]) -> None:
    """What was done to an instance, by whom and how it ended; a deleted one by its uuid."""
    from novactl.db import operations

    session = ctx.obj
    found = verbs.find(session, name, prefix=True, deleted=True)
    items = session.cloud.db.read(lambda tx: [views.event(row) for row in operations.events(tx, found.uuid)])
    render.listing(session, items, EVENT_COLUMNS)
