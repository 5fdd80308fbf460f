"""Fixtures of the simulation."""

from tests.support.scratch import quick

__all__ = ["quick"]
