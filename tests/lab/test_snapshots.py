"""Snapshots of real guests: what was written before is in what boots from them; the guest is as before."""

import json
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from novactl import lab
from novactl.lab import guests
from tests.lab.conftest import Grounds, enrol
from tests.lab.support import (
    INSTANCES,
    MIB,
    Running,
    active,
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

TELLS = """#!/bin/sh
mount /dev/vdb /mnt 2>/dev/null || { mkdir -p /mnt; mount -t ext4 /dev/vdb /mnt; }
echo "tiny: holds root=$(cat /disk/token) local=$(cat /mnt/token)"
"""
WRITES = """#!/bin/sh
mkdir -p /mnt; mount -t ext4 /dev/vdb /mnt
echo TOKEN >/disk/token; echo local-TOKEN >/mnt/token
[ -z "SYNC" ] || sync
echo "tiny: written"
"""
BACKED = """#!/bin/sh
# a qcow2 header that names a backing file of the host, over the first bytes of this very disk
printf 'HEADER' | dd of=/dev/vda bs=1 conv=notrunc 2>/dev/null
sync
echo "tiny: written"
"""


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounds]:
    """A host with little more than 2 GiB for instances, and a store of 600 MiB."""
    name, config = f"p{secrets.randbelow(1000000)}", tmp_path_factory.mktemp("snapshots")
    store = config / "images"
    store.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600m,mode=700", "store", str(store)], check=True)
    lab.down(name)
    try:
        grounds = enrol(lab.up(name, 1, instances_mib=2200), config)
        novactl, tiny = grounds.novactl, guests.agent()
        novactl.ok("host", "set", "kvm1", "--disk-ratio", "16")
        words = ["--file", str(tiny.disk), "--format", "raw", "--kernel", str(tiny.kernel)]
        words += ["--initrd", str(tiny.initrd), "--cmdline", f"{tiny.cmdline} tiny.heartbeat"]
        novactl.ok("image", "add", "agent", *words, "--property", "os_shutdown_timeout=20")
        words[words.index("--initrd") + 1] = str(guests.tiny().initrd)
        novactl.ok("image", "add", "silent", *words)
        size = ["--vcpus", "1", "--memory", "128", "--disk", "0"]
        novactl.ok("flavor", "create", "bit", *size)
        novactl.ok("flavor", "create", "bits", *size, "--ephemeral", "1")
        yield grounds
    finally:
        lab.down(name)
        subprocess.run(["umount", "-l", str(store)], check=True)


@pytest.fixture
def grounds(ground: Grounds) -> Iterator[Grounds]:
    """Nothing is left but what was there before."""
    yield ground
    novactl = ground.novactl
    if left := [one["name"] for one in novactl.json("list")]:
        novactl.ok("delete", *left, "--yes")
    for image in novactl.json("image", "list"):
        if image["properties"].get("image_type") == "snapshot":
            novactl.ok("image", "delete", image["name"], "--yes")
    nothing_left(ground)


@pytest.fixture
def name() -> Callable[[], str]:
    return lambda: f"i{secrets.token_hex(4)}"


def boot(
    grounds: Grounds, name: str, script: str = "", *, image: str = "agent", flavor: str = "bit"
) -> dict[str, Any]:
    """A guest that has come up, and told what its script does."""
    words = ["boot", name, "--flavor", flavor, "--image", image]
    if script:
        file = grounds.novactl.config / "script"
        file.write_text(script)
        words += ["--user-data", str(file)]
    made: dict[str, Any] = grounds.novactl.json(*words)
    console_until(grounds, made, "tiny: user-data done" if script else "tiny: ready", 90)
    return made


def writes(token: str, *, sync: bool) -> str:
    return WRITES.replace("TOKEN", token).replace("SYNC", "yes" if sync else "")


def beats(grounds: Grounds, guest: dict[str, Any]) -> list[int]:
    return [int(n) for n in re.findall(r"tiny: heartbeat (\d+)$", console(grounds, guest), re.MULTILINE)]


def goes_on(grounds: Grounds, guest: dict[str, Any]) -> None:
    """The guest counts on where it was."""
    before = beats(grounds, guest)
    wait_until(lambda: len(beats(grounds, guest)) > len(before) + 1, 30, "its heart")
    now = beats(grounds, guest)
    assert now == list(range(1, len(now) + 1)) and "boot count 2" not in console(grounds, guest)


