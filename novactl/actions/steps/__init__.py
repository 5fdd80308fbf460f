"""Reusable steps, grouped by what they touch; importing this package fills the registry."""

from novactl.actions.steps import domains, files, heals, images, records
from novactl.actions.steps.registry import REGISTRY

__all__ = ["REGISTRY", "domains", "files", "heals", "images", "records"]
