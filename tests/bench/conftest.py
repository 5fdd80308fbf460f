"""`pytest tests/bench -s --bench-json=FILE` (or BENCH_FULL=1) measures in full; otherwise a quick variant."""

import inspect
import json
import os
import re
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from novactl import lab
from tests.bench.harness import Results, settle, timed
from tests.lab.conftest import Grounds, enrol
from tests.support.command import NOVACTL, Command

RAW = Path(__file__).with_name("raw.py")
IDLE_MIB = 1
HOST = "kvm1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bench-json", metavar="FILE", help="measure in full and write the figures there")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """In the quick variant a test that finds a limit exceeded is called again with the same fixtures."""
    results = pyfuncitem.funcargs.get("results")
    if not isinstance(results, Results) or results.full:
        return None
    wanted = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    settle(lambda: pyfuncitem.obj(**wanted))
    return True


@pytest.fixture(scope="session")
def results(pytestconfig: pytest.Config) -> Iterator[Results]:
    # `pytest tests` reads this file too late for its option: then it has none
    path = pytestconfig.getoption("--bench-json", default=None)
    found = Results(full=bool(path) or os.environ.get("BENCH_FULL") == "1")
    found.notes["load_before"] = round(os.getloadavg()[0], 2)
    yield found
    if path:
        found.write(Path(path))
        print(f"\nfigures written to {path}")


@pytest.fixture
def empty(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """novactl with an empty database: `list` on it is what start-up means."""
    command = Command(tmp_path_factory.mktemp("empty"))
    command.ok("db", "init")
    return command


@dataclass
class Bench:
    """A lab of one host, an idle guest image whose base file is on the host already, and the raw script."""

    grounds: Grounds
    directory: Path
    job: dict[str, Any]

    @property
    def novactl(self) -> Command:
        return self.grounds.novactl

    def timed(self, *words: str) -> float:
        return timed([NOVACTL, *words], self.novactl.environment)[0]

    def boot(self, name: str, *words: str) -> float:
        where = ["--image", "idle", "--flavor", "idle", "--network", "lan", "--host", HOST]
        return self.timed("boot", name, *where, *words)

    def delete(self, *names: str) -> float:
        return self.timed("delete", *names, "--yes")

    def raw(self, verb: str, guests: int, *options: str) -> float:
        path = self.directory / f"job-{guests}.json"
        if verb == "boot":
            path.write_text(json.dumps({**self.job, "guests": [self._guest(n) for n in range(guests)]}))
        return timed([sys.executable, str(RAW), verb, str(path), *options])[0]

    def _guest(self, number: int) -> dict[str, str]:
        """The template's domain with a uuid, paths, MAC and tap of its own."""
        new = str(uuid.uuid4())
        xml = self.job["template"].replace(self.job["template_uuid"], new)
        xml = xml.replace(self.job["template_uuid"][:8], new[:8])
        xml = re.sub(r"<metadata>.*?</metadata>", "", xml, flags=re.DOTALL)
        xml = re.sub(r"<mac address=(['\"]).*?\1", f'<mac address="52:54:00:00:be:{number:02x}"', xml)
        xml = re.sub(r"<target dev=(['\"])tap.*?\1", f'<target dev="rawtap{number}"', xml)
        return {"uuid": new, "xml": xml}

    def nothing_left(self) -> None:
        """No guest of one measurement may take CPU from the next."""
        assert self.grounds.leftovers() == {}


def idle_disk(path: Path) -> Path:
    """A boot sector that halts at once, for ever: cli; hlt; jmp back."""
    sector = b"\xfa\xf4\xeb\xfd".ljust(510, b"\0") + b"\x55\xaa"
    path.write_bytes(sector.ljust(IDLE_MIB << 20, b"\0"))
    return path


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    name = f"b{os.getpid() % 1000000}"
    lab.down(name)
    fleet = lab.up(name, 1)
    try:
        directory = tmp_path_factory.mktemp("bench")
        grounds = enrol(fleet, directory / "config")
        yield Bench(grounds, directory, prepare(grounds, directory))
    finally:
        lab.down(name)


def prepare(grounds: Grounds, directory: Path) -> dict[str, Any]:
    """The idle image and flavor; one boot caches the base file and gives the XML and drive that raw uses."""
    novactl = grounds.novactl
    disk = idle_disk(directory / "idle.raw")
    novactl.ok("image", "add", "idle", "--file", str(disk), "--format", "raw")
    novactl.ok("flavor", "create", "idle", "--vcpus", "1", "--memory", "64", "--disk", "1")
    boot = ["boot", "template", "--image", "idle", "--flavor", "idle", "--network", "lan", "--host", HOST]
    made = novactl.json(*boot)
    of = f"/var/lib/novactl/instances/{made['uuid']}"
    host = grounds.host(HOST)
    template = host.run(["cat", f"{of}/libvirt.xml"]).stdout
    drive = host.run(["base64", f"{of}/disk.config"]).stdout
    novactl.ok("delete", "template", "--yes")
    return {
        "host": HOST,
        "uri": f"qemu+ssh://{HOST}/system?command={wrapper(novactl.config, directory)}&no_tty=1",
        "wrapper": str(directory / "raw-ssh"),
        "ssh_config": str(novactl.config / "ssh/config"),
        "known_hosts": str(novactl.config / "ssh/known_hosts"),
        "instances_path": "/var/lib/novactl/instances",
        "base": novactl.json("image", "show", "idle")["sha256"],
        "size": 1 << 30,
        "drive": str(decoded(drive, directory / "drive.iso")),
        "template": template,
        "template_uuid": made["uuid"],
    }


def wrapper(config: Path, directory: Path) -> Path:
    """ssh with novactl's ssh_config, but never over a ControlMaster: novactl's boot has none either."""
    path = directory / "raw-ssh"
    alone = "-o ControlMaster=no -o ControlPath=none"
    path.write_text(f'#!/bin/sh\nexec setsid ssh -F {config / "ssh/config"} {alone} "$@"\n')
    path.chmod(0o700)
    return path


def decoded(text: str, path: Path) -> Path:
    import base64

    path.write_bytes(base64.b64decode(text))
    return path
