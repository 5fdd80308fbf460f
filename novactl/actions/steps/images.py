"""Steps that bring base files to a host. The cache is shared and content-addressed: undo leaves it."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from novactl.actions.steps import jobs, trust
from novactl.actions.steps.registry import REGISTRY
from novactl.db import catalogue, instances
from novactl.engine.operation import StepState
from novactl.engine.step import Kind, Step
from novactl.errors import Busy, HostFault, HostRefused, HostUnreachable
from novactl.images.transfer import feed, take
from novactl.objects.image import CONVERTED, GIB, MIB, base_format
from novactl.virt.files import raw_sum_of

QUICK = 64 * MIB  # bytes that are hashed and converted while one waits for a call
PATIENCE = 3600.0  # seconds that another operator's transfer is waited for


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class FetchBase(Step):
    """A file of the image store is in the host's `_base`: RAW, hashed, with its sidecar."""

    type: ClassVar[str] = "fetch-base"
    what: str
    sha256: str
    source_format: str
    size_bytes: int
    virtual_size_bytes: int

    def summary(self) -> str:
        return f"{self.what} is in the base files of {self.host}"

    def do(self, ctx: Any) -> dict[str, Any]:
        host = ctx.world.hypervisor(self.host)
        with host.base_guard(self.sha256):
            began = ctx.world.clock.monotonic()
            while True:
                try:
                    ready, have = host.base_state(
                        self.sha256, self._job(ctx), made_as=base_format(self.source_format)
                    )
                    if ready:
                        return {"cached": True}
                    said = self._send(ctx, host, have)
                except Busy:  # another operator's transfer: it is ours too when it has ended
                    if ctx.world.clock.monotonic() - began > PATIENCE:
                        raise
                    ctx.pause(1)
                else:
                    note_raw_sum(ctx, self.sha256, self.source_format, said)
                    return {"cached": False, "resumed_from": have}

    def _send(self, ctx: Any, host: Any, have: int) -> str:
        """What the host said when it was done."""
        path = ctx.world.store.path(self.sha256)
        if have < self.size_bytes:
            host.base_receive(self.sha256, self.size_bytes, have, feed(path, have, ctx.progress))
        if self._job(ctx):
            what = (self.sha256, self.source_format, self.virtual_size_bytes)
            return jobs.carry_out(ctx, host, *host.base_finish_words(*what))
        return str(host.base_finish(self.sha256, self.source_format, self.virtual_size_bytes))

    def _job(self, ctx: Any) -> tuple[str, int] | None:
        """What finishes the file on the host, when that takes long."""
        takes_long = max(self.size_bytes, self.virtual_size_bytes) >= QUICK
        return (ctx.operation_id, ctx.record.n) if takes_long else None

    def undo(self, ctx: Any) -> None:
        """No job of ours works on it. The file stays: others may use it by now, and what arrived in part
        is continued next time."""
        if self._job(ctx):
            # What a host that is gone or broken still does there does no harm: nothing waits for it.
            with contextlib.suppress(HostUnreachable, HostFault, Busy):
                jobs.end(ctx, ctx.world.hypervisor(self.host))


