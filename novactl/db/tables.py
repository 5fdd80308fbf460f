"""The schema. Imported only to create or compare it: SQLAlchemy costs 0.2 s that a query need not pay."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Column,
    Double,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)
from sqlalchemy import Text as PlainText
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import CreateIndex, CreateTable

metadata = MetaData()


def words(length: int) -> Any:
    """Text that is compared and sorted byte by byte everywhere."""
    return (
        String(length)
        .with_variant(String(length, collation="C"), "postgresql")
        .with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb")
    )


Id = words(64)
Name = words(64)
Time = words(32)  # RFC 3339 UTC with microseconds: sorts as text
Ratio = Float().with_variant(Double(), "mysql", "mariadb")  # whose FLOAT has seven digits
Text = PlainText().with_variant(
    mysql.MEDIUMTEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
)  # a TEXT of theirs ends at 64 KiB

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
    Column("cpu_ratio", Ratio, nullable=False),
    Column("memory_ratio", Ratio, nullable=False),
    Column("disk_ratio", Ratio, nullable=False),
    Column("facts", Text, nullable=False),
    Column("arch", words(16)),
    Column("huge_memory_mib", Integer, nullable=False, server_default="0"),  # set aside as huge pages
    Column("dedicated_cpus", Text),  # those that pinned guests have for themselves: 2-7,10
    Column("dedicated_vcpus", Integer, nullable=False, server_default="0"),  # how many those are
    Column("failed_builds", Integer, nullable=False, server_default="0"),  # boots that failed there in a row
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
    "aggregates",  # groups of hosts, as Nova's
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Name, nullable=False, unique=True),
    Column("hosts", Text, nullable=False),  # their names
    Column("metadata", Text, nullable=False),
)

Table(
    "server_groups",  # instances that belong together, or apart (as Nova's)
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Name, nullable=False),
    Column("project", Name, nullable=False),
    Column("policy", words(24), nullable=False),
    Column("max_per_host", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    UniqueConstraint("project", "name"),
)

Table(
    "projects",  # those that have limits; a project without a row has none
    metadata,
    Column("name", Name, primary_key=True),
    Column("description", Text, nullable=False),
    Column("limits", Text, nullable=False),  # {resource: number, -1 for none}
    Column("created_at", Time, nullable=False),
    *(
        Column(f"{resource}_used", Integer, CheckConstraint(f"{resource}_used >= 0"), nullable=False)
        for resource in ("instances", "cores", "memory_mib")
    ),
)

Table(
    "settings",  # what the operator decided for the whole fleet: weighers, policies, cron
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Name, nullable=False, unique=True),
    Column("value", Text, nullable=False),  # JSON
)

Table(
    "instances",
    metadata,
    Column("uuid", Id, primary_key=True),
    Column("name", Name, nullable=False),
    Column("project", Name, nullable=False),
    Column("live_name", words(160), unique=True),  # project/name; NULL once deleted
    Column("vm_state", words(24), nullable=False),
    Column("task_state", words(24)),
    Column("power_state", words(16), nullable=False),
    Column("host", Name),
    Column("flavor", Text, nullable=False),
    Column("image", Text),
    Column("rescue_image", Text),
    Column("shelved_image", Text),
    Column("key_name", Name),
    Column("public_key", Text),
    Column("metadata", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("user_data", Id),  # names a row of secrets
    Column("launch_index", Integer, nullable=False),
    Column("group_id", Id),
    Column("placement", Text),  # what was asked of its host: objects.placement
    Column("created_at", Time, nullable=False),
    Column("launched_at", Time),
    Column("deleted_at", Time),
    Column("locked", Integer, nullable=False),
    Column("fault", Text),
    Column("epoch", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Index("instances_by_host", "host"),
    Index("instances_by_group", "group_id"),
    Index("instances_by_created", "created_at"),
    Index("instances_by_project", "project", "deleted_at", "created_at"),
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
    Column("role", words(16), primary_key=True),  # instance, move-source, move-target
    *(Column(resource, Integer, nullable=False) for resource in ("vcpus", "memory_mib", "disk_gib")),
    Column("numa", Text),  # processors and pages of the host that are its alone
    Index("holds_by_host", "host"),
)

Table(
    "migrations",  # moves of instances to another host or flavor (as Nova's)
    metadata,
    Column("id", Id, primary_key=True),
    Column("instance_uuid", Id, nullable=False),
    Column("kind", words(24), nullable=False),
    Column("status", words(16), nullable=False),
    Column("source", Name, nullable=False),
    Column("target", Name, nullable=False),
    Column("storage", words(16), nullable=False),
    Column("old_flavor", Text, nullable=False),
    Column("new_flavor", Text, nullable=False),
    Column("was", words(24), nullable=False),
    Column("reason", words(16)),
    Column("operation", Id, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    Index("migrations_by_instance", "instance_uuid"),
    Index("migrations_by_status", "status"),
    Index("migrations_by_source", "source"),
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
    Column("lease_until", Double),  # seconds on the database's clock (Tx.now)
    Column("runner", Id),  # the process that owns it
    Index("operations_by_state", "state"),
    Index("operations_by_parent", "parent"),
    Index("operations_by_target", "target_uuid"),
    Index("operations_by_runner", "runner"),
)

Table(
    "steps",
    metadata,
    Column("operation", Id, ForeignKey("operations.id"), primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("step", Text, nullable=False),  # {type, version, fields}
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
    Column("exclusive", words(160), unique=True),  # kind/id for X, NULL for S: one X by the database
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
    "tasks",  # what `cron` does from time to time, and who does it now
    metadata,
    Column("name", Name, primary_key=True),
    Column("due_at", Double, nullable=False),  # seconds on the database's clock (Tx.now)
    Column("runner", Id),  # the process that works on it, None for nobody
    Column("lease_until", Double),
    Column("started_at", Time),
    Column("finished_at", Time),
    Column("result", words(16)),
    Column("message", Text),
)

Table(
    "secrets",
    metadata,
    Column("id", Id, primary_key=True),
    Column("owner", Id, nullable=False),
    Column("sealed", Text, nullable=False),  # base64 of nonce and AES-GCM ciphertext
    Index("secrets_by_owner", "owner"),
)

Table(
    "certificates",  # of hosts, signed by the fleet's authority; their private keys are on the hosts alone
    metadata,
    Column("serial", Id, primary_key=True),
    Column("host", Name, nullable=False),
    Column("names", Text, nullable=False),
    Column("pem", Text, nullable=False),
    Column("not_before", Time, nullable=False),
    Column("not_after", Time, nullable=False),
    Column("placed_at", Time),
    Column("revoked_at", Time),
    Column("crl_number", Integer, nullable=False),  # of the revocation list that the host has
    Index("certificates_by_host", "host"),
)

Table(
    "backups",  # of the disks of instances, which may be gone; their files are in the image store
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Name, nullable=False),
    Column("instance_uuid", Id, nullable=False),
    Column("instance_name", Name, nullable=False),
    Column("project", Name, nullable=False),
    Column("type", Name, nullable=False),
    Column("rotation", Integer, nullable=False),
    Column("parent", Id),
    Column("reason", Text, nullable=False),
    Column("files", Text, nullable=False),
    Column("checkpoint", Name, nullable=False),
    Column("quiesced", Integer, nullable=False),
    Column("instance", Text, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("rotated_at", Time),
    Index("backups_by_instance", "instance_uuid"),
)

Table(
    "commits",  # a mark of each write to a server, so that one whose answer was lost is known to have been
    metadata,
    Column("id", Id, primary_key=True),
    Column("at", Double, nullable=False),
)


def statements(dialect: Any) -> Iterator[str]:
    """What makes all of it."""
    for table in metadata.sorted_tables:
        yield str(CreateTable(table).compile(dialect=dialect))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            yield str(CreateIndex(index).compile(dialect=dialect))
