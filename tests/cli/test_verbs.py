"""Verbs on instances as far as they go without a host: outcomes, exit codes, waiting, questions."""

import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest

from novactl.db import instances
from novactl.db.sqlite import SqliteDatabase
from novactl.objects.states import VmState
from tests.support import fleet
from tests.support.command import NOVACTL, Command


@pytest.fixture
def stocked(novactl: Command, db: SqliteDatabase) -> Command:
    fleet.furnish(db)
    fleet.add_instance(db, fleet.instance(1))  # on no host: no verb reaches one
    fleet.add_instance(db, fleet.instance(2, vm_state=VmState.STOPPED))
    return novactl


# --- several targets ---


def test_several_that_ended_differently(stocked: Command) -> None:
    ended = stocked("stop", "web1", "nosuch", "-o", "json")
    assert ended.code == 3
    rows = ended.json
    assert [(row["target"], row["result"], row["code"]) for row in rows] == [
        ("web1", "failed", 5),
        ("nosuch", "failed", 4),
    ]
    assert set(rows[0]) >= {"target", "uuid", "result", "code", "operation", "instance", "error"}
    assert rows[1]["error"]["message"] == "instance 'nosuch' does not exist"
    assert (ended.error["code"], ended.error["type"]) == (3, "PartlyDone")
    assert ended.error["message"] == "2 of 2 failed: web1, nosuch"
    assert [target["target"] for target in ended.error["targets"]] == ["web1", "nosuch"]


def test_several_that_ended_alike_give_that_code(stocked: Command) -> None:
    ended = stocked("stop", "web1", "web2", "-o", "json")
    assert (ended.code, {row["code"] for row in ended.json}) == (5, {5})
    assert "web1: is on no host (ACTIVE)" in ended.err
    ended = stocked("delete", "x1", "x2", "--yes")
    assert ended.code == 4
    assert "instance 'x1' does not exist" in ended.err
    assert ended.err.splitlines()[-1] == "error: 2 of 2 failed: x1, x2"


def test_nothing_chosen_is_no_error(stocked: Command) -> None:
    for words in (["stop", "-l", "role=none"], ["start", "--on", "kvm1"], ["delete", "-l", "none"]):
        ended = stocked(*words, "-o", "json")
        assert (ended.code, ended.json) == (0, [])


def test_if_exists(stocked: Command) -> None:
    ended = stocked("delete", "nosuch", "--if-exists", "--yes", "-o", "json")
    assert (ended.code, ended.json[0]["result"]) == (0, "unchanged")


def test_deleting_what_is_on_no_host(stocked: Command, db: SqliteDatabase) -> None:
    """The whole of an operation, without a host in it."""
    (row,) = stocked.json("delete", "web1", "--yes")
    assert (row["result"], row["code"], row["uuid"]) == ("done", 0, fleet.uuid(1))
    assert row["instance"]["status"] == "DELETED"
    assert stocked.json("list", "-c", "name") == [{"name": "web2"}]
    assert stocked.json("list", "--deleted", "-c", "name") == [{"name": "web1"}]
    assert stocked.json("show", fleet.uuid(1))["status"] == "DELETED"
    shown = stocked.json("op", "show", row["operation"])
    assert (shown["kind"], shown["target"], shown["state"]) == ("delete", "web1", "done")
    assert [(step["name"], step["state"]) for step in shown["steps"]] == [
        ("mark-deleting", "done"),
        ("record-deleted", "done"),
    ]
    assert [op["id"] for op in stocked.json("op", "list")] == [row["operation"]]
    assert stocked.json("op", "list", "--active") == []
    (event,) = stocked.json("event", "list", fleet.uuid(1))
    assert (event["action"], event["result"], event["operation"]) == ("delete", "done", row["operation"])
    assert stocked("op", "wait", row["operation"]).code == 0
    for verb in ("resume", "rollback", "cancel"):
        ended = stocked("op", verb, row["operation"])
        assert (ended.code, "is done already" in ended.err) == (5, True)
    with db.reading() as tx:
        assert tx.all("SELECT * FROM op_locks") == []


def test_many_deletes_have_a_parent(stocked: Command) -> None:
    rows = stocked.json("delete", "web1", "web2", "--yes")
    assert {row["result"] for row in rows} == {"done"}
    parent = next(op for op in stocked.json("op", "list") if op["target"] == "2 instances")
    shown = stocked.json("op", "show", parent["id"])
    assert {child["id"] for child in shown["children"]} == {row["operation"] for row in rows}
    assert parent["state"] == "done"