def note_raw_sum(ctx: Any, sha256: str, source_format: str, said: str) -> None:
    """What the first base file that was made of the source hashes to is in the image's record: no host is
    believed another one later. Of what is not converted nobody has a say: its name is its sum."""
    if source_format in CONVERTED and (sum_ := raw_sum_of(said)) is not None:
        ctx.world.db.write(lambda tx: catalogue.note_raw_sum(tx, sha256, sum_))


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class MakeBlank(Step):
    """An empty base file (ext4 or swap) is on the host, for overlays to start from."""

    type: ClassVar[str] = "make-blank"
    name: str
    size_bytes: int
    filesystem: str

    def summary(self) -> str:
        return f"base file {self.name} is on {self.host}"

    def do(self, ctx: Any) -> None:
        host = ctx.world.hypervisor(self.host)
        with host.base_guard(self.name):
            host.base_blank(self.name, self.size_bytes, self.filesystem)

    def undo(self, ctx: Any) -> None:
        """Nothing: it is shared."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class SameBlank(trust.BetweenHosts):
    """An empty base file has the same bytes on both hosts, as what was written over it needs."""

    type: ClassVar[str] = "same-blank"
    name: str

    def summary(self) -> str:
        return f"base file {self.name} of {self.target} is that of {self.host}"

    def do(self, ctx: Any) -> None:
        source, target = (ctx.world.hypervisor(name) for name in self.hosts)
        if why := unlike(source, target, self.name):
            raise HostRefused(f"{self.target}: {why}")

    def undo(self, ctx: Any) -> None:
        """Nothing: it was looked at."""


def unlike(source: Any, target: Any, name: str) -> str | None:
    """Why what stands on the source's empty base file cannot stand on the target's, unless that has none
    yet: checksums of a file system are of its identity."""
    ours, theirs = source.blank_sum(name), target.blank_sum(name)
    if not ours:
        return f"{source.name} has no base file {name}"
    if theirs not in ("", ours):
        return f"its base file {name} is not that of {source.name}: their e2fsprogs differ"
    return None


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class PullFile(Step):
    """A file that this operation made in the instance's directory on the host is in the store. It records
    the file's sha256, size_bytes, disk_format and virtual_size_bytes."""

    type: ClassVar[str] = "pull-file"
    elsewhere: ClassVar[bool] = True
    uuid: str
    file: str
    what: str
    """What it is called: the disk that it was made of."""
    disk_format: str | None = None
    """None: as the step recorded that made it (`file`, `disk_format`)."""

    def summary(self) -> str:
        return f"{self.what} is in the image store"

    def do(self, ctx: Any) -> dict[str, Any]:
        host = ctx.world.hypervisor(self.host)
        words = host.file_sum_words(self.uuid, self.file)
        # both at once: the host hashes what it sends
        host.job_start(ctx.operation_id, ctx.record.n, *words)
        with ctx.world.store.incoming(self._key(ctx)) as growing:
            self._receive(ctx, host, growing)
            sha256, size = jobs.carry_out(ctx, host, *words).split()
            limit = ctx.world.db.read(self._most)
            if not size.isdecimal() or int(size) > limit:
                raise HostFault(f"{self.host}: says that {self.file} has {size} bytes, {limit} are the most")
            stored = growing.finish(
                int(size), declared=self._format(ctx), expected_sha256=sha256, pinned=True, noted=True
            )
        return {
            "sha256": stored.sha256,
            "size_bytes": stored.size_bytes,
            "disk_format": stored.info.format,
            "virtual_size_bytes": stored.info.virtual_size_bytes,
        }

    def _receive(self, ctx: Any, host: Any, growing: Any) -> None:
        """All of it has come; a link that was cut is waited for as long as some of it still comes."""
        clock, limit = ctx.world.clock, ctx.world.db.read(self._most)
        had, since = growing.have, clock.monotonic()
        while True:
            try:
                host.file_send(self.uuid, self.file, growing.have, take(growing, ctx.progress, limit))
                break
            except HostUnreachable:
                if growing.have > had:
                    had, since = growing.have, clock.monotonic()
                if clock.monotonic() - since > jobs.PATIENCE:
                    raise
                ctx.pause(1)

    def undo(self, ctx: Any) -> None:
        """What arrived is gone, unless an image needs the same file."""
        sha256 = ctx.record.result.get("sha256")
        if self.host not in ctx.gone:
            # What a host that is broken still does there does no harm: nothing waits for it.
            with contextlib.suppress(HostUnreachable, HostFault, Busy):
                jobs.end(ctx, ctx.world.hypervisor(self.host))
        with ctx.world.store.incoming(self._key(ctx)) as growing:
            # a process that was killed may have stored it, and not written it down
            if sha256 := sha256 or growing.stored:
                ctx.world.db.write(lambda tx: swept(ctx.world.store, tx, [sha256]))
            growing.discard()

    def _most(self, tx: Any) -> int:
        """Bytes that a file can have that is all of the disk, with what its format adds."""
        instance = instances.get(tx, self.uuid)
        gib = instance.root_gib if self.what == "disk" else instance.flavor.ephemeral_gib
        made_from = instance.image.disks.get(self.what) if instance.image else None
        disk = max(gib * GIB, made_from["virtual_size_bytes"] if made_from else 0)
        return disk + disk // 256 + 16 * MIB

    def _format(self, ctx: Any) -> str:
        made = [record.result for record in ctx.op.records if record.result.get("file") == self.file]
        return self.disk_format or str(made[0]["disk_format"])

    def _key(self, ctx: Any) -> str:
        return f"{ctx.operation_id}.{ctx.record.n}"


def forget_pulled(ctx: Any) -> None:
    """What the operation has pulled is known by its records alone: they are written."""
    for record in ctx.op.records:
        if isinstance(record.step, PullFile) and record.state is StepState.DONE:
            with ctx.world.store.incoming(f"{ctx.operation_id}.{record.n}") as growing:
                growing.discard()


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class SweepStore(Step):
    """Files of the store that the instance was the last to need are gone."""

    type: ClassVar[str] = "sweep-store"
    kind: ClassVar[Kind] = Kind.RETRIABLE
    sums: list[str]

    def summary(self) -> str:
        return "what nothing else needs of its image is gone from the image store"

    def do(self, ctx: Any) -> None:
        ctx.world.db.write(lambda tx: swept(ctx.world.store, tx, self.sums))


def swept(store: Any, tx: Any, sums: Iterable[str]) -> None:
    """Those of these files that nothing needs are gone; nobody comes to need them while `tx` is open."""
    needed = catalogue.stored_files_in_use(tx)
    if gone := set(sums) - needed:
        store.keep(needed)  # what another fleet brought too may have no mark of ours yet
    for sha256 in gone:
        store.delete(sha256)
