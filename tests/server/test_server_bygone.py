"""Keys that were something once: a retired device's, one that was given up, a join token's that has ended."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.agent.made_up import Machine, MadeUpStore
from tests.factories import Fleet, device_id, fingerprint, key
from tests.server.harness import Rig, rig, until

from nixfleet.agent import identity as identities
from nixfleet.agent import link as links
from nixfleet.agent.agent import Agent
from nixfleet.agent.identity import Identity
from nixfleet.agent.journal import Journal
from nixfleet.agent.member import Parts
from nixfleet.agent.service import Clock
from nixfleet.agent.settings import Settings
from nixfleet.client.mirror import Mirror
from nixfleet.errors import Refused
from nixfleet.model.device import EnrollRequest, JoinToken
from nixfleet.model.statements import LogState
from nixfleet.trust.reports import sign_enroll


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Come back at once instead of after a second."""
    monkeypatch.setattr(links, "BACKOFF_FIRST_S", 0.02)


@asynccontextmanager
async def _agent(
    one: Rig, root: Path, before: Path | None = None, token: JoinToken | None = None
) -> AsyncGenerator[Path, None]:
    """Run the real agent of web-01 on a made-up machine; gives its state folder, which begins as `before` was left."""
    machine = Machine(root)
    machine.boot(machine.system("old"))
    folder = machine.state_dir
    if before is not None:
        shutil.copytree(before / "log", folder / "log")
    own = folder / "device_key"
    own.write_text(key("web-01").to_openssh())
    settings = Settings(name="web-01", state_dir=str(folder), volatile_state=True, urls=(one.server.address,))
    found = Identity(
        device=device_id("web-01"),
        fleet=one.fleet.fleet,
        pin=LogState(size=1, root=one.fleet.tree.root(1).hex()),
        key_file=str(own),
        machine_id=machine.host.machine_id(),
    )
    identities.write(folder, found)
    found, secret, _ = identities.establish(machine.host, settings)
    agent = Agent(
        Parts(
            settings=identities.effective(settings, found),
            host=machine.host,
            store=MadeUpStore(machine),
            clock=Clock(wall=lambda: int(one.now), boot=lambda: 100),
            identity=found,
            key=secret,
            token=token,
            mirror=Mirror.open(folder / "log", found.fleet, pin=found.pin, device=found.device),
            journal=Journal(folder),
        )
    )
    task = asyncio.create_task(agent.run())
    try:
        yield folder
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _says(folder: Path, words: str) -> str:
    """Wait until the device says why nothing begins."""

    async def read() -> str:
        with contextlib.suppress(FileNotFoundError):
            return (folder / "waits").read_text()
        return ""

    return await until(read, lambda text: words in text)


async def test_a_connected_device_hears_from_the_log_that_it_is_retired(tmp_path: Path) -> None:
    """The statement is the last thing on its stream: it does not have to take the coordinator's word."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        async with _agent(one, tmp_path / "machine") as folder:
            await until(lambda: admin.device("web-01"), lambda view: view.link == "stream")
            one.fleet.device("web-01", state="retired")
            await one.send(admin)
            said = await _says(folder, "this device is retired: it runs on, and gets no updates")
            assert "coordinator" not in said
        mirror = Mirror.open(folder / "log", one.fleet.fleet, pin=None, device=device_id("web-01"))
        assert "retired" == mirror.state.devices[device_id("web-01")].statement.state


async def test_a_device_that_was_away_is_told_why_it_is_not_admitted(tmp_path: Path) -> None:
    """Its log still says that it is a member; the refusal, and the way back, are the coordinator's word."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        async with _agent(one, tmp_path / "machine") as folder:
            await until(lambda: admin.device("web-01"), lambda view: view.reported_at > 0)
        one.fleet.device("web-01", state="retired")
        await one.send(admin)
        async with _agent(one, tmp_path / "again", folder):
            await _says(
                tmp_path / "again/var/lib/nixfleet",
                "does not admit this device: web-01 is retired: 'nixfleet agent join --replace' on the device",
            )
        assert ["web-01 is retired"] == list({one.reason.partition(":")[0] for one in await admin.refusals()})


def _asks(one: Rig, name: str, device: str, **fields: Any) -> EnrollRequest:
    made = {"v": 1, "fleet": one.fleet.fleet, "device": device_id(device), "name": name, "at": int(one.now)}
    return EnrollRequest(**{**made, "key": key(fields.pop("by")).public.text, **fields})


