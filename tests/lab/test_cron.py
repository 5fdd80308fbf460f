"""cron on real hypervisors: base files are pruned or kept, a dead host is told once, guests are kept running,
and one that is killed leaves nothing that is not finished."""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from novactl.cloud import Cloud
from novactl.db import settings
from novactl.settings import Settings
from tests.lab.conftest import Grounds
from tests.lab.support import INSTANCES, unsettled, wait_until
from tests.support.command import Command

pytestmark = pytest.mark.lab
TINY = ["--flavor", "tiny", "--image", "tiny"]
KEEP = {"name": "keep", "do": "keep-running", "selector": ["keep"]}
SETTLED = {"name": "settled", "do": "resize-confirm"}
BY_ITSELF = "#!/bin/sh\n(sleep 3; poweroff -f) >/dev/null 2>&1 &\n"
ROUNDS = 3
LEASE = 2


@contextmanager
def policies(novactl: Command, *wanted: dict[str, Any]) -> Iterator[None]:
    """The fleet has these policies meanwhile."""
    cloud = Cloud(Settings(config=novactl.config), tell=print)
    cloud.db.write(lambda tx: settings.put(tx, "policies", list(wanted)))
    try:
        yield
    finally:
        cloud.db.write(lambda tx: settings.put(tx, "policies", []))
        cloud.close()


def sh(grounds: Grounds, host: str, text: str) -> str:
    ended = grounds.host(host).run(["sh", "-ec", text])
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def age(grounds: Grounds, host: str) -> None:
    """All base files there were last used ten days ago."""
    sh(grounds, host, f"find {INSTANCES}/_base -type f -exec touch -d '10 days ago' {{}} +")


def bases(grounds: Grounds, host: str) -> set[str]:
    return set(sh(grounds, host, f"ls {INSTANCES}/_base").split())


def test_unused_base_files_go_and_used_ones_stay(grounds: Grounds, name):
    novactl, kept, gone = grounds.novactl, name(), name()
    novactl.ok("boot", kept, *TINY, "--swap", "64", "--host", "kvm1")
    novactl.ok("boot", gone, *TINY, "--swap", "64", "--host", "kvm2")
    novactl.ok("delete", gone, "--yes")
    image = novactl.json("image", "show", "tiny")
    disk, others = image["sha256"], {image["kernel_sha256"], image["initrd_sha256"], "swap_64_v2"}
    stranger = f"cd {INSTANCES} && mkdir stranger && qemu-img create -q -f qcow2 -F raw"
    sh(grounds, "kvm2", f"{stranger} -b ../_base/{disk} stranger/disk >/dev/null")
    try:
        for host in ("kvm1", "kvm2"):
            age(grounds, host)
        shown = novactl.json("image", "prune", "--on", "kvm2", "--dry-run")
        assert {row["file"] for row in shown if row["reason"] == "nothing uses it"} >= others
        assert bases(grounds, "kvm2") >= {disk, *others}
        ended = novactl("cron", "--task", "prune-caches", "-o", "json")
        (row,) = ended.json
        assert ended.code == 0 and row["attention"] == [], ended
        assert bases(grounds, "kvm1") >= {disk, *others}
        assert disk in bases(grounds, "kvm2") and not bases(grounds, "kvm2") & others
        rows = {row["file"]: row for row in novactl.json("image", "prune", "--on", "kvm2")}
        assert rows[disk]["reason"] == "a file on the host names it" and not rows[disk]["removed"]
    finally:
        sh(grounds, "kvm2", f"rm -r {INSTANCES}/stranger")
    age(grounds, "kvm2")
    (removed,) = [row for row in novactl.json("image", "prune", "--on", "kvm2") if row["removed"]]
    assert removed["file"] == disk and removed["size_bytes"] > 0
    novactl.ok("stop", kept, "--force")
    novactl.ok("start", kept)  # all that it needs is there
    novactl.ok("boot", gone, *TINY, "--swap", "64", "--host", "kvm2")  # and what is not is fetched again
    assert novactl("audit").code == 0


