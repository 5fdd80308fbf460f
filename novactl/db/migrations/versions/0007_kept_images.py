"""instances: what one in rescue boots, and what is kept of one that is shelved"""

from alembic import op
from sqlalchemy import Column, inspect

from novactl.db.tables import Text

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Each part only where it is missing: MySQL keeps what an upgrade that was cut short had done."""
    present = {column["name"] for column in inspect(op.get_bind()).get_columns("instances")}
    for name in ("rescue_image", "shelved_image"):
        if name not in present:
            op.add_column("instances", Column(name, Text))
