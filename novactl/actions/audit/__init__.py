"""The database against the hosts, both ways: what differs, what heals it, and taking over what hosts know."""

from novactl.actions.audit.gather import Believed, Evidence, believed, gather
from novactl.actions.audit.judge import findings

__all__ = ["Believed", "Evidence", "believed", "findings", "gather"]
