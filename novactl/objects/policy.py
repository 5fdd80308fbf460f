"""What cron does for the operator: policies, and how often its tasks run."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

from novactl.errors import UsageError
from novactl.objects import names
from novactl.objects.backup import MOST_KEPT, TYPES
from novactl.objects.place import Place
from novactl.objects.trusted import check_trusted

WAITING = ("resize-confirm", "shelve-offload")  # what they end has waited so long
DEEDS = ("start", "stop", "reboot", "keep-running", *WAITING, "backup")
LASTING = ("keep-running", *WAITING)  # these hold at all times, the others have a time of day
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
AT = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")
SHORTEST = 10  # seconds between two runs of a task
PRUNING = ("prune-caches", "prune-records")  # tasks that take away what is older
LARGEST_MULTIPLIER = 1e6
LARGEST_NUMBER = 1_000_000

SCHEDULER = {"host_subset_size": 1, "max_io_ops_per_host": 0, "max_instances_per_host": 0}
"""What can be set of the scheduler, and the least that each may be; the latter two are off at 0."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """`do` to the instances of `project` that `selector` (key=value or a tag, all of them) and `on` (a host)
    choose; neither: to all of them. keep-running holds at all times: an ACTIVE instance whose guest went off
    is started again; so do resize-confirm and shelve-offload: a move that waited `after` seconds is
    confirmed, an instance that was shelved so long leaves its host. The others happen once on each of `days`
    (none: every day) at `at` (HH:MM) in `timezone`. backup makes one of `type`, of which `rotate` are
    kept."""

    name: str
    do: str
    selector: tuple[str, ...] = ()
    on: str | None = None
    project: str = "default"
    at: str | None = None
    days: tuple[str, ...] = ()
    timezone: str = "UTC"
    after: int | None = None
    type: str | None = None
    rotate: int | None = None

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "selector": list(self.selector), "days": list(self.days)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Policy":
        """What as_dict() made. Raises UsageError when it is no policy."""
        _check_types(cls, data, "policy")
        lists = {key: tuple(data[key]) for key in ("selector", "days") if key in data}
        return check_policy(cls(**{**data, **lists}))


def check_policy(policy: Policy) -> Policy:
    """`policy` when it can be carried out, else UsageError."""
    what = f"policy {names.check_name(policy.name, 'policy name')}"
    names.check_name(policy.project, f"{what}: project")
    if policy.do not in DEEDS:
        raise UsageError(f"{what}: do {policy.do!r} is not one of {', '.join(DEEDS)}")
    if policy.on is not None:
        names.check_name(policy.on, f"{what}: on")
    for selector in policy.selector:
        key, _, value = selector.partition("=")
        names.check_pattern(key, names.KEY, f"{what}: selector", "key=value or a tag")
        names.check_text(value, f"{what}: selector")
        if "," in selector:
            raise UsageError(f"{what}: selector {selector!r} has a comma", hint="one list item for each")
    _check_times(policy, what)
    _check_backup(policy, what)
    return policy


def _check_backup(policy: Policy, what: str) -> None:
    backs_up = policy.do == "backup"
    for key in ("type", "rotate"):
        if backs_up != (getattr(policy, key) is not None):
            wrong = "is missing" if backs_up else "goes with backup alone"
            raise UsageError(f"{what}: {key} {wrong}", hint="do: backup, type: daily, rotate: 7")
    if policy.type is not None and policy.type not in TYPES:
        raise UsageError(f"{what}: type {policy.type!r} is not one of {', '.join(TYPES)}")
    if policy.rotate is not None and policy.rotate < 1:
        raise UsageError(f"{what}: rotate {policy.rotate}: at least 1 backup is kept")
    if policy.rotate is not None and policy.rotate > MOST_KEPT:
        raise UsageError(f"{what}: rotate {policy.rotate}: at most {MOST_KEPT} backups are kept")


def _check_times(policy: Policy, what: str) -> None:
    if policy.do in LASTING and (policy.at or policy.days):
        raise UsageError(f"{what}: {policy.do} holds at all times, it takes neither at nor days")
    if policy.do not in LASTING and policy.at is None:
        raise UsageError(f"{what}: at is missing", hint="at: HH:MM")
    if policy.at is not None:
        names.check_pattern(policy.at, AT, f"{what}: at", "HH:MM, from 00:00 to 23:59")
    if wrong := [day for day in policy.days if day not in DAYS]:
        raise UsageError(f"{what}: day {wrong[0]!r} is not one of {', '.join(DAYS)}")
    if (policy.do in WAITING) != (policy.after is not None):
        wrong_way = "is missing" if policy.after is None else f"goes with {' and '.join(WAITING)} alone"
        raise UsageError(f"{what}: after {wrong_way}", hint=f"do: {WAITING[0]}, after: 1d")
    if policy.after is not None and policy.after < 1:
        raise UsageError(f"{what}: after is less than a second")
    _check_timezone(policy.timezone, what)


def _check_timezone(name: str, what: str) -> None:
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"{what}: timezone {name!r} is not known here", hint="as in Europe/Berlin"
        ) from error


@dataclass(frozen=True, kw_only=True)
class CronTask:
    """What the operator wants otherwise of a task of cron; None leaves it as the task has it. Seconds;
    `older`: a task of PRUNING takes away what is of that age."""

    name: str
    every: int | None = None
    jitter: int | None = None
    older: int | None = None
    enabled: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Without the name, by which tasks are kept (settings, "cron")."""
        return {key: value for key, value in asdict(self).items() if key != "name"}

    @classmethod
    def from_dict(cls, name: str, data: Mapping[str, Any]) -> "CronTask":
        """What as_dict() made. Raises UsageError when it is no such thing."""
        _check_types(cls, {"name": name, **data}, "cron task")
        return check_cron(cls(name=name, **data))


