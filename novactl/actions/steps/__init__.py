"""Reusable steps, grouped by what they touch; importing this package fills the registry."""

from novactl.actions.steps import (
    bridges,
    commands,
    copies,
    domains,
    evacuations,
    files,
    heals,
    images,
    live,
    memory,
    moves,
    playbooks,
    records,
    sizes,
    trust,
    twins,
)
from novactl.actions.steps.registry import REGISTRY

__all__ = [
    "REGISTRY",
    "bridges",
    "commands",
    "copies",
    "domains",
    "evacuations",
    "files",
    "heals",
    "images",
    "live",
    "memory",
    "moves",
    "playbooks",
    "records",
    "sizes",
    "trust",
    "twins",
]
