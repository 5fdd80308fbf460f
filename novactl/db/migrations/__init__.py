"""Schema changes, by alembic: imported only to upgrade or to compare."""

from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, text

from novactl.db.servers import LOCKS
from novactl.db.session import SCHEMA, not_ours
from novactl.db.tables import metadata


def migrate(engine: Engine, where: str) -> list[str]:
    """Bring the schema of the database `where` to ours; the revisions that were applied. What all writes
    lock is held meanwhile; where DDL commits by itself (MySQL) that is by a connection of its own, and
    what was begun is gone on with the next time. Raises DatabaseError when the schema is newer than ours
    or there is none."""
    with engine.begin() as guard:
        if engine.dialect.name == "mysql":
            guard.execute(
                text("SET SESSION /*M! idle_transaction_timeout = 0, */ innodb_lock_wait_timeout = 30")
            )
        elif engine.dialect.name == "postgresql":
            guard.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            guard.execute(text(LOCKS["postgresql", True][0]))
        found = _schema(guard)
        if found == SCHEMA:
            return []
        if found is None or found > SCHEMA:
            raise not_ours(where, found)
        if engine.dialect.name == "mysql":
            with engine.begin() as other:
                done = _run(other, found)
        else:
            done = _run(guard, found)
        guard.execute(text("UPDATE meta SET value = :new WHERE name = 'schema'"), {"new": str(SCHEMA)})
    return done


def _schema(guard: Connection) -> int | None:
    lock = "" if guard.dialect.name == "sqlite" else " FOR UPDATE"
    row = guard.execute(text(f"SELECT value FROM meta WHERE name = 'schema'{lock}")).first()
    return int(row[0]) if row else None


def _run(connection: Connection, schema: int) -> list[str]:
    """Apply what is missing. A database that alembic has not seen yet stands where its own number says."""
    done: list[str] = []

    def told(*, step: Any, **_: Any) -> None:
        if step.up_revision is not None and step.is_upgrade and not step.is_stamp:
            done.append(f"{step.up_revision_id}: {step.up_revision.doc}")

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes |= {"connection": connection, "told": told}
    if MigrationContext.configure(connection).get_current_revision() is None:
        command.stamp(config, f"{schema:04d}")
    command.upgrade(config, f"{SCHEMA:04d}")
    return done


def compare(engine: Engine) -> list[str]:
    """How the tables differ from those that this novactl makes, a line each."""
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"include_name": lambda name, kind, _: kind != "table" or name in metadata.tables},
        )
        return [_words(difference) for difference in compare_metadata(context, metadata)]


def _words(difference: Any) -> str:
    if isinstance(difference, list):
        return "; ".join(_words(one) for one in difference)
    what, *subjects = difference
    named = [getattr(subject, "name", None) or subject for subject in subjects]
    return f"{what}: {', '.join(str(name) for name in named if name is not None)}"
