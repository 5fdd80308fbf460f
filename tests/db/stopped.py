"""Fixtures of tests that stop their server, or break the way to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from novactl.db.servers import ServerDatabase
from novactl.db.session import meta
from tests.support import scratch
from tests.support.databases import KINDS, ServerPlace, server_of_its_own
from tests.support.proxy import Proxy


@pytest.fixture(params=KINDS[1:])
def where(request: pytest.FixtureRequest) -> Iterator[ServerPlace]:
    yield server_of_its_own(request.param)
    server_of_its_own(request.param)


@pytest.fixture
def db(where: ServerPlace) -> Iterator[ServerDatabase]:
    """A database of its own, by the UNIX socket."""
    found = where.bare(Path("unused"))
    found.create(scratch.FLEET)
    yield found
    where.server.start()
    where.discard(found)


@pytest.fixture
def proxy(where: ServerPlace) -> Iterator[Proxy]:
    with Proxy(where.server.port) as found:
        yield found


@pytest.fixture
def through(where: ServerPlace, db: ServerDatabase, proxy: Proxy) -> Iterator[ServerDatabase]:
    """The same database, through the proxy."""
    assert db.url.database
    url = where.server.url_of(db.url.database, tcp=True)
    found = where.open(url.replace(str(where.server.port), str(proxy.port)))
    yield found
    found.close()


def value(db: ServerDatabase, name: str) -> str | None:
    return db.read(lambda tx: meta(tx, name))


def marks(db: ServerDatabase) -> int:
    return len(db.read(lambda tx: tx.all("SELECT id FROM commits")))
