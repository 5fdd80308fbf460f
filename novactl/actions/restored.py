"""Noticing that the database was restored from an older copy: the hosts know what it has forgotten."""

from collections.abc import Mapping
from typing import NoReturn

from novactl.actions.kept_records import kept_record
from novactl.actions.world import World
from novactl.db import instances, pruning
from novactl.db.session import Tx, among, set_meta
from novactl.errors import Refused
from novactl.objects.instance import Instance
from novactl.virt.hypervisor import Greeting


def check_mark(world: World, host: str, mark: str) -> None:
    """Raises Refused, and has all decisions refused from now on, when a host was told of an operation
    that the database does not have. `mark` is the last one that the host knows (Hypervisor.greet)."""
    serial, _, op_id = mark.partition(".")
    if op_id and not world.db.read(lambda tx: _known(tx, op_id, int(serial))):
        refuse(world, f"host {host} has seen operation {op_id}, which is not in it")


def check_marks(world: World, marks: Mapping[str, str]) -> None:
    """check_mark() of many hosts' at once."""
    told = [(host, *mark.split(".", 1)) for host, mark in sorted(marks.items()) if mark]

    def unknown(tx: Tx) -> list[tuple[str, str]]:
        named = sorted({op_id for _, _, op_id in told})
        known = {row["id"] for row in among(tx, "SELECT id FROM operations WHERE id IN", named)}
        floor = pruning.floor(tx)
        return [(host, op) for host, serial, op in told if op not in known and int(serial) > floor]

    for host, op_id in world.db.read(unknown) if told else ():
        refuse(world, f"host {host} has seen operation {op_id}, which is not in it")


def check_epoch(world: World, instance: Instance, greeting: Greeting) -> None:
    """The same when the host has seen a newer epoch of the instance than the database has now."""
    if greeting.epoch > instance.epoch:
        now = world.db.read(lambda tx: instances.get(tx, instance.uuid))
        if greeting.epoch > now.epoch:
            seen = f"host {instance.host} has seen epoch {greeting.epoch} of {instance.name}"
            refuse(world, f"{seen}, which has {now.epoch} in it")


def check_record(world: World, instance: Instance) -> bool:
    """The same of an instance that is on no host, by its record in the store: since which host it is on by
    now, none but that one would tell. Whether this store has a record of it."""
    told = kept_record(world.store, instance.uuid, world.fleet)
    if told is not None and told["epoch"] > instance.epoch:
        now = world.db.read(lambda tx: instances.get(tx, instance.uuid))
        if told["epoch"] > now.epoch:
            seen = f"the store has seen epoch {told['epoch']} of {instance.name}"
            refuse(world, f"{seen}, which has {now.epoch} in it")
    return told is not None


def _known(tx: Tx, op_id: str, serial: int) -> bool:
    """Whether it is there, or was pruned (db/pruning.py)."""
    there = tx.one("SELECT 1 AS yes FROM operations WHERE id = :id", id=op_id)
    return there is not None or serial <= pruning.floor(tx)


def refuse(world: World, words: str) -> NoReturn:
    """Have all decisions refused from now on, and raise Refused."""
    world.db.write(lambda tx: set_meta(tx, "restored", words), adopting=True)
    raise Refused(
        f"the database is an older copy: {words}",
        hint="novactl audit shows the differences, novactl audit --adopt takes over what the hosts know",
    )
