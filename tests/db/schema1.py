"""The schema as novactl 0.1 made it, with rows: what `db upgrade` meets. Never changed again.

Its types are asked of novactl.db.tables: 0.1 had SQLite alone, where they are the same words.
"""

from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    UniqueConstraint,
)

from novactl.db.servers import ServerDatabase
from novactl.db.session import Database
from novactl.db.sqlite import SqliteDatabase
from novactl.db.tables import Id, Name, Text, Time, words

metadata = MetaData()

Table("meta", metadata, Column("name", Name, primary_key=True), Column("value", Text, nullable=False))

Table(
    "hosts",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Name, nullable=False, unique=True),
    Column("address", words(255), nullable=False),
    Column("port", Integer, nullable=False),
    Column("user", Name, nullable=False),
    Column("jump", Name),
    Column("host_keys", Text, nullable=False),
    Column("instances_path", words(255), nullable=False),
    Column("virt_type", words(8), nullable=False),
    Column("zone", Name, nullable=False),
    Column("labels", Text, nullable=False),
    Column("state", words(16), nullable=False),
    Column("enabled", Integer, nullable=False),
    Column("disabled_reason", Text),
    *(
        Column(f"{prefix}{resource}", Integer, nullable=False, default=0)
        for resource in ("vcpus", "memory_mib", "disk_gib")
        for prefix in ("", "reserved_", "foreign_")
    ),
    *(
        Column(f"{resource}_used", Integer, CheckConstraint(f"{resource}_used >= 0"), nullable=False)
        for resource in ("vcpus", "memory_mib", "disk_gib")
    ),
    Column("cpu_ratio", Float, nullable=False),
    Column("memory_ratio", Float, nullable=False),
    Column("disk_ratio", Float, nullable=False),
    Column("facts", Text, nullable=False),
    Column("checked_at", Time),
    Column("version", Integer, nullable=False),
)

Table(
    "flavors",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Name, nullable=False, unique=True),
    *(
        Column(size, Integer, nullable=False)
        for size in ("vcpus", "memory_mib", "disk_gib", "ephemeral_gib", "swap_mib")
    ),
    Column("extra_specs", Text, nullable=False),
)

Table(
    "images",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Name, nullable=False, unique=True),
    Column("sha256", words(64), nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", Time, nullable=False),
)

Table(
    "keypairs",
    metadata,
    Column("project", Name, primary_key=True),
    Column("name", Name, primary_key=True),
    Column("fingerprint", words(64), nullable=False),
    Column("public_key", Text, nullable=False),
)

Table(
    "networks",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Name, nullable=False, unique=True),
    Column("cidr", words(32), nullable=False),
    Column("gateway", words(32)),
    Column("dns", Text, nullable=False),
    Column("mtu", Integer, nullable=False),
    Column("bridge", words(15), nullable=False),
    Column("project", Name, nullable=False),
    Column("pool", words(40)),
)

