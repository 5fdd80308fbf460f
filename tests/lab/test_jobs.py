"""Conversions as jobs of the host: they outlive the client and the link, run once, and end with all that they
started."""

import hashlib
import secrets
import signal
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from novactl import lab
from tests.lab.conftest import Grounds
from tests.lab.support import (
    INSTANCES,
    MIB,
    Gate,
    Running,
    active,
    gate,
    image,
    jobs,
    last,
    nothing_left,
    qcow2,
    refused,
    step,
    unsettled,
    wait_until,
)

pytestmark = pytest.mark.lab

ARRIVED = {".part", ".pos", ".pieces", ".sum"}  # of a base file's source, and what tells the rest of it

BASE = f"{INSTANCES}/_base"
JOB = "/var/lib/novactl/job"
CONTENT = secrets.token_bytes(MIB)
WHOLE = hashlib.sha256(CONTENT + bytes(63 * MIB)).hexdigest()


@pytest.fixture
def converting(grounds: Grounds, tmp_path: Path):
    """An image that is new to every host; what is on the host is as it should be afterwards."""
    with image(grounds, qcow2(tmp_path, CONTENT)) as made:
        yield made
    grounds.host("kvm1").run(["sh", "-c", f"rm -f {BASE}/{made['sha256']}*"])
    assert unsettled(grounds) == []


def words(made: dict[str, Any], name: str) -> list[str]:
    return ["boot", name, "--flavor", "tiny", "--image", made["name"], "--network", "lan", "--host", "kvm1"]


def table(host: lab.LabHost) -> list[list[str]]:
    """[pid, parent, session, command line] of each process of a host."""
    lines = host.run(["ps", "-eo", "pid=,ppid=,sid=,args="]).stdout.splitlines()
    return [line.split(None, 3) for line in lines]


def leader(host: lab.LabHost) -> str:
    """The pid of the one job, which is alive, a session of its own and no child of an ssh connection."""
    (job,) = jobs(host)
    pid = host.run(["cut", "-d", " ", "-f", "1", f"{JOB}/{job}/pid"]).stdout.strip()
    (found,) = [process for process in table(host) if process[0] == pid]
    assert found[1:3] == ["1", pid], found
    return pid


def parts(host: lab.LabHost, made: dict[str, Any]) -> set[str]:
    """What there is of an image in the base files, by ending; of a whole one "" and ".json"."""
    names = host.run(["ls", "-A", BASE]).stdout.split()
    sha256 = made["sha256"]
    here = {name.lstrip(".").removeprefix(sha256) for name in names if sha256 in name}
    return here - {f"lock.{sha256}"}


def converted(host: lab.LabHost, made: dict[str, Any]) -> None:
    """The base file is whole, and nothing else is left of its making."""
    assert parts(host, made) == {"", ".json"}
    assert host.run(["sha256sum", f"{BASE}/{made['sha256']}"]).stdout.split()[0] == WHOLE
    assert jobs(host) == []
    assert [process for process in table(host) if "qemu-img" in process[3]] == []


def killed(grounds: Grounds, made: dict[str, Any], name: str, still: Gate) -> dict[str, Any]:
    """The operation of a boot that was killed while its job converts."""
    boot = Running(grounds.novactl, *words(made, name))
    still.reached(boot)
    boot.signal(signal.SIGKILL)
    boot.end()
    return active(grounds.novactl)


def test_resume_attaches_to_the_job_of_a_killed_client(grounds: Grounds, converting, name):
    web, host, novactl = name(), grounds.host("kvm1"), grounds.novactl
    with gate(host, "qemu-img", "convert") as still:
        left = killed(grounds, converting, web, still)
        pid = leader(host)
        resume = Running(novactl, "op", "resume", left["id"])
        time.sleep(3)
        assert resume.process.poll() is None and leader(host) == pid
        still.open()
        assert resume.end() == 0, resume.said
        assert still.count() == 1
    converted(host, converting)
    assert not step(novactl.json("op", "show", left["id"]), "fetch-base")["result"]["cached"]
    assert novactl.json("show", web)["status"] == "ACTIVE"


def test_a_job_that_ended_while_nobody_looked_is_forgotten(grounds: Grounds, converting, name):
    web, host, novactl = name(), grounds.host("kvm1"), grounds.novactl
    with gate(host, "qemu-img", "convert") as still:
        left = killed(grounds, converting, web, still)
        still.open()
        (job,) = jobs(host)
        wait_until(lambda: host.run(["test", "-e", f"{JOB}/{job}/rc"]).returncode == 0, 30, "its end")
        novactl.ok("op", "resume", left["id"])
        assert still.count() == 1
    converted(host, converting)


