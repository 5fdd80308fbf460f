"""One look at the fleet's health, from the database alone: `novactl check`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from novactl.actions import pki
from novactl.actions.cron.registry import TASKS
from novactl.actions.cron.task import Task
from novactl.db import health, operations, settings, tasks
from novactl.db.session import Row, Tx
from novactl.engine.operation import Operation
from novactl.objects.certificate import Certificate, CertificateState
from novactl.objects.duration import UNITS, as_duration
from novactl.objects.moments import seconds_between

if TYPE_CHECKING:
    from novactl.actions.operate import Operator

RESOURCES = {"vcpus": "vcpus", "memory_mib": "MiB of memory", "disk_gib": "GiB of disk"}
NAMED = 5  # of many instances alike
LATE = 10 * UNITS["m"]  # seconds that a task may be overdue before cron is taken for not running

Result = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is too much: percent of the fleet's capacity that is claimed, seconds since a host was looked at,
    seconds since an operation was left."""

    warn_percent: float = 90
    fail_percent: float = 98
    stale: int = UNITS["h"]
    left: int = UNITS["h"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """How one thing is."""

    check: str
    target: str | None = None
    result: Result
    message: str
    hint: str = ""


@dataclass
class Seen:
    """What the database says at one instant."""

    now: str
    hosts: list[Row]
    instances: dict[str, int]
    errors: list[str]
    operations: dict[str, int]
    left: list[Operation] = field(default_factory=list)
    tasks: dict[str, Row] = field(default_factory=dict)
    known: list[Task] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)  # tasks that only the settings know
    certificates: list[tuple[Certificate, CertificateState]] = field(default_factory=list)

    @property
    def used_percent(self) -> dict[str, float]:
        """Of each resource, over the hosts that are up and enabled: what is claimed of what may be."""
        usable = [host for host in self.hosts if host["state"] == "up" and host["enabled"]]
        capacity = {size: sum(host["capacity"][size] for host in usable) for size in RESOURCES}
        used = {size: sum(host[f"{size}_used"] for host in usable) for size in RESOURCES}
        return {size: 100 * used[size] / capacity[size] for size in RESOURCES if capacity[size]}


def look(operator: "Operator") -> Seen:
    """Read it. No host is asked."""

    def work(tx: Tx) -> Seen:
        wanted, now = settings.get(tx, "cron"), operator.world.clock.now()
        active = [op for op, _, _ in operations.listed(tx, active=True)]
        roots = [op for op in active if op.parent is None]
        return Seen(
            now=now,
            hosts=health.hosts(tx),
            instances=health.instances(tx),
            errors=health.in_error(tx, NAMED),
            operations=health.operations(tx),
            left=[op for op in roots if operator.is_left(tx, op)],
            tasks=tasks.all_of(tx),
            known=[task.as_set(wanted) for task in TASKS],
            unknown=sorted(set(wanted) - {task.name for task in TASKS}),
            certificates=pki.listed(tx, now),
        )

    return operator.world.db.read(work)


def checks(seen: Seen, limits: Limits) -> list[Check]:
    """What is wrong, and a line for each kind of thing that is all right. Pure."""
    found: list[Check] = []
    for kind, judged in (
        ("hosts", _hosts(seen, limits)),
        ("operations", _operations(seen, limits)),
        ("instances", _instances(seen)),
        ("capacity", _capacity(seen, limits)),
        ("cron", _tasks(seen)),
    ):
        wrong = list(judged)
        found += wrong or [Check(check=kind, result="ok", message=_well(kind, seen))]
    return found + list(_certificates(seen))


def _well(kind: str, seen: Seen) -> str:
    match kind:
        case "hosts":
            off = sum(1 for host in seen.hosts if not host["enabled"])
            return f"{len(seen.hosts)} up" + (f", {off} of them disabled" if off else "")
        case "operations":
            return "none is left half way"
        case "instances":
            return f"{sum(seen.instances.values())}, none in ERROR"
        case "capacity":
            parts = [f"{percent:.0f} % of {size}" for size, percent in seen.used_percent.items()]
            return f"claimed: {', '.join(parts)}" if parts else "no host is up"
    return "all tasks are well"


