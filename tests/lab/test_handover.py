"""Operations that a detached novactl carries out, waits that end before they do, and processes that sleep
past their lease."""

import json
import os
import re
import signal
import time

import pytest

from tests.lab.conftest import Grounds
from tests.lab.support import (
    Running,
    active,
    gate,
    nothing_left,
    processes_with,
    refused,
    step,
    unchanged,
    wait_until,
)
from tests.lab.test_operations import begun

pytestmark = pytest.mark.lab
TINY = ["--flavor", "tiny", "--image", "tiny"]
DEAF = ["--flavor", "tiny", "--image", "deaf"]
ID = re.compile(r"op-[0-9a-f]{19}")


def test_no_wait_returns_when_a_detached_process_has_it(grounds: Grounds, name):
    web, novactl = name(), grounds.novactl
    with gate(grounds.host("kvm1"), "virsh", "start") as held:
        began = time.monotonic()
        boot = novactl.ok("boot", web, *TINY, "--network", "lan", "--host", "kvm1", "--no-wait")
        assert time.monotonic() - began < 10
        (op_id,) = boot.out.split()
        assert ID.fullmatch(op_id) and "goes on detached; its log: " in boot.err
        wait_until(lambda: novactl.json("op", "show", op_id)["step"] == "start-domain", 30, "its last step")
        (runner,) = [line for line in processes_with(op_id) if " cmdline: " in line]
        pid = int(runner.split()[0])
        assert os.getsid(pid) == pid  # nothing of the terminal it was called from
        held.open()
    assert novactl("op", "wait", op_id, "--timeout", "60").code == 0
    assert novactl.json("show", web)["status"] == "ACTIVE"
    log = novactl.config / "log" / f"{op_id}.log"
    assert log.stat().st_mode & 0o777 == 0o600 and web in log.read_text()
    wait_until(lambda: not processes_with(op_id), 10, "its end")


def test_no_wait_of_several_gives_each_operation(grounds: Grounds, name):
    web, novactl = name(), grounds.novactl
    boot = novactl.ok("-o", "json", "boot", web, *TINY, "--count", "3", "--no-wait")
    assert [row["target"] for row in boot.json] == [f"{web}-{n}" for n in (1, 2, 3)]
    for row in boot.json:
        assert novactl("op", "wait", row["id"], "--timeout", "60").code == 0
    names = [f"{web}-{n}" for n in (1, 2, 3)]
    assert {novactl.json("show", each)["status"] for each in names} == {"ACTIVE"}
    gone = novactl("-o", "json", "delete", *names, "nobody", "--yes", "--no-wait")
    assert gone.code == 3 and len(gone.json) == 3 and "nobody" in gone.err
    for row in gone.json:
        assert novactl("op", "wait", row["id"], "--timeout", "60").code == 0
    nothing_left(grounds)


def test_what_is_refused_is_refused_by_the_command_itself(grounds: Grounds, name):
    web, novactl = name(), grounds.novactl
    with unchanged(grounds):
        refused(novactl, "boot", web, *TINY, "--host", "nowhere", "--no-wait", code=4, says="nowhere")
        novactl.ok("flavor", "create", "huge", "--vcpus", "1", "--memory", "9999999", "--disk", "1")
        huge = ["--flavor", "huge", "--image", "tiny"]
        refused(novactl, "boot", web, *huge, "--no-wait", code=5, says="no host can take it")
        novactl.ok("flavor", "delete", "huge", "--yes")
        refused(novactl, "boot", web, *TINY, "--no-wait", "--timeout", "1", code=2, says="exclude each other")
        refused(novactl, "boot", web, *TINY, "--timeout", "-1", code=2, says="0 or more")
    assert not list((novactl.config / "log").glob(f"*{web}*"))


def test_a_timeout_leaves_it_to_go_on(grounds: Grounds, name):
    web, novactl = name(), grounds.novactl
    with gate(grounds.host("kvm1"), "virsh", "start") as held:
        late = refused(
            novactl, "boot", web, *TINY, "--host", "kvm1", "--timeout", "1", code=124, says="and goes on"
        )
        op_id = late.error["operation"]
        held.open()
    assert novactl("op", "wait", op_id, "--timeout", "60").code == 0
    made = novactl.json("stop", web, "--force", "--timeout", "60")
    assert [(row["result"], row["instance"]["status"]) for row in made] == [("done", "SHUTOFF")]
    assert novactl.json("stop", web, "--timeout", "60")[0]["result"] == "unchanged"


def test_ctrl_c_while_it_waits_asks_for_the_end(grounds: Grounds, name):
    web, novactl = name(), grounds.novactl
    novactl.ok("boot", web, *DEAF)
    stopping = Running(novactl, "stop", web, "--timeout", "100")
    op_id = begun(grounds, "stop", "shut-off")
    stopping.signal(signal.SIGINT)
    assert stopping.end() == 130 and "cancelled" in stopping.said
    assert novactl.json("op", "show", op_id)["state"] == "undone"
    assert novactl.json("show", web)["status"] == "ACTIVE"


