"""A database restored from an older copy: nothing is decided on it until it knows what the hosts know."""

import sqlite3
from contextlib import closing

import pytest

from tests.lab.conftest import Grounds
from tests.lab.support import nothing_left, refused

pytestmark = pytest.mark.lab
TINY = ["--flavor", "tiny", "--image", "tiny", "--network", "lan"]


def copied(grounds: Grounds, source: str, target: str) -> None:
    directory = grounds.novactl.config
    with (
        closing(sqlite3.connect(directory / source)) as old,
        closing(sqlite3.connect(directory / target)) as new,
    ):
        old.backup(new)


def test_it_is_noticed_and_adopted(grounds: Grounds, name):
    kept, gone, new, novactl = name(), name(), name(), grounds.novactl
    novactl.ok("boot", kept, *TINY, "--host", "kvm1")
    novactl.ok("boot", gone, *TINY, "--host", "kvm2")
    novactl("audit", "--heal", "--yes")  # what other tests left in the caches
    assert novactl("audit").code == 0
    copied(grounds, "novactl.db", "backup.db")
    novactl.ok("stop", kept, "--force")
    novactl.ok("delete", gone, "--yes")
    made = novactl.ok("-o", "json", "boot", new, *TINY, "--host", "kvm1").json
    before = {i["name"]: (i["uuid"], i["status"], i["host"], i["addresses"]) for i in novactl.json("list")}
    copied(grounds, "backup.db", "novactl.db")

    told = "is an older copy"
    refused(novactl, "stop", kept, "--force", code=5, says=told, hint="novactl audit --adopt")
    refused(novactl, "boot", name(), *TINY, code=5, says=told)
    refused(
        novactl, "flavor", "create", "f", "--vcpus", "1", "--memory", "9", "--disk", "1", code=5, says=told
    )
    assert novactl("list").code == 0  # looking goes on
    audit = novactl("audit", "-o", "json")
    assert audit.code == 10
    findings = {(row["finding"], row["target"]) for row in audit.json}
    assert {kind for kind, _ in findings} >= {"unknown-domain", "epoch-ahead", "mark-unknown"}
    assert novactl("audit", "--adopt").code == 8  # nobody to ask
    assert grounds.state("kvm1", made["uuid"]) == "running"
    novactl.ok("audit", "--adopt", "--yes")

    after = {i["name"]: (i["uuid"], i["status"], i["host"], i["addresses"]) for i in novactl.json("list")}
    assert after == before
    assert grounds.state("kvm1", made["uuid"]) == "running"
    again = novactl("audit", "-o", "json")
    assert (again.code, again.json) == (0, [])
    novactl.ok("start", kept)
    novactl.ok("delete", kept, new, "--yes")
    nothing_left(grounds)
    (novactl.config / "backup.db").unlink()
