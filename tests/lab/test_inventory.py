"""The fleet as files on real hosts: enrolled from them, changed in place, never taken from an instance."""

import json
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from novactl import lab
from novactl.lab import guests
from tests.lab.support import on_host
from tests.support.command import Command

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def fleet() -> Iterator[lab.Fleet]:
    name = f"v{os.getpid() % 1000000}"
    lab.down(name)
    try:
        yield lab.up(name, 3)
    finally:
        lab.down(name)


class Files:
    """The inventory of a fleet of the lab's hosts, and the novactl that has it."""

    def __init__(self, fleet: lab.Fleet, config: Path) -> None:
        self.novactl = Command(config)
        self.directory = config / "inventory"
        self.directory.mkdir(parents=True)
        tiny = guests.tiny()
        self.hosts: dict[str, dict[str, Any]] = {
            host.name: {"address": host.address, "fingerprint": host.fingerprint} for host in fleet.hosts
        }
        image = {"file": str(tiny.disk), "format": "raw", "kernel": str(tiny.kernel)}
        image |= {"initrd": str(tiny.initrd), "cmdline": tiny.cmdline}
        network = {"cidr": fleet.network, "gateway": fleet.gateway, "bridge": "br0"}
        self.rest: dict[str, Any] = {
            "flavors": {"tiny": {"vcpus": 1, "memory_mib": 96, "disk_gib": 1}},
            "images": {"tiny": image},
            "networks": {"lan": network},
            "default_network": "lan",
            "aggregates": {"all": {"hosts": list(self.hosts), "metadata": {"a": "b"}}},
        }
        self.words = ["inventory", "apply", "--identity", str(fleet.identity)]

    def write(self) -> None:
        (self.directory / "hosts.yaml").write_text(json.dumps({"hosts": self.hosts}))
        (self.directory / "rest.yaml").write_text(json.dumps(self.rest))

    def names(self) -> list[str]:
        """Of the hosts that the database has, seen sooner than a command would start."""
        with closing(sqlite3.connect(self.novactl.config / "novactl.db")) as db, suppress(sqlite3.Error):
            return [name for (name,) in db.execute("SELECT name FROM hosts ORDER BY name")]
        return []


@pytest.fixture
def files(fleet: lab.Fleet, tmp_path: Path) -> Iterator[Files]:
    yield Files(fleet, tmp_path / "config")
    for host in fleet.hosts:
        host.run(["sh", "-c", "rm -rf /var/lib/novactl/*"])


def test_a_fleet_from_files(fleet: lab.Fleet, files: Files) -> None:
    novactl = files.novactl
    files.hosts["kvm3"]["jump"] = "kvm1"
    files.hosts["kvm2"] |= {"zone": "east", "cpu_ratio": 9.5, "enabled": False, "disabled_reason": "new"}
    files.write()
    kill_half_way(files)
    done = novactl.ok(*files.words)
    assert "host kvm3 enrolled" in done.err
    assert novactl.json("inventory", "diff") == []
    shown = {host["name"]: host for host in novactl.json("host", "list")}
    assert [shown[name]["state"] for name in shown] == ["up"] * 3 and shown["kvm3"]["jump"] == "kvm1"
    assert (shown["kvm2"]["zone"], shown["kvm2"]["cpu_ratio"]) == ("east", 9.5)
    assert (shown["kvm2"]["enabled"], shown["kvm2"]["disabled_reason"]) == (False, "new")
    assert [host["aggregates"] for host in shown.values()] == [["all"]] * 3

    change_in_place(files)
    keep_what_holds_an_instance(fleet, files)
    come_and_go(fleet, files)


def kill_half_way(files: Files) -> None:
    """kill -9 as soon as one host is in the database."""
    work = files.novactl.popen(*files.words)
    deadline = time.monotonic() + 60
    while not (files.novactl.config / "novactl.db").exists() or not files.names():
        assert work.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(work.pid, signal.SIGKILL)
    work.communicate()
    left = files.novactl("inventory", "diff", "-o", "json")
    assert left.code == 10 and ("host", "kvm3") in {(row["kind"], row["name"]) for row in left.json}


def change_in_place(files: Files) -> None:
    """Labels, ratios, the way to a host; the user who logs in."""
    before = {host["name"]: host for host in files.novactl.json("host", "list")}
    del files.hosts["kvm3"]["jump"]
    files.hosts["kvm1"] |= {"labels": {"rack": "7"}, "memory_ratio": 1.5, "reserved_memory_mib": 64}
    files.hosts["kvm2"] |= {"enabled": True, "labels": {"rack": "8"}}
    del files.hosts["kvm2"]["disabled_reason"]
    files.write()
    rows = files.novactl.json(*files.words)
    assert [(row["name"], row["change"], row["result"]) for row in rows] == [
        (name, "update", "done") for name in ("kvm1", "kvm2", "kvm3")
    ]
    after = {host["name"]: host for host in files.novactl.json("host", "list")}
    assert after["kvm1"]["labels"] == {"rack": "7"} and after["kvm1"]["memory_ratio"] == 1.5
    assert after["kvm2"]["enabled"] and after["kvm3"]["jump"] is None
    assert after["kvm1"]["checked_at"] == before["kvm1"]["checked_at"]  # nobody had to go there
    assert after["kvm3"]["checked_at"] != before["kvm3"]["checked_at"]


def keep_what_holds_an_instance(fleet: lab.Fleet, files: Files) -> None:
    novactl = files.novactl
    made = novactl.ok("boot", "x", "--flavor", "tiny", "--image", "tiny", "--host", "kvm2", "-o", "json")
    assert "default network lan" in made.err and made.json["addresses"].keys() == {"lan"}
    kept, files.hosts = files.hosts, {name: files.hosts[name] for name in ("kvm1", "kvm3")}
    files.rest["aggregates"] = {}
    files.write()
    words = [*files.words, "--prune", "--yes"]
    ended = novactl(*words, "-o", "json")
    assert (ended.code, ended.error["type"]) == (5, "Refused")
    assert "host kvm2: has 1 instances" in ended.error["message"] and "--partial" in ended.error["hint"]
    assert files.names() == ["kvm1", "kvm2", "kvm3"] and novactl.json("aggregate", "list") != []
    assert novactl.json("show", "x")["status"] == "ACTIVE"
    assert fleet.host("kvm2").run(["virsh", "domstate", made.json["uuid"]]).stdout.strip() == "running"
    novactl.ok("delete", "x", "--yes")
    files.hosts = kept


def come_and_go(fleet: lab.Fleet, files: Files) -> None:
    """One leaves; one shows another key than the files say: it is named, the rest is done."""
    novactl = files.novactl
    del files.hosts["kvm3"]
    files.write()
    novactl.ok(*files.words, "--prune", "--yes")
    assert files.names() == ["kvm1", "kvm2"] and on_host(fleet.host("kvm3"))["fleet"] == []
    third, other = fleet.host("kvm3"), fleet.host("kvm1").fingerprint
    files.hosts["kvm3"] = {"address": third.address, "fingerprint": other}
    files.rest["weighers"] = {"memory": 2}
    files.write()
    ended = novactl(*files.words, "-o", "json")
    assert ended.code == 3 and f"shows host key {third.fingerprint}" in ended.err
    assert {row["name"]: row["code"] for row in ended.json} == {"kvm3": 7, "memory": 0}
    files.hosts["kvm3"]["fingerprint"] = third.fingerprint
    files.write()
    novactl.ok(*files.words)
    assert novactl.json("inventory", "diff") == []
