"""novactl image verify."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from novactl.cli import render, verbs
from novactl.cli.options import DryRun
from novactl.errors import PartlyDone

if TYPE_CHECKING:
    from novactl.actions.image_verify import Verified

DRIFT = 10
COLUMNS = ("host", "file", "image", "result", "message")


def verify(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="This image; else all.")] = None,
    on: Annotated[
        list[str] | None, typer.Option("--on", metavar="HOST", help="Only on this host; repeatable.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Read images again, in the store and on hosts.

    novactl image verify

    novactl image verify debian --on kvm1

    A base file that is not what it was is set aside, unless guests use it; the next boot fetches it.
    """
    from novactl.actions import image_verify

    session = ctx.obj
    found = []
    try:
        for one in image_verify.verify(session.cloud.world, session.cloud.store, name, on, act=not dry_run):
            found.append(one)
            session.progress.note(f"{len(found)} files read; {one.host or 'store'}")
    finally:
        session.progress.clear()
    render.listing(session, [_row(one) for one in found], COLUMNS)
    _raise(found, {one.host for one in found})


def _row(one: "Verified") -> dict[str, Any]:
    from novactl.actions.image_verify import WORDS

    message = one.error.message if one.error else WORDS[one.state]
    result = one.state.partition("-")[0]
    return {
        "host": one.host,
        "file": one.file or None,
        "image": one.image,
        "result": result,
        "message": message,
    }


def _raise(found: "list[Verified]", places: set[str | None]) -> None:
    """What is not as it was: 10; hosts that could not tell: their code when none could, else 3."""
    failed = [one for one in found if one.error is not None]
    for one in failed:
        assert one.error and one.host
        verbs.tell_error(one.host, one.error)
    wrong = [one for one in found if one.error is None and one.state != "ok"]
    if wrong:
        render.say(f"{len(wrong)} of {len(found)} files are not what they should be")
        raise typer.Exit(DRIFT)
    if failed:
        first = failed[0].error
        assert first
        codes = {one.error.code for one in failed if one.error}
        kind = type(first) if len(failed) == len(places) and len(codes) == 1 else PartlyDone
        raise kind(f"{len(failed)} of {len(places)} places could not be read")
