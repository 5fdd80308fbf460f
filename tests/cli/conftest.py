"""Fixtures of the command line's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from novactl.db.sqlite import SqliteDatabase
from tests.support import scratch
from tests.support.command import Command
from tests.support.forked import Forked, Server
from tests.support.scratch import quick


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def empty(server: Server, quick: Path) -> Command:
    """novactl on a machine where it never ran."""
    return Forked(server, quick / "config")


@pytest.fixture
def db(quick: Path) -> Iterator[SqliteDatabase]:
    """The database of `novactl`, to put things in or to look."""
    made = scratch.database(quick / "config" / "novactl.db")
    yield made
    made.close()


@pytest.fixture
def novactl(empty: Command, db: SqliteDatabase) -> Command:
    """novactl with an empty database."""
    return empty


__all__ = ["db", "empty", "novactl", "quick", "server"]
