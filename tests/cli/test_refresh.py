"""list --refresh on the command line: what is said of hosts that cannot be asked, and the exit code."""

import json
import socket
from pathlib import Path

import pytest

from novactl.db import hosts
from novactl.db.sqlite import SqliteDatabase
from novactl.remote.ssh_config import SshDirectory, way
from tests.support import fleet
from tests.support.command import Command


@pytest.fixture
def away(novactl: Command, db: SqliteDatabase) -> Command:
    """web1 on kvm1 and web2 on kvm2, of which neither listens."""
    closed = socket.create_server(("127.0.0.1", 0))
    port = closed.getsockname()[1]
    closed.close()
    fleet.furnish(db, hosts_=2, address="127.0.0.1", port=port)
    for n in (1, 2):
        fleet.add_instance(db, fleet.instance(n, host=f"kvm{n}"))
    return novactl


def test_hosts_that_do_not_answer_are_named_and_the_list_is_there(away: Command, db: SqliteDatabase) -> None:
    ended = away("list", "--refresh", "-o", "json")
    assert [one["name"] for one in ended.json] == ["web1", "web2"]
    assert ended.code == 7  # all alike
    assert ended.err.splitlines()[:2] == [f"error: kvm{n}: connection refused" for n in (1, 2)]
    assert ended.error["type"] == "HostUnreachable"
    assert ended.error["message"] == "2 of 2 hosts could not be asked: kvm1, kvm2"
    assert [(t["target"], t["result"], t["code"]) for t in ended.error["targets"]] == [
        ("kvm1", "failed", 7),
        ("kvm2", "failed", 7),
    ]
    with db.reading() as tx:
        assert {host.state for host in hosts.everything(tx)} == {
            "up"
        }  # none of several: the fault may be ours


def test_only_the_hosts_of_the_selection_are_asked(away: Command, db: SqliteDatabase) -> None:
    ended = away("list", "--refresh", "--on", "kvm2")
    assert ended.code == 7
    assert ended.err.splitlines() == ["error: kvm2: connection refused"]
    assert ended.out.splitlines()[1].split()[1:4] == ["web2", "ACTIVE", "kvm2"]
    with db.reading() as tx:
        assert [host.state for host in hosts.everything(tx)] == ["up", "down"]
    assert away("list", "--refresh", "--name", "nosuch", "-o", "json").out == "[]\n"


def test_nothing_to_refresh(novactl: Command) -> None:
    ended = novactl("list", "--refresh")
    assert (ended.code, ended.out, ended.err) == (0, "", "")


def test_the_next_page_is_told(away: Command) -> None:
    ended = away("list", "--limit", "1")
    assert ended.err == f"the next page: --marker {fleet.uuid(1)}\n"
    assert away("list", "--limit", "1", "-q").err == ""
    assert away("list", "--limit", "3").err == ""


def test_the_part_of_the_ssh_files_for_one_host(tmp_path: Path) -> None:
    """With those it is reached through, and without what only the other stack needs."""
    made = [
        fleet.host("kvm1", address="192.0.2.1", host_keys=("ssh-ed25519 AAAA1",)),
        fleet.host("kvm10", address="192.0.2.10", port=2222, jump="kvm1", host_keys=("ssh-ed25519 AAAA10",)),
        fleet.host("kvm2", address="192.0.2.2", host_keys=("ssh-ed25519 AAAA2", "ssh-rsa AAAA3")),
    ]
    directory = SshDirectory(tmp_path / "ssh", tmp_path / "run")
    directory.set_identity("kvm10", tmp_path / "key file")
    files = directory.write(made)
    found = way(files, "kvm10")
    assert found.config.splitlines() == [
        "Host kvm10",
        "    HostName 192.0.2.10",
        "    Port 2222",
        "    User root",
        "    ProxyJump kvm1",
        f'    IdentityFile "{tmp_path}/key file"',
        "    IdentitiesOnly yes",
        "Host kvm1",
        "    HostName 192.0.2.1",
        "    Port 22",
        "    User root",
    ]
    assert found.known_hosts == ("[192.0.2.10]:2222 ssh-ed25519 AAAA10", "192.0.2.1 ssh-ed25519 AAAA1")
    assert len(way(files, "kvm2").known_hosts) == 2
    directory.write([fleet.host("kvm2", address="192.0.2.9", host_keys=("ssh-ed25519 NEW",))])
    assert way(files, "kvm2").known_hosts == ("192.0.2.9 ssh-ed25519 NEW",)  # the files were replaced
    assert way(files, "kvm10").known_hosts == ()
    assert json.loads((tmp_path / "ssh/identities.json").read_text()) == {"kvm10": f"{tmp_path}/key file"}
