"""Instances and their ports: named queries."""

import json
from collections.abc import Sequence
from typing import Any

from novactl.db import addresses, moves, projects
from novactl.db.session import Row, Tx, among, dumps, meta, set_meta
from novactl.errors import NotFound, UsageError
from novactl.objects.flavor import Flavor
from novactl.objects.image import Image
from novactl.objects.instance import Instance
from novactl.objects.migration import most_use
from novactl.objects.names import UUID, near
from novactl.objects.network import Port
from novactl.objects.placement import Placement
from novactl.objects.states import PowerState, TaskState, VmState, status

SEEN = "power-seen"
"""The action of an event that no command of ours brought about."""

IMAGES = ("image", "rescue_image", "shelved_image")
ALL_PORTS = 2000  # instances: of more, all ports are read at once
PORTS = """
    SELECT p.*, n.name AS network, n.cidr, n.gateway, n.dns, n.mtu, n.bridge
    FROM ports p JOIN networks n ON n.id = p.network_id
"""


def add(tx: Tx, instance: Instance) -> None:
    """A new row; its ports are added by add_port. The unique live name refuses a second one."""
    tx.insert(
        "instances",
        uuid=instance.uuid,
        live_name=f"{instance.project}/{instance.name}",
        **{column: _text(tx, image) if (image := getattr(instance, column)) else None for column in IMAGES},
        flavor=_text(tx, instance.flavor),
        metadata=dumps(instance.metadata),
        tags=dumps(list(instance.tags)),
        locked=int(instance.locked),
        fault=None,
        placement=_text(tx, instance.placement),
        **{
            column: getattr(instance, column)
            for column in [
                "name",
                "project",
                "vm_state",
                "task_state",
                "power_state",
                "host",
                "key_name",
                "public_key",
                "user_data",
                "launch_index",
                "group_id",
                "created_at",
                "launched_at",
                "deleted_at",
                "epoch",
                "version",
            ]
        },
    )


def put_in_words(tx: Tx, instance: Instance) -> None:
    """What add() will write of its parts, before others wait for it."""
    for part in (instance.flavor, instance.image, instance.placement):
        if part is not None:
            _text(tx, part)


def _text(tx: Tx, part: Flavor | Image | Placement) -> str:
    """As JSON; made once for all instances of a transaction that share it."""
    known: dict[int, tuple[Flavor | Image | Placement, str]] = tx.memo.setdefault("texts", {})
    if id(part) not in known:
        known[id(part)] = part, dumps(part.as_dict())
    return known[id(part)][1]


def add_port(tx: Tx, instance_uuid: str, network_id: str, port: Port) -> None:
    tx.insert(
        "ports",
        id=port.id,
        network_id=network_id,
        instance_uuid=instance_uuid,
        idx=port.index,
        ip=port.ip,
        mac=port.mac,
        tap=port.tap,
    )


def update(tx: Tx, uuid: str, **values: Any) -> None:
    """Set columns and count the version up. Raises NotFound."""
    sets = ", ".join(f"{column} = :{column}" for column in values)
    if not tx.run(
        f"UPDATE instances SET {sets}, version = version + 1 WHERE uuid = :uuid", uuid=uuid, **values
    ):
        raise NotFound(f"instance {uuid} is not in the database")


def bury(tx: Tx, uuid: str, now: str, fault: str | None) -> None:
    """Soft-delete: the name and the addresses are free, the row and its fault remain. Twice is fine."""
    row = tx.one("SELECT project, flavor FROM instances WHERE uuid = :uuid AND deleted_at IS NULL", uuid=uuid)
    if row is not None:
        move = moves.open_of(tx, uuid)
        flavors = [move.old_flavor, move.new_flavor] if move else [Flavor(**json.loads(row["flavor"]))]
        projects.give_back(tx, row["project"], instances=1, **most_use(*flavors))
        moves.close(tx, uuid, now)
    for port in tx.all("SELECT network_id, ip FROM ports WHERE instance_uuid = :uuid", uuid=uuid):
        addresses.freed(tx, port["network_id"], port["ip"])
    tx.run("DELETE FROM ports WHERE instance_uuid = :uuid", uuid=uuid)
    tx.run("DELETE FROM secrets WHERE owner = :uuid", uuid=uuid)
    note_copy(tx, uuid, behind=False)
    update(
        tx,
        uuid,
        live_name=None,
        vm_state=VmState.DELETED,
        task_state=None,
        power_state=PowerState.NOSTATE,
        host=None,
        user_data=None,
        deleted_at=now,
        **({"fault": dumps({"message": fault, "time": now})} if fault else {}),
    )


def note_copy(tx: Tx, uuid: str, *, behind: bool) -> None:
    """Whether the second copy of the record, which its domain carries, is behind it."""
    if behind:
        set_meta(tx, f"behind {uuid}", "yes")
    else:
        tx.run("DELETE FROM meta WHERE name = :name", name=f"behind {uuid}")


def copy_is_behind(tx: Tx, uuid: str) -> bool:
    return meta(tx, f"behind {uuid}") is not None


