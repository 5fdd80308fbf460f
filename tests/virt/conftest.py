"""Fixtures of the tests of what happens on a host."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.local_shell import LocalHost
from tests.support.scratch import quick
from tests.virt.ground import Ground, real, simulated


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalHost]:
    """This machine as a host."""
    host = LocalHost(tmp_path / "host")
    yield host
    host.close()


@pytest.fixture(params=["simulated", "real"])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    made = simulated(tmp_path) if request.param == "simulated" else real(tmp_path)
    yield made
    if made.local is not None:
        made.local.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Ground]:
    """The real one only."""
    made = real(tmp_path)
    yield made
    assert made.local
    made.local.close()


__all__ = ["local", "quick"]
