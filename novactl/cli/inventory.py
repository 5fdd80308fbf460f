"""novactl inventory …"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from novactl.cli import render, verbs
from novactl.cli.options import DryRun
from novactl.errors import NovactlError, PartlyDone, Refused, UsageError

DRIFT = 10
DIFF_COLUMNS = ("kind", "name", "change", "fields", "refused")
APPLY_COLUMNS = ("kind", "name", "change", "fields", "result")
HEADER = "# Written by novactl inventory export.\n"

app = typer.Typer(
    help="The fleet as files: what they say against what the database has.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Directory = Annotated[
    Path | None,
    typer.Argument(metavar="[DIR]", help="$NOVACTL_INVENTORY, else inventory in the configuration."),
]
Prune = Annotated[bool, typer.Option("--prune", help="What the database has and the files have not goes.")]
Accept = Annotated[
    bool, typer.Option("--accept-host-key", help="Pin the keys that new hosts without fingerprint show.")
]


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="inventory")


@app.command()
def diff(ctx: typer.Context, directory: Directory = None, prune: Prune = False) -> None:
    """Compare the files with the database: 10 when they differ. No host is asked, nothing is changed.

    novactl inventory diff
    """
    from novactl.actions.inventory import Options

    session = ctx.obj
    changes = _apply(session, directory, Options(prune=prune)).plan()
    render.listing(session, _rows(session, changes), DIFF_COLUMNS)
    if changes:
        raise typer.Exit(DRIFT)


@app.command()
def apply(
    ctx: typer.Context,
    directory: Directory = None,
    prune: Prune = False,
    partial: Annotated[bool, typer.Option("--partial", help="Do the rest when some is refused.")] = False,
    accept_host_key: Accept = False,
    identity: Annotated[
        Path | None, typer.Option("--identity", metavar="FILE", help="Your private key for new hosts.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Make the fleet what the files say, in place. What holds instances is never destroyed: such a change is
    refused, and then nothing is done (--partial: the rest is). Again does what is left.

    novactl inventory apply --dry-run
    """
    from novactl.actions.inventory import Options

    session = ctx.obj
    options = Options(prune=prune, accept=accept_host_key)
    work = _apply(session, directory, options, identity)
    changes = work.plan()
    refused = [change for change in changes if change.refused is not None]
    if dry_run or (refused and not partial):
        render.listing(session, _rows(session, changes), DIFF_COLUMNS)
        if refused and not partial:
            raise _refusal(refused, len(changes))
        return
    if removed := [f"{change.kind} {change.name}" for change in changes if change.change == "remove"]:
        session.confirm(f"remove {', '.join(removed)}?")
    try:
        outcomes = work.carry_out(changes)
    finally:
        session.progress.clear()
    render.listing(session, _rows(session, outcomes), APPLY_COLUMNS)
    _conclude(session, outcomes)


@app.command()
def export(
    ctx: typer.Context,
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="One file for each section there; - is stdout.")
    ] = Path("-"),
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
) -> None:
    """Write what the database has as such files; they differ in nothing from it.

    novactl inventory export
    """
    from novactl.actions.inventory_export import export as exported
    from novactl.actions.inventory_state import State

    sections = ctx.obj.cloud.db.read(lambda tx: exported(State(tx)))
    if str(directory) == "-":
        render.document(HEADER + dumped(sections))
    else:
        _write_files(ctx.obj, directory, sections, force)


def _apply(session: Any, directory: Path | None, options: Any, identity: Path | None = None) -> Any:
    from novactl.actions.inventory import read
    from novactl.actions.inventory_apply import Apply

    if identity is not None and not identity.is_file():
        raise UsageError(f"identity {identity} is not a file")
    given = directory or Path(os.environ.get("NOVACTL_INVENTORY") or session.settings.config / "inventory")

    def progress(name: str, done: int, total: int) -> None:
        session.progress.note(
            f"{name}: {done * 100 // total if total else 100} % of {total >> 20} MiB taken in"
        )

    inventory, cloud = read(given.expanduser()), session.cloud
    return Apply(cloud.world, cloud, inventory, options, identity=identity, progress=progress)


# --- what is shown ---


def _rows(session: Any, found: Sequence[Any]) -> list[dict[str, Any]]:
    rows = [one.as_dict() for one in found]
    if session.output != "table":
        return rows
    return [{**row, "fields": "; ".join(_fields(row))} for row in rows]


def _fields(row: dict[str, Any]) -> list[str]:
    """`zone: nova → east`; of what is new, only what it will have."""
    told = []
    for key, (have, want) in row["fields"].items():
        if row["change"] != "create":
            told.append(f"{key}: {_word(have)} → {_word(want)}")
        elif want not in (None, {}, []):
            told.append(f"{key}: {_word(want)}")
    return told


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _refusal(refused: Sequence[Any], total: int) -> NovactlError:
    lines = "\n  ".join(f"{change.kind} {change.name}: {change.refused}" for change in refused)
    return Refused(
        f"{len(refused)} of {total} changes are refused, nothing was done\n  {lines}",
        hint="change the files, or have the others done with --partial",
        targets=[change.as_dict() for change in refused],
    )


def _conclude(session: Any, outcomes: Sequence[Any]) -> None:
    """Say what is left, and raise what the failures mean for the exit code."""
    extra = [one.change for one in outcomes if one.change.change == "extra"]
    if not outcomes:
        session.tell("nothing differs")
    if extra:
        named = ", ".join(f"{change.kind} {change.name}" for change in extra[:8])
        session.tell(f"not in the files, left alone: {named}{', …' if extra[8:] else ''} (--prune)")
    tried = [one for one in outcomes if one.change.change != "extra"]
    failed = [one for one in tried if one.error is not None]
    if len(tried) == 1 and failed:
        raise failed[0].error
    for one in failed:
        verbs.tell_error(f"{one.change.kind} {one.change.name}", one.error)
    if failed:
        names = ", ".join(f"{one.change.kind} {one.change.name}" for one in failed)
        message = f"{len(failed)} of {len(tried)} failed: {names}"
        alike = len({one.code for one in tried}) == 1
        raise (type(failed[0].error) if alike else PartlyDone)(
            message, targets=[one.as_dict() for one in tried]
        )


# --- files ---


def dumped(sections: Any) -> str:
    """As YAML that files.document reads as the same."""
    import re

    import yaml

    class Dumper(yaml.SafeDumper):
        """Quotes what our loader takes for a number and PyYAML's does not; no anchors."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    exponent = re.compile(r"^[-+]?[0-9.]+[eE][-+]?[0-9]+$")
    Dumper.add_implicit_resolver("tag:yaml.org,2002:float", exponent, list("-+.0123456789"))
    text: str = yaml.dump(sections, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def _write_files(session: Any, directory: Path, sections: dict[str, Any], force: bool) -> None:
    """One file for each section, each whole or not at all."""
    targets = {name: directory / f"{name}.yaml" for name in sections}
    there = sorted(str(path) for path in targets.values() if path.exists())
    if there and not force:
        raise Refused(f"{there[0]} is there already", hint="--force writes over it")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, path in targets.items():
            growing = path.with_name(f".{path.name}.{os.getpid()}")
            growing.write_text(HEADER + dumped({name: sections[name]}), encoding="utf-8")
            growing.replace(path)
    except OSError as error:
        raise NovactlError(f"{directory}: {(error.strerror or str(error)).lower()}") from error
    for path in targets.values():
        session.tell(f"wrote {path}")
