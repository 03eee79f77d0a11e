"""Who may ask what: request signatures, roles, sessions, enrolment, and the bound of every input."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, get_args

import httpx
import msgspec
import pytest
from tests.factories import device_id, fingerprint, key
from tests.server.harness import DEADLINE_S, Rig, rig, until

from nixfleet.client.api import Client
from nixfleet.errors import Refused, Unreachable, Untrusted, UserError
from nixfleet.model.device import EnrollRequest, Facts, Session
from nixfleet.model.wire import ErrorBody, ErrorKind, Signed
from nixfleet.server.coordinator import people
from nixfleet.server.coordinator.planner import Planner
from nixfleet.server.faults import status_for
from nixfleet.server.store.people import PeopleTables
from nixfleet.trust.httpsig import sign_request
from nixfleet.trust.reports import NAMESPACE_SESSION, session_payload, sign_enroll
from nixfleet.trust.statements import digest


async def _ask(one: Rig, path: str, name: str | None = None, **changes: Any) -> httpx.Response:
    """Send a request as a named key would sign it, but for what is changed after signing."""
    method, body = changes.pop("method", "GET"), changes.pop("body", b"")
    bare, _, query = path.partition("?")
    headers: dict[str, str] = {}
    if name is not None:
        signed: dict[str, Any] = {"method": method, "path": bare, "query": query, "body": body}
        signed |= {"created": int(one.now), "fleet": one.fleet.fleet, **changes.pop("signed", {})}
        headers = sign_request(key(name), **signed)
    async with httpx.AsyncClient(base_url=one.server.address, trust_env=False) as http:
        return await http.request(method, path, content=body, headers=headers | changes.pop("headers", {}))


def _error(response: httpx.Response) -> tuple[int, str]:
    body = msgspec.json.decode(response.content, type=ErrorBody)
    assert body.error
    assert body.server_time
    return response.status_code, body.kind


async def test_health_tells_that_a_part_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A coordinator that plans no more, because planning met a bug, is not well, though it still serves the log."""
    async with rig(tmp_path / "data") as one, one.client("admin") as admin:
        assert (await _ask(one, "/healthz")).status_code == 200

        async def broken(_: Planner) -> float:
            raise AssertionError("a bug")

        monkeypatch.setattr(Planner, "tick", broken)
        one.fleet.device("web-01")
        await one.send(admin)
        answer = await until(lambda: _ask(one, "/healthz"), lambda answer: answer.status_code != 200)
        assert _error(answer) == (503, "unavailable")
        assert (await admin.fleet()).log_size == 2
    assert "a task of the coordinator failed" in caplog.text


async def test_open_routes_need_no_signature(tmp_path: Path) -> None:
    """Health, checkpoint, fleet, metrics and the API's description are for everybody."""
    async with rig(tmp_path / "data", "web-01") as one:
        for path in ("/healthz", "/v1/checkpoint", "/v1/fleet", "/metrics", "/schema/openapi.json"):
            assert (await _ask(one, path)).status_code == 200
        assert (await _ask(one, "/healthz")).json()["log_size"] == 2
        assert "nixfleet_log_entries 2.0" in (await _ask(one, "/metrics")).text
        assert "/v1/log/entries" in (await _ask(one, "/schema/openapi.json")).json()["paths"]


@pytest.mark.parametrize("name", ["Forwarded", "Via", "X-Forwarded-For", "X-Real-IP"])
async def test_metrics_go_to_nobody_through_a_proxy_on_this_machine(tmp_path: Path, name: str) -> None:
    """A proxy's own address is this machine's, whoever it asks for."""
    async with rig(tmp_path / "data") as one:
        asked = await _ask(one, "/metrics", headers={name: "somebody"})
        assert (403, "refused") == _error(asked)


OPEN = {
    ("get", "/healthz"),
    ("get", "/v1/checkpoint"),
    ("get", "/v1/fleet"),
    ("get", "/metrics"),
    ("get", "/cache/nix-cache-info"),
    ("get", "/cache/{name}"),
    ("get", "/cache/nar/{name}"),
    ("head", "/cache/nix-cache-info"),
    ("head", "/cache/{name}"),
    ("head", "/cache/nar/{name}"),
}
"""What docs/protocol.md lets anybody ask."""
SIGNED_BODIES = {("post", f"/v1/{name}") for name in ("log", "log/offers", "reports", "enroll", "sessions")}
"""What is signed in itself."""