def made_of(grounds: Grounds, guest: dict[str, Any]) -> list[str]:
    """What operations left in its directory, and mirrors that QEMU still writes."""
    host = grounds.host("kvm1")
    files = host.run(["ls", "-A", f"{INSTANCES}/{guest['uuid']}"]).stdout.split()
    xml = host.run(["virsh", "dumpxml", guest["uuid"]]).stdout
    return [file for file in files if file.startswith("op-")] + ["mirror"] * xml.count("<mirror ")


def asked(grounds: Grounds, guest: dict[str, Any]) -> str:
    """What the agent says of the guest's file systems: frozen or thawed."""
    argv = ["virsh", "qemu-agent-command", guest["uuid"], '{"execute":"guest-fsfreeze-status"}']
    return grounds.host("kvm1").run(argv).stdout


def test_a_live_snapshot_has_what_was_written_before_it(grounds, name):
    """Nobody has synced it: freezing does. disk.local comes back where the flavor has room for it."""
    novactl, token, web = grounds.novactl, secrets.token_hex(8), name()
    guest = boot(grounds, web, writes(token, sync=False), flavor="bits")
    image = novactl.json("snapshot", web, "live", "--quiesce")
    assert (image["status"], image["disk_format"], list(image["disks"])) == ("active", "raw", ["disk.local"])
    assert image["properties"]["image_type"] == "snapshot"
    assert image["properties"]["instance_uuid"] == guest["uuid"]
    assert image["properties"]["os_shutdown_timeout"] == "20"
    times = re.findall(r"tiny: agent (freeze|thaw) at ([0-9.]+)", console(grounds, guest))
    assert [what for what, _ in times] == ["freeze", "thaw"]
    assert float(times[1][1]) - float(times[0][1]) <= 0.5
    assert step(last(novactl, web), "copy-live")["result"]["frozen"] <= 500
    assert made_of(grounds, guest) == []
    goes_on(grounds, guest)
    twin = boot(grounds, name(), TELLS, image="live", flavor="bits")
    assert f"tiny: holds root={token} local=local-{token}" in console(grounds, twin)
    smaller = novactl("boot", name(), "--flavor", "bit", "--image", "live", "--dry-run")
    assert smaller.code == 0 and "disk.local of image live is left out" in smaller.err, smaller.err


def test_cold_snapshots_leave_the_guest_as_it_was(grounds, name):
    novactl, token, web = grounds.novactl, secrets.token_hex(8), name()
    guest = boot(grounds, web, WRITES.replace("TOKEN", token).replace("local-", "").replace("SYNC", "yes"))

    def state() -> tuple[str, str]:
        return novactl.json("show", web)["status"], grounds.state("kvm1", guest["uuid"])

    cold = novactl.json("snapshot", web, "cold", "--cold")
    assert cold["disk_format"] == "qcow2" and state() == ("ACTIVE", "running")
    goes_on(grounds, guest)

    novactl.ok("pause", web)
    ended = novactl.ok("snapshot", web, "paused", "--cold")
    assert state() == ("PAUSED", "paused") and "is paused" in ended.err
    novactl.ok("unpause", web)
    novactl.ok("suspend", web)
    novactl.ok("snapshot", web, "suspended")
    assert state() == ("SUSPENDED", "shut off")
    novactl.ok("resume", web)
    goes_on(grounds, guest)

    novactl.ok("snapshot", web, "off", "--power-off", "--compress")
    assert state() == ("ACTIVE", "running")
    console_until(grounds, guest, "boot count 2")
    novactl.ok("stop", web, "--force")
    ended = novactl.ok("snapshot", web, "stopped", "--live", "--format", "raw")
    assert "it is stopped" in ended.err and "copied cold" in ended.err
    assert state() == ("SHUTOFF", "shut off") and made_of(grounds, guest) == []
    path = novactl.config / "images" / novactl.json("image", "show", "off")["sha256"]
    check = ["qemu-img", "check", "-f", "qcow2", "--output=json", path]
    assert json.loads(subprocess.check_output(check))["compressed-clusters"] > 0
    tells = '#!/bin/sh\necho "tiny: holds $(cat /disk/token)"\n'
    for image in ("cold", "off"):
        twin = boot(grounds, name(), tells, image=image)
        assert f"tiny: holds {token}" in console(grounds, twin), image
        novactl.ok("delete", twin["name"], "--yes")


FREEZES = """#!/bin/sh
case "$*" in
    *domfsfreeze*)
        REAL -q -c qemu:///system domfsfreeze UUID
        echo >PLACE.reached
        sleep 40 ;;
esac
exec REAL "$@"
"""


