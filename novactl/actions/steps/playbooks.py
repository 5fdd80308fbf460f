"""Steps of playbooks that are novactl's own: other command lines of it, and what must hold between them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from novactl.actions.steps.commands import what_stays
from novactl.actions.steps.registry import REGISTRY
from novactl.db import operations
from novactl.engine.step import Step
from novactl.errors import Busy, NotFound, OperationFailed
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
        return self._carry_out(ctx, self.argv, self.accept)

    def undo(self, ctx: Any) -> None:
        """What `undo` does."""
        if self.taken_back_by:
            self._carry_out(ctx, self.taken_back_by, [0])
        elif self.register is None and (stays := what_stays(ctx)):  # one that is registered is a question
            ctx.world.tell(f"{ctx.op.target}: {self.title}: {stays}")

    def _carry_out(self, ctx: Any, line: Sequence[Any], accept: Sequence[int]) -> dict[str, Any]:
        argv = filled(line, lambda name: registered(ctx, name).get("names", []))
        if argv is None:
            return {"changed": False, "code": 0, "names": [], "count": 0}
        clock = ctx.world.clock
        patience = clock.monotonic() + PATIENCE
        check = _until(ctx, clock.monotonic() + self.seconds, f"{self.title}: takes over {self.seconds} s")
        mark = f"{ctx.operation_id}.{ctx.record.n}"
        while True:
            code, out, err = ctx.world.novactl(argv, asked_by=mark, check=check)
            holders = _holders(out, err)
            if not holders or clock.monotonic() >= patience:
                break
            for holder in filter(lambda op: _is_ours(ctx, op), sorted(holders)):
                ctx.world.novactl(["op", "resume", holder], asked_by=mark, check=check)
            ctx.pause(ASK_AGAIN)
        if code not in accept:
            message, hint = _why(err)
            raise OperationFailed(f"{self.title}: {message} (code {code})", hint=hint)
        names = _names(out)
        return {"changed": True, "code": code, "names": names, "count": len(names)}


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


def _until(ctx: Any, end: float, message: str) -> Callable[[], None]:
    def check() -> None:
        ctx.check()
        if ctx.world.clock.monotonic() >= end:
            raise OperationFailed(message)

    return check


def _is_ours(ctx: Any, op_id: str) -> bool:
    """Whether an operation was journaled for this one, by a process that may be gone."""
    try:
        op, _, _ = ctx.world.db.read(lambda tx: operations.one(tx, op_id))
    except NotFound:
        return False
    return bool(str(op.request.get("asked_by", "")).partition(".")[0] == ctx.operation_id)


def _holders(out: str, err: str) -> set[str]:
    """The operations that held what was wanted."""
    errors = [item.get("error") for item in _items(out)] + [_last(err)]
    return {
        str(one["operation"])
        for one in errors
        if isinstance(one, dict) and one.get("code") == Busy.code and one.get("operation")
    }


def _why(err: str) -> tuple[str, str]:
    told = _last(err)
    rows = [row for row in told.get("targets", []) if isinstance(row, dict) and row.get("message")]
    message = "; ".join([str(told.get("message", "")), *(str(row["message"]) for row in rows)]).strip("; ")
    return (message or " ".join(err.split())[-WORDS:] or "failed"), str(told.get("hint", ""))


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


def _names(out: str) -> list[str]:
    """What an answer is about: uuids where there are, else names."""
    found = [item.get("uuid") or item.get("name") or item.get("target") for item in _items(out)]
    return [name for name in found if isinstance(name, str)]
