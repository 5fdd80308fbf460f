"""Live migration by TLS and by plain TCP: what the wire carries, where QEMU listens, what is refused."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import Grounds
from tests.lab.support import Running, gate, refused, unchanged, wait_until
from tests.lab.test_lifecycle import images  # noqa: F401 - guests that count
from tests.lab.test_live_migration import beats, counts_on, guest, is_there_alone  # noqa: F401

pytestmark = pytest.mark.lab

NEEDLE = "tiny: heartbeat"
"""In the memory of the guest many times, and in its disk image."""

SNIFF = f"""
import os, socket
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.setsockopt(socket.SOL_SOCKET, 33, 1 << 27)  # SO_RCVBUFFORCE
wire.settimeout(0.2)
print("listens", flush=True)
found = seen = 0
while True:
    try:
        packet = wire.recv(1 << 17)
        seen += len(packet)
        found += b"{NEEDLE}" in packet
    except TimeoutError:
        if os.path.exists("/run/sniffed"):
            break
print(seen, found, flush=True)
"""


class Wire:
    """What a host's links carried."""

    seen = 0
    found = 0


@contextmanager
def on_the_wire(grounds: Grounds, name: str) -> Iterator[Wire]:
    """Of all that goes over the links of a host meanwhile: bytes, and packets with what is in the guest."""
    host, wire = grounds.host(name), Wire()
    host.run(["sh", "-c", "rm -f /run/sniffed; cat >/run/sniff.py"], stdin=SNIFF)
    host.run(["sh", "-c", "setsid python3 /run/sniff.py </dev/null >/run/sniff 2>&1 &"])
    wait_until(lambda: "listens" in host.run(["cat", "/run/sniff"]).stdout, 10, "the wire")
    try:
        yield wire
    finally:
        host.run(["touch", "/run/sniffed"])
        told = re.compile(r"^(\d+) (\d+)$", re.MULTILINE)
        last = wait_until(lambda: told.search(host.run(["cat", "/run/sniff"]).stdout), 20, "what it carried")
        wire.seen, wire.found = int(last[1]), int(last[2])
        host.run(["sh", "-c", "rm -f /run/sniff*"])


def trust(grounds: Grounds, networks: dict[str, str]) -> None:
    path = Path(grounds.novactl.config) / "trusted.yaml"
    path.write_text(json.dumps({"trusted_networks": networks}))
    grounds.novactl.ok("inventory", "apply", str(path), "--prune", "--yes")


@pytest.fixture
def trusting(grounds: Grounds) -> Iterator[Grounds]:
    """The lab's network is trusted."""
    trust(grounds, {"lab": grounds.fleet.network})
    yield grounds
    trust(grounds, {})


@pytest.fixture
def certified(grounds: Grounds) -> Grounds:
    """kvm1 and kvm2 have certificates."""
    grounds.novactl.ok("pki", "init")
    for host in ("kvm1", "kvm2"):
        grounds.novactl.ok("pki", "issue", host)
    return grounds


def carried(grounds: Grounds, guest: dict[str, Any], transport: str) -> Wire:  # noqa: F811
    """The guest goes to kvm2, alive and whole."""
    counted = beats(grounds, guest)[-1]
    with on_the_wire(grounds, "kvm1") as wire:
        words = ["migrate", guest["name"], "--live", "--host", "kvm2", "--transport", transport]
        grounds.novactl.ok(*words)
    is_there_alone(grounds, guest, "kvm2")
    counts_on(grounds, guest, counted)
    assert wire.seen > 8 << 20
    return wire


def test_in_clear_it_can_be_read(trusting: Grounds, guest: dict[str, Any]) -> None:  # noqa: F811
    assert carried(trusting, guest, "tcp").found > 0


@pytest.mark.parametrize("transport", ["ssh", "tls"])
def test_encrypted_it_cannot(certified: Grounds, guest: dict[str, Any], transport: str) -> None:  # noqa: F811
    assert carried(certified, guest, transport).found == 0


def test_it_is_listened_for_on_one_address(certified: Grounds, guest: dict[str, Any]) -> None:  # noqa: F811
    """And after an abort nothing listens, and the guest runs on where it was."""
    target = certified.host("kvm2")
    words = ["migrate", guest["name"], "--live", "--host", "kvm2", "--transport", "tls", "--bandwidth", "2"]
    moving = Running(certified.novactl, *words)

    def listens() -> list[str]:
        told = target.run(["ss", "-Hltn"]).stdout
        return sorted({line.split()[3].rpartition(":")[0] for line in told.splitlines() if ":49" in line})

    wait_until(listens, 60, "QEMU on the target")
    assert listens() == [target.address]
    certified.novactl.ok("migrate-abort", guest["name"])
    assert moving.end() == 130
    is_there_alone(certified, guest, "kvm1")
    assert listens() == []


def test_what_is_refused_changes_nothing(certified: Grounds, guest: dict[str, Any]) -> None:  # noqa: F811
    novactl = certified.novactl
    live = ["migrate", guest["name"], "--live", "--host", "kvm2", "--transport"]
    with unchanged(certified):
        refused(novactl, *live, "tcp", code=5, says="no trusted network has both")
        refused(novactl, *live, "udp", code=2, says="--transport is one of ssh, tls, tcp")
        refused(novactl, *live[:4], "kvm3", "--transport", "tls", code=5, says="kvm3 has no certificate")
    novactl.ok("pki", "revoke", "kvm2")
    with unchanged(certified):
        refused(novactl, *live, "tls", code=5, says="the certificate of kvm2 is revoked")


def test_trusted_no_more_before_it_is_sent(trusting: Grounds, guest: dict[str, Any]) -> None:  # noqa: F811
    """What was so when the move was planned is looked at again before the guest goes."""
    with gate(trusting.host("kvm2"), "virsh", " capabilities ") as held:
        words = ["migrate", guest["name"], "--live", "--host", "kvm2", "--transport", "tcp"]
        moving = Running(trusting.novactl, *words)
        held.reached(moving)
        trust(trusting, {})
        held.open()
        assert moving.end() == 1, moving.said
    assert "no trusted network has both" in moving.said
    is_there_alone(trusting, guest, "kvm1")
