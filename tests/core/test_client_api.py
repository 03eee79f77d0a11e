"""The API client against real loopback sockets: what it sends, what it makes of answers, and how it gives up."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

import httpx
import msgspec
import pytest
from tests.httpd import Answer, Asked, Handler, Httpd, httpd, refusal

from nixfleet.client import faults, transport
from nixfleet.client.api import Client
from nixfleet.client.faults import Unknown
from nixfleet.errors import Conflict, NixfleetError, Refused, Unreachable, Untrusted, UserError
from nixfleet.model.answers import Reset
from nixfleet.model.device import Phase, Progress
from nixfleet.model.views import Delta, FleetView
from nixfleet.model.wire import AppendRequest, AppendResponse, CachePath, Entries, Missing, Signed, Submission, Sync
from nixfleet.trust.httpsig import Skewed
from nixfleet.trust.sshsig import SecretKey

FLEET = "ab" * 32
NOW = 1_700_000_000
T = TypeVar("T")
KEY = SecretKey.from_seed(b"k" * 32)
SYNC = Sync(checkpoint=b"note", start=0, entries=())


def encoded(value: msgspec.Struct | dict[str, Any]) -> Answer:
    """Answer with a value as JSON."""
    return Answer(msgspec.json.encode(value))


def client(
    *urls: str, clock: Callable[[], int] = lambda: NOW, timeout_s: float = 5.0, silence_s: float = 60.0
) -> Client:
    """Make a client with a key and a short patience."""
    return Client(urls, fleet=FLEET, key=KEY, clock=clock, timeout_s=timeout_s, silence_s=silence_s)


@asynccontextmanager
async def served(
    handler: Handler, *, timeout_s: float = 5.0, silence_s: float = 60.0
) -> AsyncIterator[tuple[Httpd, Client]]:
    """Run a server and a client of it."""
    async with httpd(handler) as server, client(server.url, timeout_s=timeout_s, silence_s=silence_s) as api:
        yield server, api


def check_signature(asked: Asked, now: int = NOW) -> str:
    """Verify a request as the coordinator does and give who signed."""
    return asked.signer(now=now, fleet=FLEET, key_of=lambda _: KEY.public)


@pytest.mark.parametrize(
    ("call", "answer", "line"),
    [
        (
            lambda c: c.entries(5, 10, "mine"),
            Entries(start=5, entries=()),
            "GET /v1/log/entries?start=5&limit=10&payloads=mine",
        ),
        (lambda c: c.inclusion(1, 2), {"hashes": []}, "GET /v1/log/inclusion?index=1&size=2"),
        (lambda c: c.consistency(1, 2), {"hashes": []}, "GET /v1/log/consistency?old=1&new=2"),
        (lambda c: c.sync(7), SYNC, "GET /v1/sync?size=7"),
        (
            lambda c: c.devices("status:failed tag.site:berlin/ä +x"),
            {"devices": []},
            "GET /v1/devices?query=status%3Afailed%20tag.site%3Aberlin%2F%C3%A4%20%2Bx",
        ),
        (lambda c: c.devices(), {"devices": []}, "GET /v1/devices"),
        (
            lambda c: c.device("web/01?x"),
            {"id": "", "name": "", "key": "", "tags": {}, "state": ""},
            "GET /v1/devices/web%2F01%3Fx",
        ),
        (lambda c: c.device_lines("web-01", 4), {"next": 4, "lines": []}, "GET /v1/devices/web-01/lines?after=4"),
        (lambda c: c.device_history(".."), {"attempts": [{"rollout": "r"}]}, "GET /v1/devices/-/history"),
        (lambda c: c.device_report("d"), Signed(payload=b"p", signature=b"s"), "GET /v1/devices/d/report"),
        (lambda c: c.device_reports("d"), {"reports": []}, "GET /v1/reports?after=d"),
        (lambda c: c.rollouts(), {"rollouts": []}, "GET /v1/rollouts"),
        (lambda c: c.releases(), {"releases": []}, "GET /v1/releases"),
        (lambda c: c.audit(0), {"entries": [], "size": 0}, "GET /v1/audit?start=0&limit=1000"),
        (lambda c: c.enroll_requests(), {"requests": []}, "GET /v1/enroll"),
        (lambda c: c.forget_request("d"), {}, "DELETE /v1/enroll/d"),
        (lambda c: c.progress(Progress(rollout="a" * 64, phase=Phase.FETCHING)), {}, "POST /v1/progress"),
        (lambda c: c.cache_missing(["/nix/store/x"]), Missing(paths=()), "POST /v1/cache/missing"),
        (lambda c: c.upload_state("h"), {"offset": 3}, "GET /v1/cache/uploads/h"),
        (lambda c: c.upload_chunk("h", 3, b"zz"), {"offset": 5}, "PUT /v1/cache/uploads/h?offset=3"),
        (lambda c: c.drop_upload("h"), {"offset": 0}, "DELETE /v1/cache/uploads/h"),
        (
            lambda c: c.commit_path(CachePath(store_path="p", nar_hash="h", nar_bytes=1, references=())),
            {},
            "POST /v1/cache/paths",
        ),
    ],
)
async def test_each_method_asks_its_route_with_a_valid_signature(call: Any, answer: Any, line: str) -> None:
    """Every signed method sends exactly its route, signed so that the coordinator's own check accepts it."""
    async with served(lambda _: encoded(answer)) as (server, api):
        await call(api)
    (asked,) = server.asked
    assert line == f"{asked.method} {asked.target}"
    assert KEY.public.fingerprint == check_signature(asked)


