"""Reading back the sealed user-data that lies beside an instance's disks."""

import os

import pytest

from novactl.actions.steps.files import SEALED
from novactl.errors import UsageError
from tests.virt.ground import OTHER, UUID, Ground

CONTENTS = [b'{"id": "1"}\n', b"\n", b"7\n\n", b"\0\xff\n", os.urandom(100_000)]


@pytest.mark.parametrize("content", CONTENTS)
def test_sealed_user_data_comes_back_as_it_is(ground: Ground, content: bytes) -> None:
    ground.guest()
    assert ground.hypervisor.sealed(UUID) is None
    ground.hypervisor.put(UUID, 1, SEALED, "0600", content)
    assert ground.hypervisor.sealed(UUID) == content
    assert ground.hypervisor.sealed(OTHER) is None


def test_it_can_be_read_without_being_of_the_fleet(ground: Ground) -> None:
    ground.guest()
    ground.hypervisor.put(UUID, 1, SEALED, "0600", b"sealed\n")
    ground.hypervisor.fleet = ""
    assert ground.hypervisor.sealed(UUID) == b"sealed\n"


def test_only_an_instance_has_some(host: Ground) -> None:
    with pytest.raises(UsageError, match="is not a uuid"):
        host.hypervisor.sealed("../..")
