"""One run of cron: each task that is due and nobody's is taken, done and put back."""

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from novactl.actions.cron.news import News, news
from novactl.actions.cron.task import Context, Report, Task
from novactl.db import settings, tasks
from novactl.db.session import Database, Tx
from novactl.db.session import Row as DbRow
from novactl.engine.heartbeat import Heartbeat
from novactl.engine.ports import Clock
from novactl.errors import Busy, Interrupted, NotFound, NovactlError, Refused
from novactl.objects.names import near

if TYPE_CHECKING:
    from novactl.actions.host_checks import Looks
    from novactl.actions.operate import Operator

log = logging.getLogger(__name__)

CHANCE = random.SystemRandom().random

Result = Literal["done", "skipped", "failed"]


@dataclass
class Row:
    """How a task fared in this run. `attention`: all that needs it now; `news`: what of it is to be told;
    `cut`: there was no time for all of it."""

    task: str
    result: Result = "skipped"
    message: str = ""
    changes: list[str] = field(default_factory=list)
    attention: list[str] = field(default_factory=list)
    news: list[News] = field(default_factory=list)
    started_at: str | None = None
    finished_at: str | None = None
    due_at: str | None = None
    cut: bool = False
    error: NovactlError | None = None


class Leases:
    """engine.heartbeat's view of the task that a process works on."""

    def __init__(self, db: Database, runner: tasks.Runner, lease: float) -> None:
        self.db, self.runner, self.lease = db, runner, lease

    def renew(self) -> None:
        self.db.write(lambda tx: tasks.renew(tx, self.runner, self.lease), alone=False)

    def wishes(self) -> dict[str, bool]:
        return dict.fromkeys(self.db.read(lambda tx: tasks.held(tx, self.runner)), False)


