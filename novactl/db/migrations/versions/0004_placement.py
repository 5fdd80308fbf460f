"""server groups, projects, and what placement knows of hosts and instances"""

import json
from typing import Any

from alembic import op
from sqlalchemy import CheckConstraint, Column, Integer, UniqueConstraint, inspect, text

from novactl.db.tables import Id, Name, Text, Time, words

revision = "0004"
down_revision = "0003"

COLUMNS = {
    "hosts": (
        Column("arch", words(16)),
        Column("huge_memory_mib", Integer, nullable=False, server_default="0"),
        Column("dedicated_cpus", Text),
        Column("dedicated_vcpus", Integer, nullable=False, server_default="0"),
        Column("failed_builds", Integer, nullable=False, server_default="0"),
    ),
    "instances": (Column("group_id", Id), Column("placement", Text)),
    "holds": (Column("numa", Text),),
}
INDEXES = (("instances_by_group", "instances", "group_id"), ("holds_by_host", "holds", "host"))


def upgrade() -> None:
    """Each part only where it is missing: MySQL keeps what an upgrade that was cut short had done."""
    there = inspect(op.get_bind())
    for table, columns in COLUMNS.items():
        present = {column["name"] for column in there.get_columns(table)}
        for column in columns:
            if column.name not in present:
                op.add_column(table, column)
    for name, table, column_name in INDEXES:
        if name not in {index["name"] for index in there.get_indexes(table)}:
            op.create_index(name, table, [column_name])
    present_tables = there.get_table_names()
    if "server_groups" not in present_tables:
        op.create_table(
            "server_groups",
            Column("id", Id, primary_key=True),
            Column("name", Name, nullable=False),
            Column("project", Name, nullable=False),
            Column("policy", words(24), nullable=False),
            Column("max_per_host", Integer, nullable=False),
            Column("version", Integer, nullable=False),
            UniqueConstraint("project", "name"),
        )
    if "projects" not in present_tables:
        op.create_table(
            "projects",
            Column("name", Name, primary_key=True),
            Column("description", Text, nullable=False),
            Column("limits", Text, nullable=False),
            Column("created_at", Time, nullable=False),
            *(
                Column(f"{resource}_used", Integer, CheckConstraint(f"{resource}_used >= 0"), nullable=False)
                for resource in ("instances", "cores", "memory_mib")
            ),
        )
    _architectures(op.get_bind())


def _architectures(connection: Any) -> None:
    """What the hosts' facts say, where a filter looks."""
    for id_, facts in connection.execute(text("SELECT id, facts FROM hosts WHERE arch IS NULL")).all():
        if arch := json.loads(facts).get("arch"):
            connection.execute(
                text("UPDATE hosts SET arch = :arch WHERE id = :id"), {"arch": arch, "id": id_}
            )
