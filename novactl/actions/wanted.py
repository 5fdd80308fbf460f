"""What a request to boot means: its names looked up once for all of one --count, before others wait for the
transaction that decides."""

from dataclasses import dataclass, replace
from typing import Any

from novactl.actions import wishes
from novactl.db import catalogue, groups, second_copy
from novactl.db.addresses import mark_name
from novactl.db.journal import SERIAL
from novactl.db.session import Tx, foresee
from novactl.errors import Refused, UsageError
from novactl.objects.flavor import Flavor, check_flavor
from novactl.objects.group import ServerGroup
from novactl.objects.image import Image
from novactl.objects.keypair import Keypair
from novactl.objects.network import Network
from novactl.objects.placement import Placement
from novactl.objects.request import BootRequest
from novactl.virt.domain import check_properties

USER_DATA_LIMIT = 65535  # bytes, as Nova's (before base64)
COUNT_LIMIT = 10_000  # one transaction claims for all: it keeps everybody else waiting


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the names of a request mean."""

    image: Image
    flavor: Flavor
    key: Keypair | None
    networks: list[Network]
    placement: Placement
    group: ServerGroup | None


def wanted_by(tx: Tx, request: BootRequest) -> Wanted:
    """Looked up once for all of one --count."""
    memo = f"request {id(request)}"
    if memo not in tx.memo:
        image = catalogue.image(tx, request.image)
        flavor = sized(catalogue.flavor(tx, request.flavor), request)
        check_fit(flavor, image)
        placement, group = wishes.resolve(tx, request, request.project)
        tx.memo[memo] = Wanted(
            image=image,
            flavor=flavor,
            key=catalogue.keypair(tx, request.project, request.key) if request.key else None,
            networks=[catalogue.network(tx, wanted.network) for wanted in request.networks],
            placement=placement,
            group=group,
        )
    found: Wanted = tx.memo[memo]
    return found


def check_user_data(content: bytes | None) -> None:
    """Raises Refused for more than a guest can be given."""
    if content is not None and len(content) > USER_DATA_LIMIT:
        raise Refused(
            f"user-data has {len(content)} bytes, the limit is {USER_DATA_LIMIT}",
            hint="put the bulk where the guest can fetch it",
        )


def give(tx: Tx, request: BootRequest, wanted: Wanted) -> None:
    """What the names of the request mean is known: they are not looked up."""
    check_fit(wanted.flavor, wanted.image)
    tx.memo[f"request {id(request)}"] = wanted


def recall(tx: Tx, request: BootRequest, found_before: dict[str, Any]) -> None:
    """What was looked up before this transaction is used by its first try alone: what it decides changes it.
    All of it while the catalogue is as it was. Raises Refused or NotFound for what is not there any more."""
    for key, value in found_before.items():
        tx.memo.setdefault(key, value)
    wanted = wanted_by(tx, request)
    if "meta" not in tx.memo:
        foresee(tx, second_copy.VERSION, SERIAL, *(mark_name(network.id) for network in wanted.networks))
    if not found_before:
        return
    found_before.clear()
    if tx.memo.get("catalogue") != second_copy.version(tx):
        for key in ("board", "groups", "limits", f"drafts {id(request)}", f"steps {id(request)}"):
            tx.memo.pop(key, None)
        tx.memo[f"request {id(request)}"] = _still(tx, wanted)


def _still(tx: Tx, wanted: Wanted) -> Wanted:
    if catalogue.image_id(tx, wanted.image.id) is None:
        raise Refused(f"image {wanted.image.name} was deleted just now")
    if wanted.group is not None and groups.get(tx, wanted.group.id) is None:
        raise Refused(f"group {wanted.group.name} was deleted just now")
    return replace(wanted, networks=[catalogue.network(tx, one.id) for one in wanted.networks])


def sized(flavor: Flavor, request: BootRequest) -> Flavor:
    """With the sizes that the request gives itself. Raises UsageError."""
    if request.ephemeral_gib is not None:
        flavor = replace(flavor, ephemeral_gib=request.ephemeral_gib)
    if request.swap_mib is not None:
        flavor = replace(flavor, swap_mib=request.swap_mib)
    return check_flavor(flavor)


def check_fit(flavor: Flavor, image: Image) -> None:
    """Raises Refused when the flavor is too small for the image (Nova's FlavorDiskSmallerThanImage)."""
    check_properties(image.properties)
    if image.status != "active":
        raise Refused(f"image {image.name} is {image.status}")
    if flavor.disk_gib and flavor.disk_gib < image.needs_gib:
        raise Refused(
            f"flavor {flavor.name} has a disk of {flavor.disk_gib} GiB,"
            f" image {image.name} needs {image.needs_gib}",
            hint="choose a larger flavor, or one with --disk 0 (the image's own size)",
        )
    if flavor.memory_mib < image.min_memory_mib:
        raise Refused(
            f"flavor {flavor.name} has {flavor.memory_mib} MiB of memory, image {image.name} needs"
            f" {image.min_memory_mib}"
        )


def names_of(request: BootRequest) -> list[str]:
    """NAME, or NAME-1 … NAME-N with `--count N`. Raises UsageError."""
    if not 1 <= request.count <= COUNT_LIMIT:
        raise UsageError(f"--count {request.count} is not within 1 to {COUNT_LIMIT}")
    if request.count == 1:
        return [request.name]
    if any(network.ip for network in request.networks):
        raise UsageError("ip= asks for one address, --count for several instances")
    return [f"{request.name}-{n}" for n in range(1, request.count + 1)]
