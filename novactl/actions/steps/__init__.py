"""Reusable steps, grouped by what they touch; importing this package fills the registry."""

from novactl.actions.steps import commands, domains, files, heals, images, playbooks, records
from novactl.actions.steps.registry import REGISTRY

__all__ = ["REGISTRY", "commands", "domains", "files", "heals", "images", "playbooks", "records"]
