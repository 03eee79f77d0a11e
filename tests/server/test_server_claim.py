"""A coordinator before it has a fleet: what it answers, who can claim it, and that a crash at any point is mended."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tests.factories import T0, key, principal
from tests.server.harness import DEADLINE_S, until

from nixfleet.client.admin import sign
from nixfleet.client.api import Client
from nixfleet.client.claiming import claim_with, read_offer, root_of
from nixfleet.errors import NixfleetError, Refused, Unreachable, Untrusted, UserError
from nixfleet.model.wire import Signed
from nixfleet.server import claim as claiming
from nixfleet.server.claim import WRONG_BURST, Unclaimed, wait_for_claim
from nixfleet.server.faults import Busy
from nixfleet.server.serve import serve
from nixfleet.server.settings import CACHE, CACHE_KEY, CLAIM, DATABASE, LOCK, LOG_KEY, ServerSettings
from nixfleet.trust.claims import ClaimString, make_claim, new_code
from nixfleet.trust.narinfo import CacheKey
from nixfleet.trust.signers import MemorySigner
from nixfleet.trust.sshsig import SecretKey


class Site:
    """A coordinator in this loop, and what its operator reads in its log."""

    def __init__(self, settings: ServerSettings, caplog: pytest.LogCaptureFixture) -> None:
        self.settings = settings
        self.caplog = caplog
        self.addresses: list[str] = []
        self.stop = asyncio.Event()

    @property
    def told(self) -> re.Match[str]:
        """Give the claim string and the address as they were printed last."""
        found = [
            match
            for record in self.caplog.records
            if (match := re.search(r"--claim (\S+)\n.* at (http://\S+)", record.getMessage()))
        ]
        return found[-1]

    @property
    def string(self) -> ClaimString:
        """Give the claim string."""
        return ClaimString.parse(self.told[1])

    def client(self, fleet: str = "", name: str | None = None) -> Client:
        """Make a client for where it listens."""
        signer = None if name is None else key(name)
        return Client([self.told[2]], fleet=fleet, key=signer, clock=lambda: T0, timeout_s=DEADLINE_S)

    async def claim(self, string: ClaimString | None = None, name: str = "admin") -> str:
        """Claim it as a named person."""
        string = string or self.string
        async with self.client() as client:
            signed, offer = await read_offer(client, string)
            signer = MemorySigner(key(name))
            root = root_of(
                offer, name="acme", by=signer.key.fingerprint, at=T0, urls=("http://127.0.0.1:1",),
                principals=(principal(name),),
            )  # fmt: skip
            return await claim_with(client, string, signed, root, signer)

    async def serves(self, fleet: str) -> bool:
        """Wait until it serves a fleet, as its root principal sees it."""
        async with self.client(fleet, "admin") as client:

            async def ask() -> str:
                try:
                    return (await client.snapshot()).fleet.id
                except Unreachable:
                    return ""

            return await until(ask, bool) == fleet


@asynccontextmanager
async def site(folder: Path, caplog: pytest.LogCaptureFixture, **settings: Any) -> AsyncGenerator[Site, None]:
    """Run a coordinator that may be claimed."""
    caplog.set_level(logging.INFO)
    one = Site(ServerSettings(data_dir=folder, listen="127.0.0.1:0", claimable=True, **settings), caplog)
    before = len(caplog.records)
    serving = asyncio.create_task(serve(one.settings, lambda: T0, one.addresses.append, one.stop))
    try:
        await until(_now(lambda: bool(one.addresses or serving.done() or _claims(caplog, before))), bool)
        yield one
    finally:
        one.stop.set()
        await serving


def _now(look: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        return look()

    return ask


def _claims(caplog: pytest.LogCaptureFixture, start: int) -> int:
    return sum("--claim" in record.getMessage() for record in caplog.records[start:])


async def test_claimed_coordinator_serves_its_fleet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The string from its log is all it takes: the fleet begins with its own keys, and is served at that address."""
    async with site(tmp_path / "data", caplog) as one:
        fleet = await one.claim()
        assert await one.serves(fleet)
        assert one.addresses == [one.told[2]]
        held = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "data").iterdir()}
        assert held[LOG_KEY] == held[CACHE_KEY] == 0o600
        assert CLAIM not in held
        async with one.client(fleet, "admin") as client:
            assert (await client.fleet()).name == "acme"
        async with httpx.AsyncClient(base_url=one.told[2], trust_env=False) as http:
            assert (await http.get("/healthz")).status_code == 200


