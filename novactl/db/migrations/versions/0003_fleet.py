"""aggregates, settings and cron tasks"""

from alembic import op
from sqlalchemy import Column, Double, inspect

from novactl.db.tables import Id, Name, Text, Time, words

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Each part only where it is missing: MySQL keeps what an upgrade that was cut short had done."""
    there = inspect(op.get_bind())
    present = there.get_table_names()
    if "aggregates" not in present:
        op.create_table(
            "aggregates",
            Column("id", Id, primary_key=True),
            Column("name", Name, nullable=False, unique=True),
            Column("hosts", Text, nullable=False),
            Column("metadata", Text, nullable=False),
        )
    if "settings" not in present:
        op.create_table(
            "settings",
            Column("id", Id, primary_key=True),
            Column("name", Name, nullable=False, unique=True),
            Column("value", Text, nullable=False),
        )
    if "tasks" not in present:
        op.create_table(
            "tasks",
            Column("name", Name, primary_key=True),
            Column("due_at", Double, nullable=False),
            Column("runner", Id),
            Column("lease_until", Double),
            Column("started_at", Time),
            Column("finished_at", Time),
            Column("result", words(16)),
            Column("message", Text),
        )
    if "instances_by_project" not in {index["name"] for index in there.get_indexes("instances")}:
        op.create_index("instances_by_project", "instances", ["project", "deleted_at", "created_at"])
