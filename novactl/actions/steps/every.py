"""All kinds of steps: importing this fills the registry."""

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

__all__ = [
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
