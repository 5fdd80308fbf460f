"""The daily verbs on real guests: what the guest, its memory and its host show of each, in the states that
allow it and in some that do not."""

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from novactl.lab import guests
from tests.lab.conftest import Grounds
from tests.lab.support import (
    INSTANCES,
    Running,
    console,
    console_until,
    gate,
    last,
    nothing_left,
    refused,
    step,
    unchanged,
    wait_until,
)

pytestmark = pytest.mark.lab

SAVES = "/var/lib/libvirt/qemu/save"
BEAT = ["--flavor", "tiny", "--image", "beat"]


@pytest.fixture(scope="module", autouse=True)
def images(_grounds: Grounds) -> Iterator[None]:
    """Guests that count in their memory, one second a beat, and tell it; `stone` ignores ACPI."""
    tiny, novactl = guests.tiny(), _grounds.novactl
    novactl("audit", "--heal", "--yes")  # parts and jobs that tests of kills left
    words = [
        "--file",
        str(tiny.disk),
        "--format",
        "raw",
        "--kernel",
        str(tiny.kernel),
        "--initrd",
        str(tiny.initrd),
    ]
    for name, more in (("beat", ""), ("stone", " tiny.noacpi")):
        line = ["--cmdline", f"{tiny.cmdline} tiny.heartbeat{more}"]
        novactl.ok("image", "add", name, *words, *line, "--property", "os_shutdown_timeout=6")
    yield
    for name in ("beat", "stone"):
        novactl.ok("image", "delete", name, "--yes")


def boot(grounds: Grounds, names: dict[str, str], *words: str, image: str = "beat") -> dict[str, Any]:
    """A guest on each of these hosts, all at once; their records by host."""
    booting = {
        host: grounds.novactl.popen(
            "boot", name, "--flavor", "tiny", "--image", image, "--host", host, *words, "-o", "json"
        )
        for host, name in names.items()
    }
    for each in booting.values():
        out, err = each.communicate(timeout=90)
        assert each.returncode == 0, out + err
    made = {host: grounds.novactl.json("show", name) for host, name in names.items()}
    for one in made.values():
        console_until(grounds, one, "tiny: heartbeat")
    return made


def beats(grounds: Grounds, instance: dict[str, Any]) -> list[int]:
    return [int(n) for n in re.findall(r"tiny: heartbeat (\d+)$", console(grounds, instance), re.MULTILINE)]


def counts_on(grounds: Grounds, instance: dict[str, Any], before: list[int]) -> None:
    """The guest's memory is that of before: it counts where it was, and has not booted."""
    wait_until(lambda: len(beats(grounds, instance)) > len(before) + 1, 30, "its heart")
    now = beats(grounds, instance)
    assert now == list(range(1, len(now) + 1))
    assert "boot count 2" not in console(grounds, instance)


def results(rows: list[dict[str, Any]]) -> dict[str, str]:
    return {row["target"]: row["result"] for row in rows}


