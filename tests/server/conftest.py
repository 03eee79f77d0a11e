"""Fixtures of the coordinator's tests: a PostgreSQL cluster per worker, and both databases for what touches one."""

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.server import postgres

from nixfleet.server.store import Store


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """Give a running PostgreSQL server's URL."""
    if postgres.binaries() is None:
        pytest.skip("PostgreSQL's programs are not installed")
    with postgres.cluster() as url:
        yield url


@pytest.fixture
def postgres_url(cluster: str) -> str:
    """Give the URL of an empty PostgreSQL database."""
    return postgres.new_database(cluster, f"t{secrets.token_hex(8)}")


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give a driver URL of an empty database, once per kind of database."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'fleet.db'}"
    cluster_url: str = request.getfixturevalue("cluster")
    url = postgres.new_database(cluster_url, f"t{secrets.token_hex(8)}")
    return url.replace("postgresql://", "postgresql+asyncpg://")


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    """Give an open store on an empty database, once per kind of database."""
    opened = Store(store_url)
    await opened.open()
    yield opened
    await opened.close()
