"""A coordinator that moves: an agent hears the new address in a signed root, and finds it there afterwards."""

import asyncio
from pathlib import Path

import pytest
from tests.agent.made_up import CACHE
from tests.cli.commandline import free_port
from tests.fleet.members import Member
from tests.server.harness import rig, until

from nixfleet.agent import agent as agents
from nixfleet.agent import desk as desks
from nixfleet.agent import link as links


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Come back at once instead of after a second."""
    monkeypatch.setattr(links, "BACKOFF_FIRST_S", 0.05)
    monkeypatch.setattr(links, "BACKOFF_MOST_S", 0.2)
    monkeypatch.setattr(agents, "CONTACT_S", 0.05)
    monkeypatch.setattr(desks, "TELL_ROOT_S", 0.05)


async def test_an_agent_follows_the_addresses_that_the_root_signs(tmp_path: Path) -> None:
    """The new address is signed before the move; the device, whose agent.toml names the old one, gets its next update.

    It tries the root's addresses first and in their order, agent.toml's after them.
    """
    async with rig(tmp_path / "data", caches=(CACHE,)) as one, one.client("admin") as admin:
        web = Member(tmp_path / "web", one, "web-01")
        web.enrol()
        await one.send(admin)
        old, new = one.server.address, f"http://127.0.0.1:{free_port()}"
        async with web.running() as agent:
            one.fleet.root(urls=(new, old))
            await one.send(admin)
            await until(admin.devices, lambda devices: devices[0].log_size == one.fleet.size)
            assert (new, old) == agent.link.urls()
            await asyncio.to_thread(one.server.stop)
            one.listen = new.removeprefix("http://")
            one.server = one.make_server()
            await asyncio.to_thread(one.server.start)
            await web.deployed("a")
            assert new == agent.link.base_url
            one.fleet.root(urls=(new,))
            async with one.client("admin") as moved:
                await one.send(moved)
                await until(moved.devices, lambda devices: devices[0].log_size == one.fleet.size)
            assert (new, old) == agent.link.urls()
            await web.deployed("b")


async def test_an_agent_that_was_off_finds_the_move_at_the_old_address(tmp_path: Path) -> None:
    """While something answers at the old address, a device that slept hears the root there, and goes on to the new."""
    async with rig(tmp_path / "data", caches=(CACHE,)) as one, one.client("admin") as admin:
        web = Member(tmp_path / "web", one, "web-01")
        web.enrol()
        new = f"http://127.0.0.1:{free_port()}"
        one.fleet.root(urls=(new,))
        await one.send(admin)
        async with web.running() as agent:
            await until(admin.devices, lambda devices: devices[0].log_size == one.fleet.size)
            assert (new, one.server.address) == agent.link.urls()
            await asyncio.to_thread(one.server.stop)
            one.listen = new.removeprefix("http://")
            one.server = one.make_server()
            await asyncio.to_thread(one.server.start)
            await web.deployed("a")
            assert new == agent.link.base_url
