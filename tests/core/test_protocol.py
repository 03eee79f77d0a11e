"""Protocol versions: what is newer than the root says is void for all software, and old software signs nothing new."""

from pathlib import Path

import pytest
from tests.core.replay_fleets import last
from tests.core.test_admin import at_work
from tests.factories import Fleet

from nixfleet.client.admin import Admin
from nixfleet.errors import UserError


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be software of the next protocol."""
    for module in ("trust.fields", "trust.replay.rules", "client.admin"):
        monkeypatch.setattr(f"nixfleet.{module}.PROTOCOL", 2)


@pytest.mark.usefixtures("newer")
def test_a_newer_statement_is_void_until_a_root_raises_the_protocol() -> None:
    """Software that could read it judges as one that can not; from the root on, it counts, and the old form too."""
    fleet = Fleet()
    fleet.grant("early", "deploy", v=2)
    assert "version 2 is newer than the log's protocol 1" == last(fleet)
    fleet.root(v=2, protocol=2)
    assert "version 2 is newer than the log's protocol 1" == last(fleet)
    fleet.root_statement = fleet.state.root  # type: ignore[assignment]  # there is one
    fleet.root(protocol=2)
    for version in (1, 2):
        fleet.grant(f"later-{version}", "deploy", v=version)
        assert "Valid" == last(fleet)


@pytest.mark.usefixtures("newer")
async def test_what_is_signed_has_the_version_that_the_root_says(tmp_path: Path) -> None:
    """Newer software at work on a fleet that has not been raised writes what everybody there can read."""
    fleet = Fleet()
    for protocol in (1, 2):
        async with at_work(tmp_path / str(protocol), fleet) as (log, admin):
            await admin.make_token({"env": "prod"}, 1, 7)
            assert protocol == admin.head().v
            assert f'"v":{protocol},'.encode() in log.fleet.entries[-1][1]
        fleet.root(protocol=2)


async def test_software_that_is_too_old_signs_nothing(tmp_path: Path) -> None:
    """Neither an act nor an approval is signed on a log that cannot be judged here; the way on is said."""
    fleet = Fleet()
    fleet.device("web-01")
    async with at_work(tmp_path, fleet) as (_, admin):
        await admin.hold(["web-01"], fleet.now + 60)
        fleet.root(protocol=2)
        size = fleet.size
        for act in (_held, _approved):
            with pytest.raises(UserError, match="follows protocol 1, and the fleet's root says 2: update it"):
                await act(admin, fleet)
        assert size == fleet.size


async def _held(admin: Admin, _: Fleet) -> None:
    await admin.unhold(["web-01"])


async def _approved(admin: Admin, fleet: Fleet) -> None:
    await admin.approve(fleet.fleet)
