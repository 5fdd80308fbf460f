"""db rebuild: a database that was lost is made again from what its hosts keep (docs/operations.md).

All hosts are looked at first. Then one transaction inserts what the database lacks; what it has stays as it
is, so that doing it again, or with further hosts, is safe.
"""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from novactl.actions import kept_records
from novactl.actions.rebuild_sources import (
    Finder,
    Pinning,
    Reach,
    Source,
    needed,
    newest_epochs,
    sealed_row,
)
from novactl.actions.world import Store
from novactl.db import adopted, adopted_catalogue, adopted_moves, catalogue, hosts, instances, second_copy
from novactl.db.session import Database, Rollback, Tx, meta, set_meta
from novactl.db.sqlite import SqliteDatabase
from novactl.errors import NotFound, Refused, UsageError
from novactl.objects.migration import Storage
from novactl.objects.names import UUID
from novactl.objects.states import PowerState
from novactl.objects.survey import SeenDomain
from novactl.virt.calls import OPERATION

ALIVE = frozenset({PowerState.RUNNING, PowerState.PAUSED})
EXPECTED_LOST: dict[str, tuple[str, ...]] = {
    "meta": ("serial", "catalogue", "lowest", "pki"),
    "hosts": ("version",),
    "server_groups": ("version",),
    "instances": ("version", "fault", "task_state"),
    "operations": ("*",),
    "steps": ("*",),
    "op_locks": ("*",),
    "events": ("*",),
    "certificates": ("*",),
    "migrations": ("updated_at",),
    "commits": ("*",),
}
"""What does not come back as it was: whole tables, columns, and the values of `meta` that count on from what
hosts were told. Nor do deleted instances, moves that have ended, and changes of the catalogue that no host
has been told yet."""

TABLES = (*second_copy.COPIED, "instances", "operations", "secrets")
UNSEEN = "rebuild_unseen"
"""The value of `meta` that names the hosts which were restored and not looked at."""