Table(
    "instances",
    metadata,
    Column("uuid", Id, primary_key=True),
    Column("name", Name, nullable=False),
    Column("project", Name, nullable=False),
    Column("live_name", words(160), unique=True),
    Column("vm_state", words(24), nullable=False),
    Column("task_state", words(24)),
    Column("power_state", words(16), nullable=False),
    Column("host", Name),
    Column("flavor", Text, nullable=False),
    Column("image", Text),
    Column("key_name", Name),
    Column("public_key", Text),
    Column("metadata", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("user_data", Id),
    Column("launch_index", Integer, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("launched_at", Time),
    Column("deleted_at", Time),
    Column("locked", Integer, nullable=False),
    Column("fault", Text),
    Column("epoch", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Index("instances_by_host", "host"),
    Index("instances_by_created", "created_at"),
)

Table(
    "ports",
    metadata,
    Column("id", Id, primary_key=True),
    Column("network_id", Id, ForeignKey("networks.id"), nullable=False),
    Column("instance_uuid", Id, ForeignKey("instances.uuid"), nullable=False),
    Column("idx", Integer, nullable=False),
    Column("ip", words(32), nullable=False),
    Column("mac", words(17), nullable=False, unique=True),
    Column("tap", words(15), nullable=False),
    UniqueConstraint("network_id", "ip"),
    Index("ports_by_instance", "instance_uuid"),
)

Table(
    "holds",
    metadata,
    Column("instance_uuid", Id, primary_key=True),
    Column("host", Name, primary_key=True),
    Column("role", words(16), primary_key=True),
    *(Column(resource, Integer, nullable=False) for resource in ("vcpus", "memory_mib", "disk_gib")),
)

Table(
    "operations",
    metadata,
    Column("id", Id, primary_key=True),
    Column("kind", Name, nullable=False),
    Column("target", words(255), nullable=False),
    Column("target_uuid", Id),
    Column("project", Name, nullable=False),
    Column("request", Text, nullable=False),
    Column("state", words(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("parent", Id),
    Column("owner", Text, nullable=False),
    Column("owner_key", Text, nullable=False),
    Column("user", Name, nullable=False),
    Column("written_by", Name, nullable=False),
    Column("cancel_requested", Integer, nullable=False),
    Column("started_at", Time, nullable=False),
    Column("finished_at", Time),
    Column("error", Text),
    Index("operations_by_state", "state"),
    Index("operations_by_parent", "parent"),
    Index("operations_by_target", "target_uuid"),
)

Table(
    "steps",
    metadata,
    Column("operation", Id, ForeignKey("operations.id"), primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("step", Text, nullable=False),
    Column("state", words(16), nullable=False),
    Column("started_at", Time),
    Column("finished_at", Time),
    Column("error", Text),
    Column("result", Text, nullable=False),
)

Table(
    "op_locks",
    metadata,
    Column("kind", Name, primary_key=True),
    Column("id", Id, primary_key=True),
    Column("operation", Id, ForeignKey("operations.id"), primary_key=True),
    Column("mode", words(1), nullable=False),
    Column("exclusive", words(160), unique=True),
    Index("op_locks_by_operation", "operation"),
)

Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("time", Time, nullable=False),
    Column("target_uuid", Id),
    Column("target", words(255), nullable=False),
    Column("action", Name, nullable=False),
    Column("operation", Id),
    Column("result", words(16), nullable=False),
    Column("message", Text, nullable=False),
    Column("user", Name, nullable=False),
    Index("events_by_target", "target_uuid"),
)

Table(
    "secrets",
    metadata,
    Column("id", Id, primary_key=True),
    Column("owner", Id, nullable=False),
    Column("sealed", Text, nullable=False),
    Index("secrets_by_owner", "owner"),
)

WHEN = "2026-01-01T00:00:00.000000Z"
UUID = "00000001-0000-4000-8000-000000000001"
SIZES = {"vcpus": 1, "memory_mib": 512, "disk_gib": 1}
ZERO = {f"{prefix}{size}": 0 for prefix in ("reserved_", "foreign_") for size in SIZES}


def _operation(number: int, state: str, **values: Any) -> dict[str, Any]:
    made = {"id": f"op-{number}", "kind": "boot", "target": "web1", "target_uuid": UUID, "project": "default"}
    made |= {"request": '{"host": null}', "state": state, "attempt": 1, "epoch": 1, "parent": None}
    made |= {"owner": "me@here (pid 7)", "owner_key": '{"boot": "b", "pid": 7}', "user": "me"}
    made |= {"written_by": "0.1.0", "cancel_requested": 0, "started_at": WHEN, "finished_at": None}
    return {**made, "error": None, **values}


def _step(operation: str, n: int, state: str) -> dict[str, Any]:
    step = f'{{"type": "put", "version": 1, "fields": {{"host": null, "key": "disk{n}"}}}}'
    made = {"operation": operation, "n": n, "attempt": 1, "step": step, "state": state, "started_at": WHEN}
    return {**made, "finished_at": None, "error": None, "result": "{}"}


def _host(name: str, facts: str) -> dict[str, Any]:
    return (
        {"id": f"id-{name}", "name": name, "address": f"{name}.example", "port": 22, "user": "root"}
        | {"jump": None, "host_keys": "[]", "instances_path": "/var/lib/novactl/instances"}
        | {"virt_type": "kvm", "zone": "nova", "labels": '{"é": "1"}', "state": "up", "enabled": 1}
        | {"disabled_reason": None, **ZERO, "vcpus": 4, "memory_mib": 4096, "disk_gib": 100}
        | {f"{size}_used": amount for size, amount in SIZES.items()}
        | {"cpu_ratio": 16.0, "memory_ratio": 1.0, "disk_ratio": 1.0, "facts": facts}
        | {"checked_at": WHEN, "version": 3}
    )


ROWS: dict[str, list[dict[str, Any]]] = {
    "meta": [{"name": "fleet", "value": "fleet-1"}, {"name": "schema", "value": "1"}],
    "hosts": [_host("kvm1", '{"arch": "aarch64"}'), _host("kvm2", "{}")],
    "networks": [
        {"id": "n", "name": "lan", "cidr": "192.0.2.0/24", "gateway": None, "dns": "[]", "mtu": 1500}
        | {"bridge": "br0", "project": "", "pool": None}
    ],
    "instances": [
        {"uuid": UUID, "name": "web1", "project": "default", "live_name": "default/web1"}
        | {"vm_state": "building", "task_state": "spawning", "power_state": "nostate", "host": "kvm1"}
        | {
            "flavor": "{}",
            "image": "{}",
            "key_name": None,
            "public_key": None,
            "metadata": "{}",
            "tags": "[]",
        }
        | {"user_data": None, "launch_index": 0, "created_at": WHEN, "launched_at": None, "deleted_at": None}
        | {"locked": 0, "fault": None, "epoch": 1, "version": 1}
    ],
    "ports": [
        {"id": "p", "network_id": "n", "instance_uuid": UUID, "idx": 0, "ip": "192.0.2.10"}
        | {"mac": "fa:16:3e:00:00:01", "tap": "tap0"}
    ],
    "holds": [{"instance_uuid": UUID, "host": "kvm1", "role": "instance", **SIZES}],
    "operations": [
        _operation(1, "running"),
        _operation(2, "incomplete", error="left", target="web2", target_uuid=None),
        _operation(3, "done", finished_at=WHEN, target="web3", target_uuid=None),
    ],
    "steps": [_step("op-1", 1, "done"), _step("op-1", 2, "started"), _step("op-2", 1, "stuck")],
    "op_locks": [
        {"kind": "instance", "id": UUID, "operation": "op-1", "mode": "X", "exclusive": f"instance/{UUID}"},
        {"kind": "host", "id": "kvm1", "operation": "op-1", "mode": "S", "exclusive": None},
        {"kind": "host", "id": "kvm1", "operation": "op-2", "mode": "S", "exclusive": None},
    ],
    "events": [
        {"id": 1, "time": WHEN, "target_uuid": UUID, "target": "web3", "action": "boot", "operation": "op-3"}
        | {"result": "done", "message": "", "user": "me"}
    ],
    "secrets": [{"id": "s", "owner": UUID, "sealed": "c2VhbGVk"}],
}


def make(db: Database) -> None:
    """What 0.1 left in an empty database."""
    if isinstance(db, SqliteDatabase):
        db.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with db._engine() as engine, engine.begin() as connection:
            _fill(connection)
    else:
        assert isinstance(db, ServerDatabase)
        with db._writer.begin() as connection:
            _fill(connection)


def _fill(connection: Connection) -> None:
    metadata.create_all(connection)
    for table in metadata.sorted_tables:
        if rows := ROWS.get(table.name):
            connection.execute(table.insert(), rows)