async def test_every_other_request_needs_a_known_key(tmp_path: Path) -> None:
    """Without a signature, and with a stranger's key, no route but the named ones answers, whatever is asked of it."""
    async with rig(tmp_path / "data") as one:
        document = (await _ask(one, "/schema/openapi.json")).json()
        asked = {(method, path): part for path, item in document["paths"].items() for method, part in item.items()}
        assert OPEN | SIGNED_BODIES < asked.keys()
        for (method, path), part in asked.items():
            if (method, path) in OPEN | SIGNED_BODIES:
                continue
            numbers = [
                each["name"] for each in part.get("parameters", ()) if each["in"] == "query" and each["required"]
            ]
            url = f"{path.partition('{')[0]}{'x' + path.rpartition('}')[2] if '{' in path else ''}"
            url += "?" + "&".join(f"{name}=0" for name in numbers) if numbers else ""
            for who in (None, "stranger"):
                assert _error(await _ask(one, url, who, method=method.upper())) == (401, "untrusted"), (method, url)


@pytest.mark.parametrize("kind", get_args(ErrorKind))
def test_every_kind_of_refusal_is_documented(kind: ErrorKind) -> None:
    """The protocol's page names each kind with the status that it goes with."""
    assert f"`{status_for(kind).value} {kind}`" in (Path(__file__).parents[2] / "docs/protocol.md").read_text()


async def test_forged_requests_are_refused(tmp_path: Path) -> None:
    """A signature over another path, query, body or method does not hold; one for another fleet has lost its way."""
    async with rig(tmp_path / "data", "web-01") as one:
        changes: list[dict[str, Any]] = [
            {"signed": {"path": "/v1/devices/x"}},
            {"signed": {"query": "query=x"}},
            {"signed": {"body": b"x"}},
            {"signed": {"method": "POST"}},
            {"headers": {"content-digest": "sha-256=:AAAA:"}},
        ]
        for change in changes:
            assert _error(await _ask(one, "/v1/devices", "admin", **change)) == (401, "untrusted")
        foreign = await _ask(one, "/v1/devices", "admin", signed={"fleet": "0" * 64})
        assert _error(foreign) == (421, "foreign")
        assert (await _ask(one, "/v1/devices", "admin")).status_code == 200


async def test_skewed_request_learns_the_servers_time(tmp_path: Path) -> None:
    """Only a well-signed request with a wrong clock is told that the clock is the trouble; the client retries."""
    async with rig(tmp_path / "data") as one:
        response = await _ask(one, "/v1/devices", "admin", signed={"created": int(one.now) - 400})
        assert _error(response) == (401, "skewed")
        assert response.json()["server_time"] == int(one.now)
        clock = int(one.now) - 100_000
        async with Client([one.server.address], fleet=one.fleet.fleet, key=key("admin"), clock=lambda: clock) as off:
            assert await off.devices() == ()
            assert off.skew_s == 100_000


async def test_devices_read_the_log_and_their_own_things_only(tmp_path: Path) -> None:
    """A device sees no other device's statement, nor anything that is for people."""
    async with rig(tmp_path / "data", "web-01", "web-02") as one, one.client("web-01") as device:
        entries = (await device.entries(0, payloads="all")).entries
        assert [entry.payload is not None for entry in entries] == [True, True, False]
        with pytest.raises(Refused):
            await device.payload(digest(one.fleet.entries[2][1]))
        assert await device.payload(digest(one.fleet.entries[1][1])) == one.fleet.entries[1][1]
        with pytest.raises(Refused):
            await device.devices()
        with pytest.raises(Refused):
            await device.audit(0)
        with pytest.raises(Refused):
            await device.refusals()
        async with one.client("admin") as admin:
            with pytest.raises(Refused):
                await admin.line("0" * 64)


