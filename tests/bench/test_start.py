"""What a command costs before it does anything: help, start-up, and list without hosts."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from novactl.db import catalogue, hosts, instances
from novactl.db.sqlite import SqliteDatabase
from novactl.objects.flavor import Flavor
from novactl.objects.host import Host
from novactl.objects.image import Image
from novactl.objects.instance import Instance
from novactl.objects.names import mac_address, port_id, tap_name
from novactl.objects.network import Network, Port
from novactl.objects.states import PowerState, VmState
from tests.bench import limits
from tests.bench.harness import Results, take_turns, timed
from tests.support.command import NOVACTL, Command

NO_CONNECTION = """\
import os, sys
SOCKETS = ("socket.connect", "socket.sendto", "socket.getaddrinfo")
BANNED = (*SOCKETS, "subprocess.Popen", "os.exec", "os.fork", "os.posix_spawn", "os.system")
def watch(event, args):
    if event in BANNED:
        os.write(2, f"{event} {args}\\n".encode())
        os._exit(99)
sys.addaudithook(watch)
from novactl.cli.app import run
sys.exit(run(sys.argv[1:]))
"""


def novactl(command: Command, *words: str) -> Callable[[], float]:
    return lambda: timed([NOVACTL, *words], command.environment)[0]


def test_help_and_start_up(results: Results, empty: Command) -> None:
    python = [sys.executable, "-c", "pass"]
    runs = {
        "python -c pass": lambda: timed(python)[0],
        "novactl --help": novactl(empty, "--help"),
        "novactl boot --help": novactl(empty, "boot", "--help"),
        "start-up": novactl(empty, "list"),
    }
    take_turns(results, results.repeat(21, 5), runs)
    helps = ("novactl --help", "novactl boot --help")
    for name in helps:
        results.check_time(name, limits.HELP_SECONDS)
    results.verdict(*helps)


@pytest.fixture
def crowd(tmp_path: Path) -> Callable[[int], Command]:
    """A database of LIST_INSTANCES instances with an address each, on so many hosts that no one can reach."""

    def make(count: int) -> Command:
        command = Command(tmp_path / f"hosts-{count}")
        command.ok("db", "init")
        db = SqliteDatabase(command.config / "novactl.db")
        with db.writing() as tx:
            for n in range(count):
                hosts.add(tx, host(n))
            network = Network(id="n1", name="lan", cidr="10.0.0.0/16", gateway="10.0.0.1", bridge="br0")
            catalogue.add_network(tx, network)
            for n in range(limits.LIST_INSTANCES):
                made = instance(n, f"h{n % count}")
                instances.add(tx, made)
                instances.add_port(tx, made.uuid, network.id, port(made.uuid, n, network))
        db.close()
        return command

    return make


def host(n: int) -> Host:
    return Host(
        id=f"h{n}",
        name=f"h{n}",
        address=f"192.0.2.{n % 254 + 1}",  # TEST-NET-1: nobody answers
        port=22 + n,
        instances_path="/var/lib/novactl/instances",
        virt_type="kvm",
        vcpus=64,
        memory_mib=1 << 18,
        disk_gib=4096,
    )


def instance(n: int, on: str) -> Instance:
    uuid = f"00000000-0000-4000-8000-{n:012x}"
    return Instance(
        uuid=uuid,
        name=f"web-{n}",
        project="default",
        vm_state=VmState.ACTIVE,
        power_state=PowerState.RUNNING,
        host=on,
        flavor=Flavor(id="f1", name="small", vcpus=1, memory_mib=512, disk_gib=10),
        image=Image(
            id="i1", name="debian", sha256="0" * 64, disk_format="raw", size_bytes=1, virtual_size_bytes=1
        ),
        metadata={"role": "web"},
        tags=("prod",),
        created_at="2026-01-01T00:00:00.000000Z",
        epoch=1,
    )


def port(uuid: str, n: int, network: Network) -> Port:
    made = port_id(uuid, 0)
    ip = f"10.0.{1 + n // 250}.{1 + n % 250}"
    about = {
        "gateway": network.gateway,
        "dns": (),
        "mtu": 1500,
        "bridge": "br0",
        "network": "lan",
        "prefix": 16,
    }
    return Port(id=made, index=0, ip=ip, mac=mac_address(made, 0), tap=tap_name(made), **about)


def test_list(results: Results, crowd: Callable[[int], Command]) -> None:
    one, many = crowd(1), crowd(limits.LIST_HOSTS)
    table, as_json = f"list {limits.LIST_INSTANCES}, table", f"list {limits.LIST_INSTANCES}, json"
    spread = f"list {limits.LIST_INSTANCES}, table, {limits.LIST_HOSTS} hosts"
    runs = {
        table: novactl(one, "list"),
        as_json: novactl(one, "list", "-o", "json"),
        spread: novactl(many, "list"),
    }
    take_turns(results, results.repeat(15, 3), runs)
    for name in (table, as_json):
        results.check_time(name, limits.LIST_SECONDS)
    what = f"{limits.LIST_HOSTS} hosts, none reachable, against one"
    ratio = results.median(spread) / results.median(table)
    results.check("list, hosts", what, ratio, limits.LIST_MORE_HOSTS, "times")
    results.verdict(table, as_json, "list, hosts")


@pytest.mark.parametrize("form", ["table", "json"])
def test_list_opens_no_connection_and_starts_no_process(crowd: Callable[[int], Command], form: str) -> None:
    command = crowd(limits.LIST_HOSTS)
    argv = [sys.executable, "-c", NO_CONNECTION, "list", "-o", form]
    ended = subprocess.run(argv, env=command.environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    rows = json.loads(ended.stdout) if form == "json" else ended.stdout.splitlines()[1:]
    assert len(rows) == limits.LIST_INSTANCES
