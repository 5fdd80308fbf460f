"""What the lab tests share: a look at everything from outside, a novactl that runs on, tools that wait."""

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from novactl import lab
from novactl.cloud import Cloud
from novactl.db import catalogue, hosts, instances, operations
from novactl.objects.names import domain_name
from novactl.settings import Settings
from tests.lab.conftest import Grounds
from tests.support.command import Command, Ended
from tests.support.sim import CLAIMS

INSTANCES = "/var/lib/novactl/instances"
MIB = 1 << 20

# What lies on a host, each kind under its name. `_base` is a cache: what is in it is no leftover.
LOOK = f"""
echo domains; virsh -q list --all --uuid
echo files; ls -A {INSTANCES} | grep -vx _base
echo taps; ls /sys/class/net | grep '^tap'
echo saved; ls -A /var/lib/libvirt/qemu/save
echo fleet; cat /var/lib/novactl/fleet
"""


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """What `condition` gives as soon as it is true; AssertionError after `seconds`."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.05)
    return found


# --- what is there ---


def on_host(host: lab.LabHost) -> dict[str, list[str]]:
    """Domains, files, taps, saved guests and fleet mark, seen on the host itself."""
    found: dict[str, list[str]] = {}
    for line in host.run(["sh", "-c", LOOK]).stdout.splitlines():
        if line in ("domains", "files", "taps", "saved", "fleet"):
            section = found.setdefault(line, [])
        elif line:
            section.append(line)
    return {key: sorted(value) for key, value in found.items()}


def in_records(novactl: Command) -> dict[str, Any]:
    """What the database holds that a refused command could have changed: instances, claims, addresses,
    active operations, the catalogue, secrets, and the files of the image store."""
    cloud = Cloud(Settings(config=novactl.config), tell=print)
    with cloud.db.reading() as tx:
        found = {
            "instances": [(i.name, i.status, i.host) for i in instances.everything(tx)],
            "used": {h.name: (h.instances, h.enabled, h.labels, h.used()) for h in hosts.everything(tx)},
            "holds": tx.all("SELECT * FROM holds"),
            "addresses": {n.name: catalogue.addresses_used(tx, n.id) for n in catalogue.networks(tx)},
            "active": [op.id for op, *_ in operations.listed(tx, active=True)],
            "locks": tx.all("SELECT * FROM op_locks"),
            "secrets": tx.all("SELECT id FROM secrets"),
            "flavors": [f.name for f in catalogue.flavors(tx)],
            "images": [i.as_dict() for i in catalogue.images(tx)],
            "keypairs": [k.name for k in catalogue.keypairs(tx, "default")],
        }
    cloud.close()
    store = novactl.config / "images"
    found["store"] = sorted(str(path.relative_to(store)) for path in store.rglob("*"))
    return found


def everything(grounds: Grounds) -> dict[str, Any]:
    """All that a command which failed must leave as it was, by host and by record."""
    seen = {host.name: on_host(host) for host in grounds.fleet.hosts if host.alive()}
    return {**seen, **in_records(grounds.novactl)}


@contextmanager
def unchanged(grounds: Grounds) -> Iterator[None]:
    """Whatever happens within, nothing is left of it anywhere, and no operation is active."""
    before = everything(grounds)
    assert before["active"] == []
    yield
    after = everything(grounds)
    assert {key: after[key] for key in after if after[key] != before[key]} == {}


def nothing_left(grounds: Grounds) -> None:
    """The same in novactl's own words: no instance, no claim, no address, no active operation."""
    novactl = grounds.novactl
    assert novactl.json("list") == [] and novactl.json("op", "list", "--active") == []
    used = {(h["vcpus_used"], h["memory_mib_used"], h["disk_gib_used"]) for h in novactl.json("host", "list")}
    assert used == {(0, 0, 0)}
    assert [n["used"] for n in novactl.json("network", "list") if n["used"]] == []
    assert grounds.leftovers() == {}


