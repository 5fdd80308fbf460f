"""novactl playbook …"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from novactl.cli import render, verbs
from novactl.cli.options import DryRun, LockWait, NoWait, Timeout
from novactl.errors import NovactlError

app = typer.Typer(
    help="Runbooks of novactl operations and host commands.", no_args_is_help=True, rich_markup_mode=None
)

LIST_COLUMNS = ("name", "targets", "description", "file")
STEP_COLUMNS = ("n", "name", "act", "words")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A shipped or own playbook, or a file (with a /).")]


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="playbook")


@app.command("list")
def list_(ctx: typer.Context) -> None:
    """List playbooks: your own in playbooks/ of the configuration directory, and the shipped ones. What is
    wrong with one is told on stderr.

    novactl playbook list
    """
    from novactl.actions import playbook

    items = []
    for file in playbook.known(_directories(ctx.obj)).values():
        try:
            _, found = playbook.load(str(file), (), _verb_fault)
        except NovactlError as error:
            verbs.tell_error(str(file), error)
        else:
            items.append({**_brief(found), "file": str(file)})
    render.listing(ctx.obj, items, LIST_COLUMNS)


@app.command()
def show(ctx: typer.Context, name: Name) -> None:
    """Show a playbook: its variables and its steps.

    novactl playbook show rolling-reboot
    """
    from novactl.actions.playbook import words_of

    session = ctx.obj
    path, found = _loaded(session, name)
    data = found.model_dump(mode="json", by_alias=True, exclude_unset=True)
    item = {**_brief(found), "file": str(path), **data}
    if session.output != "table":
        render.show(session, item)
        return
    render.show(session, {key: item[key] for key in item if key not in ("steps", "vars")})
    variables = [
        {"variable": key, "type": one.type, "default": one.default, "description": one.description}
        for key, one in found.vars.items()
    ]
    if variables:
        render.listing(session, variables, ("variable", "type", "default", "description"))
    steps = [
        {"n": n, "name": step.name, "act": step.act, "words": words_of(step)}
        for n, step in enumerate(found.steps, start=1)
    ]
    render.listing(session, steps, STEP_COLUMNS)


@app.command()
def run(
    ctx: typer.Context,
    name: Name,
    variable: Annotated[
        list[str] | None, typer.Option("-e", "--var", metavar="K=V", help="A variable's value; repeatable.")
    ] = None,
    selector: Annotated[
        list[str] | None,
        typer.Option(
            "-l", "--selector", metavar="K=V", help="Of its targets those with this label or metadata."
        ),
    ] = None,
    on: Annotated[
        list[str] | None, typer.Option("--on", metavar="HOST", help="Of its targets those on these hosts.")
    ] = None,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    timeout: Timeout = None,
    lock_wait: LockWait = 0.0,
) -> None:
    """Run a playbook on its targets, batch by batch. One that was interrupted goes on with op resume.

    novactl playbook run rolling-reboot --on kvm1 --on kvm2 --dry-run
    """
    from novactl.actions import playbook
    from novactl.objects.names import key_values

    session = ctx.obj
    _, found = _loaded(session, name)
    ready = playbook.prepare(
        found, key_values(variable or (), "-e"), session.settings.project, session.cloud, session.ask
    )
    narrow = playbook.Narrow(selectors=selector or (), on=on or ())
    actions = playbook.actions(session.cloud.world, ready, narrow)
    if dry_run:
        _show_plan(session, actions)
        return
    waiting = verbs.Waiting(no_wait, timeout, lock_wait)
    waiting.check()
    if actions:
        session.confirm(_question(ready.question, [action.target for action in actions], found.name))
    outcomes = verbs.run(session, actions, many=True, together=True, waiting=waiting)
    if skipped := [outcome.target for outcome in outcomes if outcome.result == "skipped"]:
        session.tell(f"not started: {', '.join(skipped)}")


def _question(question: str, targets: Sequence[str], name: str) -> str:
    return question if list(targets) == [name] else f"{question} ({', '.join(targets)})"


def _show_plan(session: Any, actions: Sequence[Any]) -> None:
    for plan in verbs.dry_run(session, actions, many=True) if actions else ():
        for step in plan["changes"]["left_out"]:
            session.tell(f"{plan['target']}: left out: {step['name']} (when: {step['when']})")
    if not actions:
        render.listing(session, [], ("kind", "target", "host"))


def _directories(session: Any) -> list[Path]:
    from novactl import resources

    return [session.settings.config / "playbooks", resources.directory("playbooks")]


def _loaded(session: Any, name: str) -> tuple[Path, Any]:
    from novactl.actions import playbook

    return playbook.load(name, _directories(session), _verb_fault)


def _brief(found: Any) -> dict[str, Any]:
    return {"name": found.name, "targets": found.kind or "once", "description": found.description}


def _verb_fault(words: list[str]) -> str | None:
    """What is wrong with the command that the first words name."""
    from typer.main import get_command

    from novactl.cli.app import tree

    command: Any = get_command(tree())
    for n, word in enumerate(words):
        commands = getattr(command, "commands", None)
        if commands is None:
            return None
        if word not in commands:
            return f"novactl has no command {' '.join(words[: n + 1])!r}"
        command = commands[word]
    return f"novactl {' '.join(words)} is no command yet" if hasattr(command, "commands") else None
