"""Steps of playbooks that are novactl's own: other command lines of it, and what must hold between them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from novactl.actions.steps.commands import what_stays
from novactl.actions.steps.registry import REGISTRY
from novactl.db import operations
from novactl.engine.operation import OpState, StepState
from novactl.engine.step import Step
from novactl.errors import Busy, OperationFailed, Refused
from novactl.files.conditions import Condition, ConditionError
from novactl.files.words import filled, shown

PATIENCE = 300.0  # seconds that another operation is waited for which holds what a command needs
ASK_AGAIN = 1.0
WORDS = 300


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RunNovactl(Step):
    """A command line of novactl was carried out, by a novactl of its own.

    The verbs are safe to repeat, so the step is. What an earlier process of this step journaled and left is
    finished first: such operations carry the step's mark (`asked_by`).
    """

    type: ClassVar[str] = "run-novactl"
    title: str
    argv: list[Any]
    taken_back_by: list[Any]
    accept: list[int]
    register: str | None
    seconds: int

    def summary(self) -> str:
        undo = f", undo: novactl {shown(self.taken_back_by)}" if self.taken_back_by else ""
        return f"{self.title}: novactl {shown(self.argv)}{undo}"

    def do(self, ctx: Any) -> dict[str, Any]:
        call = _Call(ctx, self.title, self.seconds)
        call.end_what_was_left("resume")
        return call.carry_out(self.argv, self.accept)

    def undo(self, ctx: Any) -> None:
        """What `undo` does, after what was under way has ended; nothing when it had changed nothing."""
        if ctx.record.state is StepState.DONE and not ctx.record.result.get("changed"):
            return
        call = _Call(ctx, self.title, self.seconds)
        call.end_what_was_left("cancel")
        if self.taken_back_by:
            call.carry_out(self.taken_back_by, [0])
        elif self.register is None and (stays := what_stays(ctx)):  # one that is registered is a question
            ctx.world.tell(f"{ctx.op.target}: {self.title}: {stays}")


class _Call:
    """Command lines of one step, and the time they have together."""

    def __init__(self, ctx: Any, title: str, seconds: int) -> None:
        self.ctx = ctx
        self.title = title
        self.clock = ctx.world.clock
        self.end = self.clock.monotonic() + seconds
        self.patience = self.clock.monotonic() + PATIENCE
        self.mark = f"{ctx.operation_id}.{ctx.record.n}"

    def novactl(self, *words: str) -> tuple[int, str, str]:
        said: tuple[int, str, str] = self.ctx.world.novactl(words, asked_by=self.mark, check=self._check)
        return said

    def _check(self) -> None:
        self.ctx.check()
        if self.clock.monotonic() >= self.end:
            raise OperationFailed(f"{self.title}: was not done in time")

    def end_what_was_left(self, how: str) -> None:
        """No operation is under way that an earlier process of this step journaled: it went on by itself, or
        is resumed or cancelled. Raises OperationFailed when one does not end."""
        while left := self.ctx.world.db.read(lambda tx: operations.asked_by(tx, self.mark)):
            for op_id in left:
                if self.novactl("op", how, op_id)[0] == Refused.code:  # past its point of no return
                    self.novactl("op", "resume", op_id)
            self._check()
            if self.clock.monotonic() >= self.patience:
                raise OperationFailed(
                    f"{self.title}: {left[0]} does not end", hint=f"novactl op show {left[0]}"
                )
            self.ctx.pause(ASK_AGAIN)

    def carry_out(self, line: Sequence[Any], accept: Sequence[int]) -> dict[str, Any]:
        """What it answered; while another operation holds what it needs it is tried again. Raises
        OperationFailed."""
        argv = filled(line, lambda name: registered(self.ctx, name).get("names", []))
        if argv is None:
            return {"changed": False, "code": 0, "names": [], "count": 0}
        while True:
            code, out, err = self.novactl(*argv)
            if not _is_busy(out, err) or self.clock.monotonic() >= self.patience:
                break
            self.ctx.pause(ASK_AGAIN)
        if code not in accept:
            message, hint = _why(out, err)
            raise OperationFailed(f"{self.title}: {message} (code {code})", hint=hint)
        names = _names(out)
        changed = _changed(out) or self._has_done()
        return {"changed": changed, "code": code, "names": names, "count": len(names)}

    def _has_done(self) -> bool:
        """Whether an operation of this step did something: in an earlier process, or at an earlier try."""
        known = self.ctx.world.db.read(operations.listed)
        ours = [op for op, _, _ in known if op.request.get("asked_by") == self.mark]
        return any(op.state is not OpState.UNDONE for op in ours)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class CheckThat(Step):
    """Something holds, by what is known of the target and what earlier steps registered."""

    type: ClassVar[str] = "check-that"
    title: str
    that: str
    message: str
    scope: dict[str, Any]

    def summary(self) -> str:
        return f"{self.title}: {self.that}"

    def do(self, ctx: Any) -> None:
        condition = Condition(self.that)
        known = {name: registered(ctx, name) for name in condition.roots - self.scope.keys()}
        try:
            holds = condition.holds({**self.scope, **known})
        except ConditionError as error:
            raise OperationFailed(f"{self.title}: {error}") from error
        if not holds:
            raise OperationFailed(f"{self.title}: {self.message}")

    def undo(self, ctx: Any) -> None:
        """Nothing: it only looks."""


def registered(ctx: Any, name: str) -> dict[str, Any]:
    """What a step left under a name: its code, and the names in its answer. {} before it is done."""
    for record in ctx.op.records:
        if getattr(record.step, "register", None) == name:
            return dict(record.result)
    return {}


def _is_busy(out: str, err: str) -> bool:
    """Whether another operation held what was wanted."""
    errors = [item.get("error") for item in _items(out)] + [_last(err)]
    return any(isinstance(one, dict) and one.get("code") == Busy.code for one in errors)


def _why(out: str, err: str) -> tuple[str, str]:
    """(message, hint): of each target that failed, else of the command."""
    told = _last(err)
    failed = [item["error"] for item in _items(out) if isinstance(item.get("error"), dict)]
    each = [str(one.get("message")) for one in failed] or [str(told.get("message") or "")]
    return "; ".join(filter(None, each)) or " ".join(err.split())[-WORDS:] or "failed", str(
        told.get("hint") or ""
    )


def _last(err: str) -> dict[str, Any]:
    """The error object that ends stderr (docs/cli.md)."""
    try:
        found = json.loads(err.strip().rpartition("\n")[2])
        return dict(found["error"])
    except (ValueError, KeyError, TypeError):
        return {}


def _items(out: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(out)
    except ValueError:
        return []
    return [item for item in (found if isinstance(found, list) else [found]) if isinstance(item, dict)]


def _changed(out: str) -> bool:
    """False when the answer says of each target that it was so already (docs/cli.md)."""
    items = _items(out)
    return not items or any(item.get("result") != "unchanged" for item in items)


def _names(out: str) -> list[str]:
    """What an answer is about: uuids where there are, else names."""
    found = [item.get("uuid") or item.get("name") or item.get("target") for item in _items(out)]
    return [name for name in found if isinstance(name, str)]
