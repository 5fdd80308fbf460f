"""Reusable steps, grouped by what they touch."""

from novactl.actions.steps.registry import REGISTRY

__all__ = ["REGISTRY"]
