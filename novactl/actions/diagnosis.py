"""One instance after something went wrong: what the journal, its record and every host say of it, and what
becomes of it: its operation is finished or undone, its record follows it to where it is."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from novactl.actions import plans, recover
from novactl.actions.audit import Evidence, findings, gather, heal
from novactl.actions.operate import Operator
from novactl.actions.steps.domains import OFF
from novactl.db import instances, moves
from novactl.db.session import Tx
from novactl.engine.operation import TOUCHED, Operation, OpState, Record, StepState
from novactl.engine.step import RecordStep
from novactl.errors import Busy
from novactl.objects.finding import Finding
from novactl.objects.instance import Instance
from novactl.objects.migration import Migration, MigrationStatus
from novactl.objects.names import operation_of
from novactl.objects.states import VmState
from novactl.objects.survey import Survey


class Course(StrEnum):
    """What is done about it."""

    FINISH = "finish"  # the operation goes on; its steps ask the hosts what happened
    UNDO = "undo"
    HEAL = "heal"
    NOTHING = "nothing"


@dataclass(frozen=True)
class Sight:
    """Something that was found: in the database ("record", "operation", "migration") or on a host."""

    where: str
    says: str


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """`dark`: hosts that matter and do not answer; `runs`: those where its guest runs or is paused."""

    target: str
    instance: Instance | None
    operation: Operation | None
    sights: tuple[Sight, ...]
    findings: tuple[Finding, ...]
    dark: tuple[str, ...]
    runs: tuple[str, ...] = ()
    course: Course
    why: str

    @property
    def well(self) -> bool:
        """Whether nothing is left to do, as far as can be seen."""
        broken = self.instance is not None and self.instance.vm_state is VmState.ERROR
        return self.operation is None and not self.findings and not self.dark and not broken

    def as_dict(self) -> dict[str, Any]:
        """As `recover -o json` prints it (docs/cli.md)."""
        return {
            "target": self.target,
            "uuid": self.instance.uuid if self.instance else None,
            "operation": self.operation.id if self.operation else None,
            "found": [vars(sight) for sight in self.sights],
            "course": self.course,
            "why": self.why,
            "findings": [one.as_dict() for one in self.findings],
            "runs": list(self.runs),
        }


# --- what there is ---


def subject(operator: Operator, word: str, project: str) -> tuple[Instance | None, Operation | None]:
    """The instance that is meant, and the operation on it that was named or has not ended; one that is of no
    instance alone. Raises NotFound, Ambiguous."""

    def work(tx: Tx) -> tuple[Instance | None, Operation | None]:
        if word.startswith("op-"):
            op = operator.journal.load_in(tx, word)
            return (instances.get(tx, op.target_uuid) if op.target_uuid else None), op
        return instances.find(tx, word, project, deleted=True), None

    return operator.world.db.read(work)


def diagnose(operator: Operator, instance: Instance | None, named: Operation | None) -> Diagnosis:
    """Look at the journal, the record and every host; nothing is changed. Raises Busy while somebody works
    on it."""
    evidence = gather(operator.world, operator.is_left)
    op = _left(operator, evidence, instance, named)
    if instance is None:
        return _of_operation(op, named)
    now, migration = operator.world.db.read(lambda tx: _record(tx, instance.uuid))
    found = tuple(_of_instance(evidence, now, op or named))
    involved = _involved(now, op, migration)
    dark = tuple(name for name in sorted(involved & set(evidence.surveys)) if not _answers(evidence, name))
    course, why = _course(now, op, migration, found, dark)
    return Diagnosis(
        target=now.name,
        instance=now,
        operation=op,
        sights=tuple(_sights(evidence, now, op, migration, involved)),
        findings=found,
        dark=dark,
        runs=tuple(sorted(_runs(evidence, now.uuid, operator.world.fleet))),
        course=course,
        why=why,
    )


def _left(
    operator: Operator, evidence: Evidence, instance: Instance | None, named: Operation | None
) -> Operation | None:
    """The operation that was left half way."""
    active = evidence.after.active
    if instance is not None:
        active = tuple(op for op in active if op.target_uuid == instance.uuid)
    else:
        active = tuple(op for op in active if named is not None and op.id == named.id)
    for op in active:
        if op.id not in evidence.after.left:
            raise Busy(f"{op.target}: {op.owner} is at {op.kind} since {op.started_at}", operation=op.id)
    return operator.journal.load(active[0].id) if active else None


def _record(tx: Tx, uuid: str) -> tuple[Instance, Migration | None]:
    return instances.get(tx, uuid), next(iter(moves.of_instance(tx, uuid)), None)


def _of_instance(evidence: Evidence, instance: Instance, op: Operation | None) -> Iterator[Finding]:
    """What an audit finds about it, and what its operation has left on hosts."""
    found = findings(evidence.after, evidence.surveys, earlier=evidence.before, copies=evidence.copies)
    for one in found:
        if one.finding == "operation-left":
            continue  # it is what the course is about
        if instance.uuid in (one.uuid, one.subject) or (op is not None and one.subject.startswith(op.id)):
            yield one


def _involved(instance: Instance, op: Operation | None, migration: Migration | None) -> set[str]:
    """Hosts that have to do with it by the records."""
    named = {instance.host} | ({migration.source, migration.target} if migration else set())
    steps = {host for record in op.records for host in record.step.hosts} if op else set()
    return {host for host in named | steps if host}


def _runs(evidence: Evidence, uuid: str, fleet: str) -> Iterator[str]:
    for host, survey in evidence.surveys.items():
        domains = survey.domains if isinstance(survey, Survey) else ()
        if any((one.uuid, one.fleet) == (uuid, fleet) and one.state not in OFF for one in domains):
            yield host


def _answers(evidence: Evidence, host: str) -> bool:
    return isinstance(evidence.surveys.get(host), Survey)


# --- said ---


def _sights(
    evidence: Evidence,
    instance: Instance,
    op: Operation | None,
    migration: Migration | None,
    involved: set[str],
) -> Iterator[Sight]:
    yield Sight("record", _of_record(instance))
    if op is not None:
        yield Sight("operation", _of_journal(op))
    if migration is not None:
        way = "stays on its host" if migration.here else f"{migration.source} to {migration.target}"
        yield Sight("migration", f"{migration.kind}, {way}: {migration.status}")
    for host, survey in sorted(evidence.surveys.items()):
        if not isinstance(survey, Survey):
            message = survey.message.removeprefix(f"{host}: ")
            yield Sight(host, f"does not answer: {message}")
        elif there := list(_on_host(survey, instance.uuid, op)):
            yield Sight(host, "; ".join(there))
        elif host in involved:
            yield Sight(host, "has nothing of it")


def _of_record(instance: Instance) -> str:
    fault = f": {instance.fault}" if instance.fault else ""
    if instance.deleted_at is not None:
        return f"deleted {instance.deleted_at}{fault}"
    return f"{instance.status} on {instance.host or 'no host'}{fault}"


def _of_journal(op: Operation) -> str:
    at = next(
        (record for record in op.records if record.state not in (StepState.DONE, StepState.UNDONE)), None
    )
    where = f" at {at.name}" if at else ""
    way = "past its point of no return" if op.past_pivot else "with a way back"
    error = f": {op.error}" if op.error else ""
    return f"{op.id}, {op.kind}, {op.state}{where}, {way}{error}"


def _on_host(survey: Survey, uuid: str, op: Operation | None) -> Iterator[str]:
    for domain in survey.domains:
        if domain.uuid == uuid:
            yield f"domain is {domain.state}{', memory saved' if domain.saved else ''}"
    for directory in survey.directories:
        if directory.entry.startswith(uuid):
            aside = directory.entry.removeprefix(uuid)
            yield f"{f'directory {aside}' if aside else 'directory'} with {len(directory.files)} files"
    for of, n, running in survey.jobs:
        if op is not None and of == op.id:
            yield f"job of step {n} {'runs' if running else 'has ended'}"
    if op is not None and any(operation_of(key) == op.id for key in survey.trusts):
        yield "key of the operation"


# --- judged ---


def _course(
    instance: Instance,
    op: Operation | None,
    migration: Migration | None,
    found: Sequence[Finding],
    dark: Sequence[str],
) -> tuple[Course, str]:
    """What to do, and why. Pure."""
    if op is not None:
        return _course_of(op, set(dark))
    if any(one.heal for one in found):
        return Course.HEAL, "no operation is left; what differs is healed"
    if dark and instance.host in dark:
        return Course.NOTHING, f"{instance.host} does not answer: what it has of it is not known"
    if found:
        return Course.NOTHING, "what differs is for a person to decide"
    if instance.vm_state is VmState.ERROR and instance.deleted_at is None:
        return Course.NOTHING, "no operation is left and the hosts have it as recorded; it is in ERROR"
    if migration is not None and migration.status is MigrationStatus.FINISHED:
        return Course.NOTHING, "it waits for resize-confirm or resize-revert"
    return Course.NOTHING, "no operation is left and the hosts have it as recorded"


def _course_of(op: Operation, dark: set[str]) -> tuple[Course, str]:
    """An operation goes on when it can: its steps look for themselves where the guest is."""
    if op.past_pivot:
        return Course.FINISH, f"{op.id} is past its point of no return"
    if op.state is OpState.UNDOING or any(
        one.state in (StepState.UNDONE, StepState.STUCK) for one in op.records
    ):
        return Course.UNDO, f"{op.id} was being undone"
    current = [record for record in op.records if record.attempt in (0, op.attempt)]
    ahead = _hosts(record for record in current if record.state is StepState.PENDING) & dark
    behind = _hosts(record for record in op.records if record.state in TOUCHED)
    if ahead and not behind & dark:
        return Course.UNDO, f"{op.id} cannot go on: {', '.join(sorted(ahead))} does not answer"
    return Course.FINISH, f"{op.id} has lost its owner, and goes on where it stood"


def _hosts(records: Iterable[Record]) -> set[str]:
    """On which something is done: what only the database does needs none."""
    acts = (record.step for record in records if not isinstance(record.step, RecordStep))
    return {host for step in acts for host in step.hosts}


def _of_operation(op: Operation | None, named: Operation | None) -> Diagnosis:
    """An operation of several instances, or of none."""
    assert named is not None
    course = Course.FINISH if op is not None else Course.NOTHING
    why = f"{named.id} has lost its owner, and goes on" if op is not None else f"{named.id} is {named.state}"
    return Diagnosis(
        target=named.target,
        instance=None,
        operation=op,
        sights=(Sight("operation", _of_journal(op or named)),),
        findings=(),
        dark=(),
        course=course,
        why=why,
    )


# --- done ---


def plan(operator: Operator, diagnosis: Diagnosis) -> dict[str, Any]:
    """It with the steps that its course would take, as `--dry-run` prints it."""
    instance = diagnosis.instance
    return {
        "kind": "recover",
        **diagnosis.as_dict(),
        "host": instance.host if instance else None,
        "alternates": [],
        "steps": _steps(operator, diagnosis),
        "changes": {},
    }


def _steps(operator: Operator, diagnosis: Diagnosis) -> list[dict[str, Any]]:
    op = diagnosis.operation
    if diagnosis.course is Course.HEAL:
        shown = [one for group in _heals(diagnosis) for one in operator.show(group)]
        return [step for one in shown for step in one["steps"]]
    if op is None:
        return []
    return plans.remaining(op, back=diagnosis.course is Course.UNDO)


def _heals(diagnosis: Diagnosis) -> list[list[heal.Heal]]:
    return [group for group in heal.groups(one for one in diagnosis.findings if one.heal) if group]


def follow(operator: Operator, diagnosis: Diagnosis) -> None:
    """Carry its course out. Raises what the operation raises: OperationFailed when it was undone instead,
    OperationIncomplete when it is left again."""
    if diagnosis.course in (Course.FINISH, Course.UNDO):
        assert diagnosis.operation is not None
        recover.take_over(operator, diagnosis.operation.id, back=diagnosis.course is Course.UNDO)
    elif diagnosis.course is Course.HEAL:
        for group in _heals(diagnosis):
            for outcome in operator.run(group):
                if outcome.error is not None:
                    raise outcome.error