def test_dry_run_of_a_delete(stocked: Command) -> None:
    (plan,) = stocked.json("delete", "web1", "--dry-run")
    assert [step["name"] for step in plan["steps"]] == ["mark-deleting", "record-deleted"]
    assert stocked.json("show", "web1")["status"] == "ACTIVE"
    assert stocked.json("op", "list") == []


# --- wait ---


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["web1", "status=ACTIVE"], 0),
        (["web1", "status=active"], 0),
        (["nosuch", "deleted"], 0),
        (["web1", "status=SHUTOFF", "--timeout", "0.1"], 124),
        (["web1", "deleted", "--timeout", "0.1"], 124),
        (["web1", "ip", "--timeout", "0"], 124),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wait(stocked: Command, words: list[str], code: int) -> None:
    ended = stocked("wait", *words, "-o", "json")
    assert ended.code == code
    if code:
        assert ended.error["type"] == "TimedOut"
        assert ended.error["retryable"] is True


def test_wait_sees_an_error(stocked: Command, db: SqliteDatabase) -> None:
    with db.writing() as tx:
        instances.update(tx, fleet.uuid(1), vm_state=VmState.ERROR)
    began = time.monotonic()
    ended = stocked("wait", "web1", "status=SHUTOFF", "--timeout", "60")
    assert (ended.code, time.monotonic() - began < 20) == (1, True)
    assert ended.err.startswith("error: web1: is in ERROR\n")


def test_wait_is_interrupted(stocked: Command) -> None:
    with Command(stocked.config).popen("wait", "web1", "deleted", "--timeout", "30") as process:
        while not _has_opened_the_database(process.pid):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 130


def _has_opened_the_database(pid: int) -> bool:
    try:
        return any("novactl.db" in os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir())
    except FileNotFoundError:  # one was closed meanwhile
        return False


# --- hosts that do not answer ---


def test_a_host_that_does_not_answer_is_not_added(stocked: Command, db: SqliteDatabase) -> None:
    for options in (["--accept-host-key"], ["--fingerprint", "SHA256:x"], []):
        ended = stocked(
            "host", "add", "kvm9", "--address", "127.0.0.1", "--port", "1", *options, "-o", "json"
        )
        assert (ended.code, ended.out) == (7, "")
        assert ended.error["type"] == "HostUnreachable"
        assert "127.0.0.1: port 1: " in ended.error["message"]
    assert [host["name"] for host in stocked.json("host", "list")] == ["kvm1"]
    config = stocked.config / "ssh" / "config"
    assert not config.exists() or "kvm9" not in config.read_text()


# --- somebody there to answer ---


def at_a_terminal(config: Path, words: list[str], answer: str) -> tuple[int, str]:
    """(exit code, everything that was shown) of the installed command with a terminal on all three."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "NOVACTL_CONFIG": str(config), "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(
        [NOVACTL, *words], stdin=follower, stdout=follower, stderr=follower, env=environment
    )
    os.close(follower)
    os.write(leader, answer.encode())
    shown = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # EIO: the other end is gone
            break
        if not piece:
            break
        shown += piece
    os.close(leader)
    return process.wait(timeout=30), shown.decode()


@pytest.mark.parametrize("answer", ["n\n", "\n", "no\n", "maybe\n"])
def test_a_no(stocked: Command, db: SqliteDatabase, answer: str) -> None:
    code, shown = at_a_terminal(stocked.config, ["network", "delete", "lan"], answer)
    assert code == 8
    assert "delete network lan? [y/N]" in shown
    assert stocked("network", "show", "lan").code == 0


def test_a_yes(stocked: Command) -> None:
    code, shown = at_a_terminal(stocked.config, ["network", "delete", "lan"], "y\n")
    assert code == 0
    assert "network lan deleted" in shown
    assert stocked("network", "show", "lan").code == 4


def test_a_terminal_gets_colours_and_a_pipe_does_not(stocked: Command) -> None:
    code, shown = at_a_terminal(stocked.config, ["list"], "")
    assert code == 0
    assert "\x1b[" in shown
    assert "web1" in shown
    assert "\x1b" not in stocked.ok("list").out
    code, shown = at_a_terminal(stocked.config, ["list", "-o", "json"], "")
    assert [item["name"] for item in json.loads(shown)] == ["web1", "web2"]
