"""The lab itself, with nothing faked: it gives what it promises, and takes everything away again."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

import novactl
from novactl import lab

DOMAIN = """
<domain type='qemu'>
  <name>guest</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <interface type='bridge'><source bridge='br0'/><model type='virtio'/></interface>
    <serial type='file'><source path='/var/lib/novactl/instances/console.log'/></serial>
  </devices>
</domain>
"""
VIRSH = ["virsh", "--connect", "qemu:///system"]
NAMES_IN = (
    "/",
    "/etc",
    "/mnt",
    "/root/.ssh",
    "/run",
    "/run/netns",
    "/srv",
    "/var/lib",
    "/var/cache",
    "/var/log",
)
WHOLE_TREES = (
    "/etc/libvirt",
    "/etc/ssh",
    "/var/lib/libvirt",
    "/var/cache/libvirt",
    "/var/log/libvirt",
    "/run/libvirt",
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root")


# What a lab must leave as it was


@dataclass(frozen=True)
class Machine:
    """Everything of the machine that a lab comes near. Other labs, being somebody else's, are left out."""

    mounts: frozenset[str]
    links: frozenset[str]
    processes: frozenset[str]
    files: frozenset[str]
    settings: tuple[str, ...]


def machine(root: Path) -> Machine:
    foreign = foreign_tokens(root)
    return Machine(
        mounts=frozenset(mounts(root)),
        links=frozenset(
            link
            for link in os.listdir("/sys/class/net")
            if not any(link.startswith(f"nv{t[:4]}-") for t in foreign)
        ),
        processes=lab_processes(root, foreign),
        files=frozenset(files()),
        settings=settings(),
    )


def mounts(root: Path) -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        at = line.split()[4]
        if f"{root}/" in line or not at.startswith("/tmp/"):  # there others mount what they like
            yield line