def check_cron(task: CronTask) -> CronTask:
    """`task` when it makes sense, else UsageError. Which tasks there are is cron's to know."""
    what = f"cron task {names.check_name(task.name, 'cron task')}"
    if task.every is not None and task.every < SHORTEST:
        raise UsageError(f"{what}: every {task.every}s is less than {SHORTEST}s")
    if task.jitter is not None and task.jitter < 0:
        raise UsageError(f"{what}: jitter is less than 0")
    if task.older is not None and (task.older < 0 or task.name not in PRUNING):
        raise UsageError(f"{what}: older is an age, and goes with {' and '.join(PRUNING)} alone")
    return task


def check_weighers(weighers: Mapping[str, float]) -> Mapping[str, float]:
    """`weighers` when each multiplier is a number within reason, else UsageError."""
    for name, multiplier in weighers.items():
        names.check_name(name, "weigher")
        number = isinstance(multiplier, int | float) and not isinstance(multiplier, bool)
        if not number or not math.isfinite(multiplier) or abs(multiplier) > LARGEST_MULTIPLIER:
            raise UsageError(f"weigher {name}: multiplier {multiplier!r} is not a number within ±1e6")
    return weighers


def check_scheduler(given: Mapping[str, Any]) -> Mapping[str, int]:
    """`given` when each is a number that the scheduler can work with, else UsageError."""
    for name, number in given.items():
        if name not in SCHEDULER:
            raise UsageError(f"scheduler: {name!r} is not one of {', '.join(SCHEDULER)}")
        if type(number) is not int or not SCHEDULER[name] <= number <= LARGEST_NUMBER:
            raise UsageError(
                f"scheduler: {name} {number!r} is not a whole number of {SCHEDULER[name]} or more"
            )
    return given


def check_setting(name: str, value: Any) -> None:
    """Raises UsageError unless `value` is what the setting of that name (db.settings) may be."""
    if name == "weighers" and isinstance(value, dict):
        check_weighers(value)
    elif name == "scheduler" and isinstance(value, dict):
        check_scheduler(value)
    elif name == "policies" and isinstance(value, list):
        policies = [Policy.from_dict(each) for each in value]
        if len({policy.name for policy in policies}) != len(policies):
            raise UsageError("policies: a name is there twice")
    elif name == "cron" and isinstance(value, dict):
        for task, given in value.items():
            CronTask.from_dict(task, given)
    elif name == "trusted_networks" and isinstance(value, dict):
        check_trusted(value)
    elif name == "image_store" and (value is None or isinstance(value, str)):
        if value is not None:
            Place.parse(value)
    elif name == "default_network" and (value is None or isinstance(value, str)):
        if value is not None:
            names.check_name(value, "default network")
    else:
        raise UsageError(f"setting {name!r} is not known, or has a value of another kind")


def _check_types(cls: Any, data: Any, what: str) -> None:
    """Raises UsageError unless `data` is a mapping of the class's fields with values of their types."""
    if not isinstance(data, Mapping):
        raise UsageError(f"{what} {data!r} is not a mapping")
    for key, value in data.items():
        known = cls.__dataclass_fields__.get(key)
        if known is None:
            raise UsageError(f"{what}: {key!r} is not known")
        if known.type == tuple[str, ...]:
            good = isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)
        else:
            kinds = get_args(known.type) or (known.type,)
            good = type(value) in kinds
        if not good:
            raise UsageError(f"{what}: {key} {value!r} is of the wrong type")
    if missing := [key for key in ("name", "do") if key in cls.__dataclass_fields__ and key not in data]:
        raise UsageError(f"{what}: {missing[0]} is missing")
