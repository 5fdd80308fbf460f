"""op wait, cancel and resume --all, between processes."""

import re
import signal
import time

import pytest

from tests.lab.conftest import Grounds

pytestmark = pytest.mark.lab


def begun(grounds: Grounds, kind: str, step: str | None = None, seconds: float = 30) -> str:
    """The id of the active operation of that kind, once it is at the step."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for row in grounds.novactl.json("op", "list", "--active"):
            if row["kind"] == kind and step in (None, row["step"]):
                return str(row["id"])
        time.sleep(0.1)
    raise AssertionError(f"no active {kind} at {step}")


def test_waiting_for_another_process_and_cancelling_it(grounds: Grounds, name):
    web = name()
    grounds.novactl.ok("boot", web, "--flavor", "tiny", "--image", "deaf")
    stopping = grounds.novactl.popen("stop", web)  # deaf: it would take a minute
    op = begun(grounds, "stop", "shut-off")
    busy = grounds.novactl("stop", web, "-o", "json")
    assert busy.code == 6 and busy.error["operation"] == op and busy.error["retryable"]
    assert re.search(
        rf"held by stop of {web}: operation {op}, running, of .*\(pid \d+\), \d+ s old", busy.err
    )
    late = grounds.novactl("op", "wait", op, "--timeout", "1")
    assert late.code == 124 and op in late.err
    held = grounds.novactl("op", "resume", op)
    assert held.code == 6 and "is working on it" in held.err
    stopping.send_signal(signal.SIGINT)
    waited = grounds.novactl("op", "wait", op, "--timeout", "30")
    assert waited.code == 1 and "interrupted" in waited.err
    assert stopping.wait(timeout=30) == 130
    assert grounds.novactl.json("show", web)["status"] == "ACTIVE"
    ended = grounds.novactl("op", "cancel", op)
    assert ended.code == 5 and "is undone already" in ended.err


def test_what_killed_processes_left_is_finished_by_one_command(grounds: Grounds, name):
    web = name()
    grounds.novactl.ok("boot", web, "--flavor", "tiny", "--image", "deaf")
    stopping = grounds.novactl.popen("stop", web)
    op = begun(grounds, "stop", "shut-off")
    stopping.kill()
    stopping.wait()
    gone = grounds.novactl("op", "wait", op, "--timeout", "10")
    assert gone.code == 11 and "its owner is gone" in gone.err
    cancelled = grounds.novactl.ok("op", "cancel", op)
    assert "undone" in cancelled.err
    grounds.novactl.ok("delete", web, "--yes")
    assert grounds.novactl.json("op", "resume", "--all") == []
