"""Keeping the hosts' copies of the catalogue: brought up to date where an operation was anyway."""

import logging
from collections.abc import Iterable

from novactl.actions.world import World
from novactl.db import second_copy
from novactl.errors import NovactlError

log = logging.getLogger(__name__)


def refresh(world: World, hosts: Iterable[str | None]) -> None:
    """Hosts that were asked already and have an older copy get today's. A copy that cannot be written is
    no failure of what was done: the next operation there tries again."""
    try:
        known = [world.hypervisor(name) for name in filter(None, hosts)]
        seen = [hypervisor for hypervisor in known if hypervisor.copy_seen is not None]
        newest = world.db.read(second_copy.version) if seen else 0
        behind = [hypervisor for hypervisor in seen if (hypervisor.copy_seen or 0) < newest]
        if behind:
            version, content = world.db.read(second_copy.export)
            for hypervisor in behind:
                hypervisor.put_copy(version, content)
    except NovactlError as error:
        log.info("second copy: %s", error)
