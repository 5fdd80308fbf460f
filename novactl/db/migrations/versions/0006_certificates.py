"""certificates: of hosts, signed by the fleet's authority"""

from alembic import op
from sqlalchemy import Column, Integer, inspect

from novactl.db.tables import Id, Name, Text, Time

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Each part only where it is missing: MySQL keeps what an upgrade that was cut short had done."""
    if "certificates" not in inspect(op.get_bind()).get_table_names():
        op.create_table(
            "certificates",
            Column("serial", Id, primary_key=True),
            Column("host", Name, nullable=False),
            Column("names", Text, nullable=False),
            Column("pem", Text, nullable=False),
            Column("not_before", Time, nullable=False),
            Column("not_after", Time, nullable=False),
            Column("placed_at", Time),
            Column("revoked_at", Time),
            Column("crl_number", Integer, nullable=False),
        )
    present = {index["name"] for index in inspect(op.get_bind()).get_indexes("certificates")}
    if "certificates_by_host" not in present:
        op.create_index("certificates_by_host", "certificates", ["host"])
