"""Client, mirror, admin and push against a real coordinator: the two sides of the protocol mean the same."""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from tests.cachehost import nar_of, path_of
from tests.factories import device_id, key
from tests.touch import Touched

from nixfleet.client.acts import create_root
from nixfleet.client.admin import Admin, sign
from nixfleet.client.api import Client
from nixfleet.client.faults import Unknown
from nixfleet.client.mirror import Mirror
from nixfleet.client.push import push
from nixfleet.client.session import SessionKeeper
from nixfleet.errors import Conflict, Refused, Untrusted, UserError
from nixfleet.model.device import EnrollRequest, Report
from nixfleet.model.statements import CacheRef, Closure, Principal
from nixfleet.model.views import Delta
from nixfleet.model.wire import CachePath, Submission
from nixfleet.rollout.asking import RolloutWishes
from nixfleet.server.serve import Server
from nixfleet.server.settings import ServerSettings
from nixfleet.server.setup import create_fleet
from nixfleet.trust.lines import verify_line
from nixfleet.trust.merkle import leaf_hash, verify_consistency, verify_inclusion
from nixfleet.trust.narinfo import CacheKey, hash_part
from nixfleet.trust.reports import sign_enroll, sign_report
from nixfleet.trust.signers import MemorySigner, Signer
from nixfleet.trust.sshsig import SecretKey

DEADLINE_S = 30


def now() -> int:
    """Give the time as every party of these tests has it."""
    return int(time.time())


class Running:
    """A coordinator, its fleet, and the admin who founded it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache_key = CacheKey.generate("acme-1")
        self.signer = Touched(key("admin"))
        log_key = SecretKey.generate()
        root = create_root(
            by=self.signer.key.fingerprint,
            at=now(),
            urls=["http://127.0.0.1:7070"],
            principals=[Principal(name="admin", keys=(self.signer.key.text,))],
            log_key=log_key.public.text,
            caches=[CacheRef(url="/cache", key=self.cache_key.public)],
        )
        payload, signature = sign(self.signer, root)
        self.fleet = create_fleet(folder / "data", payload, signature, log_key, self.cache_key.text)
        self.server = Server(ServerSettings(data_dir=folder / "data", listen="127.0.0.1:0"))
        self.url = ""

    def client(self, secret: SecretKey | None = None) -> Client:
        """Make a client that signs with a key."""
        return Client([self.url], fleet=self.fleet, key=secret, clock=now)

    @asynccontextmanager
    async def admin(self, signer: Signer | None = None) -> AsyncIterator[tuple[Client, Admin]]:
        """Give a person at work, with a session and a mirror."""
        signer = signer or self.signer
        async with self.client() as api:
            file = self.folder / f"session-{signer.key.fingerprint[7:15].replace('/', '_')}"
            await SessionKeeper(signer, fleet=self.fleet, file=file, clock=now).attach(api)
            yield api, Admin(api, Mirror.open(self.folder / "mirror", self.fleet), signer, now)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Run a coordinator with a new fleet."""
    made = await asyncio.to_thread(Running, tmp_path)
    made.url = await asyncio.to_thread(made.server.start)
    try:
        yield made
    finally:
        await asyncio.to_thread(made.server.stop)


def request(running: Running, name: str) -> EnrollRequest:
    """Make a device's request to be enrolled."""
    return EnrollRequest(
        v=1, fleet=running.fleet, device=device_id(name), name=name, key=key(name).public.text, at=now()
    )


async def enrolled(running: Running, api: Client, admin: Admin, *names: str) -> None:
    """Let devices ask, and enrol them."""
    for name in names:
        async with running.client() as device:
            await device.enroll_request(sign_enroll(request(running, name), key(name)))
    for asked in await api.enroll_requests():
        await admin.enroll(asked, tags={"env": "prod"})


def system(name: str) -> Closure:
    """Make up a system's closure."""
    return Closure(path=path_of(name.encode()).store_path, system="x86_64-linux", digest="d" * 64, nar_size=100)


