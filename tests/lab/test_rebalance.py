"""Three on one host are spread over the fleet: what runs goes alive, what is off goes cold."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.conftest import Grounds

pytestmark = pytest.mark.lab


def test_planned_carried_out_and_done(grounds: Grounds, name: Callable[[], str], tmp_path: Path) -> None:
    novactl, file = grounds.novactl, str(tmp_path / "plan.json")
    runs, also, off = name(), name(), name()
    for one in (runs, also, off):
        novactl.ok("boot", one, "--flavor", "tiny", "--image", "tiny", "--network", "lan", "--host", "kvm1")
    novactl.ok("stop", off, "--force")
    wanted = ("--cooldown", "0s", "--min-gain", "0")
    shown = novactl.json("rebalance", *wanted, "--plan-out", file)
    moves = {move["instance"]: move for move in shown["moves"]}
    assert len(moves) == 2 and {move["from"] for move in moves.values()} == {"kvm1"}
    assert {move["to"] for move in moves.values()} == {"kvm2", "kvm3"}
    assert novactl("rebalance", "--plan", file).code == 8  # it asks
    assert {one["host"] for one in novactl.json("list")} == {"kvm1"}

    ended = novactl("rebalance", "--plan", file, "--yes", "-o", "json")
    assert ended.code == 0, ended
    assert {one["target"]: one["result"] for one in ended.json} == dict.fromkeys(moves, "done")
    found = {one["name"]: one for one in novactl.json("list")}
    assert {one: found[one]["host"] for one in moves} == {one: moves[one]["to"] for one in moves}
    assert [found[one]["status"] for one in (runs, also, off)] == ["ACTIVE", "ACTIVE", "SHUTOFF"]
    for one in found.values():
        assert grounds.domains(one["host"]) == [one["uuid"]]
    (parent,) = [op for op in novactl.json("op", "list") if op["kind"] == "rebalance"]
    assert parent["state"] == "done"

    again = novactl("rebalance", *wanted, "--yes", "-o", "json")
    assert (again.code, again.json) == (0, [])
    stale = novactl("rebalance", "--plan", file, "--yes", "-o", "json")
    assert stale.code == 5 and "the fleet is not as it was when this was planned" in stale.error["message"]