async def test_unclaimed_coordinator_answers_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is asked, its health too, the answer is that there is no fleet yet, and no word of the code."""
    async with site(tmp_path / "data", caplog) as one, httpx.AsyncClient(base_url=one.told[2], trust_env=False) as http:
        for method, path in (("GET", "/healthz"), ("GET", "/v1/fleet"), ("POST", "/v1/log"), ("PUT", "/v1/claim")):
            answer = await http.request(method, path)
            assert (answer.status_code, answer.json()["kind"]) == (503, "unavailable")
            assert "no fleet yet" in answer.json()["error"]
        offer = await http.get("/v1/claim")
        assert one.string.code not in offer.text
        for body, status in ((b"{}", 400), (b"x" * 200_000, 413)):
            assert (await http.post("/v1/claim", content=body)).status_code == status


async def test_wrong_code_is_refused_and_bounded_in_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Another code claims nothing, and too many fill no log; the right one is taken all the same."""
    async with site(tmp_path / "data", caplog) as one:
        for _ in range(WRONG_BURST):
            with pytest.raises(Refused, match="the code is not this coordinator's"):
                await one.claim(replace(one.string, code=new_code()))
        for _ in range(3):
            with pytest.raises(Unreachable, match="too many wrong ones"):
                await one.claim(replace(one.string, code=new_code()))
        assert not (tmp_path / "data" / DATABASE).exists()
        assert sum("wrong code" in record.getMessage() for record in caplog.records) == WRONG_BURST
        assert await one.serves(await one.claim())


async def test_patience_comes_back_with_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds later one more try is taken."""
    now = 100.0
    settings = ServerSettings(data_dir=tmp_path, claimable=True)
    made = Unclaimed(settings, lambda: T0, clock=lambda: now)
    wrong = make_claim(new_code(), Signed(payload=b"", signature=b""), b"", b"")
    expected: list[type[NixfleetError]] = [*[Refused] * WRONG_BURST, Busy]
    for error in expected:
        with pytest.raises(error):
            await made._claim(wrong)
    now += 10
    with pytest.raises(Refused):
        await made._claim(wrong)


async def test_code_is_for_one_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Once it is claimed, the same string claims nothing any more, neither at once nor after a restart."""
    async with site(tmp_path / "data", caplog) as one:
        string = one.string
        fleet = await one.claim()
        assert await one.serves(fleet)
        with pytest.raises(UserError, match="has a fleet already"):
            await one.claim(string, "thief")
    async with site(tmp_path / "data", caplog) as again:
        assert again.addresses
        assert _claims(caplog, 0) == 1


async def test_two_claims_at_once_begin_one_fleet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of two admins with the same string one founds the fleet, and the log shows which."""
    async with site(tmp_path / "data", caplog) as one:
        both = await asyncio.gather(one.claim(), one.claim(name="other"), return_exceptions=True)
        fleets = [each for each in both if isinstance(each, str)]
        async with one.client() as client:
            served = await until(lambda: _fleet(client), bool)
        assert served in fleets


async def _fleet(client: Client) -> str:
    try:
        return (await client.fleet()).id
    except Unreachable:
        return ""


async def test_restart_changes_nothing_of_what_was_copied(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Keys and code are kept in one private file until the claim: an older copy of the string still works."""
    async with site(tmp_path / "data", caplog) as one:
        first = one.string
    assert (tmp_path / "data" / CLAIM).stat().st_mode & 0o777 == 0o600
    async with site(tmp_path / "data", caplog) as one:
        assert first == one.string
        assert await one.serves(await one.claim(first))


