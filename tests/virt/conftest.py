"""Fixtures of the tests of what happens on a host."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.local_shell import LocalHost
from tests.support.scratch import quick


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalHost]:
    """This machine as a host."""
    host = LocalHost(tmp_path / "host")
    yield host
    host.close()


__all__ = ["local", "quick"]
