"""A base file that comes from other hosts: each gives on what it receives (docs/design/0017)."""

import contextlib
from dataclasses import dataclass
from typing import Any, ClassVar

from novactl.actions import holders
from novactl.actions.steps import jobs
from novactl.actions.steps.images import PATIENCE, FetchBase, note_raw_sum
from novactl.actions.steps.registry import REGISTRY
from novactl.actions.steps.trust import SECONDS
from novactl.db import catalogue, hosts, operations
from novactl.engine.operation import ACTIVE
from novactl.engine.step import Step
from novactl.errors import Busy, HostFault, HostRefused, HostUnreachable, NotFound, NovactlError
from novactl.objects.image import CONVERTED, MIB, base_format
from novactl.objects.names import key_of
from novactl.objects.place import Place, host_of

ANYBODY = "*"
"""The source of a file that was planned when nobody could be asked who has it."""

WINDOW = 10.0  # seconds between two looks whether the host that gives it is slow
AHEAD = 32 * MIB  # bytes that the host before it must be ahead
LAGS = 2  # it is slow when it gets on this many times slower than the host before it


class _Slow(Exception):
    """The host that gives is slower than the one before it."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class PullBase(Step):
    """A file of an image is in the host's `_base`, from another host. `sources`: hosts and places that may
    have it, or get it meanwhile, nearest first; when none of them gives it, the store of whoever runs this
    does. None: it is there."""

    type: ClassVar[str] = "pull-base"
    version: ClassVar[int] = 2
    what: str
    sha256: str
    source_format: str
    size_bytes: int
    virtual_size_bytes: int
    sources: list[str]

    def summary(self) -> str:
        from_whom = {ANYBODY: ", from a host that has it"}
        named = [from_whom.get(one, f", from {one}") for one in self.sources[:1]]
        return f"{self.what} is in the base files of {self.host}{''.join(named)}"

    def do(self, ctx: Any) -> dict[str, Any]:
        host = ctx.world.hypervisor(self.host)
        with host.base_guard(self.sha256):
            came_from = self._pulled(ctx, host)
        self._close(ctx)
        if came_from is None:
            jobs.end(ctx, host)
            self._from_store().do(ctx)
        return {"came_from": came_from or "the store"}

    def _pulled(self, ctx: Any, host: Any) -> str | None:
        """The source that gave it, "" when it was there; None when none did."""
        left, came_from = self._asked(ctx), ""
        began = ctx.world.clock.monotonic()
        while True:
            job, made_as = (ctx.operation_id, ctx.record.n), base_format(self.source_format)
            ready, _ = host.base_state(self.sha256, job, made_as=made_as)
            if ready:
                return came_from
            if not left:
                return None
            came_from = left[0]
            try:
                self._pull(ctx, host, left)
            except Busy:  # another operation's transfer: it is ours too when it has ended
                if ctx.world.clock.monotonic() - began > PATIENCE:
                    raise
                ctx.pause(1)

    def _asked(self, ctx: Any) -> list[str]:
        if self.sources != [ANYBODY]:
            return list(self.sources)
        found: list[str] = holders.holders(ctx.world, {self.sha256}, [str(self.host)])[self.sha256]
        return [source for source in found if source != self.host]

    def _key(self, ctx: Any) -> str:
        """Its own: a move's key, of the same operation, outlives it."""
        return key_of(ctx.operation_id, ctx.record.n)

    def _from_store(self) -> FetchBase:
        return FetchBase(
            host=self.host,
            what=self.what,
            sha256=self.sha256,
            source_format=self.source_format,
            size_bytes=self.size_bytes,
            virtual_size_bytes=self.virtual_size_bytes,
        )

    def _pull(self, ctx: Any, host: Any, left: list[str]) -> None:
        """From the first of those `left`; it is one of them no more when it does not give it."""
        source, before = left[0], left[1] if len(left) > 1 else None
        try:
            self._open(ctx, host, source)
            proven = ":" in source or ctx.world.store.has(self.sha256)  # places hold sources alone
            words = host.pull_words(
                self._key(ctx),
                self.sha256,
                self.size_bytes,
                self.source_format,
                self.virtual_size_bytes,
                proven=proven,
                raw_sum=self._raw_sum(ctx),
                waits=_still_gets_it(ctx, source),
            )
            said = jobs.carry_out(ctx, host, *words, meanwhile=_Pace(self, ctx, source, before))
            if proven:  # else it may be what another host has made
                note_raw_sum(ctx, self.sha256, self.source_format, said)
        except Busy:
            raise
        except (HostFault, HostUnreachable, NotFound, _Slow) as error:
            jobs.end(ctx, host)  # raises when it is this host that is away
            # one that was refused, as too slow, would be so again: it has no other chance
            again = isinstance(error, HostFault) and not isinstance(error, HostRefused)
            if again and _still_gets_it(ctx, source):
                ctx.pause(1)
                return
            left.pop(0)
            why = getattr(error, "message", f"{source} is slow")
            ctx.world.tell(f"{self.host}: {self.what} does not come from {source}: {why}")

    def _raw_sum(self, ctx: Any) -> str | None:
        """What the RAW file has to hash to when it comes from a host that has made it."""
        if self.source_format not in CONVERTED:
            return None
        found: str | None = ctx.world.db.read(lambda tx: catalogue.raw_sum(tx, self.sha256))
        return found

    def _open(self, ctx: Any, host: Any, source: str) -> None:
        """The host gets in at the source under a key of this step, for this file alone."""
        name, there = self._key(ctx), ctx.world.db.read(lambda tx: hosts.get(tx, host_of(source)))
        came_from, key = host.trust_key(name, there.address)
        giver = ctx.world.hypervisor(there.name)
        gives = giver.serve_words(self.sha256)
        if ":" in source:
            gives = giver.store_serve_words(Place.parse(source).where, self.sha256)
        giver.trust_allow(name, key, came_from, SECONDS, receives=gives)
        host.trust_to(name, there.address, there.port, there.host_keys)

    def _close(self, ctx: Any) -> None:
        """The key is gone, from all hosts where it may be: who died before may have turned to another one. A
        giver that is away or at fault keeps its part, which lets nobody in once it has expired; audit removes
        it. While the host itself has none, nobody has: it gets it first, and has it last."""
        key, host = self._key(ctx), ctx.world.hypervisor(self.host)
        with contextlib.suppress(HostUnreachable):
            if key not in host.trusts():
                return
        givers = [host_of(source) for source in self.sources]
        if ANYBODY in givers:
            givers = [one.name for one in ctx.world.db.read(hosts.everything) if one.state == "up"]
        for name in dict.fromkeys(givers):
            try:
                ctx.world.hypervisor(name).trust_end(key)
            except (HostUnreachable, HostFault, Busy, NotFound) as error:
                ctx.world.tell(f"{name}: keeps the operation's key until audit --heal ({error.message})")
        with contextlib.suppress(HostUnreachable):
            host.trust_end(key)

    def undo(self, ctx: Any) -> None:
        """No job of ours works on it, no key is left. What came stays: others may use it by now, and it is
        continued next time."""
        with contextlib.suppress(HostUnreachable, HostFault, Busy):
            jobs.end(ctx, ctx.world.hypervisor(self.host))
        self._close(ctx)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class PullBaseUnderOneKey(PullBase):
    """As it was while only pushes had it."""

    version: ClassVar[int] = 1

    def _key(self, ctx: Any) -> str:
        return str(ctx.operation_id)


