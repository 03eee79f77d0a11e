"""The log's key is changed by a root: agents follow it, and what the former one signs from then on is nothing."""

import asyncio
from pathlib import Path

import pytest
from tests.agent.made_up import CACHE
from tests.factories import key
from tests.fleet.members import Member
from tests.server.harness import rig, until

from nixfleet.agent import agent as agents
from nixfleet.agent import desk as desks
from nixfleet.agent import link as links
from nixfleet.errors import Untrusted
from nixfleet.model.statements import LogKey
from nixfleet.trust.note import Checkpoint, origin, sign_checkpoint


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Come back at once instead of after a second."""
    monkeypatch.setattr(links, "BACKOFF_FIRST_S", 0.05)
    monkeypatch.setattr(links, "BACKOFF_MOST_S", 0.2)
    monkeypatch.setattr(agents, "CONTACT_S", 0.05)
    monkeypatch.setattr(desks, "TELL_ROOT_S", 0.05)


async def test_an_agent_follows_the_log_to_its_next_key(tmp_path: Path) -> None:
    """Updates and gates go on under the new key; a checkpoint that a thief of the old one signs is not believed."""
    async with rig(tmp_path / "data", caches=(CACHE,)) as one, one.client("admin") as admin:
        web = Member(tmp_path / "web", one, "web-01")
        web.enrol()
        await one.send(admin)
        one.stay()
        (one.data_dir / "log-next.key").write_text(key("next log").to_openssh())
        await asyncio.to_thread(one.restart)
        async with web.running() as agent:
            await web.deployed("a")
            one.fleet.root(log=LogKey(key=key("next log").public.text, epoch=0))
            await one.send(admin)
            await web.deployed("b")
            await until(admin.devices, lambda devices: devices[0].log_size == one.fleet.size)
            view = agent.link.mirror.log_view
            assert key("next log").public == view.log_key
            name = Checkpoint(origin(one.fleet.fleet, 0), view.size, one.fleet.tree.root())
            with pytest.raises(Untrusted, match="was not in force at its end"):
                view.extend(sign_checkpoint(name, one.fleet.log_key), view.size, [])
            (one.data_dir / "log-next.key").replace(one.data_dir / "log.key")
            await asyncio.to_thread(one.restart)
            await web.deployed("c")
