"""backups: of the disks of instances, their files in the image store"""

from alembic import op
from sqlalchemy import Column, Integer, inspect

from novactl.db.tables import Id, Name, Text, Time

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Each part only where it is missing: MySQL keeps what an upgrade that was cut short had done."""
    if "backups" not in inspect(op.get_bind()).get_table_names():
        op.create_table(
            "backups",
            Column("id", Id, primary_key=True),
            Column("name", Name, nullable=False),
            Column("instance_uuid", Id, nullable=False),
            Column("instance_name", Name, nullable=False),
            Column("project", Name, nullable=False),
            Column("type", Name, nullable=False),
            Column("rotation", Integer, nullable=False),
            Column("parent", Id),
            Column("reason", Text, nullable=False),
            Column("files", Text, nullable=False),
            Column("checkpoint", Name, nullable=False),
            Column("quiesced", Integer, nullable=False),
            Column("instance", Text, nullable=False),
            Column("created_at", Time, nullable=False),
            Column("rotated_at", Time),
        )
    present = {index["name"] for index in inspect(op.get_bind()).get_indexes("backups")}
    if "backups_by_instance" not in present:
        op.create_index("backups_by_instance", "backups", ["instance_uuid"])