def test_waiting_for_a_lock(grounds: Grounds, name):
    web, novactl = name(), grounds.novactl
    novactl.ok("boot", web, *DEAF)
    stopping = Running(novactl, "stop", web)
    op_id = begun(grounds, "stop", "shut-off")
    began = time.monotonic()
    refused(novactl, "stop", web, "--force", "--lock-wait", "1", code=6, says=op_id)
    assert 1 <= time.monotonic() - began < 6
    waiting = Running(novactl, "stop", web, "--force", "--lock-wait", "60")
    time.sleep(1)
    assert waiting.process.poll() is None
    stopping.signal(signal.SIGINT)
    assert (stopping.end(), waiting.end()) == (130, 0)
    assert novactl.json("show", web)["status"] == "SHUTOFF"


def test_a_delete_ends_what_is_in_its_way(grounds: Grounds, name):
    web, novactl = name(), grounds.novactl
    novactl.ok("boot", web, *DEAF)
    stopping = Running(novactl, "stop", web)
    begun(grounds, "stop", "shut-off")
    novactl.ok("delete", web, "--yes")
    assert stopping.end() == 130 and "was cancelled" in stopping.said
    nothing_left(grounds)


@pytest.mark.parametrize("taker", ["resume", "rollback"])
def test_a_sleeper_that_wakes_past_its_lease_is_refused(grounds: Grounds, name, taker):
    web, novactl = name(), grounds.novactl
    short = {**novactl.environment, "NOVACTL_LEASE": "8"}  # two commands within it, on a busy machine
    with gate(grounds.host("kvm1"), "qemu-img", "create", "after") as held:
        boot = Running(novactl, "boot", web, *TINY, "--host", "kvm1", env=short)
        held.reached(boot)
        boot.signal(signal.SIGSTOP)
        op_id = active(novactl)["id"]
        busy = novactl("op", taker, op_id)
        assert busy.code == 6 and "is working on it" in busy.err
        held.open()
    time.sleep(9)
    assert novactl("op", taker, op_id).code == 0
    epoch = grounds.host("kvm1").run(["sh", "-c", "cat /var/lib/novactl/epoch/*"]).stdout.split()
    boot.signal(signal.SIGCONT)
    assert boot.end() == 6
    assert "another novactl" in boot.said
    assert grounds.host("kvm1").run(["sh", "-c", "cat /var/lib/novactl/epoch/*"]).stdout.split() == epoch
    if taker == "resume":
        assert novactl.json("show", web)["status"] == "ACTIVE"
    else:
        nothing_left(grounds)


def test_a_live_process_renews_its_lease(grounds: Grounds, name):
    web, novactl = name(), grounds.novactl
    short = {**novactl.environment, "NOVACTL_LEASE": "2"}
    novactl.ok("boot", web, *DEAF)
    stopping = Running(novactl, "stop", web, env=short)
    op_id = begun(grounds, "stop", "shut-off")
    time.sleep(5)
    assert novactl("op", "resume", op_id).code == 6
    stopping.signal(signal.SIGINT)
    assert stopping.end() == 130


def test_a_host_that_an_intent_names_must_answer_before_a_take_over(grounds: Grounds, name):
    web, novactl = name(), grounds.novactl
    with gate(grounds.host("kvm1"), "qemu-img", "create", "before") as held:
        boot = Running(novactl, "boot", web, *TINY, "--host", "kvm1")
        held.reached(boot)
        boot.signal(signal.SIGKILL)
        boot.process.wait()
        held.open()
    op_id = active(novactl)["id"]
    grounds.host("kvm1").stop()
    left = refused(novactl, "op", "resume", op_id, code=11, says="left half way")
    assert "when kvm1 answers again" in left.error["hint"]
    assert step(novactl.json("op", "show", op_id), "create-disk")["state"] == "started"
    grounds.host("kvm1").start()
    novactl.ok("op", "resume", op_id)
    assert novactl.json("show", web)["status"] == "ACTIVE"


def test_op_run_takes_what_has_no_runner(grounds: Grounds, name):
    web, novactl = name(), grounds.novactl
    with gate(grounds.host("kvm1"), "qemu-img", "create", "before") as held:
        boot = Running(novactl, "boot", web, *TINY, "--host", "kvm1")
        held.reached(boot)
        op_id = active(novactl)["id"]
        refused(novactl, "op", "run", op_id, code=6, says="is working on it")
        boot.signal(signal.SIGKILL)
        boot.process.wait()
        held.open()
    done = novactl.ok("op", "run", op_id, "-o", "json")
    assert [row["result"] for row in json.loads(done.out)] == ["done"]
    refused(novactl, "op", "run", op_id, code=5, says="is done already")