def test_a_host_that_dies_is_told_once(grounds: Grounds):
    novactl = grounds.novactl
    assert (novactl("cron", "--task", "facts").out) == ""
    grounds.host("kvm3").stop()
    try:
        first = novactl("cron", "--task", "facts")
        assert first.code == 10 and first.out.startswith("facts: kvm3: ") and first.out.count("\n") == 1
        again = novactl("cron", "--task", "facts")
        assert (again.code, again.out, again.err) == (10, "", "")
        (down,) = [row for row in novactl("check", "-o", "json").json if row["target"] == "kvm3"]
        assert (down["result"], down["message"]) == ("fail", "kvm3: is down")
        assert novactl("check", "--nagios").out.startswith("NOVACTL CRITICAL - kvm3: is down")
    finally:
        grounds.host("kvm3").start()
    back = novactl("cron", "--task", "facts")
    assert back.code == 0 and back.out.startswith("facts: over: kvm3: ")
    assert {host["state"] for host in novactl.json("host", "list")} == {"up"}


def test_a_guest_that_powers_itself_off_is_started_again(grounds: Grounds, name, tmp_path):
    novactl, web = grounds.novactl, name()
    script = tmp_path / "user-data"
    script.write_text(BY_ITSELF)
    made = novactl.json("boot", web, *TINY, "--host", "kvm1", "--tag", "keep", "--user-data", str(script))
    with policies(novactl, KEEP):
        wait_until(lambda: grounds.state("kvm1", made["uuid"]) == "shut off", 60, "the guest to go off")
        ended = novactl("cron", "--task", "policies", "-v")
        assert ended.code == 0 and ended.out == ""
        assert f"policies: keep: {web} went off by itself and is started" in ended.err
        assert grounds.state("kvm1", made["uuid"]) == "running"
        novactl.ok("stop", web, "--force")
        assert novactl("cron", "--task", "policies", "-v").err == "policies: done\n"
        assert novactl.json("show", web)["status"] == "SHUTOFF"
    events = [event["action"] for event in novactl.json("event", "list", web)]
    assert events == ["boot", "power-seen", "start", "stop"]


def test_a_move_is_confirmed_when_it_has_waited(grounds: Grounds, name):
    novactl, web = grounds.novactl, name()
    made = novactl.json("boot", web, *TINY, "--host", "kvm1")
    novactl.ok("migrate", web, "--host", "kvm2")
    with policies(novactl, {**SETTLED, "after": 3600}):
        assert novactl("cron", "--task", "policies", "-v").err == "policies: done\n"
        assert novactl.json("show", web)["status"] == "VERIFY_RESIZE"
    with policies(novactl, {**SETTLED, "after": 1}):
        time.sleep(1)
        novactl.ok("lock", web)
        held = novactl("cron", "--task", "policies")
        assert (held.code, held.out) == (10, f"policies: {web}: its move is not confirmed: is locked\n")
        novactl.ok("unlock", web)
        (shown,) = novactl.json("cron", "--task", "policies", "--dry-run")
        assert shown["changes"] == [f"settled: resize-confirm {web}"]
        assert novactl.json("show", web)["status"] == "VERIFY_RESIZE"
        ended = novactl("cron", "--task", "policies", "-v")
        assert ended.code == 0 and f"policies: settled: resize-confirm {web}" in ended.err
    found = novactl.json("show", web)
    assert (found["status"], found["host"]) == ("ACTIVE", "kvm2")
    assert grounds.state("kvm2", made["uuid"]) == "running"
    assert made["uuid"] not in sh(grounds, "kvm1", f"ls {INSTANCES}") and unsettled(grounds) == []


@pytest.mark.long
def test_killed_at_random_it_leaves_nothing(grounds: Grounds, name):
    chance = random.Random(4)
    novactl, names = grounds.novactl, [name(), name()]
    for n, each in enumerate(names, 1):
        novactl.ok("boot", each, *TINY, "--host", f"kvm{n}", "--tag", "keep")
    made = {one["name"]: one for one in novactl.json("list") if one["name"] in names}
    environment = {**novactl.environment, "NOVACTL_LEASE": str(LEASE)}
    killed = 0
    with policies(novactl, KEEP):
        for _ in range(ROUNDS):
            for one in made.values():
                sh(grounds, one["host"], f"virsh -q destroy {one['uuid']}")
            running = novactl.popen("cron", "--task", "policies", env=environment)
            time.sleep(chance.uniform(0.5, 2.5))
            killed += running.poll() is None
            running.kill()
            running.communicate()
            time.sleep(LEASE + 0.5)
            assert all(row["result"] == "done" for row in novactl.json("op", "resume", "--all"))
            novactl.ok("cron", "--task", "policies")
            states = {grounds.state(one["host"], one["uuid"]) for one in made.values()}
            assert states == {"running"}
    assert killed > 0
    assert unsettled(grounds) == []
    assert novactl("audit").code == 0
    assert novactl("cron", "--task", "leases").code == 0
