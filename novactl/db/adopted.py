"""Rows made from what hosts remember: the records that domains carry.

Whatever a host remembers may have been written by anybody who is root there: all of it is looked at here
before anything is written. Nothing that is in the database already is ever changed.
"""

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from novactl.db import adopted_moves, catalogue, groups, hosts, instances, moves, projects
from novactl.db.session import Row, Tx, dumps
from novactl.errors import NovactlError, Refused
from novactl.objects import names
from novactl.objects.extra_specs import numa_request
from novactl.objects.flavor import Flavor, check_flavor
from novactl.objects.host import Resources
from novactl.objects.image import FORMATS, Image
from novactl.objects.instance import Instance
from novactl.objects.migration import Migration, most, most_use
from novactl.objects.network import Port, parse_ip, set_of_hosts
from novactl.objects.numa import Fit
from novactl.objects.placement import Placement
from novactl.objects.states import PowerState, VmState, vm_state_of

MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
PLACEMENT = frozenset(each.name for each in fields(Placement))
TEXT = re.compile(r"[^\x00-\x1f\x7f]*")


def restore_instance(
    tx: Tx,
    record: Mapping[str, Any],
    *,
    host: str | None,
    power: PowerState,
    epoch: int,
    generation: int = 0,
    saved: bool = False,
    sealed: Mapping[str, Any] | None = None,
) -> Instance:
    """Insert the instance that a domain's record (virt.domain.record; SeenDomain.record) tells of: its row,
    its ports, its hold on `host`, which counts as used whether or not there is room, and its move that waits,
    with the hold on the host that it left. Without a host it is one that only its image is left of. `sealed`
    is what the directory's user-data.sealed says ({id, owner, sealed}), None when there is none or it is not
    known.

    Returns the instance, without its group when that is not in the database. Raises Refused, naming what is
    wrong, before anything is written: the record makes no sense, uuid or name or address is another's, a
    network is not in the database, nor is a host. It counts in its project whatever the limits are. The
    caller compares record["uuid"] with that of the domain it stood in."""
    instance = instance_of(record, host=host, power=power, epoch=epoch, generation=generation)
    group = groups.get(tx, instance.group_id or "")
    group_id = group.id if group is not None and group.project == instance.project else None
    moved = adopted_moves.move_of(instance, record.get("move"))
    instance = replace(instance, shelved_image=_shelved(tx, record))
    state = _state(instance.rescue_image, instance.shelved_image, power, saved)
    vm_state = VmState.RESIZED if moved else state if host else VmState.SHELVED_OFFLOADED
    instance = replace(instance, vm_state=vm_state, group_id=group_id)
    networks = [_network(tx, instance, each) for each in _ports_told(record)]
    _refuse_taken(tx, instance)
    for image in filter(None, (instance.image, instance.rescue_image, instance.shelved_image)):
        catalogue.refuse_other_format(tx, f"the record of {instance.name!r}", image.base_formats)
    ports = [_port(tx, instance, *each) for each in networks]
    for name in filter(None, (host, moved[0].source if moved else None)):
        hosts.get(tx, name)
    if sealed is not None:
        _check_sealed(instance, sealed)
    instances.add(tx, instance)
    for network, port in zip(networks, ports, strict=True):
        instances.add_port(tx, instance.uuid, network[0]["id"], port)
    _count(tx, instance, moved)
    if sealed is not None:
        _keep_sealed(tx, instance, sealed)
    return instances.get(tx, instance.uuid)


def _state(rescue: Image | None, shelved: Image | None, power: PowerState, saved: bool) -> VmState:
    if rescue is not None:
        return VmState.RESCUED
    return VmState.SHELVED if shelved is not None else vm_state_of(power, saved)


def told(tx: Tx, record: Mapping[str, Any] | None, power: PowerState, saved: bool) -> dict[str, Any]:
    """The columns of a known instance that say what its domain carries and its host says."""
    known = record or {}
    try:
        images = {"rescue_image": _image(known.get("rescue_image")), "shelved_image": _shelved(tx, known)}
        made_from = _image(known.get("image"))
        if made_from is not None and _is_as_known(tx, made_from):
            images["image"] = made_from
        if images["rescue_image"] is not None and not _is_as_known(tx, images["rescue_image"]):
            images["rescue_image"] = None
    except (KeyError, TypeError, ValueError, AttributeError, NovactlError):
        images = {"rescue_image": None, "shelved_image": None}
    return {
        "vm_state": _state(images["rescue_image"], images["shelved_image"], power, saved),
        "power_state": power,
        **{column: image and dumps(image.as_dict()) for column, image in images.items()},
    }


def _count(tx: Tx, instance: Instance, moved: tuple[Migration, Instance] | None) -> None:
    """What it holds of its host and counts in its project; with a move that waits, also what that keeps."""
    amounts, flavors = instance.resources, [instance.flavor]
    if moved is not None:
        move, before = moved
        moves.add(tx, move)
        flavors.append(before.flavor)
        if move.here:
            amounts = most(amounts, before.resources)
        else:
            force_hold(tx, move.source, instance.uuid, before.resources, before.numa, "move-source")
    if instance.host is not None:
        force_hold(tx, instance.host, instance.uuid, amounts, instance.numa)
    projects.force(tx, instance.project, instances=1, **most_use(*flavors))