async def test_public_routes_and_self_signed_bodies_go_unsigned() -> None:
    """What carries its own signature, or none, is sent without a request signature."""
    signed = Signed(payload=b"p", signature=b"s")
    answers = {
        "/v1/fleet": encoded(FleetView(id=FLEET)),
        "/v1/checkpoint": Answer(b"note", kind="text/plain; charset=utf-8"),
        f"/cache/{'a' * 32}.narinfo": Answer(b"StorePath: x\n", kind="text/x-nix-narinfo"),
    }
    async with served(lambda asked: answers.get(asked.path, Answer())) as (server, api):
        assert FleetView(id=FLEET) == await api.fleet()
        assert b"note" == await api.checkpoint()
        assert "StorePath: x\n" == await api.narinfo("a" * 32)
        await api.report(signed)
        await api.enroll_request(signed)
        await api.open_session(signed)
    assert [False] * 6 == ["signature" in asked.headers for asked in server.asked]
    assert [signed] * 3 == [msgspec.json.decode(asked.body, type=Signed) for asked in server.asked[3:]]


async def test_statements_arrive_as_they_were_made() -> None:
    """An append carries payloads, signatures, lines and the expected size unchanged."""
    said = Submission(payload=b"\x00\xff", signature=b"s", lines=("a", "b"))
    async with served(lambda _: encoded(AppendResponse(indexes=(4,), checkpoint=b"c"))) as (server, api):
        assert (4,) == (await api.append([said], 4)).indexes
    assert "signature" not in server.asked[0].headers
    assert AppendRequest(statements=(said,), size=4) == msgspec.json.decode(server.asked[0].body, type=AppendRequest)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("user", UserError),
        ("refused", Refused),
        ("untrusted", Untrusted),
        ("conflict", Conflict),
        ("bound", UserError),
        ("unknown", Unknown),
        ("busy", Unreachable),
        ("unavailable", Unreachable),
        ("internal", Unreachable),
        ("something new", Unreachable),
    ],
)
async def test_refusals_become_the_error_of_who_must_act(kind: str, error: type[NixfleetError]) -> None:
    """Each kind of refusal is its own error, with the coordinator's sentence, made safe for a terminal."""
    async with served(lambda _: refusal(kind, "no\x1b[31m\nway")) as (_, api):
        with pytest.raises(NixfleetError) as caught:
            await api.rollouts()
    assert (error, "no way") == (type(caught.value), str(caught.value))


async def test_what_is_not_there_is_none_where_that_is_an_answer() -> None:
    """A path the cache has not is None and no error; a line that is not there is one: it proves nothing."""
    async with served(lambda _: refusal("unknown", "no such thing", status=404)) as (_, api):
        assert await api.narinfo("a" * 32) is None
        with pytest.raises(Unknown):
            await api.line("r" * 64)


