"""Machines that are no hosts of the fleet yet, as a playbook meets them."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

from novactl.actions import hosts as enrolment
from novactl.actions.world import World
from novactl.db import hosts
from novactl.db.session import Tx
from novactl.errors import NotFound, Refused, UsageError
from novactl.files import words
from novactl.files.playbook import NewHost
from novactl.objects.host import Host
from novactl.objects.keypair import fingerprint
from novactl.objects.names import INSTANCES_PATH

PLACE = ("name", "address", "port", "user", "jump", "identity", "host_keys", "instances_path")


def request(new_host: NewHost | None, scope: dict[str, Any]) -> enrolment.HostRequest:
    """How it is to be reached. Raises UsageError for what must not reach ssh."""
    assert new_host is not None
    read = {key: words.text(text, scope) for key, text in new_host.model_dump(exclude_none=True).items()}
    given = {key: text for key, text in read.items() if text}
    if not given.get("port", "22").isdecimal():
        raise UsageError(f"port {given['port']!r} is not a number")
    if "name" not in given or "address" not in given:
        raise UsageError("a new host has a name and an address")
    found = enrolment.HostRequest(
        name=given["name"],
        address=given["address"],
        user=given.get("user", "root"),
        port=int(given.get("port", "22")),
        jump=given.get("jump"),
        fingerprint=given.get("fingerprint"),
        identity=Path(given["identity"]).absolute() if "identity" in given else None,
    )
    enrolment.check_request(found)
    return found


def ask(
    world: World, scan: enrolment.Scans, wanted: enrolment.HostRequest, confirm: Callable[[str], bool]
) -> dict[str, Any]:
    """`host` in conditions and templates: how the machine is reached, with its host key pinned, and what it
    says of itself. Raises HostUnreachable, NeedsConfirmation for an unknown host key, Refused when the name
    is another host's."""
    old = world.db.read(lambda tx: _known(tx, wanted))
    keys = enrolment.pinned_keys(scan, wanted, old, confirm)
    found: dict[str, Any] = {
        "name": wanted.name,
        "address": wanted.address,
        "port": wanted.port,
        "user": wanted.user,
        "jump": wanted.jump,
        "identity": str(wanted.identity) if wanted.identity else None,
        "instances_path": INSTANCES_PATH,
        "host_keys": list(keys),
        "fingerprint": fingerprint(base64.b64decode(keys[0].split()[1])),
    }
    said = world.newcomer(place(found)).facts()
    return found | {
        "fleet": said.get("fleet") or None,
        "arch": said["arch"],
        "hostname": said["hostname"],
        "vcpus": int(said["cpus"]),
        "memory_mib": int(said["memory_kib"]) // 1024,
        "bridges": said["bridge"],
        "missing": said["missing"],
    }


def place(found: dict[str, Any]) -> dict[str, Any]:
    """What World.newcomer needs of it, and what is journaled with its steps."""
    return {key: found[key] for key in PLACE}


def _known(tx: Tx, wanted: enrolment.HostRequest) -> Host | None:
    try:
        old = hosts.get(tx, wanted.name)
    except NotFound:
        return None
    if (old.address, old.port) != (wanted.address, wanted.port):
        raise Refused(f"host {wanted.name} exists already, at {old.address}:{old.port}")
    return old
