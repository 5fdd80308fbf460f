"""Fixtures of the simulation."""

from tests.support.databases import everywhere
from tests.support.scratch import quick

__all__ = ["everywhere", "quick"]
