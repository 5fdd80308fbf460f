"""boot on real hypervisors, seen from outside: the console, the hypervisor, the files."""

import json
import re
import time

import pytest

from tests.lab.conftest import Grounds

pytestmark = pytest.mark.lab


def console_until(grounds: Grounds, name: str, words: str, seconds: float = 60) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        text = grounds.novactl.ok("console-log", name).out
        if words in text:
            return text
        time.sleep(0.3)
    raise AssertionError(f"{words!r} not on the console of {name}:\n{text}")


def test_the_guest_gets_what_was_asked_for(grounds, name, address, tmp_path):
    web = name()
    script = tmp_path / "user-data"
    script.write_text("#!/bin/sh\necho user-data ran as asked\n")
    made = grounds.novactl.json(
        "boot", web, "--flavor", "tiny", "--image", "tiny", "--network", f"lan,ip={address(1)}",
        "--user-data", str(script), "--ephemeral", "1", "--swap", "64", "--meta", "role=web", "--tag", "blue",
    )  # fmt: skip
    text = console_until(grounds, web, "tiny: ready")
    kernel = re.compile(r"\[ *\d+\.\d+\] ")  # it tells of its own, on a busy machine
    assert next(line for line in text.splitlines() if not kernel.match(line)).startswith("tiny: hello from ")
    assert f"tiny: hostname {web}" in text
    assert f"tiny: uuid {made['uuid']}" in text
    assert f"{address(1)}/24" in text
    assert "user-data ran as asked" in text and "tiny: user-data done rc=0" in text
    assert "label=ephemeral0" in text and "vdc 67108864" in text
    assert made["status"] == "ACTIVE" and made["metadata"] == {"role": "web"} and made["tags"] == ["blue"]
    assert grounds.state(made["host"], made["uuid"]) == "running"


def test_files_and_domain_are_as_documented(grounds, name):
    web = name()
    made = grounds.novactl.json("boot", web, "--flavor", "tiny", "--image", "tiny", "--swap", "32")
    host = grounds.host(made["host"])
    directory = f"/var/lib/novactl/instances/{made['uuid']}"
    files = set(host.run(["ls", "-A", directory]).stdout.split())
    assert {"disk", "disk.swap", "disk.config", "disk.info", "libvirt.xml", "console.log"} <= files
    info = json.loads(host.run(["cat", f"{directory}/disk.info"]).stdout)
    assert info == {
        f"{directory}/disk": "qcow2",
        f"{directory}/disk.swap": "qcow2",
        f"{directory}/disk.config": "raw",
    }
    seen = json.loads(
        host.run(["qemu-img", "info", "-U", "-f", "qcow2", "--output=json", f"{directory}/disk"]).stdout
    )
    image = grounds.novactl.json("image", "show", "tiny")
    assert seen["backing-filename"] == f"../_base/{image['sha256']}"
    assert seen["backing-filename-format"] == "raw"
    sidecar = json.loads(host.run(["cat", f"/var/lib/novactl/instances/_base/{image['sha256']}.json"]).stdout)
    assert sidecar["source_sha256"] == sidecar["raw_sha256"] == image["sha256"]
    xml = host.run(["virsh", "dumpxml", made["uuid"]]).stdout
    fleet = grounds.novactl.json("db", "init")["fleet"]
    assert f'fleet="{fleet}"' in xml and "listen type='socket'" in xml
    owner = host.run(["stat", "-c", "%U", f"{directory}/disk"]).stdout.strip()
    assert owner == "libvirt-qemu"


def test_dry_run_shows_the_very_steps_and_changes_nothing(grounds, name):
    web = name()
    words = ["boot", web, "--flavor", "tiny", "--image", "tiny", "--network", "lan"]
    plan = grounds.novactl.json(*words, "--dry-run")
    assert grounds.novactl.json("list") == [] and grounds.leftovers() == {}
    grounds.novactl.ok(*words)
    (boot,) = [o for o in grounds.novactl.json("op", "list") if o["target"] == web]
    steps = grounds.novactl.json("op", "show", boot["id"])["steps"]
    assert [{k: s[k] for k in ("n", "name", "kind", "host", "summary")} for s in steps] == plan["steps"]
    assert plan["host"] == grounds.novactl.json("show", web)["host"]


def test_count_boots_in_parallel_and_spreads(grounds, name):
    base = name()
    made = grounds.novactl.json(
        "boot", base, "--count", "6", "--flavor", "tiny", "--image", "tiny", "--network", "lan"
    )
    assert [row["target"] for row in made] == [f"{base}-{n}" for n in range(1, 7)]
    assert {row["result"] for row in made} == {"done"}
    placed = [row["instance"]["host"] for row in made]
    assert {placed.count(host.name) for host in grounds.fleet.hosts} == {2}
    addresses = [row["instance"]["addresses"]["lan"][0]["ip"] for row in made]
    assert len(set(addresses)) == 6
    (parent,) = [o for o in grounds.novactl.json("op", "list") if o["target"] == "6 instances"]
    assert len(grounds.novactl.json("op", "show", parent["id"])["children"]) == 6


def test_repeating_a_boot(grounds, name):
    web = name()
    words = ["boot", web, "--flavor", "tiny", "--image", "tiny"]
    first = grounds.novactl.json(*words)
    again = grounds.novactl(*words)
    assert again.code == 5 and "exists already" in again.err
    assert grounds.novactl.json(*words, "--if-not-exists")["uuid"] == first["uuid"]
    assert grounds.novactl.json("show", first["uuid"][:8])["name"] == web


def test_wait_for_ssh_sees_the_banner(grounds, name, address):
    web = name()
    grounds.novactl.ok(
        "boot", web, "--flavor", "tiny", "--image", "tiny", "--network", f"lan,ip={address(2)}",
        "--wait-for", "ssh", "--wait-timeout", "60",
    )  # fmt: skip
    assert "tiny: ready" in console_until(grounds, web, "tiny: ready", 5)
    grounds.novactl.ok("wait", web, "ssh", "--timeout", "20")
    grounds.novactl.ok("wait", web, "status=ACTIVE", "--timeout", "5")
    late = grounds.novactl("wait", web, "status=SHUTOFF", "--timeout", "1")
    assert late.code == 124
