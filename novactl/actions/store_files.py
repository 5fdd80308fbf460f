"""What this fleet has left in the image store: files that nothing needs any more, and records of what is not
only there. A store may be used by others, too: what this database never knew is nobody's to judge."""

import json
from collections.abc import Callable, Iterator
from functools import partial

from novactl.actions.kept_records import all_kept
from novactl.actions.steps.images import swept
from novactl.actions.world import World
from novactl.db import backups, catalogue, instances
from novactl.db.session import Tx

ENDED = (
    "SELECT steps.result AS body FROM steps JOIN operations ON operations.id = steps.operation"
    " WHERE operations.state IN ('done', 'undone', 'abandoned') AND steps.result LIKE :with_sum"
)
DELETED = "SELECT image, rescue_image, shelved_image FROM instances WHERE deleted_at IS NOT NULL"
ACTIVE = "SELECT target_uuid FROM operations WHERE state NOT IN ('done', 'undone', 'abandoned')"

One = tuple[str, tuple[str, Callable[[], None]]]  # name, what it is, what removes it


def left(world: World) -> dict[str, tuple[str, Callable[[], None]]]:
    """Removing one looks again whether something needs it."""
    return world.db.read(lambda tx: dict([*_files(tx, world), *_shelved(tx, world), *_backups(tx, world)]))


def _files(tx: Tx, world: World) -> Iterator[One]:
    bodies = [row["body"] for row in tx.all(ENDED, with_sum='%"sha256"%')]
    bodies += [body for row in tx.all(DELETED) for body in row.values() if body]
    known: set[str] = set()
    for told in map(json.loads, bodies):
        parts = (told, *told.get("disks", {}).values())
        known.update(part[key] for part in parts for key in part if key.endswith("sha256") and part[key])
    for sha256 in sorted(known - catalogue.stored_files_in_use(tx)):
        if world.store.has(sha256):
            yield f"images/{sha256}", ("nothing needs it any more", _sweep(world, sha256))


def _sweep(world: World, sha256: str) -> Callable[[], None]:
    return lambda: world.db.write(lambda tx: swept(world.store, tx, [sha256]))


def _drop(
    world: World, kind: Callable[[Tx, World], Iterator[One]], name: str, drop: Callable[[], None]
) -> None:
    """Unless it is needed by now; nobody decides anything meanwhile."""
    world.db.write(lambda tx: drop() if any(one == name for one, _ in kind(tx, world)) else None)


def _shelved(tx: Tx, world: World) -> Iterator[One]:
    living = {one.uuid: one for one in instances.everything(tx)}
    busy = {row["target_uuid"] for row in tx.all(ACTIVE)}
    for uuid, told in all_kept(world.store, world.fleet).items():
        row = tx.one("SELECT epoch FROM instances WHERE uuid = :uuid", uuid=uuid)
        away = uuid in living and living[uuid].host is None
        if row is not None and told["epoch"] <= row["epoch"] and not away | (uuid in busy):
            what = f"{told['record'].get('name')} is {'on a host' if uuid in living else 'deleted'}"
            name = f"images/shelved/{uuid}.json"
            yield name, (what, partial(_drop, world, _shelved, name, partial(world.store.drop_record, uuid)))


def _backups(tx: Tx, world: World) -> Iterator[One]:
    """Those of files that are gone; one whose files are there is another database's, or a restored one's."""
    known = {one.id for one in backups.everything(tx)}
    for uuid, content in world.store.records("backups").items():
        try:
            told = json.loads(content)
            sums = [stored["sha256"] for stored in told["backup"]["files"].values()]
            ours = told["fleet"] == world.fleet and not any(map(world.store.has, sums))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if ours and uuid not in known:
            name, drop = f"images/backups/{uuid}.json", partial(world.store.drop_record, uuid, "backups")
            yield name, ("its backup is gone", partial(_drop, world, _backups, name, drop))
