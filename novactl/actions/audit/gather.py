"""What an audit compares: the database, read as a whole before and after all hosts were looked at."""

import concurrent.futures
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from novactl.actions.world import World
from novactl.db import hosts, instances, operations, projects, pruning, second_copy
from novactl.db.session import Row, Tx, meta
from novactl.engine.operation import ACTIVE, Operation, OpState
from novactl.errors import HostFault, NovactlError
from novactl.objects.flavor import Flavor
from novactl.objects.host import Host
from novactl.objects.instance import Instance
from novactl.objects.project import Project
from novactl.objects.survey import Survey

PARALLEL = 16
MANY = 1 << 30  # all of them

Surveys = Mapping[str, Survey | NovactlError]
IsLeft = Callable[[Tx, Operation], bool]


@dataclass(frozen=True, kw_only=True)
class Gone:
    """A deleted instance, as far as an audit cares."""

    uuid: str
    name: str
    live_name: str | None
    epoch: int
    version: int


@dataclass(frozen=True, kw_only=True)
class Believed:
    """All that the database says, of one instant."""

    fleet: str
    serial: int = 0
    pruned: int = 0
    catalogue: int = 0
    hosts: Mapping[str, Host] = field(default_factory=dict)
    projects: tuple[Project, ...] = ()
    living: Mapping[str, Instance] = field(default_factory=dict)
    gone: Mapping[str, Gone] = field(default_factory=dict)
    moving: Mapping[str, Sequence[Flavor]] = field(default_factory=dict)
    """Both flavors of those whose move is open."""
    holds: tuple[Row, ...] = ()
    ports: tuple[Row, ...] = ()
    secrets: tuple[Row, ...] = ()
    locks: tuple[Row, ...] = ()
    operations: Mapping[str, OpState] = field(default_factory=dict)
    active: tuple[Operation, ...] = ()
    left: frozenset[str] = frozenset()
    """Active operations whose owner is gone."""

    def version(self, uuid: str) -> int | None:
        """The record's version; None when there is no record."""
        found = self.living.get(uuid) or self.gone.get(uuid)
        return found.version if found else None

    def epoch(self, uuid: str) -> int | None:
        found = self.living.get(uuid) or self.gone.get(uuid)
        return found.epoch if found else None

    @property
    def under_way(self) -> frozenset[str]:
        """Instances that an operation works on, or that one left half way."""
        return frozenset(op.target_uuid for op in self.active if op.target_uuid)

    @property
    def busy_hosts(self) -> frozenset[str]:
        """Hosts that an active operation uses."""
        active = {op.id for op in self.active}
        return frozenset(
            row["id"] for row in self.locks if row["kind"] == "host" and row["operation"] in active
        )


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What gather() brought: the database before and after, the hosts' surveys, and the versions of their
    catalogue copies (of those that answered)."""

    before: Believed
    after: Believed
    surveys: Surveys
    copies: Mapping[str, int]
    contents: Mapping[str, bytes] = field(default_factory=dict)


def gather(world: World, is_left: IsLeft) -> Evidence:
    """Look at everything; nothing is changed. `is_left` tells whether an operation's owner is gone."""
    before = world.db.read(lambda tx: believed(tx, world.fleet, is_left))
    looks = survey_all(world, before.hosts)
    after = world.db.read(lambda tx: believed(tx, world.fleet, is_left))
    copies = {name: look[1] for name, look in looks.items() if isinstance(look[0], Survey)}
    return Evidence(
        before=before,
        after=after,
        surveys={name: look[0] for name, look in looks.items()},
        copies={name: version for name, (version, _) in copies.items()},
        contents={name: content for name, (_, content) in copies.items()},
    )


Looked = tuple[Survey | NovactlError, tuple[int, bytes]]


def survey_all(world: World, names: Iterable[str]) -> dict[str, Looked]:
    """Each host's survey with its catalogue copy, or the error that kept it from us; 16 at a time."""
    ordered = sorted(names)
    with concurrent.futures.ThreadPoolExecutor(max_workers=min(PARALLEL, len(ordered) or 1)) as pool:
        return dict(zip(ordered, pool.map(lambda name: _look(world, name), ordered), strict=True))


def _look(world: World, name: str) -> Looked:
    """A catalogue copy that is damaged counts as none: the next newer one replaces it."""
    copy = (0, b"")
    try:
        host = world.hypervisor(name)
        survey = host.survey()
        with contextlib.suppress(HostFault):
            copy = host.get_copy()
    except NovactlError as error:
        return error, copy
    return survey, copy


def believed(tx: Tx, fleet: str, is_left: IsLeft) -> Believed:
    """The database in this transaction."""
    active = [op for op, _, _ in operations.listed(tx, active=True, limit=MANY)]
    states = {row["id"]: OpState(row["state"]) for row in tx.all("SELECT id, state FROM operations")}
    gone = tx.all("SELECT uuid, name, live_name, epoch, version FROM instances WHERE deleted_at IS NOT NULL")
    return Believed(
        fleet=fleet,
        serial=int(meta(tx, "serial") or 0),
        pruned=pruning.floor(tx),
        catalogue=second_copy.version(tx),
        hosts={host.name: host for host in hosts.everything(tx)},
        projects=tuple(projects.everything(tx)),
        living={instance.uuid: instance for instance in instances.everything(tx)},
        gone={row["uuid"]: Gone(**row) for row in gone},
        moving=projects.moving(tx),
        holds=tuple(tx.all("SELECT * FROM holds ORDER BY host, instance_uuid, role")),
        ports=tuple(tx.all("SELECT id, instance_uuid, ip, tap FROM ports ORDER BY instance_uuid, idx")),
        secrets=tuple(tx.all("SELECT id, owner FROM secrets ORDER BY owner, id")),
        locks=tuple(tx.all("SELECT kind, id, operation FROM op_locks ORDER BY operation, kind, id")),
        operations=states,
        active=tuple(active),
        left=frozenset(op.id for op in active if is_left(tx, op)),
    )


def is_active(believed: Believed, op_id: str) -> bool:
    return believed.operations.get(op_id) in ACTIVE
