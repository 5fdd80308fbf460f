"""What a task of cron is, what it is given, and what it says when it has ended."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING

from novactl.objects.policy import CronTask

if TYPE_CHECKING:
    from novactl.actions.host_checks import Looks
    from novactl.actions.operate import Operator
    from novactl.actions.world import World


@dataclass
class Report:
    """What a task did, and what needs somebody's attention: `concerns` go on until the task does not name
    them any more ({what it is about: what is wrong}), `mishaps` happened once. `partial`: not all was looked
    at, so what is not named here may be as it was."""

    changes: list[str] = field(default_factory=list)
    concerns: dict[str, str] = field(default_factory=dict)
    mishaps: list[str] = field(default_factory=list)
    partial: bool = False

    def note(self, target: str, message: str) -> None:
        """A concern about it, said once however often it is met."""
        text = message if message.startswith(target) else f"{target}: {message}"
        self.concerns[target] = text


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a task works with. `go_on` is asked between two hosts, instances, batches: when it says no, the
    task ends there with a partial report, and the rest is done next time."""

    operator: "Operator"
    reach: "Looks"
    dry_run: bool
    go_on: Callable[[], bool]
    older: int = 0
    """Seconds: the task's."""

    @property
    def world(self) -> "World":
        return self.operator.world


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is done from time to time: `every` so many seconds, and up to `jitter` more, by chance. `work`
    names a module beside this one and its function: a run with nothing to do does not import it. `older`: one
    that prunes takes away what is older than so many seconds."""

    name: str
    summary: str
    every: int
    jitter: int
    work: str
    enabled: bool = True
    older: int = 0

    @property
    def horizon(self) -> float:
        """The longest that it ever waits, in seconds."""
        return self.every + self.jitter + 1.0

    def do(self, context: Context) -> Report:
        """Its work."""
        module, _, function = self.work.partition(".")
        work = getattr(import_module(f"novactl.actions.cron.{module}"), function)
        done: Report = work(replace(context, older=self.older))
        return done

    def as_set(self, settings: Mapping[str, Mapping[str, object]]) -> "Task":
        """The same as the operator wants it (settings, "cron")."""
        if self.name not in settings:
            return self
        given = CronTask.from_dict(self.name, settings[self.name])
        return replace(
            self,
            enabled=given.enabled,
            every=self.every if given.every is None else given.every,
            jitter=self.jitter if given.jitter is None else given.jitter,
            older=self.older if given.older is None else given.older,
        )