def record_power(tx: Tx, found: Instance, power: PowerState, vm_state: VmState, now: str) -> bool:
    """The record says what its host was seen to say, and an event tells of it. False, and nothing is done,
    when an operation works on the instance or the record is not what it was before the look."""
    held = "SELECT 1 AS yes FROM op_locks WHERE kind = 'instance' AND id = :uuid"
    if tx.one(held, uuid=found.uuid) or get(tx, found.uuid).version != found.version:
        return False
    update(tx, found.uuid, vm_state=vm_state, power_state=power)
    words = f"was {found.vm_state} by the record, is {power} on {found.host}"
    tell_seen(tx, found.uuid, found.name, vm_state, words, user="novactl", now=now)
    return True


def tell_seen(tx: Tx, uuid: str, name: str, vm_state: VmState, words: str, *, user: str, now: str) -> None:
    """An event says that the instance was seen to be so; no command of ours had brought it about."""
    tx.insert(
        "events",
        time=now,
        target_uuid=uuid,
        target=name,
        action=SEEN,
        operation=None,
        result=status(vm_state, None).lower(),
        message=words,
        user=user,
    )


def went_off(tx: Tx, uuid: str) -> bool:
    """Whether a guest whose record says that it is stopped went off by itself, and was not stopped: the
    newest event about its power is that it was seen so."""
    newest = tx.one(
        "SELECT action, result FROM events WHERE target_uuid = :uuid AND (action = :seen OR (result = 'done'"
        " AND action IN ('stop', 'start', 'boot', 'reboot', 'reset-state')))"
        " ORDER BY id DESC LIMIT 1",
        uuid=uuid,
        seen=SEEN,
    )
    return newest is not None and (newest["action"], newest["result"]) == (SEEN, "shutoff")


def raise_epoch(tx: Tx, uuid: str) -> int:
    """The next epoch: whoever has it may act on the instance, older ones no longer."""
    update_count = tx.run("UPDATE instances SET epoch = epoch + 1 WHERE uuid = :uuid", uuid=uuid)
    row = tx.one("SELECT epoch FROM instances WHERE uuid = :uuid", uuid=uuid)
    if not update_count or row is None:
        raise NotFound(f"instance {uuid} is not in the database")
    return int(row["epoch"])


def named(tx: Tx, names: Sequence[str], project: str) -> dict[str, str]:
    """The uuids of living instances of exactly these names, by name."""
    sql = "SELECT name, uuid FROM instances WHERE live_name IN"
    return {row["name"]: row["uuid"] for row in among(tx, sql, [f"{project}/{name}" for name in names])}


def get(tx: Tx, uuid: str) -> Instance:
    """By uuid, deleted ones too. Raises NotFound."""
    rows = tx.all("SELECT * FROM instances WHERE uuid = :uuid", uuid=uuid)
    if not rows:
        raise NotFound(f"instance {uuid} is not in the database")
    return full(tx, rows)[0]


def find(tx: Tx, name: str, project: str, *, prefix: bool = False, deleted: bool = False) -> Instance:
    """The instance a person means: an exact uuid, else the exact name in the project, else (`prefix`)
    a unique uuid prefix of 8 hex digits or more. Raises NotFound with near names, UsageError when the
    prefix is ambiguous (docs/cli.md, Grammar)."""
    if UUID.fullmatch(name.lower()):
        rows = tx.all("SELECT * FROM instances WHERE uuid = :uuid", uuid=name.lower())
        rows = [row for row in rows if deleted or row["deleted_at"] is None]
    else:
        rows = tx.all("SELECT * FROM instances WHERE live_name = :live", live=f"{project}/{name}")
        if not rows and prefix and len(name) >= 8 and set(name.lower()) <= set("0123456789abcdef-"):
            rows = tx.all(
                "SELECT * FROM instances WHERE uuid LIKE :start AND deleted_at IS NULL",
                start=f"{name.lower()}%",
            )
    if len(rows) == 1:
        return full(tx, rows)[0]
    if rows:
        raise UsageError(f"{name!r} is ambiguous", candidates=[row["uuid"] for row in rows])
    here = "SELECT name FROM instances WHERE live_name IS NOT NULL AND project = :project"
    names = [row["name"] for row in tx.all(here, project=project)]
    close = near(name, names)
    raise NotFound(
        f"instance {name!r} does not exist",
        hint=f"did you mean {', '.join(close)}?" if close else "novactl list shows what exists",
        candidates=close,
    )


def on_host(tx: Tx, host: str) -> list[Instance]:
    """The living instances of a host, of all projects, oldest first."""
    sql = "SELECT * FROM instances WHERE host = :host AND deleted_at IS NULL ORDER BY created_at, name, uuid"
    return full(tx, tx.all(sql, host=host))


def everything(tx: Tx) -> list[Instance]:
    """All living instances, oldest first."""
    sql = "SELECT * FROM instances WHERE deleted_at IS NULL ORDER BY created_at, launch_index, name"
    return full(tx, tx.all(sql))


PLAIN = "('active', 'stopped', 'paused', 'suspended')"
"""States that follow from what the hypervisor says."""


