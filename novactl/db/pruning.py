"""Taking old records out: operations with their steps, events, deleted instances. Named queries.

A host remembers the mark (serial and id) of the newest operation that it was told of, and a database that
lacks that operation is taken for an older copy (actions/restored.py). So what is pruned is remembered by its
serial: no operation that had ended before a *waypoint* has a mark above that waypoint's serial.
"""

import json

from novactl.db.session import Tx, dumps, meta, set_meta

Waypoint = tuple[str, int]  # a time, RFC 3339; the newest serial then

SERIALS = "serials"  # in meta: the waypoints
FLOOR = "pruned"

ROOTS = """
    SELECT o.id FROM operations o WHERE o.id > :after AND o.finished_at < :before
        AND o.state IN ('done', 'undone', 'abandoned')
        AND (o.parent IS NULL OR NOT EXISTS (SELECT 1 FROM operations p WHERE p.id = o.parent))
    ORDER BY o.id LIMIT :most
"""
GONE = """
    SELECT i.uuid FROM instances i WHERE i.uuid > :after AND i.deleted_at < :before AND i.live_name IS NULL
        AND NOT EXISTS (SELECT 1 FROM operations o WHERE o.target_uuid = i.uuid)
        AND NOT EXISTS (SELECT 1 FROM holds h WHERE h.instance_uuid = i.uuid)
        AND NOT EXISTS (SELECT 1 FROM ports p WHERE p.instance_uuid = i.uuid)
    ORDER BY i.uuid LIMIT :most
"""


def floor(tx: Tx) -> int:
    """Operations whose marks have this serial or a lower one may have been pruned."""
    return int(meta(tx, FLOOR) or 0)


def pass_waypoint(tx: Tx, now: str, yesterday: str, cutoff: str) -> Waypoint | None:
    """Remember the newest serial of today, once a day. The newest waypoint that is no younger than `cutoff`
    is returned and becomes the floor; None when there is none yet."""
    known: list[Waypoint] = [(at, serial) for at, serial in json.loads(meta(tx, SERIALS) or "[]")]
    if not known or known[-1][0] < yesterday:
        known.append((now, int(meta(tx, "serial") or 0)))
    old = [one for one in known if one[0] <= cutoff]
    set_meta(tx, SERIALS, dumps(known[max(0, len(old) - 1) :]))
    if not old:
        return None
    set_meta(tx, FLOOR, str(max(floor(tx), old[-1][1])))
    return old[-1]


def operations(tx: Tx, before: str, after: str, most: int) -> tuple[int, str | None]:
    """Some operations that ended before are gone with all of their children; a family in which one is active
    or younger stays whole. (How many went, where to go on; None at the end.)"""
    roots = [row["id"] for row in tx.all(ROOTS, before=before, after=after, most=most)]
    went = 0
    for root in roots:
        family = _family(tx, root, before)
        for op_id in reversed(family):
            tx.run("DELETE FROM steps WHERE operation = :id", id=op_id)
            tx.run("DELETE FROM operations WHERE id = :id", id=op_id)
        went += len(family)
    return went, roots[-1] if len(roots) == most else None


def _family(tx: Tx, root: str, before: str) -> list[str]:
    """The operation and all below it, parents first; none when one of them has to stay."""
    found = [root]
    for op_id in found:
        if tx.one("SELECT 1 AS yes FROM op_locks WHERE operation = :id", id=op_id):
            return []
        for child in tx.all("SELECT id, finished_at FROM operations WHERE parent = :id", id=op_id):
            if child["finished_at"] is None or child["finished_at"] >= before:
                return []
            found.append(child["id"])
    return found


def events(tx: Tx, before: str, most: int) -> tuple[int, str | None]:
    """Some events that are older are gone, as operations() tells it."""
    old = tx.all(
        "SELECT id FROM events WHERE time < :before ORDER BY id LIMIT :most", before=before, most=most
    )
    for row in old:
        tx.run("DELETE FROM events WHERE id = :id", id=row["id"])
    return len(old), "" if len(old) == most else None


def instances(tx: Tx, before: str, after: str, most: int) -> tuple[int, str | None]:
    """Some instances that were deleted before, and of which nothing else is left, are gone, with their
    secrets, moves and events; as operations() tells it."""
    gone = [row["uuid"] for row in tx.all(GONE, before=before, after=after, most=most)]
    for uuid in gone:
        tx.run("DELETE FROM secrets WHERE owner = :uuid", uuid=uuid)
        tx.run("DELETE FROM migrations WHERE instance_uuid = :uuid", uuid=uuid)
        tx.run("DELETE FROM events WHERE target_uuid = :uuid", uuid=uuid)
        tx.run("DELETE FROM instances WHERE uuid = :uuid", uuid=uuid)
    return len(gone), gone[-1] if len(gone) == most else None