def instance_of(
    record: Mapping[str, Any], *, host: str | None, power: PowerState, epoch: int, generation: int = 0
) -> Instance:
    """The instance without its ports. Pure. Raises Refused when the record makes no sense."""
    try:
        return _instance(record, host=host, power=power, epoch=epoch, generation=generation)
    except (KeyError, TypeError, ValueError, AttributeError, NovactlError) as error:
        what = error.message if isinstance(error, NovactlError) else f"{type(error).__name__}: {error}"
        raise Refused(f"the record of {record.get('name')!r} on {host} makes no sense: {what}") from error


def _instance(
    record: Mapping[str, Any], *, host: str | None, power: PowerState, epoch: int, generation: int
) -> Instance:
    image = _image(record["image"])
    metadata = {names.check_text(key, "key"): _text(value) or "" for key, value in record["metadata"].items()}
    flavor = check_flavor(Flavor(**record["flavor"]))
    asks = numa_request(flavor, image) is not None
    numa = record.get("numa") if asks else None
    return Instance(
        uuid=names.check_pattern(record["uuid"], names.UUID, "uuid"),
        name=names.check_name(record["name"], "instance name"),
        project=names.check_name(record["project"], "project"),
        vm_state=vm_state_of(power),
        power_state=power,
        host=host,
        flavor=flavor,
        numa=Fit.from_dict(numa).as_dict() if numa is not None else None,
        image=image,
        rescue_image=_image(record.get("rescue_image")),
        key_name=_text(record["key_name"]),
        public_key=_text(record["public_key"]),
        metadata=metadata,
        tags=tuple(names.check_text(tag, "tag") for tag in record["tags"]),
        created_at=_text(record["created_at"]) or "",
        launch_index=int(record["launch_index"]),
        group_id=_uuid(record.get("group_id")),
        placement=_placement(record.get("placement") or {}),
        launched_at=_text(record["launched_at"]),
        locked=bool(record["locked"]),
        epoch=epoch,
        version=generation,
    )


def _image(told: Any) -> Image | None:
    if told is None:
        return None
    image = replace(Image.from_dict(told), raw_sums={})  # a host may not state what judges hosts
    names.check_name(image.name, "image name")
    files = [(image.disk_format, image.size_bytes, image.virtual_size_bytes)]
    files += [
        (one["disk_format"], one["size_bytes"], one["virtual_size_bytes"]) for one in image.disks.values()
    ]
    if any(form not in FORMATS or min(int(size), int(virtual)) < 0 for form, size, virtual in files):
        raise ValueError(f"the files of image {image.name} make no sense")
    if not all(isinstance(place, str) for place in image.locations):
        raise ValueError(f"the locations of image {image.name} make no sense")
    sums = (image.kernel_sha256, image.initrd_sha256, *(disk["sha256"] for disk in image.disks.values()))
    for sha256 in (image.sha256, *(sum_ for sum_ in sums if sum_ is not None)):
        names.base_name(sha256)
    if not set(image.disks) <= {"disk.local"}:
        raise ValueError(f"image {image.name} has other disks than an image can have")
    return image


def _is_as_known(tx: Tx, image: Image) -> bool:
    """Whether all others say the same of its files, if they have them: a host cannot have others read one as
    a format that it was not taken in as."""
    try:
        catalogue.refuse_other_format(tx, f"image {image.name}", image.base_formats)
    except Refused:
        return False
    same = [one for one in catalogue.images(tx) if one.sha256 == image.sha256]
    facts = (image.disk_format, image.size_bytes, image.virtual_size_bytes)
    return all((one.disk_format, one.size_bytes, one.virtual_size_bytes) == facts for one in same)


def _shelved(tx: Tx, record: Mapping[str, Any]) -> Image | None:
    """The image that is kept of it: a domain names it, what lies beside it has all of it."""
    named = record.get("shelved_image")
    if not isinstance(named, str):
        image = _image(named)
    else:
        image = catalogue.image(tx, named) if catalogue.image_id(tx, named) is not None else None
    return image if image is not None and image.kept_of(str(record.get("uuid"))) else None


def force_hold(
    tx: Tx,
    host: str,
    uuid: str,
    amounts: Resources,
    numa: Mapping[str, Any] | None = None,
    role: str = "instance",
) -> None:
    """The instance holds its share of the host, and what of its cells its domain has, whether or not there is
    room: it is there."""
    sizes = {"vcpus": amounts.vcpus, "memory_mib": amounts.memory_mib, "disk_gib": amounts.disk_gib}
    tx.insert(
        "holds",
        instance_uuid=uuid,
        host=host,
        role=role,
        numa=dumps(numa) if numa is not None else None,
        **sizes,
    )
    sets = ", ".join(f"{size}_used = {size}_used + :{size}" for size in sizes)
    tx.run(f"UPDATE hosts SET {sets}, version = version + 1 WHERE name = :host", host=host, **sizes)


