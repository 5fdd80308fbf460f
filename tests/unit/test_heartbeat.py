"""The thread that renews leases: who closes the database after it must not meet it there."""

import threading
import time

import pytest

from novactl.engine import heartbeat
from novactl.engine.heartbeat import Heartbeat


class Slow:
    """A journal whose database takes its time."""

    lease = 60.0

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.looking = threading.Event()
        self.inside = False

    def renew(self) -> None:
        """Not within this test's time."""

    def wishes(self) -> dict[str, bool]:
        self.inside = True
        self.looking.set()
        time.sleep(self.seconds)
        self.inside = False
        return {"op-1": True}


def test_its_last_look_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "LOOK", 0.01)
    journal = Slow(0.3)
    beats = Heartbeat(journal)
    with beats.beating():
        assert journal.looking.wait(10)
    assert not journal.inside and beats.cancelled("op-1")


def test_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "LOOK", 0.01)
    monkeypatch.setattr(heartbeat, "LAST_LOOK", 0.05)
    journal = Slow(1.0)
    with Heartbeat(journal).beating():
        assert journal.looking.wait(10)
        began = time.monotonic()
    assert time.monotonic() - began < 0.9 and journal.inside
