"""migrations: moves of instances to another host or flavor"""

from alembic import op
from sqlalchemy import Column, inspect

from novactl.db.tables import Id, Name, Text, Time, words

revision = "0005"
down_revision = "0004"

COLUMNS = ("instance_uuid", "status", "source")


def upgrade() -> None:
    """Each part only where it is missing: MySQL keeps what an upgrade that was cut short had done."""
    there = inspect(op.get_bind())
    if "migrations" not in there.get_table_names():
        op.create_table(
            "migrations",
            Column("id", Id, primary_key=True),
            Column("instance_uuid", Id, nullable=False),
            Column("kind", words(24), nullable=False),
            Column("status", words(16), nullable=False),
            Column("source", Name, nullable=False),
            Column("target", Name, nullable=False),
            Column("storage", words(16), nullable=False),
            Column("old_flavor", Text, nullable=False),
            Column("new_flavor", Text, nullable=False),
            Column("was", words(24), nullable=False),
            Column("reason", words(16)),
            Column("operation", Id, nullable=False),
            Column("created_at", Time, nullable=False),
            Column("updated_at", Time, nullable=False),
        )
    present = {index["name"] for index in inspect(op.get_bind()).get_indexes("migrations")}
    for column in COLUMNS:
        name = f"migrations_by_{column.removesuffix('_uuid')}"
        if name not in present:
            op.create_index(name, "migrations", [column])
