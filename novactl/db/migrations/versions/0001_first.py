"""the first schema"""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """It is made whole, not migrated to."""
