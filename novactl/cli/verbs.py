"""How instance verbs run: a plan with --dry-run, else outcomes and the exit code they make."""

from collections.abc import Sequence
from typing import Any

from novactl.cli import render, views
from novactl.errors import NovactlError, PartlyDone

PLAN_COLUMNS = ("n", "name", "kind", "host", "summary")
OUTCOME_COLUMNS = ("target", "result", "operation")


def find(session: Any, name: str, *, prefix: bool = False, deleted: bool = False) -> Any:
    """The instance a person means (docs/cli.md, Grammar)."""
    from novactl.db import instances

    with session.cloud.db.read() as tx:
        return instances.find(tx, name, session.settings.project, prefix=prefix, deleted=deleted)


def dry_run(session: Any, actions: Sequence[Any], *, many: bool) -> None:
    """Print what would be done."""
    plans = session.cloud.operator.show(actions)
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
        if plan["steps"]:
            render.listing(session, plan["steps"], PLAN_COLUMNS)
        else:
            session.tell("nothing to do")


def run(session: Any, actions: Sequence[Any], *, many: bool, together: bool = False) -> list[Any]:
    """Carry the actions out and render how they ended. Raises the error of a single target; several that
    ended alike give that code, mixed ones 3."""
    try:
        outcomes = session.cloud.operator.run(actions, together=together) if actions else []
    finally:
        session.progress.clear()
    if not many:
        (outcome,) = outcomes
        if outcome.error is not None:
            raise outcome.error
        return list(outcomes)
    report(session, outcomes)
    return list(outcomes)


def report(session: Any, outcomes: Sequence[Any]) -> None:
    """Render how several targets ended, and raise what that means for the exit code."""
    render.listing(session, [views.outcome(outcome) for outcome in outcomes], OUTCOME_COLUMNS)
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if len(outcomes) == 1 and failed:
        raise failed[0].error
    for outcome in failed:
        tell_error(outcome.target, outcome.error)
    if failed:
        raise _summary(outcomes, failed)


def tell_error(target: str, error: NovactlError) -> None:
    """One target's error, on stderr."""
    message = error.message if error.message.startswith(target) else f"{target}: {error.message}"
    render.say(f"error: {message}")
    if error.hint:
        render.say(f"hint: {error.hint}")


def _summary(outcomes: Sequence[Any], failed: Sequence[Any]) -> NovactlError:
    """Targets that all ended alike give that code, mixed ones 3 (docs/cli.md)."""
    brief = ("target", "uuid", "result", "code", "operation")
    targets = [{key: getattr(outcome, key) for key in brief} for outcome in outcomes]
    message = f"{len(failed)} of {len(outcomes)} failed: {', '.join(outcome.target for outcome in failed)}"
    if len({outcome.code for outcome in outcomes}) == 1:
        error: NovactlError = type(failed[0].error)(message, targets=targets)
        return error
    return PartlyDone(message, targets=targets)
