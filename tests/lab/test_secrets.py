"""user-data is the guest's alone: not in process lists, journal, database, logs or the domain."""

import json

import pytest

from tests.lab.conftest import Grounds
from tests.lab.support import INSTANCES, Running, active, console_until, gate, nothing_left, processes_with

pytestmark = pytest.mark.lab

TINY = ["--flavor", "tiny", "--image", "tiny"]
CANARY = "canary-5fd1c0ffee"
SCRIPT = f"#!/bin/sh\n# {CANARY}\necho user-data ran\n"


def in_files_of(grounds: Grounds) -> list[str]:
    """Files of the configuration directory, the database among them, that hold the canary."""
    files = [path for path in grounds.novactl.config.rglob("*") if path.is_file()]
    return [path.name for path in files if CANARY.encode() in path.read_bytes()]


def test_user_data_is_kept_to_the_guest(grounds: Grounds, name):
    web, novactl, host = name(), grounds.novactl, grounds.host("kvm1")
    words = ["boot", web, *TINY, "--host", "kvm1", "--user-data", "/dev/stdin"]
    with gate(host, "virsh", "start") as still:
        boot = Running(novactl, "-vv", "--debug", *words, stdin=-1)
        boot.process.stdin.write(SCRIPT)
        boot.process.stdin.close()
        still.reached(boot)
        assert processes_with(CANARY) == [] == in_files_of(grounds)
        operation = active(novactl)
        still.open()
        assert boot.end() == 0
    assert "DEBUG" in boot.said and "disk.config (config-2)" in boot.said  # much is told, but
    assert CANARY not in boot.said and CANARY not in boot.process.stdout.read()
    assert CANARY not in json.dumps(operation)

    made = novactl.json("show", web)
    assert "user-data ran" in console_until(grounds, made, "tiny: user-data done rc=0")
    drive = f"{INSTANCES}/{made['uuid']}/disk.config"
    places = [f"{INSTANCES}/{made['uuid']}", "/etc/libvirt", "/var/log/libvirt", "/run"]
    assert host.run(["grep", "-rl", CANARY, *places]).stdout.split() == [drive]
    assert host.run(["stat", "-c", "%a", drive]).stdout.strip() == "400"
    telling = (["show", web], ["event", "list", web], ["op", "show", operation["id"]])
    for told in (*telling, ["stop", web, "--force"]):
        assert CANARY not in (ended := novactl.ok("-o", "json", "--debug", *told)).out + ended.err
    novactl.ok("start", web)  # sealed, it is there for the config drive to be made again
    assert host.run(["grep", "-q", CANARY, drive]).returncode == 0
    assert in_files_of(grounds) == []
    assert (novactl.config / "secret.key").stat().st_mode & 0o777 == 0o600
    assert (novactl.config / "novactl.db").stat().st_mode & 0o777 == 0o600
    novactl.ok("delete", web, "--yes")
    nothing_left(grounds)