@contextmanager
def slow_to_thaw(host: Any, uuid: str) -> Iterator[str]:
    """virsh there freezes the guest and then dawdles; gives the file that says it has."""
    path = host.run(["sh", "-c", "command -v virsh"]).stdout.strip()
    place = f"/run/slow-{secrets.token_hex(4)}"
    script = FREEZES.replace("REAL", place).replace("UUID", uuid).replace("PLACE", place)
    setup = f"cp {path} {place} && cat >{place}.sh && chmod 755 {place}.sh && mount --bind {place}.sh {path}"
    host.run(["sh", "-c", setup], stdin=script).check_returncode()
    try:
        yield f"{place}.reached"
    finally:
        host.run(["umount", path])


def test_a_frozen_guest_is_thawed_whoever_is_killed(grounds, name):
    """kill -9 of the client and of the host's own job while the guest is frozen; and a virsh that hangs."""
    novactl, host, web = grounds.novactl, grounds.host("kvm1"), name()
    guest = boot(grounds, web)
    with slow_to_thaw(host, guest["uuid"]) as reached:
        running = Running(novactl, "snapshot", web, "killed", "--quiesce")
        wait_until(lambda: host.run(["test", "-e", reached]).returncode == 0, 60, "the guest to be frozen")
        assert "frozen" in asked(grounds, guest)
        running.signal(signal.SIGKILL)
        op = active(novactl)
        (job,) = host.run(["ls", "/var/lib/novactl/job"]).stdout.split()
        pid = host.run(["cut", "-d", " ", "-f", "1", f"/var/lib/novactl/job/{job}/pid"]).stdout.strip()
        host.run(["pkill", "-KILL", "-s", pid]).check_returncode()
        began = time.monotonic()
        wait_until(lambda: "thawed" in asked(grounds, guest), 10, "the guest to be thawed")
        assert time.monotonic() - began < 5
        assert novactl("op", "rollback", op["id"]).code == 0
        host.run(["rm", reached])
        ended = novactl("snapshot", web, "hangs", "--quiesce")
        assert ended.code == 1 and "thawed before its copies stood" in ended.err, ended.err
        assert len(re.findall("agent thaw", console(grounds, guest))) >= 2
    assert made_of(grounds, guest) == [] and "thawed" in asked(grounds, guest)
    goes_on(grounds, guest)
    assert [one["name"] for one in novactl.json("image", "list")] == ["agent", "deaf", "silent", "tiny"]


def fill(host: Any, leave_kib: int) -> None:
    """The host writes down how a job ended on the same disk: that much it must have."""
    free = int(host.run(["stat", "-f", "-c", "%a", INSTANCES]).stdout) * 4096
    take = ["fallocate", "-l", str(free - leave_kib * 1024), "/var/lib/novactl/filler"]
    host.run(take).check_returncode()


def disks_that_are_full(grounds: Grounds, guest: dict[str, Any]) -> None:
    """Seen before anything is made; and while files are made, on the host and in the store."""
    novactl, host, web = grounds.novactl, grounds.host("kvm1"), guest["name"]
    store = novactl.config / "images"
    with unchanged(grounds):
        fill(host, 40 * 1024)
        refused(novactl, "snapshot", web, "s", code=5, says="MiB on kvm1", hint="free some space")
        host.run(["rm", "/var/lib/novactl/filler"])
        free = int(subprocess.check_output(["stat", "-f", "-c", "%a", str(store)])) * 4096
        filler = store / ".filler"
        subprocess.run(["fallocate", "-l", str(free - 40 * MIB), str(filler)], check=True)
        refused(novactl, "snapshot", web, "s", code=5, says="on the store", hint="free some space")
        filler.unlink()
        for tool, words in (("qemu-img", " create "), ("qemu-img", " convert ")):
            with gate(host, tool, words) as held:
                running = Running(novactl, "snapshot", web, "s")
                held.reached(running)
                fill(host, 100)
                held.open()
                assert running.end() == 1 and "no space left" in running.said, running.said
            host.run(["rm", "/var/lib/novactl/filler"])
            assert made_of(grounds, guest) == []
            goes_on(grounds, guest)
        with gate(host, "qemu-img", " map ") as held:
            running = Running(novactl, "snapshot", web, "s")
            held.reached(running)
            subprocess.run(["fallocate", "-l", str(free), str(filler)], check=False)
            held.open()
            assert running.end() == 1 and "no room" in running.said, running.said
        filler.unlink()
    assert grounds.state("kvm1", guest["uuid"]) == "running" and made_of(grounds, guest) == []


