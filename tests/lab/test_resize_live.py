"""resize --live on real guests: a processor more, memory back by the balloon, and what waits for a boot."""

from collections.abc import Callable
from typing import Any

import pytest

from novactl.lab import guests
from tests.lab.conftest import Grounds
from tests.lab.support import console_until, refused, unchanged, unsettled, wait_until
from tests.lab.test_lifecycle import images  # noqa: F401 - guests that count
from tests.lab.test_live_migration import beats, counts_on, is_there_alone

pytestmark = pytest.mark.lab

Name = Callable[[], str]


@pytest.fixture(scope="module", autouse=True)
def flavors(_grounds: Grounds) -> None:
    room = ["--property", "hw:max_vcpus=3"]
    for name, vcpus, memory, more in (("lean", 1, 96, room), ("wide", 2, 160, room), ("broad", 3, 160, [])):
        sizes = ["--vcpus", str(vcpus), "--memory", str(memory), "--disk", "1"]
        _grounds.novactl.ok("flavor", "create", name, *sizes, *more)
    tiny = guests.tiny()
    words = ["--file", str(tiny.disk), "--format", "raw", "--kernel", str(tiny.kernel)]
    words += ["--initrd", str(tiny.initrd)]
    deaf = f"{tiny.cmdline} initcall_blacklist=virtio_balloon_driver_init"
    _grounds.novactl.ok("image", "add", "no-balloon", *words, "--cmdline", deaf)


def booted(grounds: Grounds, name: str, flavor: str, image: str = "beat") -> dict[str, Any]:
    words = ["--flavor", flavor, "--image", image, "--host", "kvm1", "--network", "lan"]
    made: dict[str, Any] = grounds.novactl.json("boot", name, *words)
    console_until(grounds, made, "tiny: heartbeat 3" if image == "beat" else "tiny: ready")
    return made


def resized(grounds: Grounds, guest: dict[str, Any], flavor: str) -> dict[str, str]:
    """When each takes effect."""
    (ended,) = grounds.novactl.json("resize", guest["name"], "--flavor", flavor, "--live")
    assert (ended["instance"]["status"], ended["instance"]["flavor"]) == ("ACTIVE", flavor)
    found: dict[str, str] = ended["takes_effect"]
    return found


def has(grounds: Grounds, guest: dict[str, Any], host: str = "kvm1") -> tuple[int, int]:
    """(vcpus, MiB) by virsh."""
    on, uuid = grounds.host(host), guest["uuid"]
    told = on.run(["virsh", "-q", "dommemstat", uuid]).stdout.splitlines()[0]
    return int(on.run(["virsh", "-q", "vcpucount", uuid, "--live"]).stdout), int(told.split()[1]) // 1024


def used(grounds: Grounds) -> tuple[int, int]:
    """What kvm1 has given."""
    shown = grounds.novactl.json("host", "show", "kvm1")
    return shown["vcpus_used"], shown["memory_mib_used"]


def test_a_processor_now_and_memory_with_the_next_boot(grounds: Grounds, name: Name) -> None:
    guest = booted(grounds, name(), "lean")
    plan = grounds.novactl.json("resize", guest["name"], "--flavor", "wide", "--live", "--dry-run")
    assert [item["message"] for item in plan["preflight"]] == [
        "1 to 2 now",
        "96 to 160 MiB at its next boot: its domain was started with 96 MiB",
    ]
    counted = beats(grounds, guest)[-1]
    assert resized(grounds, guest, "wide") == {"vcpus": "now", "memory": "next boot"}
    assert has(grounds, guest) == (2, 96) and used(grounds) == (2, 160)
    counts_on(grounds, guest, counted)
    grounds.novactl.ok("reboot", guest["name"], "--hard")
    assert has(grounds, guest) == (2, 160) and used(grounds) == (2, 160)
    assert unsettled(grounds) == []


def test_memory_comes_back_by_the_balloon_and_the_guest_moves_on(grounds: Grounds, name: Name) -> None:
    guest = booted(grounds, name(), "wide")
    wait_until(
        lambda: "balloon driver gives" in grounds.novactl.ok(
            "resize", guest["name"], "--flavor", "lean", "--live", "--dry-run"
        ).out, 30, "its balloon driver"
    )  # fmt: skip
    counted = beats(grounds, guest)[-1]
    took = resized(grounds, guest, "lean")
    assert took["memory"] == "now" and has(grounds, guest)[1] == 96
    assert used(grounds)[1] == 96
    assert used(grounds)[0] == has(grounds, guest)[0]  # one that it booted with: it keeps it
    counts_on(grounds, guest, counted)
    assert resized(grounds, guest, "wide")["memory"] == "now"
    assert has(grounds, guest) == (2, 160) and used(grounds) == (2, 160)
    assert resized(grounds, guest, "broad") == {"vcpus": "now"}
    grounds.novactl.ok("migrate", guest["name"], "--live", "--host", "kvm2")
    is_there_alone(grounds, guest, "kvm2")
    assert has(grounds, guest, "kvm2") == (3, 160)
    counts_on(grounds, guest, counted)


def test_without_a_balloon_driver_nothing_is_freed_before_the_next_boot(grounds: Grounds, name: Name) -> None:
    guest = booted(grounds, name(), "wide", "no-balloon")
    took = resized(grounds, guest, "lean")
    assert took == {"vcpus": "next boot", "memory": "next boot"}
    assert has(grounds, guest) == (2, 160) and used(grounds) == (2, 160)
    with unchanged(grounds):
        again = ["migrate", guest["name"], "--live", "--host", "kvm2"]
        refused(grounds.novactl, *again, code=5, says="until its next boot")
    grounds.novactl.ok("stop", guest["name"], "--force")
    assert used(grounds) == (1, 96)
    grounds.novactl.ok("start", guest["name"])
    assert has(grounds, guest) == (1, 96) and unsettled(grounds) == []


def test_bad_input(grounds: Grounds, name: Name) -> None:
    guest = booted(grounds, name(), "wide")
    with unchanged(grounds):
        words = ["resize", guest["name"], "--live", "--flavor"]
        refused(grounds.novactl, *words, "wide", code=5, says="already")
        refused(grounds.novactl, *words, "lean", "--host", "kvm2", code=5, says="--live keeps it there")
        refused(grounds.novactl, *words, "lean", "--confirm", code=2, says="nothing to confirm")
        create = ["flavor", "create", "bad", "--vcpus", "4", "--memory", "96", "--disk", "1", "--property"]
        refused(grounds.novactl, *create, "hw:max_vcpus=3", code=2, says="has 4 vcpus")
