"""Databases for tests: real SQLite files in memory-backed directories, copied from one that was made once."""

import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from novactl.db.sqlite import SqliteDatabase

FLEET = "11111111-2222-4333-8444-555555555555"


def quick_directory() -> Path | None:
    """A directory whose fsync costs nothing, if the machine has one; None is pytest's own."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > 1 << 28 else None


@cache
def _template() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "template.db"
        database = SqliteDatabase(path)
        database.create(FLEET)
        database.close()
        return path.read_bytes()


def database(path: Path) -> SqliteDatabase:
    """A new database at `path`, as `create` makes it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(_template())
    return SqliteDatabase(path)


@pytest.fixture
def quick() -> Iterator[Path]:
    """A directory for databases, gone after the test."""
    with tempfile.TemporaryDirectory(prefix="novactl-test-", dir=quick_directory()) as directory:
        yield Path(directory)