class Cron:
    """The tasks, and the process that runs them. `opened` gives what they work with, when the first one is
    taken; `tell` gets what a task has to tell before that is remembered as told."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        opened: Callable[[], tuple["Operator", "Looks"]],
        known: Sequence[Task],
        *,
        tell: Callable[[Row], None],
        chance: Callable[[], float] = CHANCE,
    ) -> None:
        self.db, self.clock, self.opened, self.tell, self.chance = db, clock, opened, tell, chance
        self.heartbeat: Heartbeat | None = None
        given, self.rows = db.read(lambda tx: (settings.get(tx, "cron"), tasks.all_of(tx)))
        self.tasks = [task.as_set(given) for task in known]

    @cached_property
    def operator(self) -> "Operator":
        return self.opened()[0]

    @cached_property
    def leases(self) -> Leases:
        journal = self.operator.journal
        boot = str(journal.owner.key.get("boot", ""))
        runner = tasks.Runner.of(journal.owner.runner, boot, shared=self.db.shared)
        return Leases(self.db, runner, journal.lease)

    # --- looking ---

    def one(self, name: str) -> Task:
        """The task of that name. Raises NotFound."""
        for task in self.tasks:
            if task.name == name:
                return task
        names = [task.name for task in self.tasks]
        close = near(name, names)
        hint = f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(names)}"
        raise NotFound(f"task {name!r} does not exist", hint=hint, candidates=close)

    def listed(self) -> Iterator[dict[str, Any]]:
        """Each task as `cron --list` shows it (docs/cli.md)."""
        now = self.clock.now()
        for task in self.tasks:
            row: Mapping[str, Any] = self.rows.get(task.name, {})
            memory = row.get("memory", tasks.Memory())
            yield {
                "task": task.name,
                "enabled": task.enabled,
                "every_seconds": task.every,
                "jitter_seconds": task.jitter,
                "due_at": tasks.due_at(self.rows.get(task.name), now) if task.enabled else None,
                "running": row.get("runner") is not None,
                "result": row.get("result"),
                "message": row.get("message"),
                "attention": [one["message"] for _, one in sorted(memory.told.items())],
                "started_at": row.get("started_at"),
                "finished_at": row.get("finished_at"),
                "succeeded_at": memory.succeeded_at,
                "failed_at": memory.failed_at,
                "summary": task.summary,
            }

    # --- doing ---

    def run(self, *, seconds: float, dry_run: bool = False) -> list[Row]:
        """All tasks that are due; none begins, and none goes on, when so many seconds have passed."""
        return list(self._each(self.tasks, seconds=seconds, dry_run=dry_run, now=False))

    def run_one(self, name: str, *, seconds: float, dry_run: bool = False) -> list[Row]:
        """That task, due or not. Raises NotFound; Busy while another process works on it."""
        return list(self._each([self.one(name)], seconds=seconds, dry_run=dry_run, now=True))

    def _each(self, chosen: Iterable[Task], *, seconds: float, dry_run: bool, now: bool) -> Iterator[Row]:
        end = self.clock.monotonic() + seconds
        for task in chosen:
            row = Row(task=task.name)
            before = self.rows.get(task.name)
            if not now and not task.enabled:
                row.message = "is disabled"
            elif not now and not tasks.is_due(before, task.horizon):
                row.message = "is not due"
            elif self.clock.monotonic() >= end:
                row.message, row.cut = "no time is left", True
            else:
                self._one(task, row, end=end, dry_run=dry_run, now=now)
            row.due_at = row.due_at or tasks.due_at(before, self.clock.now())
            yield row

    def _one(self, task: Task, row: Row, *, end: float, dry_run: bool, now: bool) -> None:
        if dry_run:
            self._do(task, row, end, dry_run=True)
            return
        if not self._take(task, now):
            if now:
                raise Busy(f"task {task.name}: another novactl works on it", hint="novactl cron --list")
            row.message = "another novactl works on it"
            return
        kept = False
        try:
            self.heartbeat = Heartbeat(self.leases)
            with self.operator.working(), self.heartbeat.beating():
                report = self._do(task, row, end, dry_run=False)
                kept = self._put_back(task, row, report)
        finally:
            self.heartbeat = None
            if not kept:
                self.db.write(lambda tx: tasks.let_go(tx, task.name, self.leases.runner))

    def _take(self, task: Task, now: bool) -> bool:
        seen = self.db.read(tasks.all_of).get(task.name)
        due = now or tasks.is_due(seen, task.horizon)
        if not due or not tasks.is_free(seen, self.leases.runner):
            return False

        def work(tx: Tx) -> DbRow | None:
            started = self.clock.now()
            if not tasks.take(
                tx,
                task.name,
                self.leases.runner,
                self.leases.lease,
                horizon=task.horizon,
                due_or_not=now,
                now=started,
            ):
                return None
            return tasks.all_of(tx)[task.name]

        taken = self.db.write(work)
        if taken is not None:
            self.rows[task.name] = taken
        return taken is not None

    def _do(self, task: Task, row: Row, end: float, *, dry_run: bool) -> Report:
        """The task's work. What goes wrong is its concern; only the user's wish to stop goes through."""
        clock, interrupt = self.clock, self.operator.world.interrupt

        def go_on() -> bool:
            lost = self.heartbeat is not None and self.heartbeat.missing(task.name)
            return not (lost or interrupt.is_set() or clock.monotonic() >= end)

        row.started_at = clock.now()
        report = Report()
        try:
            operator, reach = self.opened()
            context = Context(operator=operator, reach=reach, dry_run=dry_run, go_on=go_on)
            report = task.do(context)
            row.result = "done"
        except Interrupted:
            raise
        except NovactlError as error:
            row.error = error
        except Exception as error:
            log.debug("task %s", task.name, exc_info=True)
            row.error = Refused(f"{type(error).__name__}: {error}", hint="this is a fault of novactl")
        if row.error is not None:
            row.result, report.partial = "failed", True
            report.note(task.name, row.error.message)
        interrupt.check()
        row.finished_at, row.changes = clock.now(), report.changes
        row.cut = row.result == "done" and report.partial
        row.attention = [*report.mishaps, *report.concerns.values()]
        row.message = row.error.message if row.error else told_in_brief(report)
        return report

    def _put_back(self, task: Task, row: Row, report: Report) -> bool:
        """It is told what is new, then remembered and due again; a task that lost its lease is another's.
        Told twice is better than never: whoever dies in between tells it again."""
        now = self.clock.now()
        before: tasks.Memory = self.rows[task.name]["memory"]
        row.news, told = news(before.told, report, now)
        good = row.result == "done"
        memory = tasks.Memory(
            succeeded_at=now if good else before.succeeded_at,
            failed_at=before.failed_at if good else now,
            told=told,
        )
        if good and task.name in before.told:  # its own failure is over, whatever else was not looked at
            memory.told.pop(task.name, None)
        self.tell(row)
        wait = 0.0 if row.cut else task.every + task.jitter * self.chance()

        def work(tx: Tx) -> str | None:
            kept = tasks.finish(
                tx,
                task.name,
                self.leases.runner,
                wait=wait,
                result=row.result,
                message=row.message,
                now=now,
                memory=memory,
            )
            return tasks.due_at(tasks.all_of(tx)[task.name], now) if kept else None

        row.due_at = self.db.write(work)
        return row.due_at is not None


def told_in_brief(report: Report) -> str:
    """One line of it, for the task's row."""
    parts = [f"{len(report.changes)} changed"] if report.changes else []
    attention = len(report.concerns) + len(report.mishaps)
    parts += [f"{attention} need attention"] if attention else []
    parts += ["not all was done"] if report.partial else []
    return ", ".join(parts)
