"""Fixtures of the database tests."""

from tests.support.databases import db, everywhere
from tests.support.scratch import quick

__all__ = ["db", "everywhere", "quick"]