def test_a_day_of_three_guests(grounds: Grounds, name):
    novactl, hosts = grounds.novactl, [host.name for host in grounds.fleet.hosts]
    names = {host: name() for host in hosts}
    made, all_ = boot(grounds, names, "--network", "lan"), sorted(names.values())

    def states() -> set[str]:
        return {grounds.state(host, one["uuid"]) for host, one in made.items()}

    def refuse(target: str, verbs: str, status: str) -> None:
        for verb in verbs.split():
            refused(
                novactl,
                verb,
                target,
                code=5,
                says=f"cannot {verb} an instance that is {status}",
                hint=f"{verb} is possible",
            )

    # paused: it stands still, and nothing but unpause, a hard reboot and delete is possible
    assert set(results(novactl.json("pause", "--all")).values()) == {"done"}
    assert states() == {"paused"}
    assert {row["status"] for row in novactl.json("list")} == {"PAUSED"}
    before = {host: beats(grounds, one) for host, one in made.items()}
    assert set(results(novactl.json("pause", *all_)).values()) == {"unchanged"}
    refuse(all_[0], "start stop suspend resume reboot", "PAUSED")
    assert {host: beats(grounds, one) for host, one in made.items()} == before
    assert set(results(novactl.json("unpause", "--all")).values()) == {"done"}

    # suspended: the memory is on disk, and outlives the host's power
    assert set(results(novactl.json("suspend", "--all")).values()) == {"done"}
    assert states() == {"shut off"}
    saved = grounds.host("kvm1").run(["ls", SAVES]).stdout
    assert saved.split() == [f"instance-{made['kvm1']['uuid'].replace('-', '')[:12]}.save"]
    before = {host: beats(grounds, one) for host, one in made.items()}
    refuse(names["kvm1"], "start stop pause unpause reboot", "SUSPENDED")
    assert set(results(novactl.json("suspend", "--all")).values()) == {"unchanged"}
    grounds.host("kvm1").stop()
    grounds.host("kvm1").start()
    assert novactl("audit").code == 0
    assert set(results(novactl.json("resume", "--all")).values()) == {"done"}
    assert states() == {"running"} and grounds.host("kvm1").run(["ls", SAVES]).stdout == ""
    for host, one in made.items():
        counts_on(grounds, one, before[host])
    shown = novactl.json("show", names["kvm1"])
    assert (shown["status"], shown["power_state"], shown["task_state"]) == ("ACTIVE", "running", None)
    novactl.ok("wait", names["kvm1"], "ssh", "--timeout", "30")  # its network is there, too

    # rebooted: asked by ACPI, and up again
    assert set(results(novactl.json("reboot", "--all")).values()) == {"done"}
    for one in made.values():
        text = console_until(grounds, one, "tiny: boot count 2", 60)
        assert "tiny: power button" in text
    events = [(event["action"], event["result"]) for event in novactl.json("event", "list", all_[0])]
    assert events == [(v, "done") for v in ("boot", "pause", "unpause", "suspend", "resume", "reboot")]
    assert novactl("audit").code == 0
    novactl.ok("delete", *all_, "--yes")
    nothing_left(grounds)


def test_a_hard_reboot_brings_everything_back(grounds: Grounds, name):
    """Each part alone and all together; the host's own uplink is plugged in again."""
    novactl, host, web = grounds.novactl, grounds.host("kvm2"), name()
    side = "ip link add br7 type bridge && ip link set br7 up && ip link add up7 type veth peer name far7"
    host.run(["sh", "-c", f"{side} && ip link set up7 master br7 up"]).check_returncode()
    novactl.ok("host", "check", "kvm2")
    novactl.ok("network", "create", "side", "--cidr", "10.97.0.0/24", "--bridge", "br7")
    made = boot(grounds, {"kvm2": web}, "--network", "side")["kvm2"]
    uuid, base = made["uuid"], f"{INSTANCES}/_base"
    gone = {
        "base": f"rm {base}/*",
        "xml": f"rm {INSTANCES}/{uuid}/libvirt.xml {INSTANCES}/{uuid}/disk.config",
        "domain": f"virsh destroy {uuid} && virsh undefine {uuid}",
        "bridge": "ip link del br7",
        "all": f"virsh destroy {uuid}; virsh undefine {uuid} && ip link del br7 && rm {base}/*",
    }
    for what, script in gone.items():
        boots = console(grounds, made).count("tiny: ready")
        host.run(["sh", "-c", script]).check_returncode()
        ended = novactl.ok("reboot", web, "--hard", "-o", "json")
        assert ended.json[0]["instance"]["status"] == "ACTIVE", what
        told = "kvm2: bridge br7 was gone and is made again with its uplink up7"
        assert (told in ended.err) == (what in ("bridge", "all")), ended.err
        assert grounds.state("kvm2", uuid) == "running", what
    wait_until(lambda: console(grounds, made).count("tiny: ready") > boots, 60, "the last boot")
    ports = host.run(["ls", "/sys/class/net/br7/brif"]).stdout.split()
    assert len(ports) == 2 and "up7" in ports
    assert novactl("audit").code == 0

    # start does the same; from PAUSED and SUSPENDED it is possible, and says what is lost
    novactl.ok("stop", web, "--force")
    host.run(["sh", "-c", f"virsh undefine {uuid} && ip link del br7"]).check_returncode()
    assert "br7 was gone" in novactl.ok("start", web).err
    novactl.ok("pause", web)
    novactl.ok("reboot", web, "--hard")
    assert grounds.state("kvm2", uuid) == "running"
    novactl.ok("suspend", web)
    assert "its saved memory is dropped" in novactl.ok("reboot", web, "--hard").err
    assert grounds.state("kvm2", uuid) == "running" and host.run(["ls", SAVES]).stdout == ""

    # the one thing that nothing makes again
    host.run(["mv", f"{INSTANCES}/{uuid}/disk", f"{INSTANCES}/{uuid}/away"]).check_returncode()
    refused(
        novactl,
        "reboot",
        web,
        "--hard",
        code=5,
        says="disk is missing on kvm2: what was on it is lost",
        hint="delete",
    )
    assert grounds.state("kvm2", uuid) == "running"
    novactl.ok("delete", web, "--yes")
    novactl.ok("network", "delete", "side", "--yes")
    host.run(["sh", "-c", "ip link del br7; ip link del up7"])
    nothing_left(grounds)


