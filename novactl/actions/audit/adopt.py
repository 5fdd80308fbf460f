"""Taking over what the hosts know, after the database was restored from an older copy."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from novactl.actions.audit.adopting import Adopter
from novactl.actions.audit.gather import Evidence, gather
from novactl.actions.rebuild_sources import sealed_row
from novactl.actions.world import World
from novactl.db import adopted_catalogue, second_copy
from novactl.db.journal import DbJournal
from novactl.db.session import Rollback, Tx, meta
from novactl.engine.operation import Operation
from novactl.errors import Busy, HostUnreachable, NovactlError
from novactl.objects.survey import Survey


class Operating(Protocol):
    """What is needed of operate.Operator."""

    world: World
    journal: DbJournal

    def is_left(self, tx: Tx, op: Operation) -> bool: ...


@dataclass(frozen=True)
class Change:
    """One thing that was (or will be) taken over; `change` "not-adopted": that cannot be."""

    change: str
    host: str | None
    target: str
    message: str

    def as_dict(self) -> dict[str, Any]:
        """As `audit --adopt -o json` prints it (docs/cli.md)."""
        return asdict(self)


def rehearse(operator: Operating) -> list[Change]:
    """What adopt() would do now. Raises HostUnreachable naming the hosts that do not answer, Busy while an
    operation is under way."""
    evidence = look(operator)
    sealed = _sealed(operator.world, evidence)
    made: list[Change] = []
    with operator.world.db.writing(adopting=True) as tx:
        made += _catalogue(tx, evidence)
        made += _instances(operator, tx, evidence, sealed)
        raise Rollback
    return made


def adopt(operator: Operating) -> list[Change]:
    """Take over what the hosts know: the catalogue first, since it may name more hosts to ask. Raises as
    rehearse(); again goes on where a killed command stopped."""
    first = look(operator)
    db = operator.world.db
    made = db.write(lambda tx: _catalogue(tx, first), adopting=True)
    second = look(operator)
    sealed = _sealed(operator.world, second)
    return made + db.write(lambda tx: _instances(operator, tx, second, sealed), adopting=True)


def look(operator: Operating) -> Evidence:
    """gather(), and every host must have answered."""
    evidence = gather(operator.world, operator.is_left)
    dark = {name: look for name, look in evidence.surveys.items() if isinstance(look, NovactlError)}
    if dark:
        why = "; ".join(error.message for error in dark.values())
        raise HostUnreachable(
            f"not every host answers: {', '.join(dark)} ({why})",
            hint="what only they know would be lost; novactl host remove takes out one that is gone for ever",
        )
    return evidence


def ours(evidence: Evidence) -> Mapping[str, Survey]:
    """The surveys of hosts that carry this fleet's mark."""
    fleet = evidence.after.fleet
    found = {name: look for name, look in evidence.surveys.items() if isinstance(look, Survey)}
    return {name: survey for name, survey in found.items() if survey.fleet == fleet}


def _catalogue(tx: Tx, evidence: Evidence) -> list[Change]:
    """The rows that the newest copy has and the database lacks; the counter is above all copies."""
    known = second_copy.version(tx)
    versions = {name: evidence.copies[name] for name in ours(evidence)}
    newest = max(versions, key=lambda name: versions[name], default=None)
    if newest is None or versions[newest] < max(known, 1):
        return []
    try:
        copy = second_copy.parse(evidence.contents[newest])
        made = (
            adopted_catalogue.restore_catalogue(tx, copy) if copy.get("fleet") == evidence.after.fleet else []
        )
    except (ValueError, NovactlError) as error:
        return [Change("not-adopted", newest, "catalogue", f"{newest}: its copy of the catalogue: {error}")]
    return [Change("catalogue", newest, what, f"{what}: is added as {newest} knows it") for what in made]


def _sealed(world: World, evidence: Evidence) -> dict[str, Any]:
    """The sealed user-data that hosts keep of instances that the database lacks, where it is theirs."""
    found: dict[str, Any] = {}
    for name, survey in ours(evidence).items():
        for domain in survey.domains:
            if domain.fleet == evidence.after.fleet and evidence.after.version(domain.uuid) is None:
                row = sealed_row(world.hypervisor(name).sealed(domain.uuid) or b"")
                if row is not None and row.get("owner") == domain.uuid:
                    found[domain.uuid] = row
    return found


def _instances(operator: Operating, tx: Tx, evidence: Evidence, sealed: Mapping[str, Any]) -> list[Change]:
    _refuse_company(operator, tx, evidence)
    seen, surveys, copies = evidence.after, ours(evidence), evidence.copies
    adopter = Adopter(operator.journal, operator.world, tx, seen, surveys, copies, sealed)
    return [Change(*each) for each in adopter.all()]


def _refuse_company(operator: Operating, tx: Tx, evidence: Evidence) -> None:
    """Raises Busy when an operation is under way, or when there was one since the hosts were looked at."""
    for op in evidence.after.active:
        if op.id not in evidence.after.left:
            raise Busy(f"{op.kind} of {op.target} is under way: {op.id}", operation=op.id)
    if int(meta(tx, "serial") or 0) != evidence.after.serial:
        raise Busy("an operation was journaled while the hosts were looked at", hint="try again")
