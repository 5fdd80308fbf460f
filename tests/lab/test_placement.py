"""Placement on real hosts: rules that hold, hosts that are fuller than the database thinks, many at once."""

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests.lab.conftest import Grounds
from tests.lab.support import Running, last, nothing_left, refused, unchanged, wait_until

pytestmark = pytest.mark.lab

TINY = ("--flavor", "tiny", "--image", "deaf")
HOSTS = ("kvm1", "kvm2", "kvm3")
FOREIGN = """<domain type='qemu'><name>foreign</name><memory unit='MiB'>768</memory><vcpu>1</vcpu>
<os><type arch='x86_64'>hvm</type></os></domain>"""


@pytest.fixture
def group(grounds: Grounds, name: Callable[[], str]) -> Iterator[Callable[[str], str]]:
    """Makes a server group of a policy."""
    made = []

    def make(policy: str) -> str:
        made.append(name())
        grounds.novactl.ok("group", "create", made[-1], "--policy", policy)
        return made[-1]

    yield make
    for one in made:
        grounds.novactl.ok("group", "delete", one, "--yes")


def hosts_of(grounds: Grounds, prefix: str) -> Counter[str]:
    return Counter(row["host"] for row in grounds.novactl.json("list", "--name", f"^{prefix}"))


def test_groups_hold(grounds: Grounds, name: Callable[[], str], group: Callable[[str], str]) -> None:
    """Anti-affinity takes one on each host and refuses the fourth; affinity keeps all on one."""
    novactl = grounds.novactl
    apart, web = group("anti-affinity"), name()
    novactl.ok("boot", web, *TINY, "--group", apart, "--count", "3")
    assert hosts_of(grounds, web) == dict.fromkeys(HOSTS, 1)
    fourth = refused(novactl, "boot", f"{web}-4", *TINY, "--group", apart, code=5, says="no host can take it")
    assert fourth.error["message"].count(f"has 1 of group {apart}, 1 allowed") == 3
    together, db = group("affinity"), name()
    novactl.ok("boot", db, *TINY, "--group", together, "--with", f"{web}-2")
    novactl.ok("boot", f"{db}-2", *TINY, "--group", together)
    (home,) = hosts_of(grounds, db)
    assert novactl.json("show", f"{web}-2")["host"] == home
    elsewhere = novactl.json("boot", f"{db}x", *TINY, "--apart-from", db)
    assert elsewhere["host"] != home and elsewhere["placement"]["apart_from"]


def test_boot_says_why(grounds: Grounds, name: Callable[[], str]) -> None:
    novactl, web = grounds.novactl, name()
    novactl.ok("host", "set", "kvm2", "--disable", "--reason", "fans")
    try:
        made = novactl.json("boot", web, *TINY, "--explain")
    finally:
        novactl.ok("host", "set", "kvm2", "--enable")
    rows = {row["host"]: row for row in made["explain"]["hosts"]}
    assert made["explain"]["chosen"] == made["host"] != "kvm2"
    assert rows["kvm2"]["rejections"] == [{"filter": "enabled", "reason": "disabled: fans"}]
    assert novactl.json("schedule", "--flavor", "tiny", "--host", "kvm2")["chosen"] == "kvm2"


def test_hosts_have_less_memory_than_the_database_thinks(grounds: Grounds, name: Callable[[], str]) -> None:
    """By the record each has the machine's memory for itself; live there is less. Each is looked at, given up
    with its numbers, and nothing is left."""
    novactl, big = grounds.novactl, name()
    room = min(h["memory_mib"] for h in novactl.json("host", "list")) - 520
    novactl.ok("flavor", "create", big, "--vcpus", "1", "--memory", str(room), "--disk", "1")
    try:
        assert novactl.json("schedule", "--flavor", big)["chosen"] == "kvm1"
        with unchanged(grounds):
            words = ["boot", big, "--flavor", big, "--image", "deaf"]
            ended = refused(novactl, *words, code=1, says=f"MiB of memory available, {room} wanted")
        assert ended.err.count("; trying ") == 2
        op = last(novactl, big)
        assert (op["attempts"], op["state"]) == (3, "undone")
        failed = {h["name"]: h["failed_builds"] for h in novactl.json("host", "list")}
        assert failed == dict.fromkeys(HOSTS, 1)
        novactl("host", "check")
        assert {h["failed_builds"] for h in novactl.json("host", "list")} == {0}
    finally:
        novactl.ok("flavor", "delete", big, "--yes")


