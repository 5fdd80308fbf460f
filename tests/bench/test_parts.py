"""Costs behind the others, without a limit of their own: a commit, a connection, a claim."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from novactl.actions.boot import Boot
from novactl.cloud import Cloud, Settings
from novactl.db import catalogue, hosts
from novactl.db.sqlite import SqliteDatabase
from novactl.objects.flavor import Flavor
from novactl.objects.image import Image
from novactl.objects.network import Network
from novactl.objects.request import BootRequest, NetworkRequest
from novactl.remote.connection import connect
from novactl.remote.shell import HostShell
from novactl.remote.ssh_config import SshFiles
from tests.bench.conftest import HOST, Bench
from tests.bench.harness import Results, take_turns, timed
from tests.bench.test_start import host


def clocked(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def test_imports(results: Results) -> None:
    def importing(what: str) -> Callable[[], float]:
        return lambda: timed([sys.executable, "-c", f"import {what}"])[0]

    modules = ("novactl.cli.app", "sqlalchemy", "paramiko", "libvirt", "pycdlib.pycdlib")
    take_turns(
        results, results.repeat(9, 1), {f"python -c 'import {what}'": importing(what) for what in modules}
    )


def test_commit(results: Results, tmp_path: Path) -> None:
    db = SqliteDatabase(tmp_path / "novactl.db")
    db.create("fleet")

    def commit() -> None:
        with db.writing() as tx:
            tx.insert("meta", name=str(time.perf_counter_ns()), value="x")

    results.add("SQLite commit, on the disk", *(clocked(commit) for _ in range(results.repeat(500, 50))))
    db.close()


def test_claims(results: Results, tmp_path: Path) -> None:
    """One full claim each: instance, host, address, operation, locks and steps in one synced transaction."""
    cloud = Cloud(Settings(config=tmp_path), tell=lambda text: None)
    with cloud.db.writing() as tx:
        for n in range(10):
            hosts.add(tx, host(n))
        catalogue.add_flavor(tx, Flavor(id="f1", name="small", vcpus=1, memory_mib=1, disk_gib=1))
        image = Image(
            id="i1", name="img", sha256="0" * 64, disk_format="raw", size_bytes=1, virtual_size_bytes=1
        )
        catalogue.add_image(tx, image)
        network = Network(id="n1", name="lan", cidr="10.0.0.0/16", gateway="10.0.0.1", bridge="br0")
        catalogue.add_network(tx, network)

    def claim(name: str) -> None:
        wanted = (NetworkRequest(network="lan"),)
        action = Boot(request=BootRequest(name=name, flavor="small", image="img", networks=wanted), name=name)
        facts = action.check(cloud.world)
        with cloud.db.writing() as tx:
            op_id = cloud.world.ids.operation()
            plan = action.plan(cloud.world, tx, op_id, facts)
            assert plan is not None
            cloud.journal.insert(tx, op_id, plan)

    runs = [clocked(lambda n=n: claim(f"i{n}")) for n in range(results.repeat(600, 100))]
    cloud.close()
    results.add("claim", *runs)
    results.notes["claims a second, one process"] = round(len(runs) / sum(runs))


@pytest.mark.lab
def test_connection(results: Results, bench: Bench) -> None:
    directory = bench.novactl.config / "ssh"
    files = SshFiles(directory / "config", directory / "known_hosts", directory / "libvirt-ssh")
    connect(HOST, files).close()  # the imports

    def once() -> float:
        shell = HostShell(HOST, lambda: connect(HOST, files), sudo=False)
        taken = clocked(shell.transport)
        results.add("first call (channel, shell, host.sh)", clocked(lambda: shell.call("true")))
        results.add("next call", *(clocked(lambda: shell.call("true")) for _ in range(5)))
        shell.close()
        return taken

    uri = bench.job["uri"]
    code = "import sys, time, libvirt as l; t = time.time(); l.open(sys.argv[1]); print(time.time() - t)"
    runs = {
        "SSH connection (paramiko)": once,
        "libvirt.open qemu+ssh, no ControlMaster": lambda: float(timed([sys.executable, "-c", code, uri])[1]),
    }
    take_turns(results, results.repeat(9, 2), runs)
