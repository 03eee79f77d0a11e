"""The same program on PostgreSQL: a URL at `init` and at `coordinator`, nothing else differs."""

from collections.abc import Iterator

import pytest
from tests.acceptance.bench import Bench, join, spawn, until
from tests.nix.harness import Device
from tests.server.postgres import binaries, cluster


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """Start a PostgreSQL cluster; give the URL of a database in it."""
    if binaries() is None:
        pytest.skip("needs PostgreSQL's server")
    with cluster() as url:
        yield f"{url}/postgres"


def test_a_fleet_on_postgresql_updates_a_device(bench: Bench, devices: dict[str, Device], database: str) -> None:
    """init, coordinator, token, deploy and audit verify work as on SQLite, and no SQLite file is made."""
    bench.nixfleet("init", "acme", "--url", bench.url, "--key", bench.key, "--database", database)
    spawn(bench.admin, "nixfleet", "coordinator", "--listen", bench.listen, "--database", database)
    until("the coordinator answers", lambda: bench.nixfleet("device", "list", check=False).returncode == 0)
    join(devices["web-01"], bench.token())
    until("web-01 is online", lambda: any(one["online"] for one in bench.read("/v1/devices")["devices"]))
    bench.nixfleet("deploy", "--device", f"web-01={bench.systems.b}")
    assert bench.systems.b == devices["web-01"].current_system
    assert "the log verifies: 5 entries" in bench.nixfleet("audit", "verify").stdout
    assert [] == list(bench.admin.home.rglob("fleet.db"))


def test_a_database_url_holds_no_password(bench: Bench) -> None:
    """A password on the command line could be read by everybody on the machine: it is refused, and nothing is made."""
    url = "postgresql://nixfleet:hunter2@127.0.0.1/nixfleet"
    done = bench.nixfleet("init", "acme", "--url", bench.url, "--key", bench.key, "--database", url, check=False)
    assert (2, "") == (done.returncode, done.stdout)
    assert "PGPASSFILE" in done.stderr
    assert "hunter2" not in done.stderr
    assert {"contexts": {}, "current": ""} == bench.json("context", "list")
