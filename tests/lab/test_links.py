"""A host's cable is cut in the middle of what goes on there: the command ends and says so, and when the host
is there again another one goes on where it was."""

import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from novactl import lab
from tests.lab import test_interrupt
from tests.lab.conftest import Grounds
from tests.lab.support import (
    INSTANCES,
    MIB,
    Gate,
    Running,
    active,
    console_until,
    gate,
    image,
    jobs,
    last,
    nothing_left,
    qcow2,
    refused,
    step,
    unsettled,
)

pytestmark = pytest.mark.lab

TINY = ["--flavor", "tiny", "--image", "tiny", "--network", "lan"]
HOSTS = ("kvm1", "kvm2", "kvm3")
PIECE = 4 * MIB  # at most so much of a transfer is sent again
big, arriving = test_interrupt.big, test_interrupt.arriving


@contextmanager
def cut(*hosts: lab.LabHost) -> Iterator[None]:
    for host in hosts:
        host.cut()
    try:
        yield
    finally:
        for host in hosts:
            host.mend()


def received(host: lab.LabHost) -> int:
    """Bytes that came in by a host's cable."""
    return int(host.run(["cat", "/sys/class/net/eth0/statistics/rx_bytes"]).stdout)


def by_target(grounds: Grounds) -> dict[str, dict[str, Any]]:
    """What is active, in full."""
    novactl = grounds.novactl
    found = [novactl.json("op", "show", one["id"]) for one in novactl.json("op", "list", "--active")]
    return {one["target"]: one for one in found}


def ended(running: dict[str, Running], gates: list[Gate]) -> dict[str, int]:
    """How the commands ended, by their target, while the gates were shut."""
    codes = {target: one.end(90) for target, one in running.items()}
    for one in gates:
        one.open()
    return codes


# --- in a transfer ---


def test_a_transfer_is_gone_on_with_by_resume(grounds: Grounds, arriving, big):
    """The process is killed while the link is down: nobody tidied anything up."""
    novactl, host = grounds.novactl, grounds.host("kvm2")
    before = received(host) - test_interrupt.arrived(grounds, big)
    with cut(host):
        arriving.signal(signal.SIGKILL)
        arriving.end()
        left = active(novactl)
        refused(novactl, "op", "resume", left["id"], code=11, says="left half way", hint="kvm2 answers again")
        here = test_interrupt.arrived(grounds, big)
    novactl.ok("op", "resume", left["id"])
    done = novactl.json("op", "show", left["id"])
    fetched = step(done, "fetch-base")["result"]
    assert not fetched["cached"] and test_interrupt.SIZE // 4 < fetched["resumed_from"] <= here
    assert received(host) - before < test_interrupt.SIZE * 1.05 + 2 * PIECE
    path = f"{INSTANCES}/_base/{big['sha256']}"
    assert host.run(["sha256sum", path]).stdout.split()[0] == big["sha256"]
    novactl.ok("delete", done["target"], "--yes")
    assert unsettled(grounds) == []


def test_a_transfer_is_gone_on_with_by_the_next_boot(grounds: Grounds, arriving, big, name):
    """The process sees it: there was nothing on the host to undo, so the operation is over."""
    novactl, host, web = grounds.novactl, grounds.host("kvm2"), name()
    before = received(host) - test_interrupt.arrived(grounds, big)
    target = active(novactl)["target"]
    with cut(host):
        assert arriving.end(60) == 1
    assert last(novactl, target)["state"] == "undone"
    assert unsettled(grounds) == []
    refused(novactl, "op", "resume", last(novactl, target)["id"], code=5, says="is undone already")
    novactl.ok("boot", web, "--flavor", "tiny", "--image", "big", "--host", "kvm2")
    assert step(last(novactl, web), "fetch-base")["result"]["resumed_from"] > test_interrupt.SIZE // 4
    assert received(host) - before < test_interrupt.SIZE * 1.05 + 2 * PIECE
    novactl.ok("delete", web, "--yes")


# --- in a boot, at three steps at once ---


def test_a_boot_that_had_made_something_waits_for_its_host(grounds: Grounds, name):
    """Nobody can undo it there: 11. What was being undone is undone when the host answers."""
    novactl, places = grounds.novactl, (("qemu-img", "create"), ("virsh", "define"), ("virsh", "start"))
    targets = {name(): (host, *place) for host, place in zip(HOSTS, places, strict=True)}
    with ExitStack() as stack:
        running, gates = {}, []
        for web, (host, tool, words) in targets.items():
            gates.append(stack.enter_context(gate(grounds.host(host), tool, words)))
            running[web] = Running(novactl, "boot", web, *TINY, "--host", host)
        for one, boot in zip(gates, running.values(), strict=True):
            one.reached(boot)
        with cut(*(grounds.host(host) for host in HOSTS)):
            assert set(ended(running, gates).values()) == {11}
    left = by_target(grounds)
    assert {web: left[web]["state"] for web in targets} == dict.fromkeys(targets, "incomplete")
    for (web, (host, *_)), verb in zip(targets.items(), ("resume", "rollback", "resume"), strict=True):
        said = running[web].said
        assert f"{host}: " in said and f"op resume {left[web]['id']}" in said, said
        over = novactl("op", verb, left[web]["id"])
        assert over.code == {"resume": 1, "rollback": 0}[verb], over.err
        assert last(novactl, web)["state"] == "undone"
    nothing_left(grounds)
    assert unsettled(grounds) == []


