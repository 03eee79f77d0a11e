"""A malicious coordinator: the project's own, with a layer in front of it that lies about what it is told to.

The layer has what whoever runs a coordinator has: the database, the log key, the requests and who sent them. It has no
admin's and no device's key, and judges nobody's rights: it answers what suits it. While it lies about nothing it hands
every request on untouched.
"""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import parse_qs

import msgspec
import pytest
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send
from tests.malicious.history import History, Pair, resigned, restamped
from tests.server.harness import Rig, rig

from nixfleet.model.device import Report
from nixfleet.model.wire import AppendRequest, ErrorBody, Signed, Submission
from nixfleet.server.app import make_app

_KEY_ID: Final = re.compile(r'keyid="(SHA256:[^"]+)"')
PEOPLE: Final = "people"
EVERYBODY: Final = "everybody"
REPORTS: Final = "POST /v1/reports"
Change = Callable[[bytes], bytes]


@dataclass(frozen=True)
class _Asked:
    """A request: who asks (a key, or `PEOPLE` for any key that is not a device's), and what."""

    who: str
    method: str
    path: str
    query: dict[str, str]

    @property
    def call(self) -> str:
        """Method and path."""
        return f"{self.method} {self.path}"

    def number(self, name: str, most: int = 1_000_000) -> int:
        """Read a number of the query."""
        return int(self.query.get(name, most))


