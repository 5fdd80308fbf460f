"""Fixtures of the database tests."""

from tests.support.scratch import quick

__all__ = ["quick"]
