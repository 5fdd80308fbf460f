"""Steps that let one host in at another for as long as an operation lasts (docs/design/0015)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from novactl.actions.steps.registry import REGISTRY
from novactl.db import hosts
from novactl.engine.operation import Record
from novactl.engine.step import Kind, Step
from novactl.errors import HostUnreachable
from novactl.objects.moments import seconds_between

SECONDS = 6 * 3600
"""How long a key lets new connections in; a step that connects later opens it again."""


@dataclass(frozen=True, kw_only=True)
class BetweenHosts(Step):
    """A step on both hosts of a move; `host` is the one where the guest was."""

    target: str

    @property
    def hosts(self) -> tuple[str, ...]:
        return (str(self.host), self.target)

    def ended(self, ctx: Any) -> None:
        """Nothing of the operation's key is left. A host that is away keeps its part of it: the key lets
        nobody in once it has expired, and audit removes it."""
        for name in (self.target, str(self.host)):
            try:
                ctx.world.hypervisor(name).trust_end(ctx.operation_id)
            except HostUnreachable as error:
                ctx.world.tell(f"{name}: keeps the operation's key until audit --heal ({error.message})")


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class OpenTrust(BetweenHosts):
    """The source gets in at the target under a key of this operation. `receives`: the words of the one call
    that it may make there; none: it may forward sockets, and nothing else."""

    type: ClassVar[str] = "open-trust"
    receives: list[str]

    def summary(self) -> str:
        may = "send the instance's files" if self.receives else "forward sockets"
        return f"{self.host} may {may} to {self.target}, under a key of this operation alone"

    def do(self, ctx: Any) -> dict[str, Any]:
        op, target = ctx.operation_id, ctx.world.db.read(lambda tx: hosts.get(tx, self.target))
        source = ctx.world.hypervisor(self.host)
        came_from, key = source.trust_key(op, target.address)
        receives = [word.replace("@epoch", str(ctx.epoch)) for word in self.receives]
        ctx.world.hypervisor(self.target).trust_allow(op, key, came_from, SECONDS, receives=receives)
        source.trust_to(op, target.address, target.port, target.host_keys)
        if (
            receives
        ):  # what forwards sockets is tried by the connection that does so, before the guest is touched
            source.trust_try(op)
        return {"epoch": ctx.epoch}

    def undo(self, ctx: Any) -> None:
        """No key, no line."""
        self.ended(ctx)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class EndTrust(BetweenHosts):
    """The operation's key is gone from both hosts."""

    type: ClassVar[str] = "end-trust"
    kind: ClassVar[Kind] = Kind.RETRIABLE

    def do(self, ctx: Any) -> None:
        self.ended(ctx)


def again(ctx: Any, kind: type[Step] = OpenTrust) -> None:
    """For a step that connects under the operation's key: the key lets it in from now on, under the epoch of
    whoever runs it, even when it had expired. Of another `kind`: what such a step before it does is so
    again."""
    for record in ctx.op.records:
        done = isinstance(record.step, kind) and record.attempt in (0, ctx.record.attempt)
        if done and not _holds(ctx, record):
            record.step.do(ctx)


def _holds(ctx: Any, record: Record) -> bool:
    """Whether it was done under this epoch, and not so long ago that the key may expire."""
    if record.finished_at is None or record.result.get("epoch") != ctx.epoch:
        return False
    return seconds_between(record.finished_at, ctx.world.clock.now()) < SECONDS / 2
