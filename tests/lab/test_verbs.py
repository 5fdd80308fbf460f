"""Every verb on instances, on real guests: what the guest, the hypervisor and the disk show of it."""

import re
import signal
import time

import pytest

from novactl.actions.power import Stop
from novactl.cloud import Cloud
from novactl.settings import Settings
from tests.lab.conftest import Grounds
from tests.lab.support import (
    INSTANCES,
    Running,
    console,
    console_until,
    last,
    nothing_left,
    on_host,
    refused,
    step,
    unchanged,
    wait_until,
)

pytestmark = pytest.mark.lab

TINY = ["--flavor", "tiny", "--image", "tiny"]
DEAF = ["--flavor", "tiny", "--image", "deaf"]


def test_stop_is_seen_by_the_guest_and_start_keeps_its_data(grounds, name, tmp_path):
    web, novactl = name(), grounds.novactl
    key = tmp_path / "id.pub"
    key.write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGsTyYGh0bB7cNXKBgCcyzWJ1AL7UXIbCWYlh44S1ZoH me\n")
    novactl.ok("keypair", "add", web, "--public-key", str(key))
    made = novactl.json("boot", web, *TINY, "--network", "lan", "--key", web, "--meta", "role=web server")
    text = console_until(grounds, made, "tiny: ready")
    for line in ("boot count 1", f"key {web}", "meta role=web server"):
        assert f"tiny: {line}" in text.splitlines()

    (stopped,) = novactl.json("stop", web)
    assert (stopped["result"], stopped["code"], stopped["instance"]["status"]) == ("done", 0, "SHUTOFF")
    assert grounds.state(made["host"], made["uuid"]) == "shut off"
    assert "tiny: power button" in console(grounds, made)
    assert step(last(novactl, web), "shut-off")["result"] == {"forced": False}
    for verb, state in (("stop", "shut off"), ("start", "running")):
        novactl.ok(verb, web)
        (again,) = novactl.json(verb, web)
        assert (again["result"], again["code"], again["operation"]) == ("unchanged", 0, None)
        assert again["uuid"] == made["uuid"] and grounds.state(made["host"], made["uuid"]) == state
    console_until(grounds, made, "tiny: boot count 2")

    events = novactl.json("event", "list", web)
    assert [(e["action"], e["result"]) for e in events] == [(v, "done") for v in ("boot", "stop", "start")]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", e["time"]) for e in events)
    done = last(novactl, web)
    assert (done["kind"], done["state"], done["steps_done"]) == ("start", "done", done["steps_total"])
    assert novactl("op", "show", done["id"]).out.startswith("FIELD")
    novactl.ok("delete", web, "--yes")  # while it runs
    novactl.ok("keypair", "delete", web)
    nothing_left(grounds)


def test_a_guest_that_ignores_acpi_is_powered_off(grounds, name):
    deaf, novactl = name(), grounds.novactl
    made = novactl.json("boot", deaf, *DEAF)
    console_until(grounds, made, "tiny: ready")
    cloud = Cloud(Settings(config=novactl.config), tell=print)
    began = time.monotonic()
    (outcome,) = cloud.operator.run([Stop(name=deaf, project="default", timeout=2)])
    cloud.close()
    assert outcome.result == "done" and 2 <= time.monotonic() - began < 20
    assert step(last(novactl, deaf), "shut-off")["result"] == {"forced": True}
    assert grounds.state(made["host"], made["uuid"]) == "shut off"
    assert "power button" not in console(grounds, made)

    novactl.ok("delete", deaf, "--yes")  # while it is off
    assert grounds.leftovers() == {}


def test_several_targets(grounds, name):
    base, novactl = name(), grounds.novactl
    novactl.ok("boot", base, *DEAF, "--count", "2")
    one, two = f"{base}-1", f"{base}-2"

    began = time.monotonic()
    partly = novactl("stop", one, "nosuch", two, "--force", "-o", "json")
    assert time.monotonic() - began < 8  # deaf or not, it is off at once
    assert partly.code == 3 and partly.error["type"] == "PartlyDone"
    assert [(r["target"], r["result"], r["code"]) for r in partly.json] == [
        (one, "done", 0),
        ("nosuch", "failed", 4),
        (two, "done", 0),
    ]
    assert partly.json[1]["error"]["type"] == "NotFound" and "nosuch" in partly.error["message"]
    assert [t["target"] for t in partly.error["targets"]] == [one, "nosuch", two]
    assert {i["status"] for i in novactl.json("list")} == {"SHUTOFF"}

    with unchanged(grounds):
        refused(novactl, "start", one, one, code=2, says="given twice")
        refused(novactl, "start", "nosuch1", "nosuch2", code=4, says="2 of 2 failed")
        refused(novactl, "delete", one, two, code=8, says=f"delete {one}, {two}", hint="--yes")
        refused(novactl, "delete", "nosuch", "--yes", code=4, says="'nosuch' does not exist")
        refused(novactl, "start", one[:-1], code=4, says="does not exist", hint=one)
        assert novactl.json("delete", "nosuch", "--if-exists", "--yes")[0]["result"] == "unchanged"
        shown = novactl.json("show", one)
        refused(novactl, "start", shown["uuid"][:8], code=4, says="does not exist")  # no prefix to change it
        (plan,) = novactl.json("delete", one, "--dry-run")
        assert [s["name"] for s in plan["steps"]][-1] == "record-deleted"
    gone = novactl.json("delete", one, two, "nosuch", "--if-exists", "--yes")
    assert [r["result"] for r in gone] == ["done", "done", "unchanged"]
    nothing_left(grounds)