def test_a_guest_that_ignores_acpi_is_rebooted_hard(grounds: Grounds, name):
    stone = name()
    made = boot(grounds, {"kvm3": stone}, image="stone")["kvm3"]
    began = time.monotonic()
    ended = grounds.novactl.ok("reboot", stone)
    assert 6 <= time.monotonic() - began < 30
    assert "did not shut down within 6 s and was powered off" in ended.err
    assert step(last(grounds.novactl, stone), "shut-off")["result"] == {"forced": True}
    assert "power button" not in console_until(grounds, made, "tiny: boot count 2", 60)


def test_what_a_suspend_needs(grounds: Grounds, name):
    """Space on its host, and there the same QEMU when it comes back."""
    novactl, host, web = grounds.novactl, grounds.host("kvm3"), name()
    made = boot(grounds, {"kvm3": web})["kvm3"]
    host.run(["mount", "-t", "tmpfs", "-o", "size=40m", "none", SAVES]).check_returncode()
    with unchanged(grounds):
        refused(
            novactl,
            "suspend",
            web,
            code=5,
            says="may take 160 MiB on kvm3, where libvirt saves 40 MiB are free",
            hint=SAVES,
        )
    assert grounds.state("kvm3", made["uuid"]) == "running"
    host.run(["umount", SAVES]).check_returncode()

    # the link is cut while libvirt saves: nothing is lost, and nobody needs to do anything
    with gate(host, "virsh", "managedsave") as held:
        running = Running(novactl, "suspend", web)
        held.reached(running)
        host.cut()
        held.open()
        wait_until(lambda: grounds.state("kvm3", made["uuid"]) == "shut off", 30, "the save")
        host.mend()
        assert running.end() == 0, running.said
    before = beats(grounds, made)

    noted = f"{INSTANCES}/{made['uuid']}/saved-by"
    version = host.run(["cat", noted]).stdout.strip()
    host.run(["tee", noted], stdin="4.2.1\n").check_returncode()
    said = f"its memory was saved by QEMU 4.2.1, kvm3 has {version}"
    with unchanged(grounds):
        refused(novactl, "resume", web, code=5, says=said, hint=f"novactl reboot {web} --hard drops it")
    novactl.ok("resume", web, "--force")
    counts_on(grounds, made, before)
    assert host.run(["test", "-e", noted]).returncode == 1

    # interrupted while it is saved: undone, and the guest runs on
    with gate(host, "virsh", "managedsave", "after") as held:
        running = Running(novactl, "suspend", web)
        held.reached(running)
        running.process.terminate()
        assert running.end() == 130, running.said
    assert grounds.state("kvm3", made["uuid"]) == "running"
    assert novactl.json("show", web)["status"] == "ACTIVE"
    counts_on(grounds, made, beats(grounds, made))
    assert novactl("audit").code == 0

    # its saved memory goes: never started as if nothing had been
    novactl.ok("suspend", web)
    host.run(["virsh", "managedsave-remove", made["uuid"]]).check_returncode()
    assert "its saved memory is gone" in novactl("audit").out
    refused(novactl, "resume", web, code=5, says="cannot resume an instance that is SHUTOFF")
    assert novactl.json("show", web)["status"] == "SHUTOFF"
    seen = novactl.json("event", "list", web)[-1]
    assert (seen["action"], seen["result"], seen["operation"]) == ("power-seen", "shutoff", None)
    novactl.ok("start", web)
    console_until(grounds, made, "tiny: boot count 2", 60)


