"""Reusable steps, grouped by what they touch; importing this package fills the registry."""

from novactl.actions.steps import bridges, domains, files, heals, images, memory, records
from novactl.actions.steps.registry import REGISTRY

__all__ = ["REGISTRY", "bridges", "domains", "files", "heals", "images", "memory", "records"]