async def test_a_fleet_is_run_from_nothing_to_a_rollout(running: Running) -> None:
    """Enrolment, release, rollout and control pass a real coordinator's judgement, with one session signature."""
    async with running.admin() as (api, admin):
        await enrolled(running, api, admin, "web-01", "web-02")
        assert ["web-01", "web-02"] == sorted(one.name for one in await api.devices())
        assert () == await api.enroll_requests()
        await admin.tag(["web-02"], {"site": "rome"})
        assert ["web-02"] == [one.name for one in await api.devices("tag.site:rome")]
        release = await admin.release("a", devices={"web-01": system("a")})
        acted = await admin.rollout("a", RolloutWishes(all_at_once=True))
        detail = await api.rollout(acted.digest[:8])
        assert (["web-01"], "a") == ([one.name for one in detail.members], detail.rollout.release_name)
        assert release.digest == (await api.release("a")).id
        await admin.control(acted.digest, "pause")
        assert "paused" == (await api.rollout(acted.digest)).rollout.state
        audit, fleet = await api.audit(0), await api.fleet()
        async with running.client() as anybody:
            mirror = Mirror.open(running.folder / "mirror", running.fleet)
            assert (await anybody.checkpoint()) == mirror.checkpoint
        assert list(audit.entries) == mirror.entries(0, 100)
        assert (audit.size, running.fleet) == (mirror.size, fleet.id)
    signed = 1 + 1 + len(audit.entries) - 1
    assert signed == running.signer.touches


async def test_proofs_and_payloads_verify(running: Running) -> None:
    """Inclusion, consistency and payloads as served hold against the mirror's own tree."""
    async with running.admin() as (api, admin):
        await enrolled(running, api, admin, "a", "b", "c")
        mirror = Mirror.open(running.folder / "mirror", running.fleet)
        tree, size = mirror.state.tree, mirror.size
        for index in range(size):
            hashes = (await api.inclusion(index, size)).hashes
            verify_inclusion(leaf_hash(mirror.leaf(index)), index, size, hashes, tree.root(size))
            verify_consistency(
                index, tree.root(index), size, tree.root(size), (await api.consistency(index, size)).hashes
            )
            payload = mirror.payload(index)
            assert payload is not None
            assert payload == await api.payload(hashlib.sha256(payload).hexdigest())


async def test_a_device_syncs_asks_for_its_line_and_reports(running: Running) -> None:
    """A device follows the log through its own stream, verifies its line, and its report shows in the views."""
    async with running.admin() as (api, admin), running.client(key("web-01")) as device:
        await enrolled(running, api, admin, "web-01", "web-02")
        mirror = Mirror.open(running.folder / "device", running.fleet, device=device_id("web-01"))
        async with asyncio.timeout(DEADLINE_S), aclosing(device.agent_events(0)) as events:
            mirror.take(await anext(events))
            await admin.release("a", devices={"web-01": system("a"), "web-02": system("b")})
            acted = await admin.rollout("a", RolloutWishes())
            while acted.digest not in mirror.state.rollouts:
                mirror.take(await anext(events))
        await mirror.fill(device)
        line = (await device.line(acted.digest)).line
        record = next(iter(mirror.state.releases.values()))
        assert line is not None
        assert record.statement.targets is not None
        own = verify_line(line, record.statement.targets, device_id("web-01"))
        assert system("a").path == own.path
        report = Report(
            v=1, fleet=running.fleet, device=device_id("web-01"), seq=1, at=now(), log=mirror.log_state, protocol=1,
            boot_id="boot", system=own.path, booted=own.path, healthy=True,
        )  # fmt: skip
        signed = sign_report(report, key("web-01"))
        await device.report(signed)
        view = await api.device("web-01")
        assert (own.path, mirror.size) == (view.system, view.log_size)
        assert signed == await api.device_report(device_id("web-01"))
        assert () == (await api.device_lines("web-01")).lines
        assert not any(attempt.outcome for attempt in await api.device_history("web-01"))