def test_records_locks_and_what_hosts_say(grounds: Grounds, name):
    novactl, host, web, other = grounds.novactl, grounds.host("kvm1"), name(), name()
    made = boot(grounds, {"kvm1": web}, "--meta", "role=web")["kvm1"]
    uuid = made["uuid"]

    def copy() -> str:
        return host.run(["virsh", "metadata", uuid, "https://novactl.org/xmlns/1", "--config"]).stdout

    shown = novactl.json(
        "set", web, "--name", other, "--meta", "role=db", "--meta", "tier=1", "--tag", "blue"
    )
    assert (shown["name"], shown["metadata"], shown["tags"]) == (other, {"role": "db", "tier": "1"}, ["blue"])
    assert other in copy() and "blue" in copy() and web not in copy()
    novactl.ok("unset", other, "--meta", "role", "--meta", "nosuch", "--tag", "blue")
    assert novactl.json("show", other)["metadata"] == {"tier": "1"} and "blue" not in copy()
    refused(novactl, "pause", web, code=4, says="does not exist")
    refused(novactl, "set", other, "--name", "a b", code=2, says="instance name 'a b' is not acceptable")

    # a host that does not answer gets its copy with the next operation there
    host.cut()
    ended = novactl.ok("set", other, "--name", web)
    assert f"{other}: the second copy of its record is behind" in ended.err
    host.mend()
    wait_until(lambda: novactl("host", "check", "kvm1").code in (0, 10), 30, "the host")
    assert other in copy() and novactl("audit").code == 0
    novactl.ok("pause", web)
    assert web in copy() and other not in copy()
    novactl.ok("unpause", web)

    # locked: nothing but unlock
    novactl.ok("lock", web)
    with unchanged(grounds):
        for verb in ("stop", "start", "reboot", "pause", "suspend", "resume", "unpause"):
            refused(novactl, verb, web, code=5, says=f"{web}: is locked", hint=f"novactl unlock {web}")
        refused(novactl, "delete", web, "--yes", code=5, says="is locked")
        refused(novactl, "set", web, "--tag", "x", code=5, says="is locked")
    assert novactl.json("lock", web)[0]["result"] == "unchanged"
    assert '"locked": true' in copy() and novactl.json("show", web)["locked"] is True
    novactl.ok("unlock", web)

    # what happens without us is seen by the next verb
    host.run(["virsh", "destroy", uuid]).check_returncode()
    refused(novactl, "pause", web, code=5, says="cannot pause an instance that is SHUTOFF")
    assert novactl.json("show", web)["status"] == "SHUTOFF"
    assert novactl.json("start", web, "--interrupted")[0]["result"] == "done"
    host.run(["virsh", "destroy", uuid]).check_returncode()
    refused(novactl, "pause", web, code=5, says="cannot pause an instance that is SHUTOFF")
    assert novactl.json("stop", web)[0]["result"] == "done"  # now somebody wants it off
    assert novactl.json("stop", web)[0]["result"] == "unchanged"
    assert novactl.json("start", web, "--interrupted")[0]["result"] == "unchanged"
    assert novactl.json("start", web)[0]["result"] == "done"
    host.run(["virsh", "suspend", uuid]).check_returncode()
    refused(novactl, "stop", web, code=5, says="cannot stop an instance that is PAUSED")
    novactl.ok("unpause", web)
    novactl.ok("reset-state", web, "--state", "error")
    refused(novactl, "pause", web, code=5, says="cannot pause an instance that is ERROR")
    novactl.ok("stop", web, "--force")
    assert novactl.json("show", web)["status"] == "SHUTOFF"
    assert novactl("audit").code == 0