def test_a_hostile_guest_gets_its_own_bytes(grounds, name, tmp_path):
    """Its disk begins like a qcow2 file over a file of the host: it is a raw disk, whatever it holds."""
    novactl, host, web = grounds.novactl, grounds.host("kvm1"), name()
    canary = secrets.token_hex(32)
    host.run(["sh", "-c", f"for n in $(seq 4096); do echo {canary}; done >/etc/canary"])
    (tmp_path / "canary").write_text(canary * 4096)
    made = tmp_path / "evil"
    backed = [
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-u",
        "-F",
        "raw",
        "-b",
        "/etc/canary",
        str(made),
        "16M",
    ]
    subprocess.run(backed, check=True)
    header = made.read_bytes()[:1024]
    octal = "".join(f"\\{byte:03o}" for byte in header)
    guest = boot(grounds, web, BACKED.replace("HEADER", octal))
    for way in (["--live"], ["--cold"], ["--cold", "--format", "raw"]):
        image = novactl.json("snapshot", web, "evil", *way)
        path = novactl.config / "images" / image["sha256"]
        assert canary.encode() not in path.read_bytes()
        if image["disk_format"] == "raw":
            assert path.read_bytes()[:8] == header[:8] and image["virtual_size_bytes"] == 16 * MIB
        if way == ["--live"]:
            twin = boot(grounds, name(), "#!/bin/sh\necho tiny: $(head -c 3 /dev/vda)\n", image="evil")
            assert "tiny: QFI" in console(grounds, twin)
            novactl.ok("delete", twin["name"], "--yes")
        novactl.ok("image", "delete", "evil", "--yes")
    assert made_of(grounds, guest) == []


def delete_wins_and_nobody_else_may(grounds: Grounds, guest: dict[str, Any], other: str) -> None:
    """While it is taken: another snapshot is refused, the image is not there to boot from, delete wins."""
    novactl, host, web = grounds.novactl, grounds.host("kvm1"), guest["name"]
    with gate(host, "qemu-img", " convert ") as held:
        running = Running(novactl, "snapshot", web, "s")
        held.reached(running)
        saving = novactl.json("image", "show", "s")
        assert saving["status"] == "saving" and novactl.json("show", web)["task_state"] == "image_snapshot"
        refused(novactl, "snapshot", web, "other", code=6, says="is held by snapshot")
        refused(novactl, "boot", other, "--flavor", "bit", "--image", "s", code=5, says="is saving")
        refused(novactl, "image", "delete", "s", "--yes", code=5, says="is in use")
        novactl.ok("op", "cancel", active(novactl)["id"])
        assert running.end() == 130
    assert made_of(grounds, guest) == [] and grounds.state("kvm1", guest["uuid"]) == "running"
    with gate(host, "qemu-img", " convert ") as held:
        running = Running(novactl, "snapshot", web, "s", "--cold")
        held.reached(running)
        novactl.ok("delete", web, "--yes")
        assert running.end() == 130
    assert novactl("image", "show", "s").code == 4


def test_what_is_refused(grounds, name):
    """No agent and --quiesce, a name that is taken, options that contradict each other."""
    novactl, web = grounds.novactl, name()
    guest = boot(grounds, web, image="silent")
    with unchanged(grounds):
        words = ["snapshot", web]
        refused(novactl, *words, "s", "--quiesce", code=5, says="no agent answers", hint="qemu-guest-agent")
        refused(novactl, *words, "tiny", code=5, says="image tiny exists already")
        refused(novactl, *words, "s", "--quiesce", "--cold", code=2, says="--quiesce goes with --live")
        refused(novactl, *words, "s", "--live", "--cold", code=2, says="exclude each other")
        refused(novactl, *words, "s", "--format", "raw", "--compress", code=2, says="--format qcow2")
        refused(novactl, *words, "s", "--format", "vmdk", code=2, says="is not one of raw, qcow2")
        refused(novactl, "snapshot", "nobody", "s", code=4, says="nobody")
        novactl.ok("snapshot", web, "s", "--dry-run")
    ended = novactl.ok("snapshot", web, "s", "--live")
    assert "no agent answers" in ended.err and "as after a power cut" in ended.err
    assert made_of(grounds, guest) == []
    novactl.ok("image", "delete", "s", "--yes")
    disks_that_are_full(grounds, guest)
    delete_wins_and_nobody_else_may(grounds, guest, name())
