"""How instance verbs run: a plan with --dry-run, else outcomes and the exit code they make."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from novactl.cli import render, views
from novactl.errors import NovactlError, PartlyDone, Refused, UsageError

PLAN_COLUMNS = ("n", "name", "kind", "host", "summary")
PREFLIGHT_COLUMNS = ("item", "host", "result", "message")
OUTCOME_COLUMNS = ("target", "result", "operation")
NO_NAMES: Mapping[str, str] = {}
OPERATION_COLUMNS = ("id", "kind", "target", "state")


def find(session: Any, name: str, *, prefix: bool = False, deleted: bool = False) -> Any:
    """The instance a person means (docs/cli.md, Grammar)."""
    from novactl.db import instances

    return session.cloud.db.read(
        lambda tx: instances.find(tx, name, session.settings.project, prefix=prefix, deleted=deleted)
    )


def check_host(session: Any, host: str | None) -> None:
    """Raises NotFound, with near names, for a host that --on names and that is none."""
    from novactl.db import hosts

    if host is not None:
        session.cloud.db.read(lambda tx: hosts.get(tx, host))


def dry_run(
    session: Any,
    actions: Sequence[Any],
    *,
    many: bool,
    partial: bool = False,
    shown: Mapping[str, str] = NO_NAMES,
) -> list[dict[str, Any]]:
    """Print what would be done; returns it. `shown`: targets that have another name for people."""
    plans: list[dict[str, Any]] = session.cloud.operator.show(actions, partial=partial)
    for plan in plans:
        plan["target"] = shown.get(plan["target"], plan["target"])
    show_plans(session, plans, many=many)
    refused = [plan["target"] for plan in plans if "refused" in plan]
    if refused:
        kind = Refused if len(refused) == len(plans) else PartlyDone
        raise kind(f"{len(refused)} of {len(plans)} would be refused: {', '.join(refused)}")
    return plans


ENDS = {
    "finish": "is finished",
    "undo": "is undone",
    "wait": "stands where all that is left of it is, to be reverted",
}
"""How an operation that was left makes way, by its course (docs/cli.md)."""


def show_plans(session: Any, plans: Sequence[dict[str, Any]], *, many: bool) -> None:
    """Print plans; several as a list."""
    if session.output != "table":
        if many:
            render.listing(session, plans, ("kind", "target", "host"))
        else:
            render.show(session, plans[0])
        return
    for plan in plans:
        where = f" on {plan['host']}" if plan["host"] else ""
        others = f" (else {', '.join(plan['alternates'][:3])})" if plan["alternates"] else ""
        session.tell(f"{plan['kind']} {plan['target']}{where}{others}:")
        if first := plan.get("first"):
            ends = ENDS[first["course"]]
            session.tell(
                f"first {first['kind']} ({first['operation']}), which was left half way, {ends},"
                " as far as it is not on fenced hosts; the rest is planned then"
            )
        if plan.get("preflight"):
            render.listing(session, plan["preflight"], PREFLIGHT_COLUMNS)
        if plan["steps"]:
            render.listing(session, plan["steps"], PLAN_COLUMNS)
        elif "refused" in plan:
            session.tell(f"refused: {plan['refused']}")
        elif not first:
            session.tell("nothing to do")


@dataclass(frozen=True)
class Waiting:
    """--no-wait, --timeout and --lock-wait (docs/cli.md)."""

    no_wait: bool = False
    timeout: float | None = None
    lock_wait: float = 0.0

    def check(self) -> None:
        """Raises UsageError."""
        if self.no_wait and self.timeout is not None:
            raise UsageError("--no-wait and --timeout exclude each other")
        if (self.timeout is not None and self.timeout < 0) or self.lock_wait < 0:
            raise UsageError("--timeout and --lock-wait are 0 or more seconds")


def run(
    session: Any,
    actions: Sequence[Any],
    *,
    many: bool,
    together: bool = False,
    partial: bool = False,
    waiting: Waiting = Waiting(),
    shown: Mapping[str, str] = NO_NAMES,
) -> list[Any]:
    """Carry the actions out and render how they ended. Raises the error of a single target; several that
    ended alike give that code, mixed ones 3. With --no-wait the list is empty. `shown` as in dry_run()."""
    waiting.check()
    try:
        outcomes = _outcomes(session, actions, together, partial, waiting) if actions else []
        for outcome in outcomes:
            outcome.target = shown.get(outcome.target, outcome.target)
        if waiting.no_wait:
            _left_to_run(session, outcomes, many=many)
            return []
    finally:
        session.progress.clear()
    if not many:
        (outcome,) = outcomes
        if outcome.error is not None:
            raise outcome.error
        return list(outcomes)
    report(session, outcomes)
    return list(outcomes)


def _outcomes(
    session: Any, actions: Sequence[Any], together: bool, partial: bool, waiting: Waiting
) -> list[Any]:
    operator = session.cloud.operator
    operator.lock_wait = waiting.lock_wait
    if not waiting.no_wait and waiting.timeout is None:
        return list(operator.run(actions, together=together, partial=partial))
    from novactl import detach
    from novactl.actions import handover

    interrupt = session.cloud.interrupt
    with operator.working():
        handed = handover.journal(operator, actions, together=together, partial=partial)
        if handed.head is None:
            return list(handed.outcomes)
        try:
            interrupt.check()
            detach.spawn(session.settings, handed.head.id, operator.journal.owner.runner)
        except BaseException:
            handover.take_back(operator, handed)
            raise
        patience = math.inf if interrupt.is_set() else waiting.timeout
        if patience is not None:
            handover.follow(operator, handed, patience)
        else:
            session.tell(f"goes on detached; its log: {detach.log_file(session.settings, handed.head.id)}")
    return list(handed.outcomes)


def _left_to_run(session: Any, outcomes: Sequence[Any], *, many: bool) -> None:
    """The operations that go on without us, and the errors of those that do not."""
    from novactl.db import operations

    ids = [outcome.operation for outcome in outcomes if outcome.error is None and outcome.operation]
    items = session.cloud.db.read(lambda tx: [views.operation(*operations.one(tx, id_)) for id_ in ids])
    if session.output == "table":
        for item in items:
            print(item["id"])
    elif many or not items:
        render.listing(session, items, OPERATION_COLUMNS)
    else:
        render.show(session, items[0], OPERATION_COLUMNS)
    _raise_failed(outcomes)


def report(session: Any, outcomes: Sequence[Any]) -> None:
    """Render how several targets ended, and raise what that means for the exit code."""
    render.listing(session, [views.outcome(outcome) for outcome in outcomes], OUTCOME_COLUMNS)
    _raise_failed(outcomes)


def _raise_failed(outcomes: Sequence[Any]) -> None:
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if len(outcomes) == 1 and failed:
        raise failed[0].error
    for outcome in failed:
        tell_error(outcome.target, outcome.error)
    if failed:
        brief = ("target", "uuid", "result", "code", "operation")
        message = f"{len(failed)} of {len(outcomes)} failed: {', '.join(one.target for one in failed)}"
        targets = [{key: getattr(outcome, key) for key in brief} for outcome in outcomes]
        raise _summary([outcome.error for outcome in outcomes], message, targets)


def raise_unasked(rows: Sequence[Any]) -> None:
    """Name the hosts that could not be asked (rows of actions.refresh), and raise what that means for the
    exit code."""
    failed = [row for row in rows if row.error is not None]
    if len(rows) == 1 and failed:
        raise failed[0].error
    for row in failed:
        tell_error(row.host, row.error)
    if failed:
        message = (
            f"{len(failed)} of {len(rows)} hosts could not be asked: {', '.join(r.host for r in failed)}"
        )
        brief = {"uuid": None, "result": "failed", "operation": None}
        targets = [{"target": row.host, **brief, "code": row.error.code} for row in failed]
        raise _summary([row.error for row in rows], message, targets)


def tell_error(target: str, error: NovactlError) -> None:
    """One target's error, on stderr."""
    message = error.message if error.message.startswith(target) else f"{target}: {error.message}"
    render.say(f"error: {message}")
    if error.hint:
        render.say(f"hint: {error.hint}")


def _summary(
    errors: Sequence[NovactlError | None], message: str, targets: Sequence[dict[str, Any]]
) -> NovactlError:
    """Targets that all ended alike give that code, mixed ones 3 (docs/cli.md)."""
    first = next(error for error in errors if error is not None)
    codes = {error.code if error is not None else 0 for error in errors}
    kind = type(first) if len(codes) == 1 else PartlyDone
    return kind(message, targets=targets)
