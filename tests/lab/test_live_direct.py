"""migrate --live --direct: this machine drives libvirt's migration, and no host gets in at the other."""

import signal
from typing import Any

import pytest

from novactl.db.journal import LEASE
from tests.lab.conftest import Grounds
from tests.lab.support import Running, active, last, refused, unchanged, wait_until
from tests.lab.test_lifecycle import images  # noqa: F401 - guests that count
from tests.lab.test_live_migration import beats, counts_on, guest, is_there_alone  # noqa: F401
from tests.lab.test_live_transports import certified, on_the_wire, trusting  # noqa: F401

pytestmark = pytest.mark.lab

TRUST = "ls -d /var/lib/novactl/trust/op-* /run/novactl-op-*; grep ' novactl op-' /root/.ssh/authorized_keys"


def words(guest: dict[str, Any], *more: str) -> list[str]:  # noqa: F811
    return ["migrate", guest["name"], "--live", "--direct", "--host", "kvm2", *more]


def begin(grounds: Grounds, guest: dict[str, Any]) -> Running:  # noqa: F811
    """A migration that takes its time, under way."""
    moving = Running(grounds.novactl, *words(guest, "--bandwidth", "2"))
    told = ["virsh", "domjobinfo", guest["uuid"]]
    wait_until(lambda: "Data remaining" in grounds.host("kvm1").run(told).stdout, 60, "its progress")
    return moving


def test_encrypted_and_without_a_key_between_the_hosts(
    certified: Grounds,  # noqa: F811
    guest: dict[str, Any],  # noqa: F811
) -> None:
    counted = beats(certified, guest)[-1]
    with on_the_wire(certified, "kvm1") as wire:
        moving = Running(certified.novactl, *words(guest))
        while moving.process.poll() is None:
            for host in ("kvm1", "kvm2"):
                assert certified.host(host).run(["sh", "-c", f"{TRUST} 2>/dev/null"]).stdout == ""
        assert moving.end() == 0, moving.said
    is_there_alone(certified, guest, "kvm2")
    counts_on(certified, guest, counted)
    assert wire.seen > 8 << 20 and wire.found == 0
    steps = [step["name"] for step in last(certified.novactl, guest["name"])["steps"]]
    assert "drive-guest" in steps and not {"open-trust", "open-sockets", "end-trust"} & set(steps)


def test_a_paused_guest_in_clear(trusting: Grounds, guest: dict[str, Any]) -> None:  # noqa: F811
    trusting.novactl.ok("pause", guest["name"])
    trusting.novactl.ok(*words(guest, "--transport", "tcp", "--max-downtime", "500"))
    assert trusting.state("kvm2", guest["uuid"]) == "paused"
    is_there_alone(trusting, guest, "kvm2", "PAUSED")


@pytest.mark.parametrize("how", ["interrupted", "aborted"])
def test_ended_in_the_middle(certified: Grounds, guest: dict[str, Any], how: str) -> None:  # noqa: F811
    moving = begin(certified, guest)
    counted = beats(certified, guest)[-1]
    if how == "interrupted":
        moving.signal(signal.SIGINT)
    else:
        certified.novactl.ok("migrate-abort", guest["name"])
    assert moving.end() == 130, moving.said
    is_there_alone(certified, guest, "kvm1")
    counts_on(certified, guest, counted)


@pytest.mark.parametrize("how", ["resume", "rollback"])
def test_killed_it_has_come_to_nothing(certified: Grounds, guest: dict[str, Any], how: str) -> None:  # noqa: F811
    """libvirt ends what nobody drives any more: the guest runs where it was, until another one drives it."""
    moving = begin(certified, guest)
    counted = beats(certified, guest)[-1]
    moving.signal(signal.SIGKILL)
    moving.end()
    op = active(certified.novactl)
    wait_until(lambda: certified.domains("kvm2") == [], 30, "the target's guest to go")
    assert certified.state("kvm1", guest["uuid"]) == "running"
    certified.novactl.ok("op", how, op["id"], timeout=170)
    is_there_alone(certified, guest, "kvm2" if how == "resume" else "kvm1")
    counts_on(certified, guest, counted)


def test_the_targets_guest_dies_meanwhile(certified: Grounds, guest: dict[str, Any]) -> None:  # noqa: F811
    moving = begin(certified, guest)
    certified.host("kvm2").run(["sh", "-c", f"kill -9 $(pgrep -f '^/usr/bin/qemu.*{guest['uuid']}')"])
    assert moving.end() == 1, moving.said
    is_there_alone(certified, guest, "kvm1")


def test_what_is_refused_changes_nothing(certified: Grounds, guest: dict[str, Any]) -> None:  # noqa: F811
    novactl = certified.novactl
    with unchanged(certified):
        refused(novactl, *words(guest, "--transport", "ssh"), code=2, says="--direct goes with --transport")
        refused(novactl, *words(guest, "--transport", "tcp"), code=5, says="no trusted network has both")
        refused(novactl, *words(guest)[:-1], "kvm3", code=5, says="kvm3 has no certificate")
        refused(novactl, "migrate", guest["name"], "--direct", code=2, says="--direct goes with --live")


def test_one_that_stands_still_is_let_go(certified: Grounds, guest: dict[str, Any]) -> None:  # noqa: F811
    """Within less than a lease: whoever has taken over by then meets no migration of an older process."""
    moving = begin(certified, guest)
    moving.signal(signal.SIGSTOP)
    try:
        wait_until(lambda: certified.domains("kvm2") == [], LEASE - 5, "libvirt to end the migration")
        assert certified.state("kvm1", guest["uuid"]) == "running"
    finally:
        moving.signal(signal.SIGCONT)
    assert moving.end() == 1, moving.said
    is_there_alone(certified, guest, "kvm1")