# --- what must hold when nothing is under way, seen from outside ---

SURVEY = f"""
echo domains; virsh -q list --all --uuid
echo running; virsh -q list --uuid
echo directories; ls -A {INSTANCES} | grep -vx _base
echo epochs; cd /var/lib/novactl/epoch && grep -H . * </dev/null
echo taps; ls /sys/class/net | grep '^tap'
echo saved; ls -A /var/lib/libvirt/qemu/save
echo jobs; ls /var/lib/novactl/job
"""
SECTIONS = frozenset("domains running directories epochs taps saved jobs".split())
LIVING = "(SELECT uuid FROM instances WHERE deleted_at IS NULL)"
FAULTS = f"""{CLAIMS}
    UNION ALL SELECT id, 'is ' || state FROM operations WHERE state NOT IN ('done', 'undone', 'abandoned')
    UNION ALL SELECT operation, 'keeps a lock on ' || id FROM op_locks
    UNION ALL SELECT o.id, 'is ' || o.state || ' and its step ' || s.n || ' ' || s.state
        FROM steps s JOIN operations o ON o.id = s.operation
        WHERE (o.state = 'undone' AND s.state NOT IN ('undone', 'pending'))
        OR (o.state = 'done' AND (s.state = 'done') <> (s.attempt IN (0, o.attempt)))
    UNION ALL SELECT instance_uuid, 'claims ' || host || ' and does not live there' FROM holds
        WHERE (instance_uuid, host) NOT IN (SELECT uuid, host FROM instances WHERE deleted_at IS NULL)
    UNION ALL SELECT name, 'claims nothing' FROM instances WHERE deleted_at IS NULL
        AND (uuid, host) NOT IN (SELECT instance_uuid, host FROM holds)
    UNION ALL SELECT instance_uuid, 'is gone and has an address' FROM ports
        WHERE instance_uuid NOT IN {LIVING}
    UNION ALL SELECT owner, 'is gone and has a secret' FROM secrets
        WHERE owner NOT IN {LIVING} AND owner <> 'pki'
    UNION ALL SELECT name, 'is ' || vm_state || ', ' || power_state || ', ' || COALESCE(task_state, '-')
        FROM instances WHERE deleted_at IS NULL AND (task_state IS NOT NULL
        OR (vm_state, power_state) NOT IN (VALUES ('active', 'running'), ('stopped', 'shutdown'),
            ('paused', 'paused'), ('suspended', 'shutdown')))
"""


def seen_on(host: lab.LabHost) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {section: set() for section in SECTIONS}
    for line in host.run(["sh", "-c", SURVEY]).stdout.split():
        if line in SECTIONS:
            section = found[line]
        else:
            section.add(line)
    return found


def unsettled(grounds: Grounds) -> list[str]:
    """What is wrong in database or hosts though no operation is under way: claims that are not what lives,
    guests that run twice or not, operations that have not ended, things without an owner."""
    cloud = Cloud(Settings(config=grounds.novactl.config), tell=print)
    with cloud.db.reading() as tx:
        wrong = [f"{row['name']}: {row['what']}" for row in tx.all(FAULTS)]
        living = instances.everything(tx)
        epochs = {row["uuid"]: row["epoch"] for row in tx.all("SELECT uuid, epoch FROM instances")}
    cloud.close()
    for host in (host for host in grounds.fleet.hosts if host.alive()):
        seen, here = seen_on(host), [one for one in living if one.host == host.name]
        runs = [one for one in here if one.status in ("ACTIVE", "PAUSED")]
        all_, running = {one.uuid for one in here}, {one.uuid for one in runs}
        taps = {port.tap for one in runs for port in one.ports}
        saved = {f"{domain_name(one.uuid)}.save" for one in here if one.status == "SUSPENDED"}
        wanted = {"domains": all_, "directories": all_, "running": running, "taps": taps, "saved": saved}
        told = {uuid: int(epoch) for uuid, _, epoch in (line.partition(":") for line in seen.pop("epochs"))}
        wrong += [
            f"{host.name}: {uuid} is ahead" for uuid in told if told[uuid] > epochs.get(uuid, told[uuid])
        ]
        for section, found in seen.items():
            wrong += [f"{host.name}: {section}: {one}" for one in found ^ wanted.get(section, set())]
    return wrong