def launched_at(record: dict[str, Any] | None) -> str | None:
    """When a domain's record says that it was first started; None when it says nothing that makes sense."""
    said = (record or {}).get("launched_at")
    return said if isinstance(said, str) and len(said) <= 32 else None


def group_lost(record: Mapping[str, Any], made: Instance) -> str:
    """What to say of an instance whose group did not come back with it, if so."""
    was = record.get("group_id")
    return f"its group {was} is not in the database: it has none" if was and made.group_id is None else ""


def _placement(told: Any) -> Placement:
    """What was asked of the host. Raises TypeError when it is not as novactl writes it (records from before
    there was any have none)."""
    if not isinstance(told, dict) or (unknown := set(told) - PLACEMENT):
        raise TypeError(f"its placement is not known: {unknown if isinstance(told, dict) else told!r}")
    for key in ("apart_from", "together_with"):
        if not isinstance(told.get(key, []), list | tuple):
            raise TypeError(f"{key} is no list")
    for key in ("required", "forbidden"):
        for label, value in dict(told.get(key, {})).items():
            names.check_pattern(label, names.KEY, "label")
            _text(value)
    for key in ("zone", "aggregate"):
        if told.get(key) is not None:
            names.check_name(told[key], key)
    found = Placement.from_dict(told)
    for uuid in (*found.apart_from, *found.together_with):
        names.check_pattern(uuid, names.UUID, "uuid")
    return found


def _uuid(value: Any) -> str | None:
    return None if value is None else names.check_pattern(value, names.UUID, "uuid")


def _text(value: Any) -> str | None:
    """Raises TypeError when it is neither text nor null."""
    if value is not None and not (isinstance(value, str) and TEXT.fullmatch(value)):
        raise TypeError(f"{value!r} is not a line of text")
    return value


def _ports_told(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    told = record.get("ports")
    keys = {"network", "ip", "mac", "index"}
    if not isinstance(told, list) or not all(isinstance(one, dict) and keys <= one.keys() for one in told):
        raise Refused(f"the record of {record.get('name')!r} makes no sense: its ports are not known")
    return told


def _network(tx: Tx, instance: Instance, told: Mapping[str, Any]) -> tuple[Row, Mapping[str, Any]]:
    row = tx.one("SELECT * FROM networks WHERE name = :name", name=str(told["network"]))
    if row is None:
        raise Refused(
            f"{instance.name}: its network {told['network']!r} is not in the database",
            hint=f"novactl network create {told['network']}, as it was",
        )
    return row, told


def _refuse_taken(tx: Tx, instance: Instance) -> None:
    live = f"{instance.project}/{instance.name}"
    if tx.one("SELECT 1 AS yes FROM instances WHERE uuid = :uuid", uuid=instance.uuid):
        raise Refused(f"{instance.name}: its uuid {instance.uuid} is in the database already")
    if tx.one("SELECT 1 AS yes FROM instances WHERE live_name = :live", live=live):
        raise Refused(f"{instance.name}: another instance of project {instance.project} has that name")


def _port(tx: Tx, instance: Instance, network: Row, told: Mapping[str, Any]) -> Port:
    """The port as the record has it; what follows from the uuid follows again."""
    net = ipaddress.IPv4Network(network["cidr"])
    index, ip, mac = told["index"], str(told["ip"]), str(told["mac"])
    try:
        fits = parse_ip(ip) in set_of_hosts(net) and MAC.fullmatch(mac) and 0 <= int(index) < 64
    except (NovactlError, TypeError, ValueError):
        fits = False
    if not fits:
        raise Refused(f"{instance.name}: {mac} with {ip} is no port of network {network['name']} ({net})")
    taken = "SELECT 1 AS yes FROM ports WHERE mac = :mac OR (network_id = :id AND ip = :ip)"
    if tx.one(taken, mac=mac, id=network["id"], ip=ip):
        raise Refused(f"{instance.name}: its address {ip} ({mac}) is another instance's")
    id_ = names.port_id(instance.uuid, int(index))
    return Port(
        id=id_,
        index=int(index),
        network=network["name"],
        bridge=network["bridge"],
        mac=mac,
        ip=ip,
        prefix=net.prefixlen,
        gateway=network["gateway"],
        dns=tuple(json.loads(network["dns"])),
        mtu=network["mtu"],
        tap=names.tap_name(id_),
    )


def _check_sealed(instance: Instance, sealed: Mapping[str, Any]) -> None:
    """Refused unless it is this instance's; the content is what the key says it is."""
    id_, owner, content = (sealed.get(key) for key in ("id", "owner", "sealed"))
    if owner != instance.uuid or not isinstance(content, str) or not names.UUID.fullmatch(str(id_)):
        raise Refused(f"{instance.name}: its user-data.sealed is not its own")


def _keep_sealed(tx: Tx, instance: Instance, sealed: Mapping[str, Any]) -> None:
    if not tx.one("SELECT 1 AS yes FROM secrets WHERE id = :id", id=sealed["id"]):
        tx.insert("secrets", id=sealed["id"], owner=instance.uuid, sealed=sealed["sealed"])
    instances.update(tx, instance.uuid, user_data=f"secret:{sealed['id']}")