async def test_a_token_does_not_bring_a_retired_id_back(tmp_path: Path) -> None:
    """Away while it was retired, with a token that is good: it joins under no id that is over, and cries no wolf."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        one.fleet.device("web-01", state="retired")
        one.fleet.grant("joiner", "enroll", max_uses=2)
        await one.send(admin)
        token = JoinToken(
            v=1, urls=(one.server.address,), fleet=one.fleet.fleet, log=one.fleet.log, seed=key("joiner").seed.hex()
        )
        async with _agent(one, tmp_path / "machine", token=token) as folder:
            said = await _says(folder, "web-01 is retired: 'nixfleet agent join --replace' on the device")
            assert "payload" not in said
        assert (await admin.fleet()).log_size == one.fleet.size
        assert () == await admin.enroll_requests()


async def test_a_key_that_was_given_up_opens_nothing(tmp_path: Path) -> None:
    """No reads, no reports, no stream, no wish to be enrolled, under the old id or a new one; the new key does."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin, one.client("web-01") as old:
        await old.sync(0)
        one.fleet.device("web-01", by="web-01", key=key("new").public.text)
        await one.send(admin)
        with pytest.raises(Refused, match="this key is worth nothing: web-01 has got another one"):
            await old.sync(0)
        with pytest.raises(Refused, match="this key is worth nothing"):
            await old.entries(0)
        with pytest.raises(Exception, match=r"signed by|not by"):
            await old.report(one.report("web-01"))
        for device in ("web-01", "another"):
            with pytest.raises(Refused, match="this key is worth nothing: web-01 has got another one"):
                await old.enroll_request(sign_enroll(_asks(one, "web-01", device, by="web-01"), key("web-01")))
        assert () == await admin.enroll_requests()
        async with one.client("new") as new:
            await new.sync(0)


async def test_a_key_that_comes_back_into_force_is_good_again(tmp_path: Path) -> None:
    """An admin may give a device its old key back; the other one is then the one that is worth nothing."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        one.fleet.device("web-01", key=key("new").public.text)
        one.fleet.device("web-01", key=key("web-01").public.text)
        await one.send(admin)
        async with one.client("web-01") as first, one.client("new") as second:
            await first.sync(0)
            with pytest.raises(Refused, match="this key is worth nothing"):
                await second.sync(0)


async def test_a_retired_devices_key_may_ask_as_a_new_device(tmp_path: Path) -> None:
    """The machine comes back with its host key, under another id; what became of keys outlives a restart."""
    async with rig(tmp_path / "data", "web-01", "web-02") as one, one.client("admin") as admin:
        one.fleet.device("web-01", state="retired")
        one.fleet.device("web-02", by="web-02", key=key("new").public.text)
        await one.send(admin)
        await asyncio.to_thread(one.restart)
        async with one.client(None) as anybody, one.client("admin") as again:
            with pytest.raises(Refused, match="web-01 is retired: 'nixfleet agent join --replace'"):
                await anybody.enroll_request(sign_enroll(_asks(one, "web-01", "web-01", by="web-01"), key("web-01")))
            await anybody.enroll_request(sign_enroll(_asks(one, "web-01", "second", by="web-01"), key("web-01")))
            with pytest.raises(Refused, match="this key is worth nothing: web-02 has got another one"):
                await anybody.enroll_request(sign_enroll(_asks(one, "x", "third", by="web-02"), key("web-02")))
            (asked,) = await again.enroll_requests()
            assert (device_id("second"), fingerprint("web-01")) == (asked.device, asked.fingerprint)


async def test_a_join_token_that_has_ended_or_was_revoked_says_so(tmp_path: Path) -> None:
    """Whoever still has it is told to ask for another one; a stranger is told nothing."""
    async with rig(tmp_path / "data") as one, one.client("admin") as admin:
        fleet: Fleet = one.fleet
        ended = fleet.grant("ended", "enroll", max_uses=1, not_after=fleet.now + 60)
        revoked = fleet.grant("revoked", "enroll", max_uses=1)
        fleet.revoke(grant=revoked)
        await one.send(admin)
        one.now += 120
        assert {ended, revoked} <= fleet.state.grants.keys()
        for name, words in (("ended", "the join token has ended"), ("revoked", "the join token was revoked")):
            async with one.client(name) as joining:
                with pytest.raises(Refused, match=f"{words}.*: ask for another one"):
                    await joining.sync(0)
        async with one.client("stranger") as stranger:
            with pytest.raises(Exception, match="key") as told:
                await stranger.sync(0)
            assert "token" not in str(told.value)