def test_a_boot_whose_process_died_too_is_finished(grounds: Grounds, name):
    """Nothing was undone: it goes forward."""
    novactl, web, host = grounds.novactl, name(), grounds.host("kvm3")
    with gate(host, "virsh", "define") as still:
        boot = Running(novactl, "boot", web, *TINY, "--host", "kvm3")
        still.reached(boot)
        with cut(host):
            boot.signal(signal.SIGKILL)
            boot.end()
            still.open()
            left = active(novactl)
            refused(novactl, "op", "rollback", left["id"], code=11, says="left half way", hint="kvm3 answers")
    novactl.ok("op", "resume", left["id"])
    assert novactl.json("show", web)["status"] == "ACTIVE"
    novactl.ok("delete", web, "--yes")
    assert unsettled(grounds) == []


# --- in a delete, a stop and a start at once ---


def test_what_is_past_its_pivot_or_may_be_is_finished_by_resume(grounds: Grounds, name):
    novactl, gone, off, on = grounds.novactl, name(), name(), name()
    for web, host in zip((gone, off, on), HOSTS, strict=True):
        novactl.ok("boot", web, *TINY, "--host", host)
    console_until(grounds, novactl.json("show", off), "tiny: ready")
    novactl.ok("stop", on, "--force")
    verbs = {gone: ["delete", gone, "--yes"], off: ["stop", off], on: ["start", on]}
    with ExitStack() as stack:
        running, gates = {}, []
        for (web, words), host, at in zip(
            verbs.items(), HOSTS, ("undefine", "shutdown", "start"), strict=True
        ):
            gates.append(stack.enter_context(gate(grounds.host(host), "virsh", at)))
            running[web] = Running(novactl, *words)
            gates[-1].reached(running[web])
        with cut(*(grounds.host(host) for host in HOSTS)):
            assert ended(running, gates) == {gone: 11, off: 11, on: 11}
    left = by_target(grounds)
    refused(novactl, "op", "rollback", left[gone]["id"], code=5, says="point of no return")
    for web in verbs:
        novactl.ok("op", "resume", left[web]["id"])
    found = {one["name"]: one["status"] for one in novactl.json("list")}
    assert found == {off: "SHUTOFF", on: "ACTIVE"}
    assert unsettled(grounds) == []
    novactl.ok("delete", off, on, "--yes")
    nothing_left(grounds)


# --- in a job of the host ---


def converting(grounds: Grounds, made: dict[str, Any], web: str, host: str) -> Running:
    words = ["boot", web, "--flavor", "tiny", "--image", made["name"], "--network", "lan", "--host", host]
    return Running(grounds.novactl, *words)


def disconnect(host: lab.LabHost) -> None:
    """The connections that the host has are lost to it too, not only silent."""
    lines = host.run(["ps", "-eo", "pid=,args="]).stdout.splitlines()
    pids = [line.split()[0] for line in lines if " sshd: " in line and "@" in line]
    assert pids, "no ssh session there"
    host.run(["kill", "-9", *pids])


def test_a_job_goes_on_while_the_link_is_down(grounds: Grounds, name, tmp_path: Path):
    """On kvm1 the link comes back and the same process goes on; on kvm2 the process is killed meanwhile and
    another one attaches; on kvm3 the link stays away for too long: the boot is undone, and the file of use
    to the next one."""
    novactl, webs = grounds.novactl, {host: name() for host in HOSTS}
    back, killed, lost = (grounds.host(host) for host in HOSTS)
    with image(grounds, qcow2(tmp_path, secrets.token_bytes(MIB))) as made, ExitStack() as stack:
        gates = {host: stack.enter_context(gate(grounds.host(host), "qemu-img", "convert")) for host in HOSTS}
        running = {host: converting(grounds, made, webs[host], host) for host in HOSTS}
        for host in HOSTS:
            gates[host].reached(running[host])
        began = time.monotonic()
        with cut(lost):
            with cut(back, killed):
                running["kvm2"].signal(signal.SIGKILL)
                running["kvm2"].end()
                disconnect(back)
                for one in gates.values():
                    one.open()  # while nobody sees it
                time.sleep(max(0, began + 8 - time.monotonic()))
            assert running["kvm1"].end() == 0, running["kvm1"].said
            left = by_target(grounds)[webs["kvm2"]]
            novactl.ok("op", "resume", left["id"])
            assert running["kvm3"].end(120) == 1, running["kvm3"].said
        again = name()
        assert converting(grounds, made, again, "kvm3").end() == 0
        assert {host: one.count() for host, one in gates.items()} == dict.fromkeys(HOSTS, 1)
        assert step(last(novactl, again), "fetch-base")["result"] == {"cached": True}
        forgotten(grounds, last(novactl, webs["kvm3"]), lost)
        assert unsettled(grounds) == []
    for host in HOSTS:
        grounds.host(host).run(["sh", "-c", f"rm -f {INSTANCES}/_base/{made['sha256']}*"])
    nothing_left(grounds)


def forgotten(grounds: Grounds, undone: dict[str, Any], host: lab.LabHost) -> None:
    """What a job wrote down whose operation was over before it ended is an audit's to find and to remove."""
    (job,) = jobs(host)
    assert undone["state"] == "undone" and job.startswith(undone["id"])
    found = grounds.novactl("audit", "-o", "json").json
    assert [one["finding"] for one in found if one["host"] == host.name] == ["job-left"]
    grounds.novactl.ok("audit", "--heal", "--yes")
