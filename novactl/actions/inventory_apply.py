"""inventory apply: each change made in place, in an order that works; killed anywhere, again finishes.

Images first, since their bytes take long; hosts that leave; then all that is only in the database, in one
transaction that looks again whether it may; hosts that come, jump hosts first, several at a time; last the
aggregates, which name them.
"""

import concurrent.futures
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from novactl.actions import hosts as host_actions
from novactl.actions import images as image_actions
from novactl.actions.host_checks import PARALLEL
from novactl.actions.inventory import Change, Content, Options, plan
from novactl.actions.inventory_records import WRITERS
from novactl.actions.inventory_state import IMAGE, State
from novactl.actions.world import World
from novactl.db.session import Tx
from novactl.errors import HostUnreachable, NovactlError, Refused
from novactl.files.inventory import Inventory

CONNECTION = frozenset({"user", "jump", "fingerprint", "virt_type"})
"""Of a host: what is only true once novactl was there."""
OFFERS = (
    *("reserved_vcpus", "reserved_memory_mib", "reserved_disk_gib"),
    *("cpu_ratio", "memory_ratio", "disk_ratio", "dedicated_cpus", "enabled", "disabled_reason"),
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one change ended: done, failed, or skipped (it is refused, or only told)."""

    change: Change
    result: str
    error: NovactlError | None = None

    @property
    def code(self) -> int:
        return 0 if self.error is None else self.error.code

    def as_dict(self) -> dict[str, Any]:
        error = self.error.as_dict() if self.error else None
        return {**self.change.as_dict(), "result": self.result, "code": self.code, "error": error}


class Apply:
    """One `inventory apply`: plan(), which changes nothing, then carry_out()."""

    def __init__(
        self,
        world: World,
        reach: host_actions.Reach,
        inventory: Inventory,
        options: Options,
        *,
        identity: Path | None = None,
        progress: Callable[[str, int, int], None] = lambda name, done, total: None,
    ) -> None:
        self._world, self._reach, self._inventory, self._options = world, reach, inventory, options
        self._identity, self._progress = identity, progress
        self._store: Any = world.store
        self._content = Content(inventory, self._store)
        self._ended: dict[tuple[str, str], Outcome] = {}

    def plan(self) -> list[Change]:
        """Every difference, refused ones too."""
        return self._world.db.read(lambda tx: self._plan(tx))

    def _plan(self, tx: Tx) -> list[Change]:
        return plan(State(tx), self._inventory, self._content, self._options)

    def carry_out(self, changes: Sequence[Change]) -> list[Outcome]:
        """How each ended; those that are refused or extra are skipped."""
        for change in changes:
            if change.refused is not None:
                self._end(change, Refused(f"{change.kind} {change.name}: {change.refused}"))
        todo = [change for change in changes if change.refused is None and change.change != "extra"]
        content = [c for c in todo if c.kind == "image" and _comes_otherwise(c)]
        leaving = [c for c in todo if c.kind == "host" and c.change == "remove"]
        coming = [c for c in todo if c.kind == "host" and _comes_otherwise(c)]
        grouped = [c for c in todo if c.kind == "aggregate"]
        apart = {_key(c) for c in (*content, *leaving, *coming, *grouped)}
        self._each(content, self._take_in)
        self._each(leaving, lambda c: host_actions.remove(self._world, self._reach, c.name))
        self._records([c for c in todo if _key(c) not in apart])
        self._visit(coming)
        self._records(grouped)
        return [self._ended.get(_key(c)) or Outcome(change=c, result="skipped") for c in changes]

    def _end(self, change: Change, error: NovactlError | None = None) -> None:
        refused = change.refused is not None
        result = "skipped" if refused else "failed" if error else "done"
        self._ended[_key(change)] = Outcome(change=change, result=result, error=error)

    def _each(self, changes: Iterable[Change], work: Callable[[Change], Any]) -> None:
        for change in changes:
            self._try(change, work)

    def _try(self, change: Change, work: Callable[[Change], Any]) -> None:
        try:
            work(change)
        except NovactlError as error:
            self._end(change, error)
        else:
            self._end(change)

    # --- what is only in the database ---

    def _records(self, changes: Sequence[Change]) -> None:
        """All of them in one transaction, or none of them."""
        if not changes:
            return
        wanted = [_key(change) for change in changes]
        try:
            files, short = self._world.db.write(lambda tx: self._write(tx, wanted))
        except NovactlError as error:
            for change in changes:
                self._end(change, error)
            return
        for change in changes:
            self._end(change, short.get(change.name) if change.kind == "aggregate" else None)
        if files:
            image_actions.sweep(self._world, self._store, files)

    def _write(self, tx: Tx, wanted: Iterable[tuple[str, str]]) -> tuple[set[str], dict[str, NovactlError]]:
        """(files of the store that images had which are gone, aggregates whose hosts are not all there)."""
        state = State(tx)
        now = {_key(change): change for change in plan(state, self._inventory, self._content, self._options)}
        found = [now[key] for key in wanted if key in now]  # the others are so already
        for change in found:
            if change.refused is not None or _comes_otherwise(change):
                why = change.refused or "was changed meanwhile"
                raise Refused(f"{change.kind} {change.name}: {why}", hint="apply again")
        files: set[str] = set()
        short: dict[str, NovactlError] = {}
        leaving = [change for change in reversed(found) if change.change == "remove"]
        staying = [change for change in found if change.change != "remove"]
        for change in leaving + staying:  # what leaves makes room for what comes, and a project goes last
            if change.kind == "image" and change.change == "remove":
                files |= state.images[change.name].sums
            if change.kind == "aggregate" and (error := self._short(state, change)):
                short[change.name] = error
                continue
            WRITERS[change.kind](self._world, state, change)
        return files, short

    def _short(self, state: State, change: Change) -> NovactlError | None:
        missing = sorted(set(change.wanted.get("hosts", ())) - state.hosts.keys())
        if not missing:
            return None
        return Refused(f"aggregate {change.name}: host {missing[0]} is not enrolled", hint="apply again")

    # --- images ---

    def _take_in(self, change: Change) -> None:
        item, wanted = change.item, self._content.fields[change.name]
        assert item
        places: dict[str, Any] = {
            key: item.files.get(key) or (self._store.path(wanted[column]) if wanted[column] else None)
            for key, column in (("file", "sha256"), ("kernel", "kernel_sha256"), ("initrd", "initrd_sha256"))
        }
        request = image_actions.ImageRequest(
            name=change.name,
            disk_format=wanted.get("format"),
            replacing=change.change == "replace",
            **places,
            **{key: wanted[key] for key in IMAGE},
        )
        name = change.name
        image_actions.add(
            self._world, self._store, request, lambda done, total: self._progress(name, done, total)
        )

    # --- hosts ---

    def _visit(self, changes: Sequence[Change]) -> None:
        """Those that others are reached through first; of those alike several at a time."""
        depths = self._depths()
        for depth in sorted({depths[change.name] for change in changes}):
            alike = [change for change in changes if depths[change.name] == depth]
            pool = concurrent.futures.ThreadPoolExecutor(max_workers=PARALLEL)
            try:
                list(pool.map(lambda change: self._try(change, self._enrol), alike))
            finally:
                pool.shutdown(cancel_futures=True)

    def _depths(self) -> dict[str, int]:
        """Through how many others of the files each host is reached."""
        hosts = self._inventory.items.get("host", {})

        def depth(name: str) -> int:
            jump = hosts[name].fields["jump"] if name in hosts else None
            return 0 if jump is None else 1 + depth(jump)

        return {name: depth(name) for name in hosts}

    def _enrol(self, change: Change) -> None:
        item = change.item
        assert item
        fields: Mapping[str, Any] = item.fields
        jump = fields["jump"]
        given: dict[str, Any] = {
            key: fields.get(key) for key in ("fingerprint", "virt_type", "instances_path", "zone", "labels")
        }
        through = self._ended.get(("host", jump))
        if through is not None and through.error is not None:
            raise HostUnreachable(f"{change.name}: host {jump}, which it is reached through, failed")
        request = host_actions.HostRequest(
            name=change.name,
            identity=self._identity if change.change == "create" else None,
            accept_host_key=self._options.accept,
            direct=jump is None,
            offers={key: fields[key] for key in OFFERS if key in fields},
            **{key: fields[key] for key in ("address", "port", "user", "jump")},
            **given,
        )
        host_actions.add(self._world, self._reach, request, lambda question: False)
        self._world.tell(
            f"host {change.name} {'enrolled' if change.change == 'create' else 'looked at again'}"
        )


def _key(change: Change) -> tuple[str, str]:
    return change.kind, change.name


def _comes_otherwise(change: Change) -> bool:
    """Whether a file must be read or a host be seen for it."""
    if change.kind == "image":
        return change.change in ("create", "replace")
    return change.kind == "host" and (change.change == "create" or not CONNECTION.isdisjoint(change.fields))
