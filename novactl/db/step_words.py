"""Steps as the journal writes them."""

from collections.abc import Iterable

from novactl.db.session import Tx, dumps
from novactl.engine.step import Registry, Step


def put_in_words(tx: Tx, steps: Iterable[Step]) -> None:
    """What will be written of these, before others wait for it."""
    tx.memo.setdefault("words", {}).update((id(step), (step, dumps(Registry.dump(step)))) for step in steps)


def words(tx: Tx, step: Step) -> str:
    """As JSON."""
    known: dict[int, tuple[Step, str]] = tx.memo.get("words", {})
    return known[id(step)][1] if id(step) in known else dumps(Registry.dump(step))
