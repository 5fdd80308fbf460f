"""Images that hosts tell of in the records of their domains: none that makes no sense is believed."""

from typing import Any

import pytest

from novactl.db.adopted import instance_of
from novactl.errors import Refused
from novactl.objects.states import PowerState
from novactl.virt.domain import record
from tests.support import fleet

SUM = "ab" * 32
LOCAL = {"sha256": SUM, "size_bytes": 1, "virtual_size_bytes": 1, "disk_format": "raw"}


def told(**changes: Any) -> Any:
    known = record(fleet.instance())
    return {**known, "image": {**known["image"], **changes}}


def adopted(known: Any) -> Any:
    return instance_of(known, host="kvm1", power=PowerState.RUNNING, epoch=1)


def test_one_that_makes_sense_is() -> None:
    made = adopted(told(kernel_sha256=SUM, disks={"disk.local": LOCAL}))
    assert made.image.sums == {SUM, made.image.sha256}


def test_what_judges_base_files_is_neither_told_nor_believed() -> None:
    known = record(fleet.instance(image=fleet.image(raw_sums={SUM: SUM})))
    assert "raw_sums" not in known["image"]
    assert adopted(told(raw_sums={SUM: SUM})).image.raw_sums == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"kernel_sha256": "../../../../etc/shadow"},
        {"initrd_sha256": "x"},
        {"sha256": ""},
        {"name": "../x"},
        {"disks": {"disk.local": {}}},
        {"disks": {"disk.local": {**LOCAL, "sha256": "../x"}}},
        {"disks": {"../disk": LOCAL}},
        {"disks": {"disk.local": {**LOCAL, "size_bytes": "many"}}},
    ],
)
def test_others_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        adopted(told(**changes))


@pytest.mark.parametrize("changes", [{"image_type": "snapshot"}, {"instance_uuid": "another"}, {}])
def test_what_is_kept_of_an_instance_is_its_own(changes: dict[str, str]) -> None:
    properties = {"image_type": "shelved", "instance_uuid": "its", **changes}
    assert fleet.image(properties=properties).kept_of("its") is (not changes)