def by_clock(server_time: int) -> Handler:
    """Answer as a coordinator whose clock stands at `server_time`."""

    def handler(asked: Asked) -> Answer:
        try:
            check_signature(asked, server_time)
        except Skewed:
            return refusal("skewed", "your clock is off", status=401, server_time=server_time)
        return encoded(SYNC)

    return handler


@pytest.mark.parametrize("clock", [0, NOW - 400, NOW + 10**9])
async def test_a_wrong_clock_is_put_right_once(clock: int) -> None:
    """With a clock that is off, the request is repeated with the server's time, and the next one needs no repeat."""
    async with httpd(by_clock(NOW)) as server, client(server.url, clock=lambda: clock) as api:
        await api.sync(0)
        await api.sync(0)
        assert (3, NOW - clock) == (len(server.asked), api.skew_s)


async def test_a_clock_that_stays_wrong_is_an_error() -> None:
    """A coordinator that calls every clock wrong is asked twice, not for ever."""
    async with served(lambda _: refusal("skewed", "your clock is off", status=401, server_time=5)) as (server, api):
        with pytest.raises(Untrusted, match="clock is off"):
            await api.sync(0)
    assert 2 == len(server.asked)


@pytest.mark.parametrize("server_time", [10**15, -1])
async def test_a_time_that_no_clock_shows_is_not_followed(server_time: int) -> None:
    """Nobody signed the server's time: it gets into no signature where it cannot be one."""
    answer = refusal("skewed", "your clock is off", status=401, server_time=server_time)
    async with served(lambda _: answer) as (server, api):
        with pytest.raises(Untrusted, match="clock is off"):
            await api.sync(0)
        assert (1, 0) == (len(server.asked), api.skew_s)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (Answer(b"<html>Welcome</html>", kind="text/html"), "answered with a web page"),
        (Answer(b"<html>502</html>", status=502, kind="text/html"), "web page"),
        (Answer(b"", status=302, headers={"location": "http://portal/"}), "elsewhere"),
        (Answer(b"whatever", kind="text/plain"), "did not answer as a coordinator"),
        (Answer(b"gateway", status=504, kind="text/plain"), "did not answer as a coordinator"),
        (Answer(b"not json", status=500), "did not answer as a coordinator"),
        (Answer(b"[1]"), "does not understand"),
        (Answer(b'{"checkpoint":"\xff"}'), "does not understand"),
        (Answer(b'{"error":"\xff"}', status=500), "did not answer as a coordinator"),
        (Answer(b"{}", headers={"content-length": "10"}), "connection broke"),
        (Answer(b" " * (17 << 20)), "larger than"),
        (None, "connection broke"),
    ],
)
async def test_whoever_is_not_a_coordinator_is_told_apart(answer: Answer | None, sentence: str) -> None:
    """Captive portals, proxies, other servers and cut answers are Unreachable with a sentence that fits."""
    async with served(lambda _: answer) as (_, api):
        with pytest.raises(Unreachable, match=sentence):
            await api.sync(0)


async def test_a_dead_kept_connection_is_tried_once_more() -> None:
    """A connection that the server closed meanwhile costs a repeat, not an error."""
    fates = iter([None, encoded(SYNC)])
    async with served(lambda _: next(fates)) as (server, api):
        assert SYNC == await api.sync(0)
    assert 2 == len(server.asked)


async def test_the_next_address_is_asked_and_then_kept() -> None:
    """When the first address is dead the second is used, and asked first from then on."""
    async with httpd(lambda _: encoded(SYNC)) as gone:
        dead = gone.url
    async with httpd(lambda _: encoded(SYNC)) as server, client(dead, server.url + "/") as api:
        await api.sync(0)
        assert server.url == api.url
        await api.sync(0)
    assert 2 == len(server.asked)


def test_a_device_may_have_eight_addresses_from_each_who_gives_them() -> None:
    """The root, agent.toml and the token: what each of them may say fits together, and no more than that."""
    urls = [f"http://{number}.example" for number in range(25)]
    assert urls[0] == client(*urls[:24]).url
    with pytest.raises(UserError, match="1 to 24 addresses, got 25"):
        client(*urls)


