"""A host that dies: its instances run elsewhere, and it can start nothing twice when it is on again."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from novactl import lab
from novactl.lab import guests
from novactl.lab.host import LabHost
from novactl.lab.processes import in_namespace_of
from tests.lab.conftest import Grounds
from tests.lab.support import INSTANCES, console_until, refused, wait_until
from tests.support import dying
from tests.support.command import Command

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parents[2]
TINY = ["--flavor", "tiny", "--image", "tiny", "--host", "kvm1"]


@pytest.fixture
def fence(grounds: Grounds) -> Iterator[Path]:
    """fencing.yaml: a command that notes what it was called with and works, and one that does not."""
    file, noted = grounds.novactl.config / "fencing.yaml", grounds.novactl.config / "fenced"
    commands = {"cut": ["sh", "-c", f'echo "$@" >{noted}; echo cut off', "-", "{host}", "{address}"]}
    file.write_text(json.dumps({"fencing": {**commands, "broken": ["false"]}}))
    yield noted
    file.unlink()
    noted.unlink(missing_ok=True)


def returned(grounds: Grounds, uuid: str) -> None:
    """kvm1 is on again with what it had; an audit finds that, cleans it, and the host is given instances."""
    novactl, first = grounds.novactl, grounds.host("kvm1")
    first.start()
    assert grounds.state("kvm1", uuid) == "shut off"
    novactl("host", "check", "kvm1")
    assert novactl.json("host", "show", "kvm1")["state"] == "fenced"
    refused(novactl, "boot", "late", *TINY, code=5, says="fenced")
    found = {one["finding"]: one for one in json.loads(novactl("audit", "-o", "json").out)}
    assert {"stale-copy", "fenced-host"} <= set(found)
    assert found["fenced-host"]["heal"] is None
    healed = novactl("audit", "--heal", "--yes")
    assert healed.code == 0, healed.out + healed.err
    assert uuid not in grounds.domains("kvm1") and grounds.files("kvm1") == []
    assert novactl.json("host", "show", "kvm1")["state"] == "up"


def test_typed_name(grounds: Grounds, name: Callable[[], str]) -> None:
    novactl, web, off = grounds.novactl, name(), name()
    made = novactl.json("boot", web, *TINY, "--network", "lan")
    novactl.ok("boot", off, *TINY)
    novactl.ok("stop", off, "--force")
    words = ["evacuate", web, "--i-have-verified-host-is-down"]
    refused(novactl, *words, "kvm1", "--yes", code=5, says="host kvm1 answers: it is not down")
    grounds.host("kvm1").stop()
    refused(novactl, *words, "kvm2", "--yes", code=2, says="is not the host in question")
    refused(novactl, *words, "kvm1", code=8, says="not confirmed: evacuate")
    plan = novactl.ok("evacuate", web, "--dry-run")
    assert "disks are made anew from the image" in plan.out
    assert novactl.json("host", "show", "kvm1")["state"] != "fenced"
    ended = novactl.ok("host", "evacuate", "kvm1", "--i-have-verified-host-is-down", "kvm1", "--yes")
    assert "what was on them is lost" in ended.err
    now = {one["name"]: one for one in novactl.json("list")}
    assert (now[web]["status"], now[off]["status"]) == ("ACTIVE", "SHUTOFF")
    assert {now[web]["host"], now[off]["host"]} <= {"kvm2", "kvm3"}
    assert now[web]["addresses"] == made["addresses"]
    events = [one["message"] for one in novactl.json("event", "list", web)]
    assert any("verified that kvm1 is down" in one for one in events)
    grounds.novactl.ok("delete", off, "--yes")
    returned(grounds, made["uuid"])
    assert grounds.state(now[web]["host"], made["uuid"]) == "running"


@contextlib.contextmanager
def without_libvirt(host: LabHost, how: str) -> Iterator[None]:
    assert host.pid
    there = in_namespace_of(host.pid, "libvirtd")
    if how == "killed":
        host.kill_libvirtd()
    for pid in there if how == "hangs" else ():
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in there if how == "hangs" else ():
            os.kill(pid, signal.SIGCONT)
        host.start_libvirtd()


@pytest.mark.parametrize("how", ["killed", "hangs"])
def test_a_host_without_libvirt_answers(grounds: Grounds, name: Callable[[], str], how: str) -> None:
    """Its guests run on: whoever types its name is wrong."""
    novactl, web, first = grounds.novactl, name(), grounds.host("kvm1")
    uuid = novactl.json("boot", web, *TINY)["uuid"]
    words = ["evacuate", web, "--i-have-verified-host-is-down", "kvm1", "--yes"]
    with without_libvirt(first, how):
        refused(novactl, *words, code=5, says="host kvm1 answers: it is not down")
        refused(novactl, "host", *words[:1], "kvm1", *words[2:], code=5, says="host kvm1 answers")
    assert novactl.json("host", "show", "kvm1")["state"] != "fenced"
    assert novactl.json("show", web)["host"] == "kvm1" and grounds.state("kvm1", uuid) == "running"
    assert grounds.domains("kvm2") == grounds.domains("kvm3") == []


def test_fence_command(grounds: Grounds, name: Callable[[], str], fence: Path) -> None:
    novactl, web = grounds.novactl, name()
    made = novactl.json("boot", web, *TINY)
    grounds.host("kvm1").stop()
    words = ["evacuate", web, "--to", "kvm2", "--yes", "--fenced-by"]
    refused(novactl, *words, "none", code=2, says="fence command 'none' is not in")
    refused(novactl, *words, "broken", code=5, says="ended with 1: nothing is proven")
    novactl.ok(*words, "cut")
    assert fence.read_text().split() == ["kvm1", grounds.host("kvm1").address]
    now = novactl.json("show", web)
    assert (now["host"], now["status"]) == ("kvm2", "ACTIVE")
    console_until(grounds, now, "tiny: ready", 90)
    assert any("fenced by cut: cut off" in one["message"] for one in novactl.json("event", "list", web))
    returned(grounds, made["uuid"])


def test_a_move_that_waits(grounds: Grounds, name: Callable[[], str], fence: Path) -> None:
    """The host that it went to is lost: it goes back without it."""
    novactl, web = grounds.novactl, name()
    uuid = novactl.json("boot", web, *TINY)["uuid"]
    novactl.ok("migrate", web, "--host", "kvm2")
    grounds.host("kvm2").stop()
    refused(novactl, "resize-revert", web, code=7, says="kvm2")
    ended = refused(novactl, "evacuate", web, "--fenced-by", "cut", "--yes", code=5, says="VERIFY_RESIZE")
    assert f"novactl resize-revert {web} does without kvm2" in ended.err
    novactl.ok("resize-revert", web)
    now = novactl.json("show", web)
    assert (now["host"], now["status"], grounds.state("kvm1", uuid)) == ("kvm1", "ACTIVE", "running")
    grounds.host("kvm2").start()
    novactl.ok("audit", "--heal", "--yes")
    assert grounds.domains("kvm2") == [] and grounds.files("kvm2") == []
    assert novactl.json("host", "show", "kvm2")["state"] == "up"
    assert grounds.state("kvm1", uuid) == "running"


def killed(grounds: Grounds, step: str, *words: str, instant: str = "after-act") -> None:
    """novactl dies by SIGKILL after this step has acted."""
    argv = [sys.executable, "-m", dying.MODULE, step, instant, "--", *words]
    ended = subprocess.run(argv, env=grounds.novactl.environment, cwd=ROOT, capture_output=True, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


@pytest.mark.parametrize("evacuated", [True, False], ids=["evacuated", "not"])
def test_a_move_that_was_left_half_way(grounds: Grounds, name: Callable[[], str], evacuated: bool) -> None:
    """Its host is lost with the files set aside there. They go once the instance is elsewhere; when it could
    not be evacuated they are all there is of it, and get their name again."""
    novactl, web = grounds.novactl, name()
    uuid = novactl.json("boot", web, *TINY)["uuid"]
    killed(grounds, "leave-host", "migrate", web, "--host", "kvm2")
    assert grounds.files("kvm1") == [f"{uuid}_resize"]
    grounds.host("kvm1").stop()
    words = ["evacuate", web, "--yes", "--i-have-verified-host-is-down", "kvm1"]
    if evacuated:
        novactl.ok(*words)
        assert novactl.json("show", web)["status"] == "ACTIVE"
    else:
        novactl.ok("host", "set", "kvm2", "--disable")
        refused(novactl, *words, "--to", "kvm2", code=5, says=web)
        novactl.ok("host", "set", "kvm2", "--enable")
    assert novactl.json("op", "list", "--active") == []
    assert grounds.files("kvm2") == ([uuid] if novactl.json("show", web)["host"] == "kvm2" else [])
    grounds.host("kvm1").start()
    found = {one["finding"] for one in json.loads(novactl("audit", "-o", "json").out)}
    assert ("stale-copy" if evacuated else "files-aside") in found
    novactl("audit", "--heal", "--yes")
    assert grounds.files("kvm1") == ([] if evacuated else [uuid])
    novactl.ok("start", web)
    healed = novactl("audit", "--heal", "--yes")
    assert healed.code == 0, healed.out + healed.err
    assert novactl.json("host", "show", "kvm1")["state"] == "up"
    assert novactl.json("show", web)["status"] == "ACTIVE"


@pytest.mark.parametrize(
    ("step", "how"), [("record-moved", "--confirm"), ("record-arrived", "--live")], ids=["cold", "live"]
)
def test_a_move_whose_new_host_is_lost_before_the_old_one_was_cleaned(
    grounds: Grounds, name: Callable[[], str], step: str, how: str
) -> None:
    """What the old one has is all that is left: nothing takes it, and the move is reverted."""
    novactl, web = grounds.novactl, name()
    uuid = novactl.json("boot", web, *TINY, "--host", "kvm1")["uuid"]
    grounds.host("kvm1").run(["touch", f"{INSTANCES}/{uuid}/witness"]).check_returncode()
    killed(grounds, step, "migrate", web, "--host", "kvm2", how, instant="after-record")
    grounds.host("kvm2").stop()
    words = ["evacuate", web, "--yes", "--i-have-verified-host-is-down", "kvm2"]
    refused(novactl, *words, code=5, says=web, hint="resize-revert")
    assert novactl.json("show", web)["status"] == "VERIFY_RESIZE"
    novactl.ok("resize-revert", web)
    assert novactl.json("op", "list", "--active") == []
    assert novactl.json("show", web)["host"] == "kvm1"
    assert grounds.host("kvm1").run(["ls", f"{INSTANCES}/{uuid}/witness"]).returncode == 0
    novactl.ok("start", web)
    assert grounds.state("kvm1", uuid) == "running"
    grounds.host("kvm2").start()
    novactl("audit", "--heal", "--yes")
    healed = novactl("audit", "--heal", "--yes")
    assert healed.code == 0, healed.out + healed.err
    assert grounds.files("kvm2") == [] and grounds.domains("kvm2") == []
    assert novactl.json("host", "show", "kvm2")["state"] == "up"


SHARED = "/srv/shared/instances"


@pytest.fixture
def sharing(tmp_path: Path) -> Iterator[Grounds]:
    """Two hosts whose instances are on one storage."""
    lab_name = f"v{os.getpid() % 1000000}"
    lab.down(lab_name)
    try:
        fleet = lab.up(lab_name, 2)
        made = Grounds(fleet, Command(tmp_path / "novactl"))
        for host in fleet.hosts:
            made.novactl.ok(*made.add_words(host.name), "--instances-path", SHARED)
            made.novactl.ok("host", "set", host.name, "--cpu-ratio", "32")
        tiny = guests.tiny()
        kernel = ["--kernel", str(tiny.kernel), "--initrd", str(tiny.initrd), "--cmdline", tiny.cmdline]
        made.novactl.ok("image", "add", "tiny", "--file", str(tiny.disk), "--format", "raw", *kernel)
        made.novactl.ok("flavor", "create", "tiny", "--vcpus", "1", "--memory", "96", "--disk", "1")
        yield made
    finally:
        lab.down(lab_name)


def test_shared_storage(sharing: Grounds) -> None:
    """A guest that runs on behind a cut cable vetoes; once it is dead its disk is kept, and audit takes the
    domain that is left and no file."""
    novactl, first = sharing.novactl, sharing.host("kvm1")
    made = novactl.json("boot", "web", *TINY)
    uuid = made["uuid"]
    sharing.host("kvm2").run(["touch", f"{SHARED}/{uuid}/witness"])
    words = ["evacuate", "web", "--i-have-verified-host-is-down", "kvm1", "--yes"]
    first.cut()
    refused(novactl, *words, code=5, says="disk is held open: its guest runs somewhere")
    assert novactl.json("show", "web")["host"] == "kvm1"
    first.stop()
    ended = novactl.ok(*words)
    assert "made anew" not in ended.err
    assert sharing.state("kvm2", uuid) == "running"
    witness = sharing.host("kvm2").run(["ls", f"{SHARED}/{uuid}/witness"])
    assert witness.returncode == 0
    first.start()
    found = {one["finding"] for one in json.loads(novactl("audit", "-o", "json").out)}
    assert found == {"stale-domain", "fenced-host"}
    novactl.ok("audit", "--heal", "--yes")
    assert sharing.domains("kvm1") == [] and sharing.state("kvm2", uuid) == "running"
    assert sharing.host("kvm2").run(["ls", f"{SHARED}/{uuid}/disk"]).returncode == 0
    assert novactl.json("host", "show", "kvm1")["state"] == "up"
    novactl.ok("delete", "web", "--yes")


def test_what_its_firmware_remembers_is_not_on_that_storage(sharing: Grounds) -> None:
    """A cold move takes it along, and the host that it left keeps it until the move is confirmed."""
    novactl = sharing.novactl
    image = ["--file", str(guests.tiny().disk), "--format", "raw", "--property", "hw_firmware_type=uefi"]
    novactl.ok("image", "add", "uefi", *image)
    novactl.ok("flavor", "create", "mid", "--vcpus", "1", "--memory", "256", "--disk", "1")
    uuid = novactl.json("boot", "web", "--flavor", "mid", "--image", "uefi", "--host", "kvm1")["uuid"]
    wait_until(lambda: "Shell" in novactl.ok("console-log", "web").out, 60, "the shell of the firmware")
    novactl.ok("stop", "web", "--force")

    def nvram(host: str) -> str:
        look = "sha256sum /var/lib/libvirt/qemu/nvram/* 2>/dev/null | cut -c 1-64"
        return sharing.host(host).run(["sh", "-c", look]).stdout

    written = nvram("kvm1")
    assert len(written) == 65
    novactl.ok("migrate", "web", "--host", "kvm2")
    assert (nvram("kvm1"), nvram("kvm2")) == (written, written)
    novactl.ok("resize-revert", "web")
    assert (nvram("kvm1"), nvram("kvm2")) == (written, "")
    novactl.ok("migrate", "web", "--host", "kvm2", "--confirm")
    assert (nvram("kvm1"), nvram("kvm2")) == ("", written)
    files = sharing.host("kvm1").run(["ls", "-A", f"{SHARED}/{uuid}"]).stdout.split()
    assert not [file for file in files if "nvram" in file]
    novactl.ok("start", "web")
    assert sharing.state("kvm2", uuid) == "running"
    novactl.ok("delete", "web", "--yes")
