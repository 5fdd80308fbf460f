"""An instance is deleted in the middle of its move: the move ends first, and nothing is left on any host."""

from collections.abc import Callable
from typing import Any

import pytest

from novactl.db import operations
from tests.lab import test_live_migration, test_move_faults
from tests.lab.conftest import Grounds, recorded
from tests.lab.support import Running, active, gate, unsettled, wait_until
from tests.lab.test_lifecycle import images  # noqa: F401 - guests that count
from tests.lab.test_live_migration import begin
from tests.lab.test_move_faults import copying

pytestmark = pytest.mark.lab

guest = test_live_migration.guest
off = test_move_faults.off


def deletes(
    grounds: Grounds, made: dict[str, Any], moving: Running, code: int, let_go: Callable[[], None]
) -> None:
    """delete is asked for while the move is held, and both end."""
    op = active(grounds.novactl)["id"]
    deleting = Running(grounds.novactl, "delete", made["name"], "--yes")
    asked: Callable[[], bool] = lambda: recorded(grounds, lambda tx: operations.is_cancelled(tx, op))  # noqa: E731
    wait_until(asked, 30, "the delete to ask the move to end")
    assert deleting.process.poll() is None, deleting.said
    let_go()
    assert moving.end() == code, moving.said
    assert deleting.end() == 0, deleting.said
    is_gone(grounds, made)


def is_gone(grounds: Grounds, made: dict[str, Any]) -> None:
    assert grounds.novactl("show", made["name"]).code == 4
    assert grounds.leftovers() == {} and unsettled(grounds) == []
    for one in grounds.fleet.hosts:
        left = "ls -d /run/novactl-* /var/lib/novactl/trust/* 2>/dev/null"
        assert one.run(["sh", "-c", left]).stdout == ""
        assert " novactl op-" not in one.run(["cat", "/root/.ssh/authorized_keys"]).stdout


# Each phase by a call that is held: where, which tool with which words, and how the move ends
PREPARED = ("kvm2", "qemu-img", " create ", 130)
GONE = ("kvm1", "virsh", " migrate ", 0, "after")
LEAVES = ("kvm1", "virsh", " undefine ", 130)
DEFINED = ("kvm2", "virsh", " define ", 130)
STARTED = ("kvm2", "virsh", " start ", 130)


@pytest.mark.parametrize("phase", [PREPARED, GONE], ids=["prepared", "gone"])
def test_deleted_in_a_live_move(grounds: Grounds, guest: dict[str, Any], phase: tuple[Any, ...]) -> None:
    host, tool, words, code, *when = phase
    with gate(grounds.host(host), tool, words, *when) as held:
        moving = Running(grounds.novactl, "migrate", guest["name"], "--live", "--host", "kvm2")
        held.reached(moving)
        deletes(grounds, guest, moving, code, held.open)


def test_deleted_while_its_memory_goes(grounds: Grounds, guest: dict[str, Any]) -> None:
    deletes(grounds, guest, begin(grounds, guest), 130, lambda: None)


@pytest.mark.parametrize("phase", [LEAVES, DEFINED, STARTED], ids=["leaves", "defined", "started"])
def test_deleted_in_a_cold_move(
    grounds: Grounds, guest: dict[str, Any], phase: tuple[str, str, str, int]
) -> None:
    host, tool, words, code = phase
    with gate(grounds.host(host), tool, words) as held:
        moving = Running(grounds.novactl, "migrate", guest["name"], "--host", "kvm2")
        held.reached(moving)
        deletes(grounds, guest, moving, code, held.open)


def test_deleted_while_its_disk_goes(grounds: Grounds, off: dict[str, Any]) -> None:
    with copying(grounds, off) as moving:
        deletes(grounds, off, moving, 130, lambda: None)