def processes_with(text: str) -> list[str]:
    """Command lines and environments on this machine, lab hosts included, that hold `text`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            for file in ("cmdline", "environ"):
                try:
                    content = (entry / file).read_bytes()
                except OSError:
                    continue
                if text.encode() in content:
                    found.append(f"{entry.name} {file}: {content[:200]!r}")
    return found


# --- running novactl ---


def refused(
    novactl: Command, *words: str, code: int, says: str, hint: str = "", input: str | None = None
) -> Ended:
    """The command ends with this code, nothing on stdout, and an error with these words and this hint."""
    ended = novactl("-o", "json", *words, input=input)
    told = f"novactl {words!r} ended with {ended.code}:\n{ended.out}{ended.err}"
    assert ended.code == code, told
    assert "Traceback" not in ended.err and f"error: {ended.error['message']}" in ended.err, told
    error = ended.error
    assert error["code"] == code and says in error["message"] and hint in error["hint"], told
    assert ended.out == "" or all(row["code"] for row in ended.json), told
    return ended


class Running:
    """A novactl in the background, with what it has said so far on stderr."""

    def __init__(self, novactl: Command, *words: str, **options: Any) -> None:
        self.process = novactl.popen(*words, **options)
        self.said = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line

    def until(self, words: str, seconds: float = 60) -> None:
        """Wait for words on stderr."""
        wait_until(lambda: words in self.said or self.process.poll() is not None, seconds, repr(words))
        assert words in self.said, f"{words!r} not in:\n{self.said}"

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, seconds: float = 90) -> int:
        """Its exit code; stderr is complete by then."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"still running after {seconds:.0f} s; it said:\n{self.said}") from None
        self._reader.join(10)
        return code


def active(novactl: Command) -> dict[str, Any]:
    """The one active operation, in full."""
    (found,) = novactl.json("op", "list", "--active")
    shown: dict[str, Any] = novactl.json("op", "show", found["id"])
    return shown


def last(novactl: Command, target: str) -> dict[str, Any]:
    """The newest operation on a target, in full."""
    found = next(o for o in novactl.json("op", "list") if o["target"] == target)
    shown: dict[str, Any] = novactl.json("op", "show", found["id"])
    return shown


def step(operation: dict[str, Any], name: str) -> dict[str, Any]:
    """The newest step of this name."""
    found: dict[str, Any] = [s for s in operation["steps"] if s["name"] == name][-1]
    return found


# --- guests ---


def console(grounds: Grounds, instance: dict[str, Any]) -> str:
    """The console's log as it lies on the host."""
    path = f"{INSTANCES}/{instance['uuid']}/console.log"
    return grounds.host(instance["host"]).run(["cat", path]).stdout


def console_until(grounds: Grounds, instance: dict[str, Any], words: str, seconds: float = 60) -> str:
    """The console's log, once it has these words."""
    wait_until(lambda: words in console(grounds, instance), seconds, f"{words!r} on the console")
    return console(grounds, instance)


def devices(grounds: Grounds, instance: dict[str, Any]) -> list[str]:
    """Disks and NICs of the running domain, as libvirt lists them."""
    host = grounds.host(instance["host"])
    disks = host.run(["virsh", "-q", "domblklist", instance["uuid"]]).stdout.splitlines()
    nics = host.run(["virsh", "-q", "domiflist", instance["uuid"]]).stdout.splitlines()
    return [line.split()[0] for line in disks] + [line.split()[1] for line in nics if line.strip()]