def powers(tx: Tx, hosts: Sequence[str] | None = None) -> list[Row]:
    """uuid, name, host, states and version of all that should be as their hosts say (None: all hosts)."""
    sql = (
        "SELECT uuid, name, host, vm_state, power_state, version FROM instances"
        f" WHERE deleted_at IS NULL AND task_state IS NULL AND vm_state IN {PLAIN}"
    )
    if hosts is None:
        return tx.all(f"{sql} AND host IS NOT NULL")
    return among(tx, f"{sql} AND host IN", hosts)


def follow(tx: Tx, uuid: str, version: int, vm_state: VmState, power_state: PowerState) -> bool:
    """The record is as its host was seen; False when it is not the version that was read."""
    return bool(
        tx.run(
            "UPDATE instances SET vm_state = :vm_state, power_state = :power_state, version = version + 1"
            " WHERE uuid = :uuid AND version = :version AND task_state IS NULL AND deleted_at IS NULL",
            uuid=uuid,
            version=version,
            vm_state=vm_state,
            power_state=power_state,
        )
    )


def taps_on(tx: Tx, host: str) -> dict[str, list[str]]:
    """The taps of a host's guests by the bridge each is plugged into."""
    found: dict[str, list[str]] = {}
    wanted = f"{PORTS} JOIN instances i ON i.uuid = p.instance_uuid WHERE i.host = :host ORDER BY p.tap"
    for row in tx.all(wanted, host=host):
        found.setdefault(row["bridge"], []).append(row["tap"])
    return found


def taken_addresses(tx: Tx, network_id: str) -> list[str]:
    return [row[0] for row in tx.tuples("SELECT ip FROM ports WHERE network_id = :id", id=network_id)]


def taken_macs(tx: Tx, macs: Sequence[str]) -> set[str]:
    """Which of these ports have."""
    return {row["mac"] for row in among(tx, "SELECT mac FROM ports WHERE mac IN", macs)}


def full(tx: Tx, rows: Sequence[Row]) -> list[Instance]:
    """Rows of the table as instances with their ports."""
    if len(rows) > ALL_PORTS:
        found = tx.all(f"{PORTS} ORDER BY p.idx")
    else:
        found = among(
            tx, f"{PORTS} WHERE p.instance_uuid IN", [row["uuid"] for row in rows], "ORDER BY p.idx"
        )
    by_instance: dict[str, list[Port]] = {}
    for row in found:
        by_instance.setdefault(row["instance_uuid"], []).append(_port(row))
    numa = _numa(tx, [row["uuid"] for row in rows if _may_have_cells(row)])
    return [_instance(row, tuple(by_instance.get(row["uuid"], ())), numa.get(row["uuid"])) for row in rows]


def _may_have_cells(row: Row) -> bool:
    """Whether flavor or image say anything of the hardware: quick, for lists of many thousands."""
    image = row["image"] or ""
    return row["deleted_at"] is None and (
        '"hw:' in row["flavor"] or '"hw_cpu_policy"' in image or '"hw_numa_nodes"' in image
    )


def _numa(tx: Tx, uuids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What of their hosts' cells these have, by uuid."""
    sql = "SELECT instance_uuid, numa FROM holds WHERE role = 'instance' AND numa IS NOT NULL"
    found = among(tx, f"{sql} AND instance_uuid IN", uuids) if len(uuids) <= ALL_PORTS else tx.all(sql)
    return {row["instance_uuid"]: json.loads(row["numa"]) for row in found}


def _port(row: Row) -> Port:
    return Port(
        id=row["id"],
        index=row["idx"],
        network=row["network"],
        bridge=row["bridge"],
        mac=row["mac"],
        ip=row["ip"],
        prefix=int(row["cidr"].rpartition("/")[2]),
        gateway=row["gateway"],
        dns=tuple(json.loads(row["dns"])),
        mtu=row["mtu"],
        tap=row["tap"],
    )


def _instance(row: Row, ports: tuple[Port, ...], numa: dict[str, Any] | None) -> Instance:
    return Instance(
        uuid=row["uuid"],
        name=row["name"],
        project=row["project"],
        vm_state=VmState(row["vm_state"]),
        task_state=TaskState(row["task_state"]) if row["task_state"] else None,
        power_state=PowerState(row["power_state"]),
        host=row["host"],
        flavor=Flavor(**json.loads(row["flavor"])),
        **{column: Image.from_dict(json.loads(row[column])) if row[column] else None for column in IMAGES},
        ports=ports,
        numa=numa,
        key_name=row["key_name"],
        public_key=row["public_key"],
        metadata=json.loads(row["metadata"]),
        tags=tuple(json.loads(row["tags"])),
        user_data=row["user_data"],
        launch_index=row["launch_index"],
        group_id=row["group_id"],
        placement=Placement.from_dict(json.loads(row["placement"] or "{}")),
        created_at=row["created_at"],
        launched_at=row["launched_at"],
        deleted_at=row["deleted_at"],
        locked=bool(row["locked"]),
        fault=json.loads(row["fault"]) if row["fault"] else None,
        epoch=row["epoch"],
        version=row["version"],
    )
