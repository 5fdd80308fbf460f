"""group: instances that are kept together, or apart."""

from novactl.actions.world import World
from novactl.db import groups
from novactl.db.session import Row, Tx
from novactl.errors import UsageError
from novactl.objects.group import GroupPolicy, ServerGroup, check_group


def create(world: World, project: str, name: str, policy: str, max_per_host: int) -> ServerGroup:
    """Raises UsageError for what is not acceptable, Refused for a name that is taken, QuotaExceeded."""
    if policy not in set(GroupPolicy):
        raise UsageError(f"--policy {policy!r} is not one of {', '.join(GroupPolicy)}")
    made = ServerGroup(
        id=world.ids.uuid(),
        name=name,
        project=project,
        policy=GroupPolicy(policy),
        max_per_host=max_per_host,
    )
    check_group(made)
    world.db.write(lambda tx: groups.create(tx, made))
    return made


def delete(world: World, project: str, name: str) -> list[Row]:
    """The members (uuid, name, host), which go on without the rule. Raises NotFound."""

    def work(tx: Tx) -> list[Row]:
        return groups.delete(tx, groups.find(tx, name, project))

    return world.db.write(work)