def test_rollback_ends_all_of_the_job(grounds: Grounds, converting, name):
    host, novactl = grounds.host("kvm1"), grounds.novactl
    with gate(host, "qemu-img", "convert", "after") as still:
        left = killed(grounds, converting, name(), still)
        pid = leader(host)
        assert len([process for process in table(host) if process[2] == pid]) > 2
        assert ".raw" in parts(host, converting)
        novactl.ok("op", "rollback", left["id"])
        assert [process for process in table(host) if process[2] == pid or "qemu-img" in process[3]] == []
    assert jobs(host) == []
    assert parts(host, converting) == ARRIVED  # what arrived is gone on with
    nothing_left(grounds)


@pytest.mark.parametrize("client", ["lives", "killed"])
def test_a_reboot_of_the_host_makes_it_run_again(grounds: Grounds, converting, name, client):
    web, host, novactl = name(), grounds.host("kvm1"), grounds.novactl
    with gate(host, "qemu-img", "convert", "after") as still:
        if client == "killed":
            left = killed(grounds, converting, web, still)
        else:
            boot = Running(novactl, *words(converting, web))
            still.reached(boot)
        host.stop()
        host.start()  # without the gate
    if client == "killed":
        novactl.ok("op", "resume", left["id"])
    else:
        assert boot.end() == 0, boot.said
    converted(host, converting)
    assert novactl.json("show", web)["status"] == "ACTIVE"


def test_two_boots_of_an_image_convert_it_once(grounds: Grounds, converting, name):
    host, novactl = grounds.host("kvm1"), grounds.novactl
    with gate(host, "qemu-img", "convert") as still:
        first = Running(novactl, *words(converting, name()))
        still.reached(first)
        second = Running(novactl, *words(converting, name()))
        time.sleep(3)
        assert second.process.poll() is None, second.said
        still.open()
        assert (first.end(), second.end()) == (0, 0), first.said + second.said
        assert still.count() == 1
    converted(host, converting)


def test_ctrl_c_ends_the_job(grounds: Grounds, converting, name):
    host, web = grounds.host("kvm1"), name()
    with gate(host, "qemu-img", "convert", "after") as still:
        boot = Running(grounds.novactl, *words(converting, web))
        still.reached(boot)
        pid, began = leader(host), time.monotonic()
        boot.signal(signal.SIGINT)
        assert boot.end() == 130 and "interrupted: undoing" in boot.said
        assert time.monotonic() - began < 15
        assert [process for process in table(host) if process[2] == pid or "qemu-img" in process[3]] == []
    assert jobs(host) == [] and parts(host, converting) == ARRIVED
    assert last(grounds.novactl, web)["state"] == "undone"
    nothing_left(grounds)


# --- jobs that fail ---


def damaged(directory: Path) -> Path:
    """An image whose structure is sound and whose compressed data is not."""
    made = qcow2(directory, b"novactl " * (MIB // 8), "-c")
    with made.open("r+b") as file:
        header = file.read(48)
        (bits,), (at,) = struct.unpack_from(">I", header, 20), struct.unpack_from(">Q", header, 40)
        for mask in ((1 << 56) - 512, (1 << (70 - bits)) - 1):  # of the first L1 entry, of the L2 entry there
            file.seek(at)
            at = int.from_bytes(file.read(8)) & mask
        file.seek(at)
        file.write(b"\xff" * 64)
    return made


def fails(grounds: Grounds, made: dict[str, Any], name: str, says: str, hint: str) -> None:
    """The boot is undone with these words, and nothing is left of it but what arrived."""
    host = grounds.host("kvm1")
    refused(grounds.novactl, *words(made, name), code=1, says=says, hint=hint)
    assert last(grounds.novactl, name)["state"] == "undone"
    assert jobs(host) == [] and parts(host, made) <= ARRIVED
    nothing_left(grounds)
    assert unsettled(grounds) == []


def test_an_image_that_cannot_be_converted(grounds: Grounds, name, tmp_path):
    with image(grounds, damaged(tmp_path)) as made:
        fails(grounds, made, name(), "error while reading", "")
        again = words(made, name())
        refused(grounds.novactl, *again, code=1, says="qemu-img cannot convert the image to raw")


def test_a_disk_that_fills_in_the_conversion(grounds: Grounds, name, tmp_path):
    host = grounds.host("kvm1")
    with image(grounds, qcow2(tmp_path, b"novactl " * (48 * MIB // 8), "-c")) as made:
        host.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", BASE]).check_returncode()
        try:
            fails(grounds, made, name(), f"no space left on {BASE}", "free some space there")
        finally:
            host.run(["umount", BASE]).check_returncode()