# --- a host at a chosen instant ---


@contextmanager
def gate(host: lab.LabHost, tool: str, words: str, when: str = "before") -> Iterator["Gate"]:
    """On this host `tool` waits, before or after its work, in the call whose arguments have `words`."""
    held = Gate(host, tool, words, when)
    try:
        yield held
    finally:
        held.open()
        host.run(["umount", held.path])


class Gate:
    """A script in a tool's place (in the mount namespace of one lab host) that waits until it is opened."""

    def __init__(self, host: lab.LabHost, tool: str, words: str, when: str) -> None:
        self.host = host
        self.path = host.run(["sh", "-c", f"command -v {tool}"]).stdout.strip()
        self._place = f"/run/gate-{secrets.token_hex(4)}"
        wait = f"echo >>{self._place}/reached; while [ -e {self._place}/closed ]; do sleep 0.05; done"
        work = f'"{self._place}/{tool}" "$@"'
        body = f"{wait}; exec {work}" if when == "before" else f"{work}; rc=$?; {wait}; exit $rc"
        script = f'#!/bin/sh\ncase " $* " in *"{words}"*) {body} ;; esac\nexec {work}\n'
        setup = f"""
            mkdir {self._place} && touch {self._place}/closed && cp {self.path} {self._place}/{tool} &&
            cat >{self._place}/script && chmod 755 {self._place}/script &&
            mount --bind {self._place}/script {self.path}
        """
        host.run(["sh", "-c", setup], stdin=script).check_returncode()

    def reached(self, running: Running, seconds: float = 60) -> None:
        """Wait until the tool stands there; the command that leads to it must not end before."""
        there = ["test", "-e", f"{self._place}/reached"]
        end = time.monotonic() + seconds
        while self.host.run(there).returncode != 0:
            assert running.process.poll() is None and time.monotonic() < end, f"not reached: {running.said}"

    def count(self) -> int:
        """How often the tool has come here."""
        return len(self.host.run(["cat", f"{self._place}/reached"]).stdout.splitlines())

    def open(self) -> None:
        self.host.run(["rm", "-f", f"{self._place}/closed"])


def read_only(novactl: Command, *words: str) -> Ended:
    """Run novactl where its configuration directory is on a read-only file system: root is stopped by
    nothing less."""
    mount = f"mount --bind {novactl.config} {novactl.config} && mount -o remount,ro,bind {novactl.config}"
    program = str(Path(sys.executable).parent / "novactl")
    argv = ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh", program, *words]
    ended = subprocess.run(argv, env=novactl.environment, capture_output=True, text=True, timeout=60)
    return Ended(list(words), ended.returncode, ended.stdout, ended.stderr)


# --- images that a job of the host converts ---


def qcow2(directory: Path, content: bytes, *options: str) -> Path:
    """A qcow2 image of 64 MiB that begins with `content`; `options` of qemu-img convert."""
    name = secrets.token_hex(4)
    raw, made = directory / f"{name}.raw", directory / f"{name}.qcow2"
    raw.write_bytes(content)
    os.truncate(raw, 64 * MIB)
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, str(raw), str(made)]
    subprocess.run(convert, check=True)
    raw.unlink()
    return made


@contextmanager
def image(grounds: Grounds, file: Path) -> Iterator[dict[str, Any]]:
    """The qcow2 file as an image that no host has yet; instances of it are deleted with it."""
    novactl, name = grounds.novactl, f"m{secrets.token_hex(4)}"
    yield novactl.json("image", "add", name, "--file", str(file), "--format", "qcow2")
    if left := novactl.ok("list", "-o", "name").out.split():
        novactl.ok("delete", *left, "--yes")
    novactl.ok("image", "delete", name, "--yes")


def jobs(host: lab.LabHost) -> list[str]:
    """The directories of jobs on a host."""
    return host.run(["ls", "/var/lib/novactl/job"]).stdout.split()