@dataclass
class MaliciousCoordinator:
    """Tell it to lie by the method named as the lie is, and to stop by `relents`."""

    one: Rig = field(init=False)
    devices: dict[str, str] = field(default_factory=dict)
    """Ids of devices by the fingerprint of their keys: every other key is a person's."""
    told: dict[str, list[str]] = field(default_factory=dict)
    """By the path of each request that was answered with a lie: who was told it."""
    _histories: dict[str, History] = field(default_factory=dict)
    """What is shown of the log, by whom it is shown to."""
    _changed: tuple[tuple[str, Change], ...] = ()
    """What is changed on its way out, by a part of the path."""
    _refused: tuple[str, ...] = ()
    _forgets: bool = False
    _holding: bool = False
    _held: tuple[Submission, ...] = ()
    _connections: dict[object, str] = field(default_factory=dict)
    """Whose key was used last on a connection: not every request is signed."""

    # Lies about the log; each is told to one key, to `PEOPLE`, or to everybody

    def drops(self, index: int, to: str = EVERYBODY) -> None:
        """Leave an entry out; all others are the true ones, in their order."""
        self._shows([pair for at, pair in enumerate(self._true) if at != index], to)

    def reorders(self, first: int, second: int) -> None:
        """Swap two entries."""
        pairs = self._true
        pairs[first], pairs[second] = pairs[second], pairs[first]
        self._shows(pairs)

    def forks(self, at: int, to: str = EVERYBODY) -> None:
        """Put an entry of its own in the place of one that everybody knows; the rest goes on as it was."""
        pairs = self._true
        pairs[at] = resigned(pairs[at])
        self._shows(pairs, to)

    def gives_another_log(self, to: str, index: int) -> None:
        """Show one device a log without an entry, and everybody else the true one."""
        self.drops(index, to)

    def serves_an_old_backup(self, size: int) -> None:
        """Show the log as it was, and take nothing back."""
        self._shows(self._true[:size])
        self._refused = ("POST /v1/log/offers",)

    def withholds_what_is_new(self, size: int, to: str) -> None:
        """Show somebody the log as it was when they last asked."""
        self._shows(self._true[:size], to)

    def withholds_the_payload(self, index: int) -> None:
        """Show an entry without what was signed."""
        self._shows(self._true, withheld=(index,))

    def replays(self, index: int) -> None:
        """Append an old entry once more, as it was signed."""
        self._shows([*self._true, restamped(self._true[index], self._true[-1])])

    def lies_about_waves(self) -> None:
        """Say of every rollout, to every device, that its wave is open."""
        self._shows(self._true)

    # Other lies

    def swaps_target_lines(self, change: Change) -> None:
        """Give devices, and people who look, other lines of a release than those that were signed."""
        self._changed = (("/line", change), ("/v1/releases/", change))

    def swaps_content_before_it_is_signed(self, change: Change, *paths: str) -> None:
        """Show people something else than what they are about to put their name to."""
        self._changed = tuple((path, change) for path in paths)

    def drops_what_devices_say(self) -> None:
        """Thank every device for its report, and forget it."""
        self._forgets = True

    def holds_back(self) -> None:
        """Take the next statement, say that it did not arrive, and keep it."""
        self._holding = True

    async def plays_what_it_held_back(self) -> None:
        """Append what was kept, as its own doing."""
        self._holding = False
        async with self.one.client(None) as own:
            await own.append(self._held)

    def relents(self) -> None:
        """Lie no more; what it kept stays kept."""
        self._histories, self._changed, self._refused = {}, (), ()
        self._forgets = self._holding = False

    # How it is done

    def before(self, app: ASGIApp) -> ASGIApp:
        """Stand in front of the true application."""

        async def layer(scope: Scope, receive: Receive, send: Send) -> None:
            await self._answer(app, scope, receive, send)

        return layer

    @property
    def _true(self) -> list[Pair]:
        return list(self.one.fleet.entries)

    def _shows(self, pairs: list[Pair], to: str = EVERYBODY, **more: Any) -> None:
        fleet = self.one.fleet
        self._histories[to] = History(fleet.fleet, fleet.log_key, pairs, now=self.one.now, **more)

    def _asked(self, scope: Scope) -> _Asked:
        """Tell who asks: the operator sees keys, and which connection each is used on."""
        asked = cast("HTTPScope", scope)
        signed = _KEY_ID.search(dict(asked["headers"]).get(b"signature-input", b"").decode("latin-1"))
        if signed is not None:
            self._connections[asked["client"]] = signed[1] if signed[1] in self.devices else PEOPLE
        query = {name: values[0] for name, values in parse_qs(asked["query_string"].decode()).items()}
        return _Asked(self._connections.get(asked["client"], PEOPLE), asked["method"], asked["path"], query)

    async def _answer(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        asked = self._asked(scope)
        lie = self._lie(asked, app)
        if lie is None:
            await app(scope, receive, send)
            return
        if asked.call != REPORTS:
            self.told.setdefault(asked.path, []).append(asked.who)
        await lie(scope, receive, send)

    def _lie(self, asked: _Asked, app: ASGIApp) -> ASGIApp | None:
        """Choose how to lie; None where this is answered truly."""
        history = self._histories.get(asked.who, self._histories.get(EVERYBODY))
        change = next((change for path, change in self._changed if path in asked.path), None)
        if asked.call in self._refused:
            return _saying(msgspec.json.encode(ErrorBody(error="try again later", kind="unavailable")), 503)
        if self._forgets and asked.call == REPORTS:
            return self._forget
        if self._holding and asked.call == "POST /v1/log":
            return self._keep
        if history is not None and asked.path == "/v1/agent/events":
            return _streaming(msgspec.json.encode(history.sync(asked.number("size"), self.devices[asked.who])))
        if history is not None and (body := self._of_log(history, asked)) is not None:
            return _saying(body)
        return _changing(app, change) if change is not None and asked.method == "GET" else None

    async def _forget(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say that a report was taken; it is signed itself, so only its words tell whose it is."""
        signed = msgspec.json.decode(await _body(receive), type=Signed)
        device = msgspec.json.decode(signed.payload, type=Report).device
        who = next(key for key, one in self.devices.items() if one == device)
        self.told.setdefault(scope["path"], []).append(who)
        await _saying(b"{}")(scope, receive, send)

    async def _keep(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take what was sent, and say that it was lost."""
        self._held = msgspec.json.decode(await _body(receive), type=AppendRequest).statements
        answer = _saying(msgspec.json.encode(ErrorBody(error="it was lost; try again", kind="unavailable")), 503)
        await answer(scope, receive, send)

    def _of_log(self, history: History, asked: _Asked) -> bytes | None:
        """Answer what is asked of the log from a history; None for anything else."""
        match asked.path:
            case "/v1/checkpoint":
                return history.checkpoint
            case "/v1/sync" if asked.who != PEOPLE:
                return msgspec.json.encode(history.sync(asked.number("size"), self.devices[asked.who]))
            case "/v1/log/entries":
                return msgspec.json.encode(history.entries(asked.number("start"), asked.number("limit")))
            case "/v1/log/consistency":
                return msgspec.json.encode(history.consistency(asked.number("old"), asked.number("new")))
            case _:
                return None


def _saying(body: bytes, status: int = 200) -> ASGIApp:
    """Make an answer."""
    kind = b"application/json" if body[:1] in {b"{", b"["} else b"text/plain"

    async def answer(_scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return answer


def _streaming(body: bytes) -> ASGIApp:
    """Make a stream that says everything at once, and then keeps the device waiting."""

    async def answer(_scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"event: sync\ndata: %b\n\n" % body, "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    return answer


async def _body(receive: Receive) -> bytes:
    """Read a request's body to its end."""
    body = b""
    while True:
        message = await receive()
        assert message["type"] == "http.request"
        body += message["body"]
        if not message["more_body"]:
            return body


def _changing(app: ASGIApp, change: Change) -> ASGIApp:
    """Let the true application answer, and change what it says."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        status, body = 0, b""

        async def keep(message: Message) -> None:
            nonlocal status, body
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                body += message["body"]

        await app(scope, receive, keep)
        await _saying(change(body) if status == 200 else body, status)(scope, receive, send)

    return answer


@asynccontextmanager
async def malicious(data_dir: Path, patch: pytest.MonkeyPatch, **root: Any) -> AsyncIterator[MaliciousCoordinator]:
    """Serve a new fleet by a malicious coordinator that has not begun to lie."""
    double = MaliciousCoordinator()
    patch.setattr("nixfleet.server.serve.make_app", lambda *given: double.before(make_app(*given)))
    async with rig(data_dir, **root) as one:
        double.one = one
        yield double
