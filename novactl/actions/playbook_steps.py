"""The steps of a playbook for one target: what its file says, with every name replaced."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from novactl.actions.steps.commands import AskHost, NoteBoot, PutFile, RebootHost, RunOnHost
from novactl.actions.steps.playbooks import CheckThat, RunNovactl
from novactl.actions.world import World
from novactl.engine.step import Step
from novactl.files import playbook as files
from novactl.files import words
from novactl.files.conditions import Condition
from novactl.objects.names import HOST_PATH

SECONDS = 3600  # of a command that has no timeout


@dataclass(frozen=True)
class Maker:
    """Makes the steps of one target, with all names replaced."""

    world: World
    playbook: files.Playbook
    scope: dict[str, Any]
    target: str
    place: dict[str, Any] | None

    def steps(self, step: files.Step) -> Iterator[Step]:
        on_host: dict[str, Any] = {"host": self.target, "place": self.place, "title": step.name}
        command: dict[str, Any] = {
            "unless": self._argv(step.unless),
            "taken_back_by": self._argv(step.undo),
            "seconds": step.timeout or SECONDS,
        }
        if step.unless is not None:
            yield AskHost(unless=command["unless"], **on_host)
        if step.novactl is not None:
            yield self._novactl(step)
        elif step.run is not None:
            stdin = words.text(step.stdin or "", self.scope)
            argv, accept = self._argv(step.run), step.accept or [0]
            yield RunOnHost(argv=argv, stdin=stdin, accept=accept, **on_host, **command)
        elif step.put is not None:
            path = words.text(step.put.path, self.scope)
            if not HOST_PATH.fullmatch(path):
                raise words.WordError(
                    f"would write to {path!r}, which is no absolute path of plain characters"
                )
            text = step.put.content
            if text is None:
                text = self._template(str(step.put.template))
            content = words.text(text, self.scope)
            yield PutFile(path=path, mode=step.put.mode, content=content, **on_host, **command)
        elif step.reboot is not None:
            yield NoteBoot(**on_host)
            argv = self._argv(step.reboot.command)
            yield RebootHost(argv=argv, seconds=step.reboot.timeout, **on_host)
        elif step.check is not None:
            yield self._check(step.name, step.check)

    def _novactl(self, step: files.Step) -> RunNovactl:
        return RunNovactl(
            title=step.name,
            argv=self._line(step.novactl),
            taken_back_by=self._line(step.undo),
            accept=step.accept or [0],
            register=step.register_,
            seconds=step.timeout or SECONDS,
        )

    def _line(self, templates: Sequence[str] | None) -> list[Any]:
        argv = self._argv(templates)
        if theirs := files.ours(argv):
            raise words.WordError(f"would give novactl {argv[theirs[0]]!r}, and the run decides that")
        return argv

    def _check(self, title: str, check: files.Check) -> CheckThat:
        roots = Condition(check.that).roots
        return CheckThat(
            title=title,
            that=check.that,
            message=words.text(check.message, self.scope),
            scope={root: self.scope[root] for root in sorted(roots & self.scope.keys())},
        )

    def _argv(self, templates: Sequence[str] | None) -> list[Any]:
        later = frozenset(step.register_ for step in self.playbook.steps if step.register_)
        free = frozenset(name for name, variable in self.playbook.vars.items() if variable.options)
        return words.words(templates or (), self.scope, later=later, free=free)

    def _template(self, name: str) -> str:
        text = self.world.template(name)
        for used in words.names(text):
            if used.partition(".")[0] not in self.scope:
                raise words.WordError(f"has {{{{ {used} }}}} in template {name}, which is not known")
        return text
