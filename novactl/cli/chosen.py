"""Commands over instances: those named, or all that -l, --on and --all leave."""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import typer

from novactl.cli import verbs
from novactl.cli.options import All, DryRun, LockWait, Names, NoWait, On, Selector, Timeout
from novactl.errors import UsageError

Command = Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What a person has said of which instances, and how: it is looked up when it is asked for, after the
    command has checked its own options."""

    session: Any
    names: Sequence[str] | None
    selector: Sequence[str] | None
    on: str | None
    everything: bool
    dry_run: bool
    waiting: verbs.Waiting

    @functools.cached_property
    def targets(self) -> dict[str, str]:
        """The instances meant, by what verbs are given, with the name that people are shown. What was chosen
        is given by uuid: a name may be another instance's by the time it is acted on. A selector that matches
        nothing means none. Raises UsageError."""
        chosen = bool(self.selector or self.on or self.everything)
        if chosen == bool(self.names):
            raise UsageError(
                "give names, or choose with -l, --on or --all" + (", not both" if self.names else ""),
                hint="novactl list shows what exists",
            )
        if self.names:
            if len(set(self.names)) != len(self.names):
                raise UsageError("the same name is given twice")
            return {name: name for name in self.names}
        from novactl.actions import selection
        from novactl.db import pages

        wanted = selection.wanted(
            project=self.session.settings.project, selectors=self.selector, host=self.on
        )
        verbs.check_host(self.session, self.on)
        return dict(self.session.cloud.db.read(lambda tx: pages.names(tx, wanted)))

    def confirm(self, verb: str, consequence: str) -> None:
        """Ask whether to; not when nothing would be done."""
        if self.targets and not self.dry_run:
            self.session.confirm(f"{verb} {', '.join(self.targets.values())}{consequence}?")

    def carry_out(self, action: Callable[..., Any], **values: Any) -> None:
        """Such an action of each, with these values, shown under its name."""
        project = self.session.settings.project
        actions = [action(name=target, project=project, **values) for target in self.targets]
        if self.dry_run:
            verbs.dry_run(self.session, actions, many=True, shown=self.targets)
        else:
            verbs.run(self.session, actions, many=True, waiting=self.waiting, shown=self.targets)


def over_instances(function: Callable[..., None], *, all_: bool = True) -> Command:
    """Makes a command of a function that is given a Chosen and its own options: those that choose stand
    before them in its help, --dry-run and how to wait after. `all_`: with --all."""

    def command(
        ctx: typer.Context,
        names: Names = None,
        selector: Selector = None,
        on: On = None,
        everything: All = False,
        dry_run: DryRun = False,
        no_wait: NoWait = False,
        timeout: Timeout = None,
        lock_wait: LockWait = 0.0,
        **own: Any,
    ) -> None:
        chosen = Chosen(
            session=ctx.obj,
            names=names,
            selector=selector,
            on=on,
            everything=everything,
            dry_run=dry_run,
            waiting=verbs.Waiting(no_wait, timeout, lock_wait),
        )
        function(chosen, **own)

    *common, _ = inspect.signature(command).parameters.values()
    _, *own = inspect.signature(function).parameters.values()
    before = [one for one in common[:5] if all_ or one.name != "everything"]
    shown = [one.replace(kind=one.KEYWORD_ONLY) for one in (*before, *own, *common[5:])]
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in shown}
    return command
