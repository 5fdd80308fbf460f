"""Secrets are where they have to be and nowhere else: user-data is the guest's alone, the key and the
database's password are novactl's. Whole sessions are watched while they go on, on SQLite and PostgreSQL."""

import base64
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from novactl import lab
from novactl.lab import guests
from tests.lab.conftest import Grounds
from tests.lab.support import (
    INSTANCES,
    Running,
    active,
    console_until,
    gate,
    nothing_left,
    processes_with,
)
from tests.support import dying
from tests.support.command import Command, Ended
from tests.support.servers import Server, postgres, program

pytestmark = pytest.mark.lab
__all__ = ["postgres"]

TINY = ["--flavor", "tiny", "--image", "tiny", "--network", "lan", "--host", "kvm1"]
LOUD = ["-vv", "--debug", "-o", "json"]
CANARY = f"canary-{secrets.token_hex(12)}"
SCRIPT = f"#!/bin/sh\n# {CANARY}\necho user-data ran\n"
KEY = base64.b64encode(secrets.token_bytes(32)).decode()
PLACES = ["/var/lib/novactl", "/var/lib/libvirt", "/etc/libvirt", "/var/log", "/run", "/root", "/tmp"]
ROOT = Path(__file__).parents[2]


def forms(secret: str) -> set[str]:
    """The ways a text may be written down: as it is, in a URL, in hex, and within base64."""
    data = secret.encode()
    middles = {base64.b64encode(bytes(n) + data)[(4 * n + 2) // 3 : -4].decode() for n in range(3)}
    return {secret, quote(secret, safe=""), data.hex(), *middles}


@dataclass
class Secrets:
    """What is looked for, by its name, in all its forms."""

    of: dict[str, set[str]]

    def within(self, content: bytes) -> set[str]:
        """The names of those that are in it."""
        return {name for name, texts in self.of.items() if any(text.encode() in content for text in texts)}

    def on_host(self, host: lab.LabHost) -> set[tuple[str, str]]:
        """(name, file) of what lies on a host; a guest's own disks and memory are its own."""
        found = set()
        for name, texts in self.of.items():
            words = ["grep", "-rlF", "--devices=skip", "-f", "-", *PLACES]
            for path in host.run(words, stdin="\n".join(sorted(texts)) + "\n").stdout.splitlines():
                found.add((name, path))
        return found

    def in_files(self, directory: Path) -> set[tuple[str, str]]:
        files = [path for path in directory.rglob("*") if path.is_file()]
        return {(name, path.name) for path in files for name in self.within(path.read_bytes())}


NOVACTL = re.compile(rb"(/novactl|\0novactl|\0tests\.support\.dying)\0")


class Sampler(threading.Thread):
    """Looks at every process of the machine, those of lab hosts too, and at the jobs of hosts, again and
    again. Key and password may be in the environment of novactl itself, since that is how they are given."""

    def __init__(self, looked_for: Secrets, hosts: list[lab.LabHost]) -> None:
        super().__init__(daemon=True)
        self.looked_for = looked_for
        roots = [Path(f"/proc/{host.pid}/root") for host in hosts]
        self.jobs = [root / "var/lib/novactl/job" for root in roots]
        self.found: set[str] = set()
        self.rounds = self.excused = 0
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.02):
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit() and entry.name != str(os.getpid()):
                    self._process(entry)
            for file in (file for directory in self.jobs for file in directory.rglob("*")):
                self._tell(f"job {file.name}", _content(file) if file.is_file() else b"")
            self.rounds += 1

    def _process(self, entry: Path) -> None:
        words = _content(entry / "cmdline")
        self._tell("command line", words)
        given = self.looked_for.within(_content(entry / "environ"))
        if NOVACTL.search(words) and b"python" in words:
            self.excused += bool(given)
            given -= {"key", "password"}
        self.found |= {f"{name} in the environment of {words[:80]!r}" for name in given}

    def _tell(self, where: str, content: bytes) -> None:
        self.found |= {f"{name} in {where} {content[:80]!r}" for name in self.looked_for.within(content)}

    def end(self) -> None:
        self._over.set()
        self.join(10)
        assert self.rounds > 20 and self.excused, "it has seen nothing"
        assert self.found == set()


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


@dataclass
class Session:
    """A novactl with secrets, and what it said."""

    grounds: Grounds
    looked_for: Secrets
    dump: Any
    said: list[str] = field(default_factory=list)

    @property
    def novactl(self) -> Command:
        return self.grounds.novactl

    def ok(self, *words: str, input: str | None = None) -> Ended:
        ended = self.novactl.ok(*LOUD, *words, input=input)
        self.said.append(ended.out + ended.err)
        return ended

    def drive(self, made: dict[str, Any]) -> set[tuple[str, str]]:
        return {("user-data", f"{INSTANCES}/{made['uuid']}/disk.config")}

    def check(self, *made: dict[str, Any]) -> None:
        """Of all secrets only user-data is on the host, in the config drives of these instances."""
        host = self.grounds.host("kvm1")
        drives = set().union(*(self.drive(one) for one in made))
        assert self.looked_for.on_host(host) == drives
        for _, path in drives:
            assert host.run(["stat", "-c", "%a", path]).stdout.strip() == "400"
        assert self.looked_for.in_files(self.novactl.config) == set()
        assert self.looked_for.in_files(self.grounds.fleet.host("kvm1").directory.parent / "log") == set()
        assert self.looked_for.within(self.dump()) == set()
        assert self.looked_for.within("".join(self.said).encode()) == set()


def play(session: Session, name: Any) -> None:
    """boot, stop, start, stop --force, a start and a boot with --no-wait, a boot that is killed and resumed,
    host check, delete."""
    web, late, killed, grounds = name(), name(), name(), session.grounds
    told = ["--user-data", "-"]
    made = session.ok("boot", web, *TINY, *told, "--meta", "colour=blue", input=SCRIPT).json
    assert "user-data ran" in console_until(grounds, made, "tiny: user-data done rc=0")
    session.check(made)
    session.ok("stop", web)
    session.ok("start", web)
    session.ok("stop", web, "--force")
    others = session.ok("start", web, "--no-wait").json
    others += [session.ok("boot", late, *TINY, *told, "--no-wait", input=SCRIPT).json]
    for one in others:
        session.ok("op", "wait", one["id"], "--timeout", "90")
    op_id = die_in(session, killed, told)
    session.ok("op", "resume", op_id)
    session.ok("host", "check", "kvm1")
    session.check(*(session.ok("show", one).json for one in (web, late, killed)))
    ours = [op["id"] for op in session.ok("op", "list").json if op["target"] in (web, late, killed)]
    assert len(ours) > 6
    for op_id in ours:
        session.ok("op", "show", op_id)
    session.ok("event", "list", web)
    session.ok("delete", web, late, killed, "--yes")
    session.check()
    nothing_left(grounds)


def die_in(session: Session, name: str, told: list[str]) -> str:
    """A boot whose process dies while the config drive is on its way to the host."""
    words = [*LOUD, "boot", name, *TINY, *told]
    argv = [sys.executable, "-m", dying.MODULE, "write-config-drive", "in-act:2:20", "--", *words]
    environment = session.novactl.environment
    ended = subprocess.run(argv, env=environment, cwd=ROOT, input=SCRIPT, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    session.said.append(ended.stdout + ended.stderr)
    return str(active(session.novactl)["id"])


@contextmanager
def watched(session: Session) -> Iterator[None]:
    sampler = Sampler(session.looked_for, session.grounds.fleet.hosts)
    sampler.start()
    yield
    sampler.end()


def with_secrets(grounds: Grounds, **environment: str) -> Grounds:
    return Grounds(grounds.fleet, Command(grounds.novactl.config, NOVACTL_KEY=KEY, **environment))


def test_a_session_on_sqlite(grounds: Grounds, name):
    looked_for = Secrets({"user-data": forms(CANARY), "key": forms(KEY)})
    keyed = with_secrets(grounds)
    database = keyed.novactl.config
    session = Session(keyed, looked_for, lambda: b"".join(map(_content, database.glob("novactl.db*"))))
    with watched(session):
        play(session, name)


# --- a database server: the one session of the product on one that uses real hosts ---


@pytest.fixture
def served(postgres: Server, tmp_path: Path) -> Iterator[Session]:
    """A lab of one host whose fleet is on PostgreSQL, by the UNIX socket; `list` goes by TCP, which asks for
    the password."""
    database, fleet_name = f"lab{secrets.token_hex(4)}", f"p{os.getpid() % 1000000}"
    url = postgres.create_database(database)
    lab.down(fleet_name)
    try:
        fleet = lab.up(fleet_name, 1)
        words = {"NOVACTL_KEY": KEY, "NOVACTL_DB": url, "NOVACTL_DB_PASSWORD": postgres.password}
        grounds = Grounds(fleet, Command(tmp_path / "config", **words))
        furnish(grounds)
        of = {"user-data": forms(CANARY), "key": forms(KEY), "password": forms(postgres.password)}
        dump = [program("pg_dump"), "--dbname", url, "--inserts"]
        yield Session(
            grounds, Secrets(of), lambda: subprocess.run(dump, capture_output=True, check=True).stdout
        )
    finally:
        lab.down(fleet_name)
        postgres.drop_database(database)


def furnish(grounds: Grounds) -> None:
    """What a boot needs."""
    novactl, tiny, fleet = grounds.novactl, guests.tiny(), grounds.fleet
    novactl.ok("db", "init")
    novactl.ok(*grounds.add_words("kvm1"))
    files = ["--file", str(tiny.disk), "--kernel", str(tiny.kernel), "--initrd", str(tiny.initrd)]
    novactl.ok("image", "add", "tiny", "--format", "raw", *files, "--cmdline", tiny.cmdline)
    novactl.ok("flavor", "create", "tiny", "--vcpus", "1", "--memory", "96", "--disk", "1")
    network = ["--cidr", fleet.network, "--gateway", fleet.gateway, "--bridge", "br0"]
    novactl.ok("network", "create", "lan", *network)
    novactl.ok("host", "set", "kvm1", "--cpu-ratio", "32")


@pytest.mark.long
def test_a_session_on_postgresql(served: Session, postgres: Server, name):
    novactl = served.novactl
    with watched(served):
        play(served, name)
        socket, tcp = novactl.environment["NOVACTL_DB"], postgres.tcp_url.rpartition("/")[0]
        by_tcp = f"{tcp}/{re.search(r'/(lab[0-9a-f]+)', socket)[1]}"
        done = {op["state"] for op in served.ok("--db", by_tcp, "op", "list").json}
        assert done == {"done"}
        wrong = Command(
            novactl.config, NOVACTL_KEY=KEY, NOVACTL_DB_PASSWORD="wrong"
        )  # it was really asked for
        refused = wrong("--db", by_tcp, *LOUD, "op", "list")
        assert refused.code == 9 and "wrong" not in refused.err.replace("wrong password", ""), refused.err
    assert not (novactl.config / "secret.key").exists() and not (novactl.config / "novactl.db").exists()


# --- what is started by novactl ---


def test_ssh_to_a_guest_is_not_told_our_secrets(grounds: Grounds, name):
    web, novactl = name(), with_secrets(grounds, NOVACTL_DB_PASSWORD="password-of-the-database").novactl
    novactl.ok("boot", web, *TINY)
    login, seen = Running(novactl, "ssh", web, "--", "true"), []
    while login.process.poll() is None:  # nobody answers: there is no sshd in the guest
        seen += ssh_of(login.process.pid)
    assert seen, f"no ssh was seen: {login.said}"
    told = {
        secret for environ in seen for secret in ("NOVACTL_KEY", "NOVACTL_DB_PASSWORD") if secret in environ
    }
    assert told == set()


def ssh_of(pid: int) -> list[str]:
    """The environments of the ssh processes that a novactl has started, and of those that they have."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _content(entry / "cmdline").startswith(b"ssh\0"):
            session = _content(entry / "stat").rpartition(b")")[2].split()
            if session and int(session[3]) == pid:
                found.append(_content(entry / "environ").decode(errors="replace"))
    return found


# --- in the middle of a boot ---


def test_user_data_is_kept_to_the_guest(grounds: Grounds, name):
    web, novactl, host = name(), grounds.novactl, grounds.host("kvm1")
    looked_for = Secrets({"user-data": forms(CANARY)})
    with gate(host, "virsh", "start") as still:
        boot = Running(novactl, "-vv", "--debug", "boot", web, *TINY, "--user-data", "/dev/stdin", stdin=-1)
        boot.process.stdin.write(SCRIPT)
        boot.process.stdin.close()
        still.reached(boot)
        assert processes_with(CANARY) == []
        assert looked_for.in_files(novactl.config) == set()
        operation = active(novactl)
        still.open()
        assert boot.end() == 0
    assert "DEBUG" in boot.said and "disk.config (config-2)" in boot.said  # much is told, but
    assert CANARY not in boot.said and CANARY not in boot.process.stdout.read()
    assert CANARY not in json.dumps(operation)

    made = novactl.json("show", web)
    assert "user-data ran" in console_until(grounds, made, "tiny: user-data done rc=0")
    drive = f"{INSTANCES}/{made['uuid']}/disk.config"
    assert looked_for.on_host(host) == {("user-data", drive)}
    novactl.ok("stop", web, "--force")
    novactl.ok("start", web)  # sealed, it is there for the config drive to be made again
    assert host.run(["grep", "-q", CANARY, drive]).returncode == 0
    assert looked_for.in_files(novactl.config) == set()
    assert (novactl.config / "secret.key").stat().st_mode & 0o777 == 0o600
    assert (novactl.config / "novactl.db").stat().st_mode & 0o777 == 0o600
    novactl.ok("delete", web, "--yes")
    nothing_left(grounds)
