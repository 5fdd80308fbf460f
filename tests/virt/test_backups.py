"""What a host does for backups, held by the simulation and by host.sh in a real shell alike; the words for
libvirt."""

import subprocess
from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest

from novactl.errors import HostFault
from novactl.virt.backups import Checkpoint, Disk, backup_xml, checkpoint_xml
from tests.support.local_shell import with_library
from tests.virt.ground import BASE, OPERATION, UUID, Ground

NOTED = Checkpoint(name="novactl-1", seconds=1795945662, devices=("vda", "vdb"))


def test_a_disk_is_swapped_and_swapped_back(ground: Ground) -> None:
    """Each of it twice, and not while the guest runs."""
    host = ground.hypervisor
    ground.guest()

    def size() -> int:
        return int(host.layers(UUID, ["disk"])[0].virtual_bytes)

    swap = (UUID, 1, "disk", BASE, 2 << 20, OPERATION)
    host.start(UUID, 1)
    with pytest.raises(HostFault, match="the guest is running"):
        host.swap_disk(*swap)
    host.destroy(UUID, 1)
    for _ in range(2):
        host.swap_disk(*swap)
        assert f"disk.{OPERATION}" in ground.files() and size() == 2 << 20
    for _ in range(2):
        host.unswap_disk(UUID, 1, "disk", OPERATION)
        assert f"disk.{OPERATION}" not in ground.files() and size() == 1 << 20
    host.swap_disk(*swap)
    for _ in range(2):
        host.drop_aside(UUID, 1, "disk", OPERATION)
    assert f"disk.{OPERATION}" not in ground.files() and size() == 2 << 20


def test_what_libvirt_is_told() -> None:
    """Formats are stated, the other disks are left out, a difference names what it is to."""
    disks = {"disk": Disk(device="vda", size=1 << 30)}
    whole = fromstring(backup_xml("/i", OPERATION, disks, None))
    assert whole.get("mode") == "push" and whole.find("incremental") is None
    (disk,) = whole.findall("disks/disk")
    assert dict(disk.attrib) == {"name": "vda", "type": "file", "backup": "yes"}
    target, driver = disk.find("target"), disk.find("driver")
    assert target is not None and target.get("file") == f"/i/{OPERATION}.disk"
    assert driver is not None and driver.get("type") == "qcow2"
    part = fromstring(backup_xml("/i", OPERATION, disks, NOTED))
    assert part.findtext("incremental") == "novactl-1"
    noted = fromstring(checkpoint_xml(NOTED))
    assert noted.findtext("name") == "novactl-1" and noted.findtext("creationTime") == "1795945662"
    found = [(disk.get("name"), disk.get("bitmap")) for disk in noted.findall("disks/disk")]
    assert found == [("vda", "novactl-1"), ("vdb", "novactl-1")]


@pytest.mark.parametrize("name", ["mawk", "awk"])
def test_the_room_for_what_changed_is_a_whole_number(tmp_path: Path, name: str) -> None:
    """Above 2^31 too, where mawk prints what it calculated as 3.06711e+09."""
    script = f"""set -e
        awk() {{ command {name} "$@"; }}
        nv_recall() {{ true; }}
        nv_virsh() {{ echo "<disk name='vda' size='3000000000'/>"; }}
        nv_space() {{ echo 9000000000; }}
        nv_where=/ nv_uuid={UUID} nv_full_xml=full nv_part_xml=part nv_parent_xml= nv_bytes=1
        nv_choose && echo "$nv_how $nv_bytes"
    """
    chosen = subprocess.run(
        with_library("sh", tmp_path, script), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (chosen.returncode, chosen.stdout) == (0, "incremental 3067108864\n"), chosen.stderr
