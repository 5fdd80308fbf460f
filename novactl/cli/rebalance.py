"""novactl rebalance."""

from pathlib import Path
from typing import Annotated, Any

import typer

from novactl.cli import render, verbs
from novactl.cli.options import DryRun, LockWait
from novactl.errors import Interrupted, NovactlError, PartlyDone, TimedOut, UsageError

COLUMNS = ("instance", "from", "to", "method", "cost_gib", "reason", "blocker")


def register(app: typer.Typer) -> None:
    """Hang the command on the root."""
    app.command()(rebalance)


def rebalance(
    ctx: typer.Context,
    max_moves: Annotated[
        int | None, typer.Option("--max-moves", metavar="N", help="No more than so many.")
    ] = None,
    min_gain: Annotated[
        float | None,
        typer.Option("--min-gain", metavar="F", help="What a move gains at least: 0 to 1.  [default: 0.02]"),
    ] = None,
    only_rules: Annotated[
        bool, typer.Option("--only-rules", help="Only mend what is broken: groups, zones, labels, capacity.")
    ] = False,
    cooldown: Annotated[
        str | None,
        typer.Option(
            "--cooldown", metavar="TIME", help="Leave alone what was moved or launched since.  [default: 1h]"
        ),
    ] = None,
    plan_out: Annotated[
        Path | None,
        typer.Option("--plan-out", metavar="FILE", help="Keep the plan in a new file; move nothing."),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option("--plan", metavar="FILE", help="Carry out a kept plan if it still holds, else 5."),
    ] = None,
    dry_run: DryRun = False,
    lock_wait: LockWait = 0.0,
) -> None:
    """Move instances: rules are mended, the load is spread. One goes after the other, those that run
    live, those that are off cold; each claims its room when its turn comes.

    novactl rebalance --dry-run

    novactl rebalance --max-moves 10 --plan-out plan.json

    novactl rebalance --plan plan.json --yes
    """
    session, waiting = ctx.obj, verbs.Waiting(lock_wait=lock_wait)
    waiting.check()
    if plan is not None:
        if any(value is not None for value in (max_moves, min_gain, cooldown, plan_out)) or only_rules:
            raise UsageError("--plan goes with no other option of rebalance, but --dry-run and --lock-wait")
        found = _saved(session, plan)
    else:
        found = _made(session, _wanted(max_moves, min_gain, only_rules, cooldown), plan_out)
    if dry_run or plan_out is not None:
        _show(session, found)
        return
    _carry_out(session, found, waiting)


def _carry_out(session: Any, found: dict[str, Any], waiting: verbs.Waiting) -> None:
    from novactl.actions import rebalance as actions

    parts = actions.parts(session.cloud.world, found["moves"])
    for move in found["moves"]:
        if move["blocker"] is None:
            way = f"{move['from']} to {move['to']}, {move['method']}"
            session.tell(f"{move['instance']}: {way}: {move['reason']}")
    _tell_scores(session, found)
    if parts:
        session.confirm(f"move {len(parts)} instances?")
    failed: NovactlError | None = None
    try:
        shown = {move["uuid"]: move["instance"] for move in found["moves"]}
        verbs.run(session, parts, many=True, waiting=waiting, shown=shown)
    except (Interrupted, TimedOut):
        raise
    except NovactlError as error:
        failed = error
    blocked = [f"{one['instance']} {one['blocker']}" for one in found["moves"] if one["blocker"] is not None]
    if blocked:
        also = f"; {failed.message}" if failed is not None else ""
        raise PartlyDone(f"what should move and cannot: {', '.join(blocked)}{also}")
    if failed is not None:
        raise failed


def _wanted(max_moves: int | None, min_gain: float | None, only_rules: bool, cooldown: str | None) -> Any:
    from novactl.actions import rebalance as actions
    from novactl.objects.duration import parse_duration

    if max_moves is not None and max_moves < 1:
        raise UsageError(f"--max-moves {max_moves} is less than 1")
    if min_gain is not None and not 0 <= min_gain <= 1:
        raise UsageError(f"--min-gain {min_gain:g} is not within 0 to 1")
    default = actions.Wanted()
    return actions.Wanted(
        max_moves=max_moves,
        min_gain=default.min_gain if min_gain is None else min_gain,
        only_rules=only_rules,
        cooldown=default.cooldown if cooldown is None else parse_duration(cooldown, "--cooldown"),
    )


def _made(session: Any, wanted: Any, out: Path | None) -> dict[str, Any]:
    """A new plan, kept if that is asked for."""
    from novactl.actions import rebalance as actions

    world = session.cloud.world
    view = actions.look(world, wanted.cooldown)
    found = actions.as_dict(actions.plan(view, wanted), view)
    if out is not None:
        from novactl.actions import saved_plan

        saved_plan.save(out, saved_plan.document(world.fleet, view, found))
    return found


def _saved(session: Any, path: Path) -> dict[str, Any]:
    """A plan that was kept, when the fleet is as it was."""
    from novactl.actions import rebalance as actions
    from novactl.actions import saved_plan

    world = session.cloud.world
    saved = saved_plan.load(path, world.fleet)
    saved_plan.still_holds(path, saved, actions.look(world, cooldown=0))
    return {key: saved[key] for key in ("moves", "before", "after")}


def _show(session: Any, found: dict[str, Any]) -> None:
    if session.output in ("json", "jsonl", "yaml"):
        render.show(session, found)
    else:
        render.listing(session, found["moves"], COLUMNS)
    _tell_scores(session, found)


def _tell_scores(session: Any, found: dict[str, Any]) -> None:
    moves = [move for move in found["moves"] if move.get("blocker") is None]
    gib = sum(float(move.get("cost_gib") or 0) for move in moves)
    before, after = found["before"], found["after"]
    session.tell(
        f"{len(moves)} moves, {gib:.0f} GiB: score {before.get('score')} to {after.get('score')},"
        f" memory's spread {before.get('memory_spread')} to {after.get('memory_spread')}"
    )
    for text in after.get("violations", ()):
        session.tell(f"remains: {text}")
