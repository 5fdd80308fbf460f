"""What root on the source may have the target's libvirt define in a move that novactl drives: nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from novactl.virt.live import Drive
from tests.sim.actions import boot, live_migrate, trust_a_network
from tests.support.sim import SimFleet, SimHypervisor, settled

EVIL = "/dev/of-the-target"


@pytest.fixture
def fleet(quick: Path) -> Iterator[SimFleet]:
    fleet = SimFleet(quick)
    assert fleet.run(boot(host="kvm1")).code == 0
    trust_a_network(fleet)
    yield fleet
    fleet.close()


@pytest.fixture
def driven(monkeypatch: pytest.MonkeyPatch) -> list[Drive]:
    """What libvirt was given."""
    found: list[Drive] = []
    plain = SimHypervisor.drive

    def drive(self: Any, target: Any, move: Drive, begin: Any) -> None:
        found.append(move)
        plain(self, target, move, begin)

    monkeypatch.setattr(SimHypervisor, "drive", drive)
    return found


def test_files_that_say_something_else(
    fleet: SimFleet, driven: list[Drive], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = SimHypervisor.instance_file

    def instance_file(self: Any, uuid: str, file: str) -> bytes:
        content = plain(self, uuid, file)
        return content.replace(b"<devices>", evil().encode()) if file.startswith("migrate") else content

    monkeypatch.setattr(SimHypervisor, "instance_file", instance_file)
    assert fleet.run(live_migrate(host="kvm2", direct=True, transport="tcp")).code == 0
    (move,) = driven
    assert EVIL not in move.xml + move.persistent
    assert settled(fleet) == []


@pytest.mark.parametrize("path", [EVIL, "{directory}/../../../../dev/of-the-target"], ids=["plain", "dots"])
def test_a_domain_that_becomes_another_after_preflight(
    fleet: SimFleet, driven: list[Drive], monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    plain, asked = SimHypervisor.migratable_xml, []

    def migratable_xml(self: Any, uuid: str) -> str:
        asked.append(uuid)
        xml = plain(self, uuid)
        there = path.format(directory=self.directory(uuid))
        return xml if len(asked) == 1 else xml.replace("<devices>", evil(there))

    monkeypatch.setattr(SimHypervisor, "migratable_xml", migratable_xml)
    outcome = fleet.run(live_migrate(host="kvm2", direct=True, transport="tcp"))
    assert outcome.error is not None and "its guest cannot move: disk vdz" in outcome.error.message
    assert driven == [] and settled(fleet) == []


def evil(path: str = EVIL) -> str:
    disk = f'<disk type="block" device="disk"><source dev="{path}"/><target dev="vdz"/></disk>'
    return f"<devices>{disk}"
