"""recover --keep on real hosts: a guest that really runs twice runs once again."""

import base64
import signal
from typing import Any

import pytest

from tests.lab.conftest import Grounds
from tests.lab.support import INSTANCES, Running, gate, refused, unchanged, unsettled, wait_until
from tests.lab.test_lifecycle import images  # noqa: F401 - guests that count
from tests.lab.test_live_migration import guest, is_there_alone  # noqa: F401

pytestmark = pytest.mark.lab


def begun(grounds: Grounds, host: str, uuid: str) -> None:
    """Somebody defines and starts it there by hand."""
    xml = f"{INSTANCES}/{uuid}/libvirt.xml"
    for words in (["define", xml], ["start", uuid]):
        grounds.host(host).run(["virsh", "-q", *words]).check_returncode()


def run_by(grounds: Grounds, uuid: str) -> list[str]:
    return [host for host in ("kvm1", "kvm2") if grounds.state(host, uuid) in ("running", "paused")]


@pytest.mark.parametrize("host", ["kvm1", "kvm2"])
def test_a_migration_that_has_left_it_on_both(grounds: Grounds, guest: dict[str, Any], host: str) -> None:  # noqa: F811
    """The row of the table in which nothing is touched."""
    novactl, uuid = grounds.novactl, guest["uuid"]
    with gate(grounds.host("kvm1"), "virsh", " migrate ", "after") as held:
        moving = Running(novactl, "migrate", guest["name"], "--live", "--host", "kvm2")
        held.reached(moving)
        moving.signal(signal.SIGKILL)
        moving.end()
        begun(grounds, "kvm1", uuid)
        held.open()
    wait_until(lambda: grounds.state("kvm2", uuid) == "running", 30, "the target's guest")
    assert novactl("recover", guest["name"]).code == 11
    assert run_by(grounds, uuid) == ["kvm1", "kvm2"]
    refused(novactl, "recover", guest["name"], "--keep", host, code=8, says="not confirmed")
    refused(novactl, "recover", guest["name"], "--keep", "kvm3", "--yes", code=5, says="does not run on kvm3")
    refused(novactl, "recover", guest["name"], "--keep", "none", "--yes", code=4, says="none")
    plan = novactl.json("recover", guest["name"], "--keep", host, "--dry-run")
    (other,) = {"kvm1", "kvm2"} - {host}
    assert (plan["keeps"], plan["stops"], plan["runs"]) == (host, [other], ["kvm1", "kvm2"])
    assert run_by(grounds, uuid) == ["kvm1", "kvm2"]
    ended = novactl.json("recover", guest["name"], "--keep", host, "--yes", timeout=170)
    assert (ended["course"], ended["findings"]) == ("nothing", [])
    is_there_alone(grounds, guest, host)


@pytest.mark.parametrize("host", ["kvm1", "kvm2"])
def test_one_that_was_started_by_hand(grounds: Grounds, guest: dict[str, Any], host: str) -> None:  # noqa: F811
    novactl, uuid = grounds.novactl, guest["uuid"]
    novactl.ok("boot", f"{guest['name']}b", "--flavor", "tiny", "--image", "beat", "--host", "kvm2")
    novactl.ok("delete", f"{guest['name']}b", "--yes")  # the base file is there
    pack = ["sh", "-c", f"tar -C {INSTANCES} -cz {uuid} | base64 -w0"]
    packed = grounds.host("kvm1").run(pack).stdout
    assert base64.b64decode(packed)[:2] == b"\x1f\x8b"
    unpack = ["sh", "-c", f"base64 -d | tar -C {INSTANCES} -xz"]
    grounds.host("kvm2").run(unpack, stdin=packed).check_returncode()
    begun(grounds, "kvm2", uuid)
    assert run_by(grounds, uuid) == ["kvm1", "kvm2"]
    found = novactl("recover", guest["name"], "-o", "json")
    assert found.code == 10 and [one["finding"] for one in found.json["findings"]] == ["runs-twice"]
    with unchanged(grounds):
        refused(novactl, "recover", guest["name"], "--keep", host, code=8, says="not confirmed")
    novactl.ok("recover", guest["name"], "--keep", host, "--yes", timeout=170)
    is_there_alone(grounds, guest, host)
    assert unsettled(grounds) == []
    again = novactl.ok("recover", guest["name"], "--keep", host, "--yes")
    assert "the hosts have it as recorded" in again.err