async def test_somebody_on_the_way_cannot_put_their_keys_in(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An offer of another log key is refused by the admin; a claim whose root was swapped, by the coordinator."""
    async with site(tmp_path / "theirs", caplog) as theirs:
        other = theirs.string
        async with site(tmp_path / "data", caplog) as one, one.client() as client:
            assert other.fingerprint != one.string.fingerprint
            with pytest.raises(Untrusted, match="another one answers at this address"):
                await read_offer(client, other)
            signed, offer = await read_offer(client, one.string)
            thief, admin = MemorySigner(key("thief")), MemorySigner(key("admin"))
            fields: dict[str, Any] = {"name": "acme", "at": T0, "urls": ("http://127.0.0.1:1",)}
            mine = root_of(offer, by=admin.key.fingerprint, principals=(principal("admin"),), **fields)
            evil = root_of(offer, by=thief.key.fingerprint, principals=(principal("thief"),), **fields)
            good = make_claim(one.string.code, signed, *sign(admin, mine))
            payload, signature = sign(thief, evil)
            with pytest.raises(Refused):
                await client.claim(msgspec.structs.replace(good, payload=payload, signature=signature))
            assert (await client.claim(good)).fleet


@pytest.mark.parametrize("fault", ["log", "cache", "unsigned", "grant"])
async def test_root_of_other_keys_is_refused_though_the_code_is_right(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    """A root with another log key or cache key, with another's signature, or no root at all, begins nothing."""
    async with site(tmp_path / "data", caplog) as one, one.client() as client:
        signed, offer = await read_offer(client, one.string)
        admin, other = MemorySigner(key("admin")), MemorySigner(key("other"))
        changed = msgspec.structs.replace(
            offer,
            **{"log": {"log_key": other.key.text}, "cache": {"cache_key": "A" * 43 + "="}}.get(fault, {}),
        )
        root = root_of(
            changed, name="acme", by=admin.key.fingerprint, at=T0, urls=("http://127.0.0.1:1",),
            principals=(principal("admin"),),
        )  # fmt: skip
        payload, signature = sign(other if fault == "unsigned" else admin, root)
        payload = b'{"type":"grant"}' if fault == "grant" else payload
        with pytest.raises((UserError, Untrusted)):
            await client.claim(make_claim(one.string.code, signed, payload, signature))
        assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [CLAIM, LOCK]
        assert await one.serves(await one.claim())


async def test_claim_that_was_cut_off_half_way_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where power went after the keys were put in place and before the database was, the same string works again."""
    folder = tmp_path / "data"
    async with site(folder, caplog) as one:
        first = one.string
    kept = msgspec.json.decode((folder / CLAIM).read_bytes(), type=claiming._Kept)
    (folder / LOG_KEY).write_text(kept.log_key)
    (folder / CACHE_KEY).write_text(f"{CacheKey('acme-1', SecretKey.from_seed(bytes.fromhex(kept.cache_seed))).text}\n")
    (folder / CACHE).mkdir()
    async with site(folder, caplog) as one:
        assert await one.serves(await one.claim(first))


@pytest.mark.parametrize(
    "which", [(LOG_KEY,), (CACHE_KEY,), (CACHE,), ("own log key", CACHE_KEY), ("own log key", CACHE)]
)
async def test_fleet_that_is_being_moved_in_is_not_cleared_away(tmp_path: Path, which: tuple[str, ...]) -> None:
    """Keys that are not the claim's, or a cache with something in it, are somebody's: they stay, and it is an error."""
    settings = ServerSettings(data_dir=tmp_path, claimable=True)
    waiting = await wait_for_claim(settings, lambda: T0, clock=lambda: 0.0)
    assert waiting is not None
    kept = msgspec.json.decode((tmp_path / CLAIM).read_bytes(), type=claiming._Kept)
    for name in which:
        if name == CACHE:
            (tmp_path / CACHE / "nar").mkdir(parents=True)
        elif name == "own log key":
            (tmp_path / LOG_KEY).write_text(kept.log_key)
        else:
            (tmp_path / name).write_text(key("other").to_openssh())
    before = _held(tmp_path)
    assert await wait_for_claim(settings, lambda: T0, clock=lambda: 0.0) is None
    with pytest.raises(UserError, match=r"database is not in|holds no fleet"):
        await serve(settings, lambda: T0, lambda _: None, asyncio.Event())
    assert before == _held(tmp_path)


def _held(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*") if path.name != LOCK)


async def test_damaged_claim_file_is_told(tmp_path: Path) -> None:
    """Keys that cannot be read are no keys to hand out: one line that says what to remove."""
    (tmp_path / CLAIM).write_text("{}")
    with pytest.raises(UserError, match=f"{CLAIM} is damaged: remove it"):
        await wait_for_claim(ServerSettings(data_dir=tmp_path, claimable=True), lambda: T0, clock=lambda: 0.0)


async def test_fleet_is_claimed_into_postgres(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, postgres_url: str
) -> None:
    """With a PostgreSQL address the log begins there; a lost folder beside a log there is not to be claimed."""
    async with site(tmp_path / "data", caplog, database_url=postgres_url) as one:
        assert await one.serves(await one.claim())
    assert not (tmp_path / "data" / DATABASE).exists()
    settings = ServerSettings(data_dir=tmp_path / "lost", claimable=True, database_url=postgres_url)
    with pytest.raises(UserError, match="holds no fleet"):
        await serve(settings, lambda: T0, lambda _: None, asyncio.Event())
