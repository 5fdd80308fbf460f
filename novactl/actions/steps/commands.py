"""Steps of playbooks on a host: an operator's commands and files, and the host's boot.

Nothing takes a command back but its own `undo`: without one, what it did stays, which is said.
"""

import shlex
from dataclasses import dataclass
from typing import Any, ClassVar

from novactl.actions.steps import jobs
from novactl.actions.steps.registry import REGISTRY
from novactl.db import hosts
from novactl.engine.operation import StepState
from novactl.engine.step import Step
from novactl.errors import HostFault, HostUnreachable, OperationFailed
from novactl.objects.host import Host
from novactl.virt.commands import ran

WORDS = 300  # characters of what a command said that are told and journaled
POLL = 1.0
LOOKS = 120  # seconds that an `unless` may take


@dataclass(frozen=True, kw_only=True)
class OnHost(Step):
    """A step of a playbook on the host `host`; `place` says how it is reached when it is no host of the
    fleet yet (World.newcomer)."""

    title: str
    place: dict[str, Any] | None = None

    def reach(self, ctx: Any) -> Any:
        """The host."""
        return ctx.world.hypervisor(self.host) if self.place is None else ctx.world.newcomer(self.place)

    def undo(self, ctx: Any) -> None:
        """Nothing."""


def what_stays(ctx: Any) -> str:
    """What is so of a step that nothing takes back, for people; "" when it changed nothing."""
    if ctx.record.state is not StepState.DONE:
        return "was begun, and stays as it is"
    return "was done, and stays" if ctx.record.result.get("changed") else ""


@dataclass(frozen=True, kw_only=True)
class Command(OnHost):
    """A step that a command takes back."""

    unless: list[str]
    taken_back_by: list[str]
    seconds: int

    def _shown(self, what: str) -> str:
        undo = f", undo: {shlex.join(self.taken_back_by)}" if self.taken_back_by else ""
        return f"{self.title}: {what}{undo}"

    def _was_so(self, ctx: Any) -> bool:
        """Whether the step before, which asked, found that there is nothing to do."""
        return bool(self.unless and ctx.op.records[ctx.record.n - 2].result["already"])

    def undo(self, ctx: Any) -> None:
        """What `undo` does, unless it was so before; nothing of it runs any more in any case."""
        unchanged = ctx.record.state is StepState.DONE and not ctx.record.result.get("changed")
        if self._was_so(ctx) or unchanged:
            return
        host = self.reach(ctx)
        jobs.end(ctx, host)
        if self.taken_back_by:
            self._run(ctx, host, self.taken_back_by, [], b"", [0])
        elif stays := what_stays(ctx):
            ctx.world.tell(f"{host.name}: {self.title}: {stays}")

    def _run(
        self, ctx: Any, host: Any, argv: list[str], unless: list[str], stdin: bytes, accept: list[int]
    ) -> dict[str, Any]:
        words = host.run_words(argv, unless=unless, stdin=stdin, seconds=self.seconds)
        status, said = ran(jobs.carry_out(ctx, host, *words))
        if status is None:
            return {"changed": False}
        if status not in accept:
            ended = f"did not end within {self.seconds} s" if status == 124 else f"ended with {status}"
            last = " ".join(said.split())[-WORDS:]
            raise OperationFailed(f"{self.title}: {argv[0]} {ended}{': ' if last else ''}{last}")
        return {"changed": True, "code": status}


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class AskHost(OnHost):
    """Whether the host is so already that the step after it has nothing to do. Written down before that one
    begins: what was so before is not taken back."""

    type: ClassVar[str] = "ask-host"
    unless: list[str]

    def summary(self) -> str:
        return f"{self.title}: unless {shlex.join(self.unless)}"

    def do(self, ctx: Any) -> dict[str, Any]:
        return {"already": self.reach(ctx).holds(self.unless, LOOKS)}


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RunOnHost(Command):
    """A command has run on the host, as a job. One that died with its host is asked for anew there."""

    type: ClassVar[str] = "run-on-host"
    argv: list[str]
    stdin: str
    accept: list[int]

    def summary(self) -> str:
        return self._shown(shlex.join(self.argv))

    def do(self, ctx: Any) -> dict[str, Any]:
        if self._was_so(ctx):
            return {"changed": False}
        return self._run(ctx, self.reach(ctx), self.argv, self.unless, self.stdin.encode(), self.accept)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class PutFile(Command):
    """A file is on the host."""

    type: ClassVar[str] = "put-file"
    path: str
    mode: str
    content: str

    def summary(self) -> str:
        return self._shown(f"{self.path}, mode {self.mode}, {len(self.content.encode())} bytes")

    def do(self, ctx: Any) -> dict[str, Any]:
        if self._was_so(ctx):
            return {"changed": False}
        return {"changed": self.reach(ctx).put_file(self.path, self.mode, self.content.encode())}


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class NoteBoot(OnHost):
    """Which boot of the host this is, for the step after it."""

    type: ClassVar[str] = "note-boot"

    def summary(self) -> str:
        return f"{self.title}: which boot this is"

    def do(self, ctx: Any) -> dict[str, Any]:
        return {"boot_id": self.reach(ctx).boot()[0]}


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RebootHost(OnHost):
    """The host has booted since the step before noted its boot, and its libvirt answers."""

    type: ClassVar[str] = "reboot-host"
    argv: list[str]
    seconds: int

    def summary(self) -> str:
        return f"{self.title}: {shlex.join(self.argv)}, and libvirt answers again within {self.seconds} s"

    def do(self, ctx: Any) -> dict[str, Any]:
        noted = str(ctx.op.records[ctx.record.n - 2].result["boot_id"])
        host, clock = self.reach(ctx), ctx.world.clock
        jobs.patiently(ctx, lambda: host.reboot(noted, self.argv), self.seconds)
        end = clock.monotonic() + self.seconds
        while True:
            try:
                boot_id, answers = host.boot()
            except HostUnreachable:
                boot_id, answers = noted, False
            if boot_id != noted and answers:
                return {"changed": True, "boot_id": boot_id}
            if clock.monotonic() >= end:
                what = "libvirt does not answer" if boot_id != noted else "has not booted"
                raise HostFault(f"{host.name}: {what} {self.seconds} s after {self.argv[0]}")
            ctx.pause(POLL)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class MarkHost(OnHost):
    """A machine carries this fleet's mark, so that the steps after it may act there."""

    type: ClassVar[str] = "mark-host"

    def summary(self) -> str:
        return f"{self.host} carries this fleet's mark"

    def do(self, ctx: Any) -> None:
        self.reach(ctx).enrol(takeover=False)

    def undo(self, ctx: Any) -> None:
        """The mark is gone, unless the machine has become a host of the fleet, by this name or another."""
        known = ctx.world.db.read(hosts.everything)
        if not any(host.name == self.host or self._is_at(host) for host in known):
            self.reach(ctx).leave()

    def _is_at(self, host: Host) -> bool:
        place = self.place or {}
        return (host.address, host.port) == (place.get("address"), place.get("port"))
