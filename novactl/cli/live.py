"""novactl migrate --live and migrate-abort: guests that run go to another host."""

from typing import Annotated

import typer

from novactl.cli import verbs, views


def register(app: typer.Typer) -> None:
    """Hang the commands on the root."""
    app.command("migrate-abort")(migrate_abort)


def migrate_abort(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name or uuid of an instance.")],
) -> None:
    """End a live migration that is under way; the guest stays where it was.

    novactl migrate-abort web1
    """
    from novactl.actions import live_abort
    from novactl.cli import render
    from novactl.db import operations

    session = ctx.obj
    op = live_abort.abort(session.cloud.operator, verbs.find(session, name))
    item = session.cloud.db.read(lambda tx: views.operation(*operations.one(tx, op.id)))
    render.show(session, item, verbs.OPERATION_COLUMNS)
