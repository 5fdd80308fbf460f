"""leases of operations, marks of commits"""

from alembic import op
from sqlalchemy import Column, Double, Float, inspect

from novactl.db.tables import Id

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Each part only where it is missing: MySQL keeps what an upgrade that was cut short had done."""
    there = inspect(op.get_bind())
    present = {column["name"] for column in there.get_columns("operations")}
    for column in (Column("lease_until", Double), Column("runner", Id)):
        if column.name not in present:
            op.add_column("operations", column)
    if "operations_by_runner" not in {index["name"] for index in there.get_indexes("operations")}:
        op.create_index("operations_by_runner", "operations", ["runner"])
    if op.get_bind().dialect.name == "mysql":  # whose FLOAT has seven digits
        for ratio in ("cpu_ratio", "memory_ratio", "disk_ratio"):
            op.alter_column("hosts", ratio, type_=Double(), existing_type=Float(), existing_nullable=False)
    if "commits" not in there.get_table_names():
        op.create_table("commits", Column("id", Id, primary_key=True), Column("at", Double, nullable=False))