async def test_no_address_at_all_tells_of_the_first() -> None:
    """When nobody answers, the sentence names the first address and how many others failed."""
    async with httpd(lambda _: None) as gone:
        dead = gone.url
    async with client(dead, "http://127.0.0.1:1") as api:
        with pytest.raises(Unreachable, match=rf"{dead} cannot be reached.*nor can 1 other address$") as caught:
            await api.sync(0)
    assert "coordinator running" in str(caught.value)


async def test_a_refusal_is_not_taken_to_the_next_address() -> None:
    """An authority's no is final: other addresses are not asked."""
    async with httpd(lambda _: refusal("refused", "no")) as first, httpd(lambda _: encoded(SYNC)) as second:
        async with client(first.url, second.url) as api:
            with pytest.raises(Refused):
                await api.sync(0)
        assert [] == second.asked


async def test_an_address_that_serves_another_fleet_is_passed_over() -> None:
    """An address that somebody else has by now keeps nobody from the next one; alone it is one that leads nowhere."""
    foreign = refusal("foreign", "the request is signed for another fleet", status=421)
    async with httpd(lambda _: foreign) as first, httpd(lambda _: encoded(SYNC)) as second:
        async with client(first.url, second.url) as api:
            assert SYNC == await api.sync(0)
            assert second.url == api.url
        async with client(first.url) as api:
            with pytest.raises(Unreachable, match=f"{first.url} serves another fleet"):
                await api.sync(0)


async def test_an_address_below_a_prefix_signs_the_path_without_it() -> None:
    """Behind a proxy with a path prefix, the signature is over the path that the coordinator sees."""
    async with httpd(lambda _: encoded(SYNC)) as server, client(f"{server.url}/fleet/") as api:
        await api.sync(3)
        (asked,) = server.asked
    assert "/fleet/v1/sync?size=3" == asked.target
    inside = Asked(asked.method, asked.target.removeprefix("/fleet"), asked.headers, asked.body)
    assert KEY.public.fingerprint == check_signature(inside)


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "http://x:y", "http://x:99999", "http://x/?q", "x:80"])
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    """A malformed address is the user's error, before anything is sent."""
    with pytest.raises(UserError, match="is no coordinator"):
        client(url)


async def test_a_broken_proxy_setting_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy variable that httpx cannot use is the user's error."""
    monkeypatch.setenv("HTTPS_PROXY", "nonsense://x")
    async with client("http://127.0.0.1:1") as api:
        with pytest.raises(UserError, match="proxy"):
            await api.checkpoint()


async def test_a_missing_certificate_file_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that names no file is the user's error, and not remembered once it is put right."""
    transport._tls.cache_clear()
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent/ca.pem")
    async with client("https://127.0.0.1:1") as api:
        with pytest.raises(UserError, match="certificate settings"):
            await api.checkpoint()
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(Unreachable):
            await api.checkpoint()


async def test_the_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY leads the request through the proxy, with the coordinator's own address in it."""
    async with httpd(lambda _: encoded(SYNC)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "")
        async with client("http://fleet.example.test:7070") as api:
            await api.sync(0)
        assert "http://fleet.example.test:7070/v1/sync" == proxy.asked[0].path


async def test_silence_ends_a_request() -> None:
    """An answer that never begins is Unreachable once the patience is over."""

    async def never(_: Asked) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    async with served(never, timeout_s=0.2) as (_, api):
        with pytest.raises(Unreachable, match="silent"):
            await api.sync(0)


async def dripping() -> AsyncIterator[bytes]:
    """Send a byte now and then, for ever."""
    while True:
        yield b" "
        await asyncio.sleep(0.02)


async def test_a_dripping_answer_ends_too() -> None:
    """An answer that goes on byte by byte is ended by the patience for the whole."""
    async with served(lambda _: Answer(stream=dripping()), timeout_s=0.2) as (_, api):
        with pytest.raises(Unreachable, match="too slowly"):
            await api.sync(0)


async def test_a_slow_but_living_answer_is_waited_for() -> None:
    """An answer that takes longer than the patience, but keeps a useful pace, is read to its end."""

    async def slowly() -> AsyncIterator[bytes]:
        body = msgspec.json.encode(SYNC)
        for at in range(0, 10_000, 1_000):
            yield b" " * 1_000 if at else body
            await asyncio.sleep(0.05)

    async with served(lambda _: Answer(stream=slowly(), headers={"connection": "close"}), timeout_s=0.2) as (_, api):
        assert SYNC == await api.sync(0)


