"""How a device becomes a member, and stays the one it is: by token, by asking an admin, never by trusting."""

from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.agent.site import Site, until
from tests.factories import key

from nixfleet.agent.agent import Agent
from nixfleet.agent.member import TOKEN_REST_S
from nixfleet.errors import Refused, UserError
from nixfleet.model.ids import Tags

pytestmark = pytest.mark.usefixtures("impatient")


async def test_without_a_token_it_asks_and_waits_for_an_admin(tmp_path: Path) -> None:
    """It says so on the device too, and after an admin's signature it goes on by itself."""
    site = Site(tmp_path, token=False)
    waits = site.machine.state_dir / "waits"
    async with site.running():
        await until(lambda: waits.exists() and "to be enrolled as web-01" in waits.read_text())
        asked = site.server.requests[0]
        assert ("web-01", key("host").public.text) == (asked.name, asked.key)
        site.fleet.device("web-01", device=asked.device, key=asked.key)
        await until(lambda: bool(site.server.reports))
        await until(lambda: waits.read_text() == "")
    assert asked.device == site.server.reports[0].device


async def test_where_a_token_does_not_work_the_device_asks(tmp_path: Path) -> None:
    """A refused statement, as for a name that is taken, becomes a request with the reason for an admin to judge."""
    site = Site(tmp_path)
    site.server.refuse_joins = "the name web-01 is taken"
    async with site.running():
        await until(lambda: bool(site.server.requests))
    assert site.server.requests[0].reason == "the name web-01 is taken"
    assert site.fleet.state.devices == {}


async def test_a_token_that_comes_into_force_later_is_tried_again(tmp_path: Path) -> None:
    """The device asks meanwhile; ten minutes after the refusal the token lets it in, with no restart."""
    site = Site(tmp_path)
    site.server.refuse_joins = "the token begins tomorrow"
    async with site.running():
        await until(lambda: bool(site.server.requests))
        site.server.refuse_joins = ""
        site.boot_s += TOKEN_REST_S - 1
        asked = len(site.server.requests)
        await until(lambda: len(site.server.requests) > asked)
        assert {} == site.fleet.state.devices
        site.boot_s += 1
        await until(lambda: bool(site.fleet.state.devices))


@pytest.mark.parametrize(
    ("select", "tags", "expected"),
    [
        ({"env": ["prod"], "site": ["a", "b"]}, {"site": "b", "other": "x"}, {"env": "prod", "site": "b"}),
        ({"site": ["a", "b"]}, {}, None),
        ({"site": ["a", "b"]}, {"site": "c"}, None),
    ],
)
async def test_tags_are_exactly_the_selectors(
    tmp_path: Path, select: dict[str, list[str]], tags: Tags, expected: Tags | None
) -> None:
    """One allowed value for each key of the grant's selector; where it leaves a choice, agent.toml makes it."""
    site = Site(tmp_path, select=select)
    site.settings = replace(site.settings, tags=tags)
    async with site.running():
        await until(lambda: bool(site.fleet.state.devices or site.server.requests))
    found = [record.statement.tags for record in site.fleet.state.devices.values()]
    assert ([expected] if expected is not None else []) == found
    if expected is None:
        assert "the token wants the tag site to be one of a, b" in site.server.requests[0].reason


@pytest.mark.parametrize(("token", "why"), [(True, "the token is used up"), (False, "this device is not enrolled yet")])
async def test_once_asks_an_admin_and_does_not_wait_for_the_answer(tmp_path: Path, token: bool, why: str) -> None:
    """A token that admits nobody, or none at all: the wish is left with the reason, and the run ends as refused."""
    site = Site(tmp_path, token=token)
    site.server.refuse_joins = "the token is used up"
    with pytest.raises(Refused, match=why):
        await Agent(site.parts()).run_once()
    assert [site.server.refuse_joins if token else ""] == [one.reason for one in site.server.requests]


async def test_a_retired_device_neither_asks_nor_joins_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its membership was ended by a signed act; only a person starts another."""
    site = Site(tmp_path)
    async with site.running() as agent:
        device = await site.member()
        await until(lambda: site.server.opened > 0)
        own = site.fleet.state.devices[device].statement
        site.fleet.device("web-01", device=device, version=2, key=own.key, tags=own.tags, state="retired")
        site.server.wake()
        await until(lambda: agent.link.mirror.size == site.fleet.size)
    size = site.fleet.size
    async with site.running():
        await until(lambda: "this device is retired: it runs on, and gets no updates" in caplog.text)
    assert (site.server.requests, site.fleet.size) == ([], size)


async def test_a_cloned_disk_asks_to_be_enrolled_as_somebody_else(tmp_path: Path) -> None:
    """Another machine-id: a new id and key, and the wish names the device it was."""
    site = Site(tmp_path)
    async with site.running():
        first = await site.member()
        await until(lambda: bool(site.server.reports))
    site.machine.write("/etc/machine-id", "machine-2\n")
    async with site.running():
        await until(lambda: bool(site.server.requests))
    asked = site.server.requests[0]
    assert asked.device != first
    assert asked.key != site.fleet.state.devices[first].statement.key


def test_settings_that_contradict_the_identity_stop_the_agent(tmp_path: Path) -> None:
    """Neither key path nor fleet is changed silently."""
    site = Site(tmp_path)
    site.parts()
    site.settings = replace(site.settings, key_file="/etc/ssh/other")
    with pytest.raises(UserError, match="names the key /etc/ssh/other, but this device is known by"):
        site.parts()
    site.settings = replace(site.settings, key_file=None, token_file=None, fleet="9" * 64)
    with pytest.raises(UserError, match="names the fleet 999999999999…, but this device belongs to"):
        site.parts()


def test_a_machine_id_that_is_gone_makes_no_new_device(tmp_path: Path) -> None:
    """Nothing tells that the disk was moved; the agent says so and stops, and the identity stays."""
    site = Site(tmp_path)
    before = site.parts().identity
    site.machine.write("/etc/machine-id", "")
    with pytest.raises(UserError, match="/etc/machine-id is missing or empty"):
        site.parts()
    site.machine.write("/etc/machine-id", "machine-1\n")
    assert before == site.parts().identity


def test_a_device_never_trusts_on_first_use(tmp_path: Path) -> None:
    """Without a token and without a pinned checkpoint there is no identity, and nothing is left behind."""
    site = Site(tmp_path)
    site.settings = replace(site.settings, token_file=None)
    with pytest.raises(UserError, match="no fleet is pinned"):
        site.parts()
    assert list(site.machine.state_dir.iterdir()) == []