def test_list_and_show(grounds, name):
    base, novactl = name(), grounds.novactl
    red = novactl.json("boot", f"{base}-red", *DEAF, "--host", "kvm1", "--meta", "role=web", "--tag", "hot")
    blue = novactl.json("boot", f"{base}-blue", *DEAF, "--host", "kvm2", "--meta", "role=db", "--tag", "hot")
    novactl.ok("stop", f"{base}-blue", "--force")

    def names(*words: str) -> list[str]:
        return [item["name"].removeprefix(f"{base}-") for item in novactl.json("list", *words)]

    assert names() == ["red", "blue"]
    assert names("--status", "shutoff") == ["blue"] and names("--status", "ACTIVE") == ["red"]
    assert names("--on", "kvm1") == ["red"] and names("--on", "kvm3") == []
    assert names("--name", "-bl.e$") == ["blue"]
    assert names("-l", "role=web") == ["red"] and names("-l", "hot") == ["red", "blue"]
    assert names("-l", "hot,role=db") == ["blue"] and names("-l", "role=none") == []
    assert novactl.ok("list", "-o", "name").out.split() == [f"{base}-red", f"{base}-blue"]
    refused(novactl, "list", "--name", "(", code=2, says="not a regular expression")

    def did(*words: str) -> list[tuple[str, str]]:
        return [(row["target"].removeprefix(f"{base}-"), row["result"]) for row in novactl.json(*words)]

    assert did("stop", "-l", "role=none") == [] == did("start", "--on", "kvm3")
    assert did("start", "-l", "role=db") == [("blue", "done")]
    assert did("stop", "--on", "kvm1", "--force") == [("red", "done")]
    assert did("start", "--all") == [("red", "done"), ("blue", "unchanged")]
    assert grounds.state("kvm1", red["uuid"]) == grounds.state("kvm2", blue["uuid"]) == "running"
    refused(novactl, "stop", "--on", "kvm9", code=4, says="'kvm9' does not exist", hint="kvm1")
    refused(novactl, "stop", code=2, says="")
    refused(novactl, "delete", "--all", "--yes", code=2, says="--all")
    refused(novactl, "delete", "-l", "hot", code=8, says="-red")

    for words in (red["name"], red["uuid"], red["uuid"].upper(), red["uuid"][:8]):
        assert novactl.json("show", words)["uuid"] == red["uuid"]
    refused(novactl, "show", red["uuid"][:7], code=4, says="does not exist")

    waiter = Running(novactl, "wait", red["name"], "deleted", "--timeout", "30")
    assert did("delete", "-l", "hot", "--yes") == [("red", "done"), ("blue", "done")]
    assert waiter.end(30) == 0
    shown = novactl.json("show", red["uuid"])
    assert (shown["status"], shown["host"], shown["fault"]) == ("DELETED", None, None) and shown["deleted_at"]
    assert {red["uuid"], blue["uuid"]} <= {item["uuid"] for item in novactl.json("list", "--deleted")}
    events = [e["action"] for e in novactl.json("event", "list", red["uuid"])]
    assert events == ["boot", "stop", "start", "delete"]
    refused(novactl, "show", red["name"], code=4, says="does not exist")
    refused(novactl, "delete", red["uuid"], "--yes", code=4, says="does not exist")