async def test_retired_device_may_not_ask_any_more(tmp_path: Path) -> None:
    """With its retirement in the log, a device's key opens nothing."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin, one.client("web-01") as device:
        await device.sync(0)
        one.fleet.device("web-01", state="retired")
        await one.send(admin)
        with pytest.raises(Refused, match="web-01 is retired"):
            await device.sync(0)
        with pytest.raises(Untrusted):
            await device.report(one.report("web-01"))
        assert await admin.devices() == ()
        assert (await admin.device("web-01")).state == "retired"


async def _drain(events: AsyncIterator[object]) -> None:
    async for _ in events:
        pass


async def test_revoked_device_key_opens_nothing(tmp_path: Path) -> None:
    """A device's key that was revoked, as one that was stolen is, neither reads nor reports; its stream ends."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin, one.client("web-01") as device:
        await device.report(one.report("web-01"))
        async with aclosing(device.agent_events(0)) as events:
            assert (await anext(events)).start == 0
            one.fleet.revoke(key_name="web-01")
            await one.send(admin)
            with pytest.raises(Unreachable, match="ended the event stream"):
                await asyncio.wait_for(_drain(events), DEADLINE_S)
        with pytest.raises(Untrusted):
            await device.sync(0)
        with pytest.raises(Untrusted):
            await device.report(one.report("web-01"))
        with pytest.raises(Untrusted):
            await device.entries(0, payloads="all")


async def test_token_reads_the_log_and_enrols(tmp_path: Path) -> None:
    """The key of a join token may sync and append its own device statement, and nothing else."""
    async with rig(tmp_path / "data") as one, one.client("admin") as admin, one.client("token") as token:
        one.fleet.grant("token", "enroll", select={"env": ["prod"]}, max_uses=1)
        await one.send(admin)
        assert len((await token.sync(0)).entries) == 2
        with pytest.raises(Refused):
            await token.devices()
        one.fleet.device("web-01", by="token", tags={"env": "prod"})
        await one.send(token)
        assert [view.name for view in await admin.devices()] == ["web-01"]
        one.fleet.device("web-02", by="token", tags={"env": "prod"})
        with pytest.raises(Refused, match="token"):
            await one.send(token)


async def test_granted_people_read_and_stop_reading_when_revoked(tmp_path: Path) -> None:
    """A grant without actions may read; once revoked it may not, and its holder is told why."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin, one.client("auditor") as auditor:
        grant = one.fleet.grant("auditor")
        await one.send(admin)
        assert len(await auditor.devices()) == 1
        with pytest.raises(Refused, match="enroll"):
            await auditor.forget_request("x")
        one.fleet.revoke(grant=grant)
        await one.send(admin)
        with pytest.raises(Refused, match=r"auditor lacks the right .* it holds: nothing, for its grant was revoked"):
            await auditor.devices()


def _session(one: Rig, by: str = "admin", to: str = "session", **fields: Any) -> Signed:
    made: dict[str, Any] = {"v": 1, "fleet": one.fleet.fleet, "by": fingerprint(by), "key": key(to).public.text}
    made |= {"at": int(one.now), "not_after": int(one.now) + 3_600}
    payload = session_payload(Session(**{**made, **fields}))
    return Signed(payload=payload, signature=key(by).sign(NAMESPACE_SESSION, payload))


async def test_session_speaks_for_its_person_until_it_ends(tmp_path: Path) -> None:
    """A session key reads what its person reads, over a restart too, until its time is over."""
    async with rig(tmp_path / "data") as one:
        async with one.client("session") as session:
            with pytest.raises(Untrusted):
                await session.devices()
            await session.open_session(_session(one))
            assert await session.devices() == ()
        await asyncio.to_thread(one.restart)
        async with one.client("session") as session:
            assert await session.devices() == ()
            one.now += 3_601
            with pytest.raises(Untrusted):
                await session.devices()


async def test_an_unknown_key_costs_no_look_into_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no other coordinator can have opened a session, what is not in memory is no session's key."""
    async with rig(tmp_path / "data") as one, one.client("stranger") as stranger, one.client("session") as session:
        await session.open_session(_session(one))
        monkeypatch.setattr(PeopleTables, "session", None)
        with pytest.raises(Untrusted):
            await stranger.devices()
        assert await session.devices() == ()


async def test_sessions_of_strangers_and_long_ones_are_refused(tmp_path: Path) -> None:
    """Nobody opens a session for a key without a grant, for too long, or for another fleet."""
    async with rig(tmp_path / "data") as one, one.client(None) as anybody:
        with pytest.raises(Refused):
            await anybody.open_session(_session(one, by="stranger"))
        for fields in ({"not_after": int(one.now) + 100_000}, {"fleet": "0" * 64}, {"v": 2}):
            with pytest.raises(Untrusted):
                await anybody.open_session(_session(one, **fields))