@dataclass
class Summary:
    """What was made (`made`: {kind, name, host}) and what is missing ({kind, name, message})."""

    fleet: str
    made: list[dict[str, Any]] = field(default_factory=list)
    missing: list[dict[str, str]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Counts of what was made, by kind."""
        kinds = {"hosts": "host", "flavors": "flavor", "images": "image", "keypairs": "keypair"}
        kinds |= {"networks": "network", "aggregates": "aggregate", "settings": "setting"}
        kinds |= {"groups": "group", "projects": "project"}
        kinds |= {"instances": "instance", "secrets": "user-data", "backups": "backup"}
        counts = {key: sum(one["kind"] == kind for one in self.made) for key, kind in kinds.items()}
        return {"fleet": self.fleet, **counts, "missing": self.missing}

    def make(self, kind: str, name: str, host: str | None = None) -> None:
        self.made.append({"kind": kind, "name": name, "host": host})

    def miss(self, kind: str, name: str, message: str) -> None:
        self.missing.append({"kind": kind, "name": name, "message": message})


@dataclass(frozen=True, kw_only=True)
class Found:
    """One instance on one host."""

    source: Source
    domain: SeenDomain

    @property
    def host(self) -> str:
        return self.source.host.name

    @property
    def epoch(self) -> int:
        """The newest that this host knows of."""
        return max(self.domain.epoch or 0, self.source.survey.epochs.get(self.domain.uuid, 0))

    @property
    def alive(self) -> bool:
        return self.domain.state in ALIVE


class Rebuild:
    """One `db rebuild`: look(), then rehearse() and apply() as often as wanted."""

    def __init__(self, database: Database, store: Store, now: str, tell: Callable[[str], None]) -> None:
        self._database = database
        self._store = store
        self._now = now
        self._tell = tell
        self.sources: list[Source] = []
        self.fleet = ""

    def look(self, reach: Reach, words: Sequence[str], pinning: Pinning) -> None:
        """Every host is looked at; nothing is changed anywhere. Raises UsageError, HostUnreachable,
        NeedsConfirmation for a host key that nobody pinned, Refused for hosts that are not of one fleet."""
        if not words:
            raise UsageError("no host is given", hint="--from HOST, as often as there are hosts")
        known = self._database.read(hosts.everything) if self._database.exists else []
        with _scratch() as scratch:
            self.sources = Finder(reach, scratch, known, pinning, self._tell).find(words)
        fleets = {source.survey.fleet: source.host.name for source in self.sources}
        if len(fleets) > 1:
            told = ", ".join(f"{name} is of {fleet}" for fleet, name in fleets.items())
            raise Refused(f"the hosts are of different fleets: {told}", hint="rebuild one fleet at a time")
        self.fleet = str(self.sources[0].survey.fleet)

    def rehearse(self) -> Summary:
        """What apply() would make; nothing of it stays."""
        if self._database.exists:
            return self._rehearsed(self._database)
        with _scratch() as scratch:
            return self._rehearsed(scratch)

    def _rehearsed(self, database: Database) -> Summary:
        kept: list[Summary] = []
        with database.writing(adopting=True) as tx:
            kept.append(self._work(tx))
            raise Rollback
        return kept[0]

    def apply(self) -> Summary:
        """The database has all that it lacked. Raises Refused, having changed nothing, for a database of
        another fleet, and for hosts that contradict each other or the database."""
        if not self._database.exists:
            self._database.create(self.fleet)
        return self._database.write(self._work, adopting=True)

    # --- the transaction ---

    def _work(self, tx: Tx) -> Summary:
        done = Summary(self.fleet)
        empty = self._settle_fleet(tx)
        self._restore_catalogue(tx, done, whole=empty)
        self._restore_instances(tx, done)
        self._count_on(tx)
        for source in self.sources:
            _know_mark(tx, source, self._now)
        self._tell_unseen(tx, done)
        self._tell_files(tx, done)
        return done

    def _settle_fleet(self, tx: Tx) -> bool:
        """Whether there is nothing in it yet; then it is the fleet's that the hosts are of."""
        empty = not any(tx.one(f"SELECT 1 AS yes FROM {table} LIMIT 1") for table in TABLES)  # noqa: S608
        if (other := meta(tx, "fleet")) != self.fleet:
            if not empty:
                raise Refused(
                    f"the database is of fleet {other}, the hosts are of {self.fleet}",
                    hint="--db names another database, which may be a new one",
                )
            set_meta(tx, "fleet", self.fleet)
        return empty

    def _restore_catalogue(self, tx: Tx, done: Summary, *, whole: bool) -> None:
        """All of the newest copy, unless the database is as new: then only what hosts cannot be without."""
        newest = max(self.sources, key=lambda source: source.version)
        if newest.copy is not None:
            if whole or newest.version > second_copy.version(tx):
                told = adopted_catalogue.restore_catalogue(tx, newest.copy)
            else:
                told = adopted_catalogue.restore_catalogue(tx, needed(newest.copy, self.sources))
            for kind, _, name in (one.partition(" ") for one in told):
                done.make(kind, name)
        for source in self.sources:
            _named(tx, source.host.name)

    def _restore_instances(self, tx: Tx, done: Summary) -> None:
        there = {row["uuid"]: row for row in tx.all("SELECT uuid, deleted_at FROM instances")}
        for found in self._chosen(done):
            domain = found.domain
            if domain.uuid not in there:
                self._restore(tx, found, done)
            elif there[domain.uuid]["deleted_at"]:
                done.miss("instance", domain.uuid, f"is deleted in the database and still on {found.host}")
        known = {*there, *(one.uuid for source in self.sources for one in source.survey.domains)}
        for kind, name, wrong in (
            *kept_records.restore(tx, self._store, self.fleet, newest_epochs(self.sources), known),
            *kept_records.restore_backups(tx, self._store, self.fleet),
        ):
            done.miss(kind, name, wrong) if wrong else done.make(kind, name)
        for source in self.sources:
            for entry in (one.entry for one in source.survey.directories):
                if UUID.fullmatch(entry) and entry not in known:
                    done.miss("instance", entry, f"{source.host.name} has its files and no domain of it")

    def _restore(self, tx: Tx, found: Found, done: Summary) -> None:
        domain, host = found.domain, found.host
        epoch = newest_epochs(self.sources).get(domain.uuid, 0)
        sealed = None
        if content := found.source.sealed.get(domain.uuid):
            sealed = sealed_row(content)
            if sealed is None:
                done.miss("user-data", domain.uuid, f"its sealed user-data on {host} makes no sense")
        record = self._record(found, done)
        try:
            made = adopted.restore_instance(
                tx,
                record,
                host=host,
                power=domain.state,
                epoch=max(epoch, found.epoch),
                generation=domain.generation or 0,
                saved=domain.saved,
                sealed=sealed,
            )
        except Refused as error:
            raise Refused(f"{host}: {error.message}", hint=error.hint) from error
        done.make("instance", made.name, host)
        if lost := adopted.group_lost(record, made):
            done.miss("group", made.name, lost)
        if sealed is not None:
            done.make("user-data", made.name, host)

    def _record(self, found: Found, done: Summary) -> Mapping[str, Any]:
        """What its domain tells, but for a move of which nothing is left on the host that was looked at."""
        record = found.domain.record or {}
        move = record.get("move") or {}
        left = next((one.survey for one in self.sources if one.host.name == move.get("source")), None)
        aside = f"{found.domain.uuid}_resize"
        if (
            left is None
            or move["storage"] != Storage.COPIED
            or aside in {one.entry for one in left.directories}
        ):
            return record
        done.miss("move", record["name"], f"{move['source']} has nothing of it any more: it does not wait")
        return {**record, "move": None}

    def _chosen(self, done: Summary) -> Iterator[Found]:
        """Each instance once, oldest first."""
        by_uuid: dict[str, list[Found]] = {}
        for source in self.sources:
            for domain in source.survey.domains:
                if domain.fleet != self.fleet:
                    continue
                if why := _senseless(domain, source.host.name):
                    done.miss("instance", domain.uuid, f"{source.host.name}: {why}")
                else:
                    by_uuid.setdefault(domain.uuid, []).append(Found(source=source, domain=domain))
        chosen = [_one_of(found, done) for found in by_uuid.values()]
        return iter(
            sorted(
                chosen, key=lambda found: (str((found.domain.record or {})["created_at"]), found.domain.uuid)
            )
        )

    def _count_on(self, tx: Tx) -> None:
        """Numbers that no host was told yet."""
        serial = max(source.survey.serial for source in self.sources)
        if int(meta(tx, "serial") or 0) < serial:
            set_meta(tx, "serial", str(serial))
        version = max(source.version for source in self.sources)
        if second_copy.version(tx) <= version:
            set_meta(tx, "catalogue", str(version + 1))

    # --- what is missing ---

    def _tell_unseen(self, tx: Tx, done: Summary) -> None:
        """Hosts that came out of a copy and were never looked at, kept for the next time."""
        unseen = set(json.loads(meta(tx, UNSEEN) or "[]")) | {
            one["name"] for one in done.made if one["kind"] == "host"
        }
        unseen &= {host.name for host in hosts.everything(tx)}
        unseen -= {source.host.name for source in self.sources}
        for name in sorted(unseen):
            done.miss("host", name, "was not looked at: its instances are missing until --from names it")
        if unseen:
            set_meta(tx, UNSEEN, json.dumps(sorted(unseen)))
        else:
            tx.run("DELETE FROM meta WHERE name = :name", name=UNSEEN)

    def _tell_files(self, tx: Tx, done: Summary) -> None:
        """Files of images that the operator's store lacks: hosts that have no copy cannot be sent one."""
        images = catalogue.images(tx)
        images += [image for one in instances.everything(tx) for image in one.images]
        wanted: dict[str, set[str]] = {}
        for image in images:
            parts = (image.sha256, image.kernel_sha256, image.initrd_sha256)
            wanted.setdefault(image.name, set()).update(filter(None, parts))
        for name, files in wanted.items():
            if lacking := sorted(sha256 for sha256 in files if not _is_stored(self._store, sha256)):
                done.miss("image file", name, f"not in the store of images: {', '.join(lacking)}")


@contextlib.contextmanager
def _scratch() -> Iterator[Database]:
    """An empty database of nobody's fleet, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="novactl-rebuild-") as directory:
        database = SqliteDatabase(Path(directory) / "scratch.db")
        database.create("")
        try:
            yield database
        finally:
            database.close()


def _named(tx: Tx, name: str) -> None:
    """Raises Refused unless the host is in the database by now."""
    try:
        hosts.get(tx, name)
    except NotFound as error:
        raise Refused(
            f"host {name} is in no newest copy of the catalogue",
            hint="give a host that was used since it was added, too",
        ) from error


def _senseless(domain: SeenDomain, host: str) -> str | None:
    """Why an instance's row cannot be made of what its domain says, if so."""
    if domain.record is None:
        return "its domain carries no record"
    if domain.record.get("uuid") != domain.uuid:
        return "its domain carries the record of another instance"
    try:
        made = adopted.instance_of(domain.record, host=host, power=domain.state, epoch=0)
        adopted_moves.move_of(made, domain.record.get("move"))
    except Refused as error:
        return error.message
    return None


def _one_of(found: list[Found], done: Summary) -> Found:
    """The one that runs, else the one with the newest epoch. Raises Refused when that does not decide."""
    best = max(found, key=lambda one: (one.alive, one.epoch))
    name = (best.domain.record or {})["name"]
    for other in found:
        if other is best:
            continue
        both = f"{name}: is on {best.host} and on {other.host}"
        if other.alive or (other.alive, other.epoch) == (best.alive, best.epoch):
            what = "runs there twice" if other.alive else "nothing says which is the newer"
            raise Refused(f"{both}: {what}", hint="end one of them (virsh undefine) and try again")
        why = "runs" if best.alive else "has the newer epoch"
        done.miss("instance", best.domain.uuid, f"{both}: taken from {best.host}, where it {why}")
    return best


def _know_mark(tx: Tx, source: Source, now: str) -> None:
    """The operation that the host was last told of is in the database, done and otherwise forgotten, so that
    the host is not taken for newer (actions.restored)."""
    op_id = source.survey.mark.partition(".")[2]
    if not OPERATION.fullmatch(op_id) or len(op_id) > 64:
        return
    if tx.one("SELECT 1 AS yes FROM operations WHERE id = :id", id=op_id):
        return
    tx.insert(
        "operations",
        id=op_id,
        kind="forgotten",
        target=source.host.name,
        project="default",
        request="{}",
        state="done",
        attempt=1,
        epoch=0,
        owner="novactl db rebuild",
        owner_key="{}",
        user="novactl",
        written_by="db rebuild",
        cancel_requested=0,
        started_at=now,
        finished_at=now,
    )


def _is_stored(store: Store, sha256: str) -> bool:
    try:
        store.path(sha256)
    except (NotFound, UsageError):
        return False
    return True