async def test_a_console_sees_an_act_as_it_happens(running: Running) -> None:
    """From a snapshot's number on, the stream tells of a device's enrolment."""
    async with running.admin() as (api, admin):
        snapshot = await api.snapshot()
        async with asyncio.timeout(DEADLINE_S), aclosing(api.console_events(snapshot.seq)) as events:
            acting = asyncio.create_task(enrolled(running, api, admin, "web-01"))
            async for change in events:
                if isinstance(change, Delta) and change.device is not None:
                    break
            await acting
    assert "web-01" == change.device.name  # type: ignore[union-attr]  # the loop ends with a device's delta


async def test_who_may_not_is_told_so(running: Running) -> None:
    """Strangers, unsigned requests, devices where people are asked for, and unknown things are refused as such."""
    async with running.admin() as (api, admin):
        await enrolled(running, api, admin, "web-01")
        async with running.client(key("stranger")) as stranger, running.client(key("web-01")) as device:
            with pytest.raises(Untrusted):
                await stranger.devices()
            with pytest.raises(Refused):
                await device.devices()
            with pytest.raises(Refused):
                await device.cache_missing([])
        async with running.client() as nobody:
            with pytest.raises(Untrusted):
                await nobody.entries(0)
        with pytest.raises(Unknown):
            await api.device("nobody")
        with pytest.raises(Unknown):
            await api.rollout("ffffffff")
        signature = key("admin").sign("nixfleet-revoke-v1", b"{}")
        with pytest.raises(Conflict):
            await api.append([Submission(payload=b"{}", signature=signature)], size=1)
        with pytest.raises(UserError):
            await api.append([Submission(payload=b"{}", signature=signature)])
        with pytest.raises(Refused, match="neither root nor a grant names the key"):
            async with running.admin(Touched(key("mallory"))):
                pass
        async with running.admin(MemorySigner(key("mallory"))) as (_, mallory):
            with pytest.raises(Refused, match="neither root nor grant"):
                await mallory.retire(["web-01"])


async def test_a_closure_is_pushed_and_served(running: Running) -> None:
    """A push passes the coordinator's checks of rights, and the narinfo it leads to is signed by the fleet's key."""

    class One:
        """A local store of one plain file."""

        content = os.urandom(200_000)

        async def closure(self, _: str) -> list["Local"]:
            """List the file."""
            return [Local(path_of(self.content))]

        async def dump_nar(self, _: str) -> AsyncIterator[bytes]:
            """Stream it."""
            yield nar_of(self.content)

    async with running.admin() as (api, _):
        said = path_of(One.content)
        result = await push([said.store_path], One(), api, lambda _: None)
        text = await api.narinfo(hash_part(said.store_path))
    assert ((said.store_path,), True) == (result.pushed, f"Sig: {running.cache_key.name}:" in (text or ""))


class Local:
    """What the local database says of a path."""

    def __init__(self, said: CachePath) -> None:
        self.path, self.nar_hash, self.nar_bytes = said.store_path, said.nar_hash, said.nar_bytes
        self.references, self.deriver = said.references, said.deriver


async def test_a_restart_costs_a_mirror_nothing(running: Running) -> None:
    """After the coordinator was restarted, the mirror goes on from its size, and the session still holds."""
    async with running.admin() as (api, admin):
        await enrolled(running, api, admin, "web-01")
        await asyncio.to_thread(running.server.stop)
        again = Server(ServerSettings(data_dir=running.folder / "data", listen=running.url.removeprefix("http://")))
        await asyncio.to_thread(again.start)
        try:
            await admin.tag(["web-01"], {"site": "rome"})
            assert ["web-01"] == [one.name for one in await api.devices("tag.site:rome")]
        finally:
            await asyncio.to_thread(again.stop)