def token_of(pid: str) -> str | None:
    try:
        variables = Path("/proc", pid, "environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((v[12:].decode().split(":")[0] for v in variables if v.startswith(b"NOVACTL_LAB=")), None)


def read_link(*parts: str) -> str:
    try:
        return os.readlink(Path("/proc", *parts))
    except OSError:
        return ""


def pids() -> list[str]:
    return [pid for pid in os.listdir("/proc") if pid.isdigit()]


def foreign_tokens(root: Path) -> set[str]:
    """The tokens of labs that live elsewhere: their switch writes its log there."""
    logs = ((token_of(pid), read_link(pid, "fd/2")) for pid in pids())
    return {token for token, log in logs if token and log.endswith("/lab.log") and f"{root}/" not in log}


def lab_processes(root: Path, foreign: set[str]) -> frozenset[str]:
    """Processes that carry a lab's mark, or that see a directory of a lab under `root` mounted."""
    found = set()
    for pid in pids():
        try:
            token, mounts = token_of(pid), Path("/proc", pid, "mountinfo").read_text()
            if token not in {None, *foreign} or f"{root}/" in mounts:
                found.add(f"{pid} {Path('/proc', pid, 'comm').read_text().strip()}")
        except OSError:
            continue  # it has just ended
    return frozenset(found)


def files() -> Iterator[str]:
    for top in NAMES_IN:
        if Path(top).is_dir():
            yield from (f"{top}/{name}" for name in os.listdir(top) if not name.startswith("novactl"))
    for top in WHOLE_TREES:
        for directory, _, names in os.walk(top):
            yield from (f"{directory}/{name} {Path(directory, name).lstat().st_mtime_ns}" for name in names)
    for name in ("passwd", "shadow", "hosts", "hostname", "machine-id", "resolv.conf"):
        yield f"{name} {Path('/etc', name).stat().st_mtime_ns if Path('/etc', name).exists() else None}"


def settings() -> tuple[str, ...]:
    names = (
        "kernel/hostname",
        "kernel/random/boot_id",
        "net/ipv4/ip_forward",
        "net/ipv6/conf/all/disable_ipv6",
        "net/bridge/bridge-nf-call-iptables",
    )
    paths = [Path("/proc/sys", name) for name in names]
    return tuple(path.read_text() for path in paths if path.exists())


@pytest.fixture
def clean(tmp_path: Path) -> Iterator[Path]:
    """A root for labs, under which nothing may be left, nor anywhere else."""
    root = tmp_path / "labs"
    before = machine(root)
    yield root
    for name in os.listdir(root) if root.exists() else []:
        lab.down(name, root)
    assert_same(before, root)


def assert_same(before: Machine, root: Path) -> None:
    eventually(lambda: machine(root) == before)
    after = machine(root)
    assert after.settings == before.settings
    for name in ("mounts", "links", "processes", "files"):
        was, now = getattr(before, name), getattr(after, name)
        assert (name, sorted(now - was), sorted(was - now)) == (name, [], [])
    assert not root.exists()


def eventually(condition: Callable[[], bool], timeout: float = 3) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


# One lab of three hosts for most tests


@dataclass(frozen=True)
class Lab:
    fleet: lab.Fleet
    seconds: float
    ssh: list[str]
    directory: Path


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("three")
    before = machine(directory)
    started = time.monotonic()
    fleet = lab.up("self3", 3, root=directory / "labs")
    seconds = time.monotonic() - started
    try:
        yield Lab(fleet, seconds, ssh_command(fleet, directory), directory)
    finally:
        started = time.monotonic()
        assert lab.down("self3", directory / "labs")
        assert time.monotonic() - started < 4
    assert_same(before, directory / "labs")


def ssh_command(fleet: lab.Fleet, directory: Path) -> list[str]:
    """ssh that trusts the fleet's pinned keys and nothing else, also as libvirt's `command=`."""
    known_hosts = directory / "known_hosts"
    known_hosts.write_text("".join(f"{host.address} {host.host_key}\n" for host in fleet.hosts))
    pinned = [
        "-o",
        f"UserKnownHostsFile={known_hosts}",
        "-o",
        "StrictHostKeyChecking=yes",
        "-o",
        "BatchMode=yes",
    ]
    return ["ssh", "-F", "none", "-i", str(fleet.identity), "-l", "root", *pinned]


def output(argv: list[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def inside(host: lab.LabHost, *argv: str, stdin: str = "") -> str:
    done = host.run(argv, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def reaches(host: lab.LabHost, target: str) -> bool:
    """Whether `host` gets the banner of `target`'s sshd within two seconds."""
    script = 'exec 3<>"/dev/tcp/$1/22" && read -r line <&3 && [ "${line#SSH-}" != "$line" ]'
    return host.run(["timeout", "2", "bash", "-c", script, "reaches", target]).returncode == 0


def boot_id(host: lab.LabHost) -> str:
    return inside(host, "cat", "/proc/sys/kernel/random/boot_id")


def start_guest(host: lab.LabHost) -> None:
    inside(host, "mkdir", "-p", "/var/lib/novactl/instances")
    inside(host, *VIRSH, "define", "/dev/stdin", stdin=DOMAIN)
    inside(host, *VIRSH, "start", "guest")


def remove_guest(host: lab.LabHost) -> None:
    host.run([*VIRSH, "destroy", "guest"])
    host.run([*VIRSH, "undefine", "guest"])


def test_three_hosts_are_up_within_fifteen_seconds(three: Lab) -> None:
    assert three.seconds <= 15
    assert [host.name for host in three.fleet.hosts] == ["kvm1", "kvm2", "kvm3"]
    assert lab.load("self3", three.directory / "labs") == three.fleet
    (described,) = lab.status(three.directory / "labs")
    assert json.loads(json.dumps(described)) == {
        "name": "self3",
        "network": three.fleet.network,
        "hosts": [
            {"name": h.name, "address": h.address, "state": "up", "pid": h.pid} for h in three.fleet.hosts
        ],
    }


def test_hosts_are_different_machines(three: Lab) -> None:
    seen = [
        (
            inside(host, "hostname"),
            inside(host, "cat", "/etc/machine-id"),
            inside(host, "grep", "host_uuid", "/etc/libvirt/libvirtd.conf"),
            boot_id(host),
            host.address,
            host.fingerprint,
        )
        for host in three.fleet.hosts
    ]
    for values in zip(*seen, strict=True):
        assert len(set(values)) == 3
    assert os.uname().nodename not in [row[0] for row in seen]
    assert Path("/proc/sys/kernel/random/boot_id").read_text().strip() not in [row[3] for row in seen]
    assert all(host.fingerprint.startswith("SHA256:") for host in three.fleet.hosts)


def test_ssh_works_with_the_pinned_key_only(three: Lab) -> None:
    first, second, _ = three.fleet.hosts
    assert output([*three.ssh, first.address, "hostname; pwd; command -v libvirtd"]).split() == [
        "kvm1",
        "/root",
        "/usr/sbin/libvirtd",
    ]
    scanned = output(["ssh-keygen", "-l", "-F", first.address, "-f", str(three.directory / "known_hosts")])
    assert first.fingerprint in scanned
    wrong = three.directory / "wrong_known_hosts"
    wrong.write_text(f"{first.address} {second.host_key}\n")
    swapped = [part.replace("/known_hosts", "/wrong_known_hosts") for part in three.ssh]
    refused = subprocess.run([*swapped, first.address, "true"], capture_output=True, text=True)
    assert refused.returncode == 255
    assert "Host key verification failed" in refused.stderr


def test_libvirt_answers_over_qemu_ssh(three: Lab) -> None:
    wrapper = three.directory / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec {shlex.join(three.ssh)} "$@"\n')
    wrapper.chmod(0o755)
    for host in three.fleet.hosts:
        uri = f"qemu+ssh://root@{host.address}/system?command={wrapper}"
        assert output(["virsh", "--connect", uri, "hostname"]) == host.name
    assert output(["virsh", "--connect", uri, "net-list", "--name"]) == ""
    assert "clean-traffic" in output(["virsh", "--connect", uri, "nwfilter-list"])


def test_hosts_reach_each_other_by_name_and_the_machine(three: Lab) -> None:
    for host in three.fleet.hosts:
        assert all(reaches(host, other.name) for other in three.fleet.hosts)
    assert inside(three.fleet.hosts[0], "cat", "/sys/class/net/br0/brif/eth0/state") == "3"
    assert not Path("/sys/class/net/br0").exists()


def test_storage_is_shared_and_the_rest_is_not(three: Lab) -> None:
    first, second, _ = three.fleet.hosts
    inside(first, "sh", "-c", "echo shared > /srv/shared/file; touch /tmp/own /var/lib/novactl/own /root/own")
    assert inside(second, "cat", "/srv/shared/file") == "shared"
    assert (three.fleet.shared / "file").read_text() == "shared\n"
    for path in ("/tmp/own", "/var/lib/novactl/own", "/root/own"):
        assert second.run(["test", "-e", path]).returncode == 1
        assert not Path(path).exists()


def test_a_guest_starts_fast_and_outlives_libvirtd(three: Lab) -> None:
    host = three.fleet.hosts[0]
    try:
        started = time.monotonic()
        start_guest(host)
        # Far above the 0.3 s it takes, far below the 8 s of the /dev/kvm trap (boot.sh).
        assert time.monotonic() - started < 4
        assert "vnet0" in inside(host, "ls", "/sys/class/net/br0/brif")
        assert inside(host, "stat", "-c", "%U", "/var/lib/novactl/instances/console.log") == "libvirt-qemu"
        host.kill_libvirtd()
        assert host.run([*VIRSH, "list"]).returncode != 0
        host.start_libvirtd()
        assert inside(host, *VIRSH, "domstate", "guest") == "running"
    finally:
        remove_guest(host)


def test_power_loss_ends_guests_and_keeps_files(three: Lab) -> None:
    host = three.fleet.hosts[1]
    start_guest(host)
    inside(
        host, "touch", "/run/gone", "/tmp/gone", "/var/lib/novactl/kept", "/etc/libvirt/kept", "/root/kept"
    )
    before = boot_id(host)
    host.stop()
    assert not host.alive()
    assert not reaches(three.fleet.hosts[0], host.name)
    assert [entry["state"] for entry in lab.status(three.directory / "labs")[0]["hosts"]] == [
        "up",
        "off",
        "up",
    ]
    with pytest.raises(lab.LabError, match="kvm2 is off"):
        host.run(["true"])
    host.start()
    try:
        assert boot_id(host) != before
        assert host.run(["ls", "/run/gone", "/tmp/gone"]).stdout == ""
        inside(host, "ls", "/var/lib/novactl/kept", "/etc/libvirt/kept", "/root/kept")
        assert inside(host, *VIRSH, "domstate", "guest") == "shut off"
        assert output([*three.ssh, host.address, "hostname"]) == "kvm2"
        assert reaches(three.fleet.hosts[0], host.name)
        with pytest.raises(lab.LabError, match="on already"):
            host.start()
    finally:
        remove_guest(host)


def test_a_cut_cable_can_be_mended(three: Lab) -> None:
    first, second, third = three.fleet.hosts
    third.cut()
    assert third.alive()
    assert not reaches(first, third.name)
    assert reaches(first, second.name)
    third.mend()
    assert reaches(first, third.name)


# Labs beside each other, and refusals


def test_the_comparison_of_machines_sees_a_lab(clean: Path) -> None:
    before = machine(clean)
    lab.up("self", 1, root=clean)
    now = machine(clean)
    assert len(now.links - before.links) == 1
    names = {process.split()[1] for process in now.processes - before.processes}
    assert {"sleep", "tini", "sshd", "virtlogd", "libvirtd"} <= names
    assert now.mounts == before.mounts


def test_labs_made_at_once_have_networks_of_their_own(clean: Path) -> None:
    with ThreadPoolExecutor() as pool:
        first = pool.submit(lab.up, "selfa", 1, root=clean, instances_mib=8)
        second = pool.submit(lab.up, "selfb", 1, root=clean)
        a, b = first.result(), second.result()
    assert a.network != b.network
    assert a.hosts[0].host_key != b.hosts[0].host_key
    fill = ["dd", "if=/dev/zero", "of=/var/lib/novactl/zeros", "bs=1M", "count=16"]
    full = a.hosts[0].run(fill)
    assert "No space left" in full.stderr
    a.hosts[0].stop()
    a.hosts[0].start()
    assert inside(a.hosts[0], "stat", "-c", "%s", "/var/lib/novactl/zeros") == str(8 * 2**20)
    assert lab.down("selfa", clean)
    assert not lab.down("selfa", clean)
    assert b.hosts[0].alive()
    assert reaches(b.hosts[0], b.hosts[0].address)
    with pytest.raises(lab.LabError, match="up already"):
        lab.up("selfb", 1, root=clean)
    assert b.hosts[0].alive()


def test_what_cannot_be_is_refused_and_leaves_nothing(clean: Path) -> None:
    for name in ("", "A", "1a", "a-b", "../a", "ninechars"):
        with pytest.raises(lab.LabError, match="cannot be used"):
            lab.up(name, 1, root=clean)
    for hosts in (0, 33):
        with pytest.raises(lab.LabError, match="cannot be made"):
            lab.up("self", hosts, root=clean)
    with pytest.raises(lab.LabError, match="not up") as caught:
        lab.load("self", clean)
    assert caught.value.hint
    os.seteuid(65534)
    try:
        with pytest.raises(lab.LabError, match="needs root"):
            lab.up("self", 1, root=clean)
    finally:
        os.seteuid(0)


def test_a_directory_that_is_no_lab_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "file").touch()
    for act in (lab.up, lab.down):
        with pytest.raises(lab.LabError, match="not a lab"):
            act("self", root=tmp_path)
    assert (tmp_path / "self" / "file").exists()
    assert lab.status(tmp_path) == []


# Crashes


def crash(call: str, root: Path, seconds: float) -> None:
    """Make `call` in a process of its own, and kill it so long after the lab's directory was seen."""
    code = f"from pathlib import Path; from novactl import lab; {call}"
    environment = {**os.environ, "PYTHONPATH": str(Path(novactl.__file__).parents[1])}
    process = subprocess.Popen([sys.executable, "-c", code, str(root)], env=environment)
    assert eventually(lambda: (root / "self").exists(), 10)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("seconds", [0, 0.005, 0.02, 0.05, 0.1, 0.15, 0.3, 0.6, 1.0])
def test_down_clears_away_what_a_killed_up_left(clean: Path, seconds: float) -> None:
    crash("import sys; lab.up('self', 3, root=Path(sys.argv[1]))", clean, seconds)
    if (clean / "self/lab.json").exists() and '"ready": false' in (clean / "self/lab.json").read_text():
        with pytest.raises(lab.LabError, match="half made"):
            lab.up("self", 1, root=clean)
    assert lab.down("self", clean)
    assert not lab.down("self", clean)


def test_down_finishes_what_a_killed_down_began(clean: Path) -> None:
    for seconds in (0, 0.02, 0.05):
        lab.up("self", 1, root=clean)
        call = "import sys, time; time.sleep(0.1); lab.down('self', Path(sys.argv[1])); time.sleep(9)"
        crash(call, clean, 0.15 + seconds)
        lab.down("self", clean)
        assert not [link for link in os.listdir("/sys/class/net") if re.fullmatch("nv....-self", link)]
