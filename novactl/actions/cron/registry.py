"""The tasks of cron, in the order in which they are done."""

from novactl.actions.cron.task import Task
from novactl.objects.duration import UNITS

MINUTE, HOUR, DAY = UNITS["m"], UNITS["h"], UNITS["d"]

TASKS = (
    Task(
        name="leases",
        summary="report operations that were left half way",
        every=5 * MINUTE,
        jitter=0,
        work="upkeep.leases",
    ),
    Task(
        name="facts",
        summary="measure hosts anew, and tell which do not answer",
        every=10 * MINUTE,
        jitter=MINUTE,
        work="hosts.facts",
    ),
    Task(
        name="power-states",
        summary="have the records follow what hosts say of their guests",
        every=10 * MINUTE,
        jitter=MINUTE,
        work="hosts.power_states",
    ),
    Task(
        name="policies",
        summary="carry out the fleet's policies",
        every=50,  # so that a cron of each minute finds it due
        jitter=0,
        work="policies.policies",
    ),
    Task(
        name="second-copies",
        summary="bring hosts' copies of the catalogue up to date",
        every=HOUR,
        jitter=5 * MINUTE,
        work="hosts.copies",
    ),
    Task(
        name="prune-caches",
        summary="remove base files that no instance of a host uses",
        every=DAY,
        jitter=HOUR,
        work="upkeep.caches",
        older=7 * DAY,  # since a base file was last used; Nova's is one day
    ),
    Task(
        name="prune-records",
        summary="remove old operations, events and deleted instances",
        every=DAY,
        jitter=HOUR,
        work="upkeep.records",
        older=90 * DAY,
    ),
)
