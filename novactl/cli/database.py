"""novactl db …"""

from pathlib import Path
from typing import Annotated, Any

import typer

from novactl.cli import render
from novactl.cli.options import DryRun
from novactl.errors import DatabaseError

DRIFT = 10
MADE_COLUMNS = ("kind", "name", "host")

app = typer.Typer(help="The database.", no_args_is_help=True, rich_markup_mode=None)


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="db")


@app.command()
def init(ctx: typer.Context) -> None:
    """Create the database and this fleet's uuid; one that is there stays as it is.

    On a server an empty database must be there, and its password is not part of the URL: it is
    $NOVACTL_DB_PASSWORD, or the first line of the file $NOVACTL_DB_PASSWORD_FILE, or what the driver reads by
    itself (~/.pgpass for PostgreSQL).

    novactl db init --db postgresql://novactl@db.example/novactl

    novactl db init --db mysql://novactl@db.example/novactl
    """
    from novactl.db.sqlite import SqliteDatabase

    session = ctx.obj
    database, made = session.cloud.init()
    try:
        session.tell(f"{database.where}: {'created' if made else 'unchanged'}")
        path = {"path": str(database.path)} if isinstance(database, SqliteDatabase) else {}
        render.show(session, {**path, "database": database.where, "fleet": database.fleet()})
    finally:
        database.close()


@app.command()
def upgrade(ctx: typer.Context) -> None:
    """Bring the database to this novactl's schema; nobody can write meanwhile.

    Copy it first. An older novactl cannot use it afterwards.

    novactl db upgrade --db postgresql://novactl@db.example/novactl
    """
    session = ctx.obj
    database = _present(session)
    try:
        applied = database.upgrade()
        session.tell(f"{database.where}: {'upgraded' if applied else 'unchanged'}")
        item = {"database": database.where, "schema": database.schema(), "applied": applied}
        render.show(session, item)
    finally:
        database.close()


@app.command()
def check(ctx: typer.Context) -> None:
    """Look whether the database is as this novactl makes it: its schema, its tables, its file; 10 when not.

    novactl db check
    """
    from novactl.db.session import SCHEMA

    session = ctx.obj
    database = _present(session)
    try:
        schema, differences = database.schema(), database.differences()
    finally:
        database.close()
    if schema != str(SCHEMA):
        differences = [f"schema: {schema or 'none'}, this novactl needs {SCHEMA}", *differences]
        older = schema is None or int(schema) < SCHEMA
        session.tell("hint: novactl db upgrade" if older else "hint: use the newer novactl that upgraded it")
    item = {"database": database.where, "schema": schema, "needs": str(SCHEMA), "differences": differences}
    render.show(session, item)
    if differences:
        raise typer.Exit(DRIFT)


def _present(session: Any) -> Any:
    """The database as it is, whatever its schema. Raises DatabaseError when there is none."""
    database = session.cloud.database()
    if not database.exists:
        database.close()
        raise DatabaseError(f"{database.where}: does not exist", hint="novactl db init creates it")
    return database


@app.command()
def rebuild(
    ctx: typer.Context,
    places: Annotated[
        list[str],
        typer.Option(
            "--from",
            metavar="HOST",
            help="A host's name, or [USER@]ADDRESS[:PORT]; repeatable.",
            show_default=False,
        ),
    ],
    fingerprint: Annotated[
        str | None, typer.Option("--fingerprint", metavar="SHA256:…", help="The first host's key.")
    ] = None,
    accept_host_key: Annotated[
        bool, typer.Option("--accept-host-key", help="Pin the key that the first host shows now.")
    ] = False,
    identity: Annotated[
        Path | None, typer.Option("--identity", metavar="FILE", help="Your private key for the hosts.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Make a lost database again from its hosts: hosts, catalogue, instances, addresses, user-data.

    The first host is given by its address and its key is pinned as by host add; it knows the others, which
    may then be given by name. Only what is missing is added, so it may be done again. Hosts and guests are
    looked at and not touched. History, deleted instances and passwords do not come back.

    novactl db rebuild --from 192.0.2.11 --fingerprint SHA256:… --from kvm2 --from kvm3
    """
    from novactl.actions.rebuild import Rebuild
    from novactl.actions.rebuild_sources import Pinning, SshReach
    from novactl.engine.ports import SystemClock

    session = ctx.obj
    database, ssh = session.cloud.database(), session.cloud.ssh
    try:
        work = Rebuild(database, session.cloud.store, SystemClock().now(), session.tell)
        with SshReach(ssh.identities(), identity) as reach:
            work.look(reach, places, Pinning(fingerprint, accept_host_key, session.ask))
        summary = work.rehearse()
        if not dry_run:
            if summary.made:
                names = ", ".join(source.host.name for source in work.sources)
                session.confirm(f"add {_counted(summary)} from {names} to {database.where}?")
            summary = work.apply()
            _keep_identity(session.cloud, [source.host.name for source in work.sources], identity)
        _told(session, database.where, summary, dry_run)
    finally:
        database.close()


def _counted(summary: Any) -> str:
    """What is made, in words."""
    counts = {key: value for key, value in summary.as_dict().items() if isinstance(value, int) and value}
    return ", ".join(f"{value} {key}" for key, value in counts.items())


def _keep_identity(cloud: Any, names: list[str], identity: Path | None) -> None:
    """As host add does, but what is known already stays."""
    known = cloud.ssh.identities()
    for name in names:
        if identity is not None and name not in known:
            cloud.set_identity(name, identity)


def _told(session: Any, where: str, summary: Any, dry_run: bool) -> None:
    for one in summary.missing:
        session.tell(f"{one['kind']} {one['name']}: {one['message']}")
    item = {"database": where, **summary.as_dict()}
    if session.output == "table":
        if dry_run:
            render.listing(session, summary.made, MADE_COLUMNS)
        else:
            render.show(session, {**item, "missing": len(summary.missing)})
        return
    render.show(session, {**item, "made": summary.made} if dry_run else item)
    if not summary.made:
        session.tell("unchanged")