def events(*parts: bytes, then: asyncio.Event | None = None) -> Answer:
    """Answer with an event stream that sends the parts, then waits for `then` or ends."""

    async def stream() -> AsyncIterator[bytes]:
        for part in parts:
            yield part
        if then is not None:
            await then.wait()

    return Answer(kind="text/event-stream", stream=stream())


async def everything(stream: AsyncIterator[T]) -> tuple[list[T], Unreachable]:
    """Read a stream until it raises its end."""
    got: list[T] = []
    try:
        while True:
            got.append(await anext(stream))
    except Unreachable as end:
        return got, end


async def test_agent_events_are_syncs_and_end_with_the_stream() -> None:
    """Sync events come as they are sent, pings are only heard, others are passed over; the end is Unreachable."""
    first, second = msgspec.json.encode(SYNC), msgspec.json.encode(msgspec.structs.replace(SYNC, start=1))
    parts = (
        b"event: sync\ndata: " + first + b"\n\n",
        b": ping\n\n",
        b"event: new\ndata: {}\n\n",
        b"event: sync\ndata: " + second + b"\n\n",
    )
    heard: list[None] = []
    async with served(lambda _: events(*parts)) as (server, api):
        got, end = await everything(api.agent_events(9, heard=lambda: heard.append(None)))
    assert ([0, 1], "size=9", True) == ([sync.start for sync in got], server.asked[0].query, bool(heard))
    assert "ended the event stream" in str(end)
    assert KEY.public.fingerprint == check_signature(server.asked[0])


async def test_a_silent_stream_is_dead() -> None:
    """A stream that sends nothing for `silence_s`, as over a half-open socket, is Unreachable."""
    async with served(lambda _: events(b": ping\n\n", then=asyncio.Event()), silence_s=0.2) as (_, api):
        with pytest.raises(Unreachable, match="silent"):
            await anext(api.agent_events(0))


async def test_leaving_a_stream_closes_its_connection() -> None:
    """Who closes the iterator early leaves no connection behind."""
    data = b"event: sync\ndata: " + msgspec.json.encode(SYNC) + b"\n\n"
    async with served(lambda _: events(data, then=asyncio.Event())) as (_, api):
        async with aclosing(api.agent_events(0)) as stream:
            assert SYNC == await anext(stream)
        http = api._way._http
        assert http is not None
        assert [] == http._transport._pool.connections  # type: ignore[attr-defined]  # private to httpx; proves closing


async def test_console_events_are_deltas_and_resets() -> None:
    """Deltas come in order; a reset says that a snapshot is needed."""
    parts = b'event: delta\nid: 4\ndata: {"seq": 4, "removed": "device:x"}\n\n', b"event: reset\ndata: {}\n\n"
    async with served(lambda _: events(*parts)) as (_, api):
        got, _end = await everything(api.console_events(3))
    assert [Delta(seq=4, removed="device:x"), Reset()] == got


FOREIGN = [
    getattr(httpx, name)
    for name in httpx.__all__
    if isinstance(getattr(httpx, name), type) and issubclass(getattr(httpx, name), Exception)
]


@pytest.mark.parametrize("kind", FOREIGN, ids=lambda kind: kind.__name__)
def test_every_exception_of_httpx_has_a_mapping(kind: type[Exception]) -> None:
    """No exception type that httpx exports crosses the module untranslated."""
    error = kind.__new__(kind)
    error.args = ("why",)
    with pytest.raises(NixfleetError, match="http://x"), faults.translated("http://x"):
        raise error


def test_a_fault_of_our_own_is_not_hidden() -> None:
    """What httpx did not raise passes as it is."""
    with pytest.raises(KeyError), faults.translated("http://x"):
        raise KeyError


def test_a_certificate_that_does_not_hold_says_so() -> None:
    """A refused certificate names the way to trust an own authority."""
    with pytest.raises(Unreachable, match="SSL_CERT_FILE"), faults.translated("https://x"):
        raise httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