async def test_token_opens_no_session(tmp_path: Path) -> None:
    """A join token's key signs no session, and a session ends when its person's last grant but a token is gone."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        one.fleet.grant("token", "enroll", select={"env": ["prod"]}, max_uses=1)
        one.fleet.grant("worker", "enroll", max_uses=1)
        grant = one.fleet.grant("worker", "enroll")
        await one.send(admin)
        async with one.client("session") as session, one.client("thief") as thief:
            with pytest.raises(Refused, match=r"is a join token: .* lacks the right to open a session"):
                await thief.open_session(_session(one, by="token", to="thief"))
            with pytest.raises(Untrusted):
                await thief.devices()
            await session.open_session(_session(one, by="worker"))
            assert [view.name for view in await session.devices()] == ["web-01"]
            one.fleet.revoke(grant=grant)
            await one.send(admin)
            with pytest.raises(Untrusted):
                await session.devices()


async def test_ended_sessions_keep_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person has so many sessions and others as many; when theirs have ended, nothing of it is left."""
    monkeypatch.setattr(people, "SESSIONS_OF_ONE", 2)
    monkeypatch.setattr(people, "SESSIONS_MAX", 3)
    async with rig(tmp_path / "data") as one, one.client("admin") as admin, one.client(None) as anybody:
        one.fleet.grant("ops")
        await one.send(admin)
        for name in ("a", "b"):
            await anybody.open_session(_session(one, by="ops", to=name))
        with pytest.raises(Unreachable, match="2 sessions"):
            await anybody.open_session(_session(one, by="ops", to="c"))
        await anybody.open_session(_session(one, to="d"))
        one.now += 3_600
        for name in ("e", "f"):
            await anybody.open_session(_session(one, to=name))


def _request(one: Rig, name: str, signer: str = "", **fields: Any) -> Signed:
    by = key(signer or name)
    made: dict[str, Any] = {"v": 1, "fleet": one.fleet.fleet, "device": device_id(name), "name": name}
    made |= {"key": by.public.text, "at": int(one.now), "facts": Facts(hostname="\x1b[31mweb")}
    return sign_enroll(EnrollRequest(**{**made, **fields}), by)


async def test_request_waits_until_the_device_is_enrolled(tmp_path: Path) -> None:
    """A request is listed with its fingerprint and cleaned facts, once, and goes when the device is enrolled."""
    async with rig(tmp_path / "data") as one, one.client("admin") as admin, one.client(None) as anybody:
        for _ in range(2):
            await anybody.enroll_request(_request(one, "web-01"))
        (view,) = await admin.enroll_requests()
        assert (view.name, view.fingerprint) == ("web-01", fingerprint("web-01"))
        assert view.facts is not None
        assert view.facts.hostname == "web"
        await asyncio.to_thread(one.restart)
        async with one.client("admin") as again:
            assert await again.enroll_requests() == (view,)
            one.fleet.device("web-01")
            await one.send(again)
            assert await again.enroll_requests() == ()


async def test_nobody_slips_a_key_under_a_waiting_request(tmp_path: Path) -> None:
    """A second key for a device id that waits is refused until an admin forgets the first."""
    async with rig(tmp_path / "data") as one, one.client("admin") as admin, one.client(None) as anybody:
        await anybody.enroll_request(_request(one, "web-01"))
        with pytest.raises(Refused, match="another key"):
            await anybody.enroll_request(_request(one, "web-01", "stranger"))
        await admin.forget_request(device_id("web-01"))
        await anybody.enroll_request(_request(one, "web-01", "stranger"))
        (view,) = await admin.enroll_requests()
        assert view.fingerprint == fingerprint("stranger")
        with pytest.raises(Untrusted):
            await anybody.enroll_request(_request(one, "web-02", fleet="0" * 64))


async def test_every_body_has_a_bound(tmp_path: Path) -> None:
    """A body over its bound is 413, before or while it is read; a body that is no JSON is 400."""
    async with rig(tmp_path / "data", "web-01") as one:
        for path, size in (("/v1/reports", 98_305), ("/v1/enroll", 98_305), ("/v1/sessions", 98_305)):
            assert _error(await _ask(one, path, method="POST", body=b"x" * size)) == (413, "bound")
            assert _error(await _ask(one, path, method="POST", body=b"{")) == (400, "user")
            assert _error(await _ask(one, path, method="POST", body=gzip.compress(b"{}"))) == (400, "user")
        big = await _ask(one, "/v1/progress", "web-01", method="POST", body=b"x" * 524_289)
        assert _error(big) == (413, "bound")
        assert _error(await _ask(one, "/v1/log", method="POST", body=b'{"statements": []}')) == (400, "user")
        large = b" " * (1 << 20) + b"{}"
        assert _error(await _ask(one, "/v1/log", method="POST", body=large)) == (401, "untrusted")
        assert _error(await _ask(one, "/v1/log", "admin", method="POST", body=large)) == (400, "user")