def test_console_log(grounds, name):
    beats, novactl = name(), grounds.novactl
    image = novactl.json("image", "show", "tiny")
    stored = [novactl.config / "images" / image[f"{part}sha256"] for part in ("", "kernel_", "initrd_")]
    disk, kernel, initrd = map(str, stored)
    direct = ["--kernel", kernel, "--initrd", initrd, "--cmdline", f"{image['cmdline']} tiny.heartbeat"]
    novactl.ok("image", "add", beats, "--file", disk, "--format", "raw", *direct)
    made = novactl.json("boot", beats, "--flavor", "tiny", "--image", beats)
    follow = Running(novactl, "console-log", beats, "--follow", stdout=-1)
    seen = [follow.process.stdout.readline()]
    while not seen[-1].startswith("tiny: heartbeat 2"):
        seen.append(follow.process.stdout.readline())
        assert seen[-1], f"it ended: {seen} {follow.said}"
    assert seen[0].startswith("tiny: hello from ")
    follow.signal(signal.SIGINT)
    assert follow.end(10) == 130 and follow.said == ""
    tail = novactl.ok("console-log", beats, "--lines", "2").out.splitlines()
    assert len(tail) == 2 and tail[1].startswith("tiny: heartbeat ")
    assert novactl.ok("console-log", made["uuid"][:8]).out in console(grounds, made)
    refused(novactl, "console-log", beats, "--lines", "-1", code=2, says="negative")
    refused(novactl, "console-log", "nosuch", code=4, says="does not exist")
    novactl.ok("delete", beats, "--yes")
    novactl.ok("image", "delete", beats, "--yes")


def test_wait(grounds, name, address):
    web, novactl = name(), grounds.novactl
    novactl.ok("boot", web, *DEAF, "--network", f"lan,ip={address(9)}")
    for condition in ("status=active", "ip"):
        novactl.ok("wait", web, condition, "--timeout", "30")
    refused(novactl, "wait", web, "deleted", "--timeout", "0.5", code=124, says="not deleted within")
    refused(novactl, "wait", web, "status=SHUTOFF", "--timeout", "0.5", code=124, says="it is ACTIVE")
    refused(novactl, "wait", web, "happiness", code=2, says="'happiness' is not known", hint="status=ACTIVE")
    refused(novactl, "wait", "nosuch", "ip", code=4, says="does not exist")
    refused(novactl, "boot", f"{web}x", *TINY, "--wait-for", "godot", code=2, says="'godot' is not one of")
    late = refused(novactl, "wait", web, "cloud-init", "--timeout", "1", code=124, says="no cloud-init")
    assert late.error["retryable"] and web in late.error["hint"]


@pytest.fixture
def survivor(grounds, name):
    made = grounds.novactl.json("boot", name(), *TINY, "--host", "kvm3", "--network", "lan", "--swap", "16")
    console_until(grounds, made, "tiny: boot count 1")
    return made


def test_a_guest_is_back_after_its_host_was_off(grounds, survivor):
    novactl, host, uuid = grounds.novactl, grounds.host("kvm3"), survivor["uuid"]

    def third() -> str:
        return console(grounds, survivor).partition("tiny: boot count 3")[2]

    host.stop()
    refused(novactl, "start", survivor["name"], code=7, says="kvm3: ")
    host.start()
    assert grounds.state("kvm3", uuid) == "shut off" and novactl.json("show", uuid)["status"] == "ACTIVE"
    novactl.ok("start", survivor["name"])
    console_until(grounds, survivor, "tiny: boot count 2")

    # nothing is left on the host but the guest's own disk: no base file (they are fetched again, the blank
    # swap made again), no domain, nothing that describes it
    for command in (["virsh", "destroy", uuid], ["virsh", "undefine", uuid]):
        host.run(command)
    host.run(["sh", "-c", f"rm -rf {INSTANCES}/_base/* {INSTANCES}/_base/.[!.]*"])
    host.run(["sh", "-c", f"cd {INSTANCES}/{uuid} && rm libvirt.xml disk.config disk.info"])
    assert on_host(host)["domains"] == []
    novactl.ok("start", survivor["name"])
    fetched = step(last(novactl, survivor["name"]), "fetch-base")["result"]
    assert fetched == {"cached": False, "resumed_from": 0}
    console_until(grounds, survivor, "tiny: boot count 3")
    wait_until(lambda: "tiny: ready" in third(), 30, "the third boot's end")
    assert f"tiny: uuid {uuid}" in third() and f"tiny: hostname {survivor['name']}" in third()
    assert "libvirt.xml" in host.run(["ls", f"{INSTANCES}/{uuid}"]).stdout
    assert novactl.json("show", uuid)["addresses"] == survivor["addresses"]


def test_a_guest_that_went_off_by_itself_can_be_stopped_and_deleted(grounds: Grounds, name):
    web, novactl = name(), grounds.novactl
    made = novactl.json("boot", web, *DEAF)
    host = grounds.host(made["host"])
    host.run(["virsh", "destroy", made["uuid"]])
    assert novactl.json("stop", web)[0]["result"] == "done"
    assert novactl.json("show", web)["status"] == "SHUTOFF"
    host.run(["virsh", "undefine", made["uuid"]])
    host.run(["rm", "-rf", f"{INSTANCES}/{made['uuid']}"])
    novactl.ok("delete", web, "--yes")
    nothing_left(grounds)
