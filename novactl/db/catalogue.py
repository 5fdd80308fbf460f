"""Flavors, images, keypairs and networks: named queries."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from novactl.db import addresses, backups, projects, second_copy
from novactl.db.session import Row, Tx, dumps
from novactl.errors import NotFound, Refused
from novactl.objects.flavor import Flavor
from novactl.objects.image import Image
from novactl.objects.instance import Instance
from novactl.objects.keypair import Keypair
from novactl.objects.names import near
from novactl.objects.network import Network, overlap

SIZES = ("vcpus", "memory_mib", "disk_gib", "ephemeral_gib", "swap_mib")


def missing(tx: Tx, what: str, name: str) -> NotFound:
    """The error for a name that is not in the catalogue, with near ones."""
    names = [row["name"] for row in tx.all(f"SELECT name FROM {what}s ORDER BY name")]
    close = near(name, names)
    listed = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    known = f"there are {listed}" if names else f"novactl {what} --help shows how to make one"
    return NotFound(
        f"{what} {name!r} does not exist",
        hint=f"did you mean {', '.join(close)}?" if close else known,
        candidates=close,
    )


def refuse_taken(tx: Tx, what: str, name: str) -> None:
    """Raises Refused when the name is in use."""
    if tx.one(f"SELECT 1 AS yes FROM {what}s WHERE name = :name", name=name):
        raise Refused(f"{what} {name} exists already", hint=f"novactl {what} show {name}")


def add_flavor(tx: Tx, flavor: Flavor) -> None:
    refuse_taken(tx, "flavor", flavor.name)
    tx.insert("flavors", **{**flavor.as_dict(), "extra_specs": dumps(flavor.extra_specs)})
    second_copy.changed(tx)


def update_flavor(tx: Tx, flavor: Flavor) -> None:
    """Keep its sizes, by its name; instances keep what they were made with."""
    sets = ", ".join(f"{size} = :{size}" for size in SIZES)
    values = {**flavor.as_dict(), "extra_specs": dumps(flavor.extra_specs)}
    tx.run(f"UPDATE flavors SET {sets}, extra_specs = :extra_specs WHERE name = :name AND id = :id", **values)
    second_copy.changed(tx)


def flavor(tx: Tx, name: str) -> Flavor:
    row = tx.one("SELECT * FROM flavors WHERE name = :name", name=name)
    if row is None:
        raise missing(tx, "flavor", name)
    return _flavor(row)


def flavors(tx: Tx) -> list[Flavor]:
    return [
        _flavor(row) for row in tx.all("SELECT * FROM flavors ORDER BY vcpus, memory_mib, disk_gib, name")
    ]


def remove_flavor(tx: Tx, name: str) -> None:
    if not tx.run("DELETE FROM flavors WHERE name = :name", name=name):
        raise missing(tx, "flavor", name)
    second_copy.changed(tx)


def _flavor(row: Row) -> Flavor:
    return Flavor(**{**row, "extra_specs": json.loads(row["extra_specs"])})


def add_image(tx: Tx, image: Image) -> None:
    refuse_taken(tx, "image", image.name)
    refuse_other_format(tx, f"image {image.name}", image.base_formats)
    known = {sha256: raw_sum(tx, sha256) for sha256 in image.sums}
    image = replace(image, raw_sums={sha256: sum_ for sha256, sum_ in known.items() if sum_})
    tx.insert(
        "images",
        id=image.id,
        name=image.name,
        sha256=image.sha256,
        body=dumps(image.as_dict()),
        created_at=image.created_at,
    )
    second_copy.changed(tx)


def image(tx: Tx, name: str) -> Image:
    row = tx.one("SELECT * FROM images WHERE name = :name OR id = :name", name=name)
    if row is None:
        raise missing(tx, "image", name)
    return Image.from_dict(json.loads(row["body"]))


def original(tx: Tx, instance: Instance) -> Image:
    """The image that the instance was made from as it is in the catalogue, else as the instance keeps it.
    Raises Refused for one that has none."""
    if instance.image is None:
        raise Refused(f"{instance.name}: was made from no image", hint="--image names one")
    row = tx.one("SELECT body FROM images WHERE id = :id", id=instance.image.id)
    return instance.image if row is None else Image.from_dict(json.loads(row["body"]))


def sums_of(tx: Tx, id_: str) -> set[str]:
    """SHA-256 of the files of the image that has this id; none when there is no such image."""
    row = tx.one("SELECT body FROM images WHERE id = :id", id=id_)
    return Image.from_dict(json.loads(row["body"])).sums if row else set()


def images(tx: Tx) -> list[Image]:
    return [
        Image.from_dict(json.loads(row["body"])) for row in tx.all("SELECT body FROM images ORDER BY name")
    ]


def update_image(tx: Tx, image: Image) -> None:
    tx.run(
        "UPDATE images SET name = :name, sha256 = :sha256, body = :body WHERE id = :id",
        id=image.id,
        name=image.name,
        sha256=image.sha256,
        body=dumps(image.as_dict()),
    )
    second_copy.changed(tx)


def refuse_other_format(tx: Tx, what: str, files: Mapping[str, str]) -> None:
    """Raises Refused when one of these files ({SHA-256: Image.base_formats}) is another format's in an image,
    instance or backup: hosts have one base file of the same bytes."""
    living = "SELECT name, image, rescue_image, shelved_image FROM instances WHERE deleted_at IS NULL"
    has_it = "(image LIKE :file OR rescue_image LIKE :file OR shelved_image LIKE :file)"
    for sha256, form in files.items():
        if not sha256:  # it is saving: there are no bytes yet
            continue
        used = [(f"image {image.name}", image.base_formats) for image in _images_of(tx, sha256)]
        for row in tx.all(f"{living} AND {has_it}", file=f"%{sha256}%"):
            kept = [Image.from_dict(json.loads(body)) for key, body in row.items() if key != "name" and body]
            used += [(f"instance {row['name']}", image.base_formats) for image in kept]
        used += [(f"backup {one.name}", one.base_formats) for one in backups.everything(tx)]
        for user, formats in used:
            if formats.get(sha256, form) != form:
                raise Refused(
                    f"{what}: {user} has the very same bytes as {formats[sha256]}, not {form}",
                    hint="hosts keep one base file of the same bytes: delete that one first",
                )


def raw_sum(tx: Tx, sha256: str) -> str | None:
    """What the base file hashes to that was first made of this source, while an image of it is listed."""
    return next((one.raw_sums[sha256] for one in _images_of(tx, sha256) if sha256 in one.raw_sums), None)


def note_raw_sum(tx: Tx, sha256: str, sum_: str) -> None:
    """A base file was made of the source itself. What the first one said stays."""
    if raw_sum(tx, sha256) is None:
        for image in _images_of(tx, sha256):
            update_image(tx, replace(image, raw_sums={**image.raw_sums, sha256: sum_}))


def _images_of(tx: Tx, sha256: str) -> list[Image]:
    """Those that are made of this file."""
    rows = tx.all("SELECT body FROM images WHERE body LIKE :file", file=f"%{sha256}%")
    return [image for row in rows if sha256 in (image := Image.from_dict(json.loads(row["body"]))).sums]


def remove_image(tx: Tx, image_id: str) -> None:
    tx.run("DELETE FROM images WHERE id = :id", id=image_id)
    second_copy.changed(tx)


def stored_files_in_use(tx: Tx) -> set[str]:
    """SHA-256 of every file of the store that an image, a living instance or a backup still needs."""
    used = backups.stored_files(tx)
    bodies = [row["body"] for row in tx.all("SELECT body FROM images")]
    living = tx.all("SELECT image, rescue_image, shelved_image FROM instances WHERE deleted_at IS NULL")
    for body in bodies + [body for row in living for body in row.values() if body]:
        data = json.loads(body)
        used.update(data[key] for key in ("sha256", "kernel_sha256", "initrd_sha256") if data[key])
        used.update(disk["sha256"] for disk in data.get("disks", {}).values())
    return used


def add_keypair(tx: Tx, project: str, keypair: Keypair) -> None:
    """Raises Refused when the name is taken, QuotaExceeded when the project has no room for it."""
    key = {"project": project, "name": keypair.name}
    if tx.one("SELECT 1 AS yes FROM keypairs WHERE project = :project AND name = :name", **key):
        raise Refused(f"keypair {keypair.name} exists already", hint=f"novactl keypair show {keypair.name}")
    projects.check_room_for(tx, project, "keypairs")
    tx.insert("keypairs", **key, fingerprint=keypair.fingerprint, public_key=keypair.public_key)
    second_copy.changed(tx)


def keypair(tx: Tx, project: str, name: str) -> Keypair:
    for known in keypairs(tx, project):
        if known.name == name:
            return known
    raise missing(tx, "keypair", name)


def keypairs(tx: Tx, project: str) -> list[Keypair]:
    rows = tx.all("SELECT * FROM keypairs WHERE project = :project ORDER BY name", project=project)
    return [
        Keypair(name=row["name"], fingerprint=row["fingerprint"], public_key=row["public_key"])
        for row in rows
    ]


def remove_keypair(tx: Tx, project: str, name: str) -> None:
    if not tx.run(
        "DELETE FROM keypairs WHERE project = :project AND name = :name", project=project, name=name
    ):
        raise missing(tx, "keypair", name)
    second_copy.changed(tx)


def image_id(tx: Tx, id_: str) -> str | None:
    """The id, while there is such an image."""
    row = tx.one("SELECT id FROM images WHERE id = :id", id=id_)
    return row["id"] if row else None


def add_network(tx: Tx, network: Network) -> None:
    refuse_taken(tx, "network", network.name)
    for other in networks(tx):
        if overlap(network, other):
            raise Refused(
                f"network {other.name} ({other.cidr}) has some of these addresses on {other.bridge}"
            )
    tx.insert("networks", **_columns(network))
    second_copy.changed(tx)


def update_network(tx: Tx, network: Network) -> None:
    """Keep all of it, by its id; the caller has seen that no address is given twice."""
    columns = _columns(network)
    sets = ", ".join(f"{column} = :{column}" for column in columns if column != "id")
    tx.run(f"UPDATE networks SET {sets} WHERE id = :id", **columns)
    addresses.forget(tx, network.id)
    second_copy.changed(tx)


def _columns(network: Network) -> dict[str, Any]:
    return {**vars(network), "dns": dumps(list(network.dns))}


def network(tx: Tx, name: str) -> Network:
    row = tx.one("SELECT * FROM networks WHERE name = :name OR id = :name", name=name)
    if row is None:
        raise missing(tx, "network", name)
    return _network(row)


def networks(tx: Tx) -> list[Network]:
    return [_network(row) for row in tx.all("SELECT * FROM networks ORDER BY name")]


def addresses_used(tx: Tx, network_id: str) -> int:
    row: Any = tx.one("SELECT COUNT(*) AS n FROM ports WHERE network_id = :id", id=network_id)
    return int(row["n"])


def remove_network(tx: Tx, name: str) -> None:
    """Raises Refused while instances have addresses in it."""
    found = network(tx, name)
    if used := addresses_used(tx, found.id):
        raise Refused(f"network {name}: {used} addresses are in use", hint="delete those instances first")
    tx.run("DELETE FROM networks WHERE id = :id", id=found.id)
    addresses.forget(tx, found.id)
    second_copy.changed(tx)


def _network(row: Row) -> Network:
    return Network(**{**row, "dns": tuple(json.loads(row["dns"]))})
