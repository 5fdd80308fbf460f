"""What is done from time to time: `novactl cron`."""

from novactl.actions.cron.registry import TASKS
from novactl.actions.cron.run import Cron, Row

__all__ = ["TASKS", "Cron", "Row"]
