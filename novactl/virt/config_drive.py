"""The config drive: an ISO labelled `config-2`, from which cloud-init learns who the guest is.

Its content is Nova's (nova/api/metadata/base.py, nova/virt/netutils.py): `openstack/latest/` and a dated
twin, with meta_data.json, network_data.json, vendor_data.json, vendor_data2.json and, if any, user_data.
"""

import base64
import io
import json
import re
import time
from dataclasses import dataclass
from ipaddress import ip_interface
from types import SimpleNamespace
from typing import Any

from novactl.errors import UsageError

LABEL = "config-2"
VERSIONS = (
    "latest",
    "2018-08-27",
)  # the newest version that cloud-init knows by name (sources/helpers/openstack.py)
_BUILT = (
    315532800.0  # seconds: every date on the drive is 1980-01-01, so that the same input gives the same bytes
)
_FILE_MODE, _DIRECTORY_MODE = 0o100444, 0o040555  # as genisoimage -r, which Nova runs


@dataclass(frozen=True, kw_only=True)
class Nic:
    """One address of one interface; `id` is the port's, `device` the tap's name; `mtu` in bytes."""

    id: str
    device: str
    mac: str
    network_id: str
    ip: str
    prefixlen: int
    gateway: str | None = None
    dns: tuple[str, ...] = ()
    mtu: int | None = None


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What the guest is told; `public_keys` maps a key's name to its line in authorized_keys."""

    uuid: str
    name: str
    hostname: str
    availability_zone: str
    project_id: str
    launch_index: int = 0
    public_keys: dict[str, str]
    meta: dict[str, str]
    nics: tuple[Nic, ...] = ()
    user_data: bytes | None = None
    random_seed: bytes | None = None


def hostname_for(name: str, default: str = "server") -> str:
    """`name` as a host name: 1 to 63 of a-z, 0-9 and inner hyphens (RFC 1123; Nova's sanitize_hostname).

    `default`, as it is, when nothing of `name` remains.
    """
    hyphened = re.sub(r"[\s_.]", "-", name.lower())
    kept = re.sub(r"[^a-z0-9-]", "", hyphened).strip("-")
    return kept[:63].rstrip("-") or default


def build(metadata: Metadata) -> bytes:
    """The ISO's bytes, the same for the same metadata; raise UsageError for text that is not Unicode."""
    files = {
        "meta_data.json": _json(_meta_data(metadata)),
        "network_data.json": _json(_network_data(metadata.nics)),
        "vendor_data.json": b"{}",
        "vendor_data2.json": b"{}",
    }
    if metadata.user_data is not None:
        files["user_data"] = metadata.user_data
    return _iso({f"openstack/{version}/{name}": data for version in VERSIONS for name, data in files.items()})


def _meta_data(metadata: Metadata) -> dict[str, Any]:
    """meta_data.json; as in Nova, what is empty is left out."""
    keys = [
        {"name": name, "type": "ssh", "data": line} for name, line in sorted(metadata.public_keys.items())
    ]
    seed = metadata.random_seed and base64.b64encode(metadata.random_seed).decode("ascii")
    optional = {"meta": metadata.meta, "public_keys": metadata.public_keys, "keys": keys, "random_seed": seed}
    return {
        "uuid": metadata.uuid,
        "name": metadata.name,
        "hostname": metadata.hostname,
        "launch_index": metadata.launch_index,
        "availability_zone": metadata.availability_zone,
        "project_id": metadata.project_id,
        "devices": [],
        **{key: value for key, value in optional.items() if value},
    }


def _network_data(nics: tuple[Nic, ...]) -> dict[str, Any]:
    """network_data.json: one link for each device, one network for each address, each name server once."""
    return {
        "links": list({nic.device: _link(nic) for nic in nics}.values()),
        "networks": [_network(nic, number) for number, nic in enumerate(nics)],
        "services": [
            {"type": "dns", "address": a} for a in dict.fromkeys(a for nic in nics for a in nic.dns)
        ],
    }


def _link(nic: Nic) -> dict[str, Any]:
    return {
        "id": nic.device,
        "vif_id": nic.id,
        "type": "bridge",
        "mtu": nic.mtu,
        "ethernet_mac_address": nic.mac,
    }


def _network(nic: Nic, number: int) -> dict[str, Any]:
    interface = ip_interface(f"{nic.ip}/{nic.prefixlen}")
    anywhere = "0.0.0.0" if interface.version == 4 else "::"  # noqa: S104 - a route, nothing listens
    route = {"network": anywhere, "netmask": anywhere, "gateway": nic.gateway}
    return {
        "id": f"network{number}",
        "type": f"ipv{interface.version}",
        "link": nic.device,
        "ip_address": nic.ip,
        "netmask": str(interface.netmask),
        "routes": [route] if nic.gateway else [],
        "network_id": nic.network_id,
    }


def _json(value: dict[str, Any]) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, sort_keys=True).encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"metadata: {error.object!r:.80}: not valid Unicode") from error


def _iso(files: dict[str, bytes]) -> bytes:
    """An ISO 9660 image of `files`, by path, with Rock Ridge and Joliet names: some guests read only one."""
    iso = _pycdlib().PyCdlib()
    iso.new(interchange_level=3, vol_ident=LABEL, pub_ident_str="novactl", rock_ridge="1.09", joliet=3)
    parents = {parent for path in files for parent in _parents(path)}
    for path in sorted(parents):
        iso.add_directory(**_names(path, ""), file_mode=_DIRECTORY_MODE)
    for path, data in files.items():
        iso.add_fp(io.BytesIO(data), len(data), **_names(path, ";1"), file_mode=_FILE_MODE)
    image = io.BytesIO()
    iso.write_fp(image)
    iso.close()
    return image.getvalue()


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: depth + 1]) for depth in range(len(parts))]


def _names(path: str, version: str) -> dict[str, str]:
    """`path` in the three namespaces; ECMA-119 7.4.1 allows only A-Z, 0-9 and _ in the first."""
    plain = re.sub(r"[^A-Z0-9_/.]", "_", path.upper())
    if version and "." not in plain:
        plain += "."
    return {"iso_path": f"/{plain}{version}", "rr_name": path.rsplit("/", 1)[-1], "joliet_path": f"/{path}"}


def _pycdlib() -> Any:
    """pycdlib with its clock stopped, in UTC: it takes every date from it and has no option for that."""
    from pycdlib import dates, headervd, pycdlib  # here, for start-up time

    stopped = SimpleNamespace(**{**vars(time), "time": lambda: _BUILT, "localtime": time.gmtime})
    for module in (dates, headervd, pycdlib):
        module.time = stopped  # type: ignore[attr-defined]
    return pycdlib