def _hosts(seen: Seen, limits: Limits) -> Iterator[Check]:
    for host in seen.hosts:
        name, state = host["name"], host["state"]
        reason = f" ({host['disabled_reason']})" if host["disabled_reason"] else ""
        age = seconds_between(host["checked_at"], seen.now) if host["checked_at"] else None
        hint = f"novactl host check {name}"
        if state != "up":
            result: Result = "fail" if state == "down" and host["enabled"] else "warn"
            words = f"is {state}{'' if host['enabled'] else f' and disabled{reason}'}"
            yield Check(check="hosts", target=name, result=result, message=f"{name}: {words}", hint=hint)
        elif age is None or age > limits.stale:
            when = "never" if age is None else f"{as_duration(int(age))} ago"
            words = f"was last looked at: {when}"
            yield Check(
                check="hosts", target=name, result="warn", message=f"{name}: {words}", hint="novactl cron"
            )


def _operations(seen: Seen, limits: Limits) -> Iterator[Check]:
    for op in seen.left:
        old = seconds_between(op.started_at, seen.now) > limits.left
        yield Check(
            check="operations",
            target=op.id,
            result="fail" if old else "warn",
            message=f"{op.kind} of {op.target} is {op.state} and nobody works on it",
            hint=f"novactl op resume {op.id}",
        )


def _instances(seen: Seen) -> Iterator[Check]:
    if count := seen.instances.get("ERROR", 0):
        names = ", ".join(seen.errors) + (", …" if count > len(seen.errors) else "")
        words = f"{count} in ERROR: {names}"
        yield Check(check="instances", result="warn", message=words, hint="novactl list --status ERROR")


def _capacity(seen: Seen, limits: Limits) -> Iterator[Check]:
    for size, percent in seen.used_percent.items():
        if percent >= limits.warn_percent:
            result: Result = "fail" if percent >= limits.fail_percent else "warn"
            words = f"{percent:.0f} % of all {RESOURCES[size]} are claimed"
            yield Check(check="capacity", target=size, result=result, message=words, hint="novactl host list")


def _certificates(seen: Seen) -> Iterator[Check]:
    """Those that end soon or have ended; nothing is said of a fleet that has none."""
    hosts = {host["name"] for host in seen.hosts}
    for one, state in seen.certificates:
        if one.host in hosts and state in (CertificateState.EXPIRING, CertificateState.EXPIRED):
            yield Check(
                check="certificates",
                target=one.host,
                result="fail" if state is CertificateState.EXPIRED else "warn",
                message=f"{one.host}: its certificate is {state}, its end is {one.not_after}",
                hint=f"novactl pki issue {one.host}",
            )


def _tasks(seen: Seen) -> Iterator[Check]:
    for name in seen.unknown:
        words = f"{name}: is no task, and the settings have one of that name"
        yield Check(check="cron", target=name, result="warn", message=words, hint="novactl cron --list")
    enabled = [task for task in seen.known if task.enabled]
    if enabled and not seen.tasks:
        yield Check(check="cron", result="warn", message="never ran", hint="* * * * * root novactl cron")
        return
    for task in enabled:
        row = seen.tasks.get(task.name)
        hint = f"novactl cron --task {task.name}"
        if row is None:
            words = "never ran"
        elif row["result"] == "failed":
            words = f"failed: {row['message']}"
        elif row["runner"] is None and row["now"] - row["due_at"] > LATE:
            words = f"is overdue for {as_duration(int(row['now'] - row['due_at']))}"
        else:
            continue
        yield Check(check="cron", target=task.name, result="warn", message=f"{task.name}: {words}", hint=hint)