class _Pace:
    """Looks now and then whether the source of a host gets on as the host before it does."""

    def __init__(self, step: PullBase, ctx: Any, source: str, before: str | None) -> None:
        self._step, self._ctx = step, ctx
        self._names = (source, before)
        self._at = ctx.world.clock.monotonic()
        self._stood: tuple[int, int] | None = None

    def __call__(self) -> None:
        """Raises _Slow."""
        now = self._ctx.world.clock.monotonic()
        if self._names[1] is None or now - self._at < WINDOW:
            return
        self._at = now
        try:
            stand = (self._stand(str(self._names[0])), self._stand(str(self._names[1])))
        except NovactlError:  # the job will tell what is wrong with it
            return
        stood, self._stood = self._stood, stand
        if stood is None or stand[1] - stand[0] < AHEAD:
            return
        if stand[1] >= self._step.size_bytes or (stand[0] - stood[0]) * LAGS < stand[1] - stood[1]:
            raise _Slow

    def _stand(self, name: str) -> int:
        if ":" in name:  # it has all of it
            return self._step.size_bytes
        ready, have = self._ctx.world.hypervisor(name).base_state(self._step.sha256)
        return self._step.size_bytes if ready else int(have)


def _still_gets_it(ctx: Any, source: str) -> bool:
    """Whether the same push is at work there: then it will have it."""

    def work(tx: Any) -> bool:
        return (
            ctx.op.parent is not None
            and ctx.op.kind == "push"
            and any(
                state in ACTIVE and operations.one(tx, child)[0].target == source
                for child, state in operations.states_of_children(tx, ctx.op.parent)
            )
        )

    return bool(ctx.world.db.read(work))
