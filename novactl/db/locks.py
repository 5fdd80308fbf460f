"""What operations lock, and whether it is held: named queries."""

from collections import Counter
from collections.abc import Sequence

from novactl.db.session import Tx
from novactl.engine.operation import Lock, Mode, Operation


def name(lock: Lock) -> str:
    """What of it is held, as one word."""
    return f"{lock.kind}/{lock.id}"


def any_held(tx: Tx, locks: Sequence[Lock]) -> bool:
    """Whether another holds one of them in the way of who wants it: one statement for all."""
    names = {f"name{n}": name(lock) for n, lock in enumerate(locks)}
    tests, values = [f"exclusive IN ({', '.join(f':{key}' for key in names)})"], dict(names)
    alone = [lock for lock in locks if lock.mode is Mode.EXCLUSIVE]
    for k, kind in enumerate(sorted({lock.kind for lock in alone})):
        ids = {f"id{k}_{n}": lock.id for n, lock in enumerate(alone) if lock.kind == kind}
        tests.append(f"kind = :kind{k} AND id IN ({', '.join(f':{key}' for key in ids)})")
        values |= {f"kind{k}": kind, **ids}
    looks = [f"SELECT 1 AS held FROM op_locks WHERE {test}" for test in tests]
    return tx.one(f"{' UNION ALL '.join(looks)} LIMIT 1", **values) is not None


def hold(tx: Tx, wanted: Sequence[tuple[Operation, Lock]]) -> None:
    """They hold them; who looks for what works on a host finds them here from now on."""
    tx.insert_many(
        "op_locks",
        [
            {
                "kind": lock.kind,
                "id": lock.id,
                "operation": op.id,
                "mode": lock.mode,
                "exclusive": name(lock) if lock.mode is Mode.EXCLUSIVE else None,
            }
            for op, lock in wanted
        ],
    )
    unlocked(tx).clear()


def unlocked(tx: Tx) -> Counter[str]:
    """How many operations this transaction has planned for each host whose locks it does not hold yet."""
    found: Counter[str] = tx.memo.setdefault("unlocked", Counter())
    return found


def clash(wanted: Sequence[tuple[Operation, Lock]]) -> tuple[Lock, Operation] | None:
    """The first lock that another of those journaled at once has in the way, and which that is."""
    first: dict[tuple[str, str], tuple[Operation, Lock]] = {}
    for op, lock in wanted:
        holder, held = first.setdefault((lock.kind, lock.id), (op, lock))
        if holder is not op and Mode.EXCLUSIVE in (held.mode, lock.mode):
            return lock, holder
    return None