def test_a_foreign_guest_takes_room(grounds: Grounds, name: Callable[[], str]) -> None:
    """Somebody else's guest is seen by `host check` and is room that nobody gets; so is what is reserved."""
    novactl, host = grounds.novactl, grounds.host("kvm1")
    before = capacity_of(grounds, "kvm1")
    host.run(["virsh", "create", "/dev/stdin"], stdin=FOREIGN).check_returncode()
    try:
        novactl("host", "check", "kvm1")
        assert novactl.json("host", "show", "kvm1")["foreign_memory_mib"] == 768
        assert capacity_of(grounds, "kvm1") == before // 2  # of two processors
    finally:
        host.run(["virsh", "destroy", "foreign"]).check_returncode()
    novactl("host", "check", "kvm1")
    seen = novactl.json("host", "show", "kvm1")
    novactl.ok("host", "set", "kvm1", "--reserved-memory", str(seen["memory_mib"] - 960))
    try:
        assert capacity_of(grounds, "kvm1") == 10
    finally:
        novactl.ok("host", "set", "kvm1", "--reserved-memory", str(seen["reserved_memory_mib"]))


def capacity_of(grounds: Grounds, host: str) -> int:
    rows = grounds.novactl.json("host", "capacity", "--flavor", "tiny")["hosts"]
    return int(next(row["fits"] for row in rows if row["host"] == host))


@pytest.mark.long
def test_many_that_are_killed_after_the_commit_are_finished(
    grounds: Grounds, name: Callable[[], str]
) -> None:
    """All are claimed in one commit, and their steps are written when it is their turn: whoever takes the
    parent over boots those that had not begun."""
    novactl, web = grounds.novactl, name()
    count = 18
    boot = Running(novactl, "boot", web, *TINY, "--count", str(count))
    journaled = wait_until(lambda: parents(grounds), 30, "the parent operation")
    wait_until(lambda: novactl.json("list", "--status", "BUILD"), 30, "the claims")
    boot.process.send_signal(signal.SIGKILL)
    boot.process.wait()
    waiting = [op for op in novactl.json("op", "list", "--active") if op["steps_total"] == 0]
    assert waiting, "some had not begun"
    time.sleep(0.5)
    novactl.ok("op", "resume", journaled[0]["id"])
    rows = novactl.json("list", "--name", f"^{web}")
    assert Counter(row["status"] for row in rows) == {"ACTIVE": count}
    assert set(hosts_of(grounds, web).values()) == {count // len(HOSTS)}
    novactl.ok("delete", *[row["name"] for row in rows], "--yes")
    nothing_left(grounds)


def parents(grounds: Grounds) -> list[dict[str, str]]:
    return [op for op in grounds.novactl.json("op", "list", "--active") if op["target"].endswith("instances")]


def test_as_many_as_fit(grounds: Grounds, name: Callable[[], str]) -> None:
    """Two places are left: two of three boot, the third is named, exit 3."""
    novactl, web = grounds.novactl, name()
    kept = {h["name"]: h for h in novactl.json("host", "list")}
    for host in HOSTS:
        room = 192 if host == "kvm2" else 0
        reserved = kept[host]["memory_mib"] - room
        novactl.ok("host", "set", host, "--reserved-memory", str(reserved))
    try:
        refused(novactl, "boot", web, *TINY, "--count", "3", code=5, says="no host can take it")
        ended = novactl("boot", web, *TINY, "--count", "3", "--partial", "-o", "json")
        results = {row["target"]: (row["result"], row["code"]) for row in ended.json}
        assert (ended.code, results) == (
            3,
            {f"{web}-1": ("done", 0), f"{web}-2": ("done", 0), f"{web}-3": ("failed", 5)},
        )
        assert hosts_of(grounds, web) == {"kvm2": 2}
        novactl.ok("host", "set", "kvm2", "--reserved-memory", str(kept["kvm2"]["memory_mib"]))
        novactl.ok("stop", f"{web}-1", "--force")  # what is overcommitted now may still be worked with
        novactl.ok("start", f"{web}-1")
    finally:
        for host in HOSTS:
            novactl.ok("host", "set", host, "--reserved-memory", str(kept[host]["reserved_memory_mib"]))