@pytest.mark.parametrize("body", [b'{"x":' + b"[" * 80_000, b'{"x": "\xff"}', b'{"paths": ["\xff"]}', b"[]", b""])
async def test_body_that_cannot_be_read_is_the_senders_fault(tmp_path: Path, body: bytes) -> None:
    """Nesting without end, bytes that are no text and other shapes are 400 on every route that takes JSON."""
    async with rig(tmp_path / "data", "web-01") as one:
        for who, path in (
            (None, "/v1/log"),
            (None, "/v1/reports"),
            (None, "/v1/enroll"),
            (None, "/v1/sessions"),
            ("web-01", "/v1/progress"),
            ("admin", "/v1/cache/missing"),
            ("admin", "/v1/cache/paths"),
        ):
            assert _error(await _ask(one, path, who, method="POST", body=body)) == (400, "user"), path


async def test_every_query_has_a_bound(tmp_path: Path) -> None:
    """Numbers out of range, words that are no numbers, unknown paths and long queries are told apart."""
    async with rig(tmp_path / "data", "web-01") as one:
        for path in (
            "/v1/log/entries?limit=1001",
            "/v1/log/entries?start=-1",
            "/v1/log/entries?start=x",
            "/v1/log/entries?payloads=some",
            "/v1/log/inclusion?index=5&size=2",
            "/v1/log/inclusion?index=-1&size=2",
            "/v1/log/inclusion?index=0&size=999",
            "/v1/log/consistency?old=2&new=1",
            "/v1/log/consistency?old=-1&new=1",
            "/v1/events?since=99999999999999999999",
            "/v1/events",
            "/v1/devices?query=" + "x" * 1_001,
            "/v1/devices?query=status:nonsense",
        ):
            assert _error(await _ask(one, path, "admin")) == (400, "user"), path
        assert _error(await _ask(one, "/v1/devices?query=" + "x" * 5_000, "admin")) == (413, "bound")
        for path in ("/v1/devices/nobody", "/v1/rollouts/abcdef", "/v1/releases/none", "/v2/x"):
            assert _error(await _ask(one, path, "admin")) == (404, "unknown"), path
        assert _error(await _ask(one, "/v1/fleet", method="PUT"))[0] == 405


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_nul_in_a_path_is_nothing(tmp_path: Path, request: pytest.FixtureRequest, kind: str) -> None:
    """A NUL in a name is told as unknown whatever the database, which may not even take one."""
    url = request.getfixturevalue("postgres_url") if kind == "postgres" else None
    async with rig(tmp_path / "data", database_url=url) as one:
        for path in ("/v1/log/payloads/%00", "/v1/devices/web%00", "/v1/rollouts/%00abc", "/cache/nar/%00.nar"):
            assert _error(await _ask(one, path, "admin")) == (404, "unknown"), path
        assert _error(await _ask(one, "/v1/enroll/%00", "admin", method="DELETE")) == (404, "unknown")


async def test_devices_are_found_by_query(tmp_path: Path) -> None:
    """The list takes the query language that console and command line have."""
    async with rig(tmp_path / "data", "web-01", "web-02") as one, one.client("admin") as admin:
        async with one.client("web-01") as device:
            await device.report(one.report("web-01"))
            await device.sync(0)
        assert [view.name for view in await admin.devices("online:yes")] == ["web-01"]
        assert [view.name for view in await admin.devices("tag.env:prod")] == ["web-01", "web-02"]
        with pytest.raises(UserError):
            await admin.devices("tag.:")


async def test_device_that_claims_a_persons_key_takes_nothing_from_them(tmp_path: Path) -> None:
    """A key that is both a person's and a device's has both roles."""
    async with rig(tmp_path / "data") as one, one.client("admin") as admin:
        one.fleet.device("web-01", key=key("admin").public.text)
        await one.send(admin)
        assert [view.name for view in await admin.devices()] == ["web-01"]
        assert (await admin.sync(0)).start == 0
