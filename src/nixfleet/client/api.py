"""The coordinator's HTTP API (docs/protocol.md), one typed method for each route.

It must never judge what it carries: entries, proofs, lines and gates are verified by whoever asked for them.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Final, Literal, Self, TypeVar
from urllib.parse import quote

import msgspec

from nixfleet.client.faults import Unknown
from nixfleet.client.sse import Event, Parser
from nixfleet.client.transport import BYTES, EVENTS, NARINFO, TEXT, Call, Transport
from nixfleet.errors import NixfleetError, Unreachable
from nixfleet.model import answers
from nixfleet.model.answers import Audit, Lines, PastAttempt, Reset
from nixfleet.model.claiming import Claim, Claimed
from nixfleet.model.reading import UNREADABLE
from nixfleet.model.views import (
    Delta,
    DeviceView,
    EnrollView,
    FleetView,
    ReleaseView,
    RolloutDetail,
    RolloutView,
    Snapshot,
)
from nixfleet.model.wire import (
    AppendRequest,
    AppendResponse,
    CachePath,
    Entries,
    LineAnswer,
    Missing,
    Offer,
    OfferAnswer,
    Proof,
    ReportAnswer,
    Signed,
    Submission,
    Sync,
    UploadState,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
    from types import TracebackType

    from nixfleet.model.device import Progress
    from nixfleet.trust.sshsig import SecretKey

T = TypeVar("T")
Payloads = Literal["all", "mine", "none"]

TIMEOUT_S: Final = 30.0
REPORTS: Final = "/v1/reports"
"""Where devices deliver what they sign."""
SILENCE_S: Final = 60.0
"""A stream that sends nothing for this long, not even its pings, is dead (docs/protocol.md)."""
_EVENT_BYTES: Final = 16 << 20
_LIST_BYTES: Final = 256 << 20
_NOTE_BYTES: Final = 16 << 10
_UNPACK_BYTES_S: Final = 10_000_000
"""How fast the slowest coordinator unpacks and hashes a NAR."""
_PAYLOAD_BYTES: Final = 64 << 10
_OPEN_BYTES: Final = 1 << 20
"""What is taken from anybody; more needs a signed request."""
_TAKE_BACK_S: Final = 60.0
"""How long the slowest coordinator replays what has come back."""


class Client:
    """A coordinator, reached at the first of its addresses that answers; an async context manager.

    Every method raises the errors of `nixfleet.errors`, and `Unknown` for what the coordinator does not have.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        fleet: str,
        key: SecretKey | None,
        clock: Callable[[], int],
        timeout_s: float = TIMEOUT_S,
        silence_s: float = SILENCE_S,
        make_way: Callable[..., Transport] = Transport,
    ) -> None:
        """Prepare; `key` signs requests for `fleet` (a fleet id), `clock` gives unix seconds, nothing is sent yet.

        `make_way` puts another way to send in place of the real one: one whose network fails when it is told to.
        """
        self._way = make_way(urls, fleet=fleet, key=key, clock=clock, timeout_s=timeout_s, silence_s=silence_s)

    async def __aenter__(self) -> Self:
        await self._way.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._way.__aexit__(kind, error, trace)

    @property
    def url(self) -> str:
        """The address that answered last, or that is tried first."""
        return self._way.url

    @property
    def skew_s(self) -> int:
        """How many seconds the coordinator's clock is ahead of ours, once a refusal has told."""
        return self._way.skew_s

    def use_key(self, key: SecretKey | None) -> None:
        """Sign requests with another key from now on, as after joining or a new session."""
        self._way.use_key(key)

    def renew_with(self, renew: Callable[[], Awaitable[SecretKey]]) -> None:
        """When the coordinator does not know the key of a signed request, get another one once and ask again."""
        self._way.renew_with(renew)

    # The fleet and its log

    async def fleet(self) -> FleetView:
        """Read the fleet at a glance; unsigned, nothing of it may be trusted."""
        return await self._get("/v1/fleet", FleetView, signed=False)

    async def ahead_s(self, now: int) -> int:
        """Tell how far ahead of `now` the coordinator says its clock is; 0 when it does not say. Explains refusals."""
        try:
            return (await self.fleet()).server_time - now
        except NixfleetError:
            return 0

    async def checkpoint(self) -> bytes:
        """Read the newest checkpoint, a C2SP signed note."""
        return await self._way.send(Call("GET", "/v1/checkpoint", answer=TEXT, max_bytes=_NOTE_BYTES, signed=False))

    async def append(self, submissions: Sequence[Submission], size: int | None = None) -> AppendResponse:
        """Append statements, all or none; with `size`, only to a log of that size. Raises: Conflict, Refused."""
        request = AppendRequest(statements=tuple(submissions), size=size)
        # Each statement carries its signature: the request needs none, and who appends no session.
        call = Call("POST", "/v1/log", body=msgspec.json.encode(request), signed=False)
        return self._decoded(await self._way.send(call), AppendResponse)

    async def offer(self, offer: Offer) -> OfferAnswer:
        """Offer entries to a coordinator that runs an old backup, and read what it lacks; no right is needed."""
        body = msgspec.json.encode(offer)
        call = Call("POST", "/v1/log/offers", body=body, signed=len(body) > _OPEN_BYTES, work_s=_TAKE_BACK_S)
        return self._decoded(await self._way.send(call), OfferAnswer)

    async def entries(self, start: int, limit: int = 1_000, payloads: Payloads = "all") -> Entries:
        """Read log entries from index `start` on; the coordinator may answer with fewer than `limit`."""
        query = ("start", start), ("limit", limit), ("payloads", payloads)
        return await self._get("/v1/log/entries", Entries, *query)

    async def payload(self, digest: str) -> bytes:
        """Read a statement's payload by its SHA-256."""
        path = f"/v1/log/payloads/{_segment(digest)}"
        return await self._way.send(Call("GET", path, answer=BYTES, max_bytes=_PAYLOAD_BYTES))

    async def inclusion(self, index: int, size: int) -> Proof:
        """Read the RFC 6962 proof that entry `index` is in the log of `size` entries."""
        return await self._get("/v1/log/inclusion", Proof, ("index", index), ("size", size))

    async def consistency(self, old: int, new: int) -> Proof:
        """Read the RFC 6962 proof that the log of `new` entries extends that of `old`."""
        return await self._get("/v1/log/consistency", Proof, ("old", old), ("new", new))

    # A coordinator without a fleet

    async def claim_offer(self) -> Signed:
        """Read the keys of a coordinator that waits for a fleet. Raises: Unknown when it has one."""
        return await self._get("/v1/claim", Signed, signed=False)

    async def claim(self, claim: Claim) -> Claimed:
        """Begin a fleet there. Raises: Refused for a wrong code, Unknown when it has a fleet."""
        call = Call("POST", "/v1/claim", body=msgspec.json.encode(claim), signed=False)
        return self._decoded(await self._way.send(call), Claimed)

    # Devices speaking for themselves

    async def sync(self, size: int) -> Sync:
        """Ask what is new for this device since its log had `size` entries."""
        return await self._get("/v1/sync", Sync, ("size", size))

    async def agent_events(self, size: int, *, heard: Callable[[], None] | None = None) -> AsyncGenerator[Sync, None]:
        """Give each sync answer the moment it comes, the first at once; raises Unreachable when the stream ends.

        `heard` is called for whatever arrives, pings too. Who leaves early closes it (`contextlib.aclosing`).
        """
        async with aclosing(self._events("/v1/agent/events", ("size", size), heard)) as events:
            async for event in events:
                if event.type == "sync":
                    yield self._decoded(event.data, Sync)

    async def line(self, rollout: str) -> LineAnswer:
        """Read the calling device's own line of a rollout's release, or the proof that it has none."""
        return await self._get(f"/v1/rollouts/{_segment(rollout)}/line", LineAnswer)

    async def report(self, signed: Signed) -> int | None:
        """Deliver a signed report; it is durable when this returns.

        Where the coordinator holds one that is not older by its number, that number is given, and this one is dropped.
        """
        call = Call("POST", REPORTS, body=msgspec.json.encode(signed), signed=False)
        return self._decoded(await self._way.send(call), ReportAnswer).seq

    async def progress(self, progress: Progress) -> None:
        """Tell how far an update is; may be dropped on the way."""
        await self._done("POST", "/v1/progress", progress)

    async def enroll_request(self, signed: Signed) -> None:
        """Ask to be enrolled."""
        await self._done("POST", "/v1/enroll", signed, signed=False)

    # People

    async def enroll_requests(self) -> tuple[EnrollView, ...]:
        """List the devices that ask to be enrolled."""
        return (await self._get("/v1/enroll", answers.Requests)).requests

    async def forget_request(self, device: str) -> None:
        """Drop a device's request to be enrolled."""
        await self._done("DELETE", f"/v1/enroll/{_segment(device)}", None)

    async def open_session(self, signed: Signed) -> None:
        """Register a session key that a person signed."""
        await self._done("POST", "/v1/sessions", signed, signed=False)

    async def devices(self, query: str = "") -> tuple[DeviceView, ...]:
        """List the devices that a query matches. Raises: UserError for a query that cannot be read."""
        asked = (("query", query),) if query else ()
        return (await self._get("/v1/devices", answers.Devices, *asked, max_bytes=_LIST_BYTES)).devices

    async def device(self, device: str) -> DeviceView:
        """Read one device, by id or name."""
        return await self._get(f"/v1/devices/{_segment(device)}", DeviceView)

    async def device_lines(self, device: str, after: int = 0) -> Lines:
        """Read a device's activation output from line number `after` on."""
        return await self._get(f"/v1/devices/{_segment(device)}/lines", Lines, ("after", after))

    async def device_history(self, device: str) -> tuple[PastAttempt, ...]:
        """List the updates that a device has tried."""
        return (await self._get(f"/v1/devices/{_segment(device)}/history", answers.History)).attempts

    async def device_report(self, device: str) -> Signed:
        """Read a device's newest report as the device signed it."""
        return await self._get(f"/v1/devices/{_segment(device)}/report", Signed)

    async def device_reports(self, after: str = "") -> answers.Reports:
        """Read a page of devices' newest reports as they signed them, of those that this key may read of."""
        return await self._get("/v1/reports", answers.Reports, ("after", after), max_bytes=_LIST_BYTES)

    async def rollouts(self) -> tuple[RolloutView, ...]:
        """List the rollouts."""
        return (await self._get("/v1/rollouts", answers.Rollouts, max_bytes=_LIST_BYTES)).rollouts

    async def rollout(self, rollout: str) -> RolloutDetail:
        """Read one rollout with its members, by digest or an unambiguous prefix of at least 6 digits."""
        return await self._get(f"/v1/rollouts/{_segment(rollout)}", RolloutDetail, max_bytes=_LIST_BYTES)

    async def releases(self) -> tuple[ReleaseView, ...]:
        """List the releases, without their lines."""
        return (await self._get("/v1/releases", answers.Releases, max_bytes=_LIST_BYTES)).releases

    async def release(self, release: str) -> ReleaseView:
        """Read one release with its lines, by digest, or the newest of a name."""
        return await self._get(f"/v1/releases/{_segment(release)}", ReleaseView, max_bytes=_LIST_BYTES)

    async def audit(self, start: int, limit: int = 1_000) -> Audit:
        """Read log entries in the coordinator's own words; who verifies makes them from the log instead."""
        return await self._get("/v1/audit", Audit, ("start", start), ("limit", limit), max_bytes=_LIST_BYTES)

    async def refusals(self, limit: int = 1_000) -> tuple[answers.Refusal, ...]:
        """List the newest statements that the coordinator kept out of the log, newest first."""
        return (await self._get("/v1/audit/refusals", answers.Refusals, ("limit", limit))).refusals

    async def snapshot(self) -> Snapshot:
        """Read everything that a console shows, and the number of the last change in it."""
        return await self._get("/v1/snapshot", Snapshot, max_bytes=_LIST_BYTES)

    async def console_events(
        self, since: int, *, heard: Callable[[], None] | None = None
    ) -> AsyncGenerator[Delta | Reset, None]:
        """Give each change after number `since` as it happens; raises Unreachable when the stream ends.

        After a `Reset` a new snapshot is needed. `heard` is called for whatever arrives, pings too.
        """
        async with aclosing(self._events("/v1/events", ("since", since), heard)) as events:
            async for event in events:
                if event.type == "delta":
                    yield self._decoded(event.data, Delta)
                elif event.type == "reset":
                    yield Reset()

    # The built-in binary cache

    async def cache_missing(self, paths: Sequence[str]) -> tuple[str, ...]:
        """Tell which of these store paths the built-in cache lacks."""
        body = msgspec.json.encode(Missing(paths=tuple(paths)))
        call = Call("POST", "/v1/cache/missing", body=body, max_bytes=_LIST_BYTES)
        return self._decoded(await self._way.send(call), Missing).paths

    async def upload_state(self, hash_part: str) -> int:
        """Tell how many bytes of an unfinished upload the coordinator holds."""
        return (await self._get(_upload(hash_part), UploadState)).offset

    async def upload_chunk(self, hash_part: str, offset: int, chunk: bytes) -> int:
        """Send at most 8 MiB of a zstd-compressed NAR at `offset`; gives the next. Raises: Conflict when it differs."""
        call = Call("PUT", _upload(hash_part), (("offset", offset),), chunk)
        return self._decoded(await self._way.send(call), UploadState).offset

    async def drop_upload(self, hash_part: str) -> None:
        """Throw away an unfinished upload."""
        await self._done("DELETE", _upload(hash_part), None)

    async def commit_path(self, path: CachePath) -> None:
        """End an upload; the coordinator unpacks and hashes it. Raises: UserError when it is not what was said."""
        work_s = path.nar_bytes / _UNPACK_BYTES_S
        await self._way.send(Call("POST", "/v1/cache/paths", body=msgspec.json.encode(path), work_s=work_s))

    async def narinfo(self, hash_part: str) -> str | None:
        """Read what the built-in cache says of a path, or None when it has it not; unverified."""
        call = Call("GET", f"/cache/{_segment(hash_part)}.narinfo", answer=NARINFO, max_bytes=4 << 20, signed=False)
        try:
            return (await self._way.send(call)).decode("utf-8", "replace")
        except Unknown:
            return None

    # Shared

    async def _get(
        self,
        path: str,
        shape: type[T],
        *query: tuple[str, str | int],
        signed: bool = True,
        max_bytes: int = _EVENT_BYTES,
    ) -> T:
        call = Call("GET", path, tuple(query), max_bytes=max_bytes, signed=signed)
        return self._decoded(await self._way.send(call), shape)

    async def _done(self, method: str, path: str, body: msgspec.Struct | None, *, signed: bool = True) -> None:
        encoded = b"" if body is None else msgspec.json.encode(body)
        await self._way.send(Call(method, path, body=encoded, signed=signed))

    async def _events(
        self, path: str, query: tuple[str, int], heard: Callable[[], None] | None
    ) -> AsyncGenerator[Event, None]:
        parser = Parser(max_event_bytes=_EVENT_BYTES)
        async with aclosing(self._way.stream(Call("GET", path, (query,), answer=EVENTS))) as chunks:
            async for chunk in chunks:
                if heard is not None:
                    heard()
                for event in parser.feed(chunk):
                    yield event

    def _decoded(self, body: bytes | str, shape: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=shape)
        except UNREADABLE as error:
            raise Unreachable(
                f"{self.url} answered what this version does not understand ({error}); update the older of the two"
            ) from error


def _segment(text: str) -> str:
    """Quote what a person typed so that it stays one segment of the path; dots alone would climb out of it."""
    return quote(text, safe="") if text.strip(".") else "-"


def _upload(hash_part: str) -> str:
    return f"/v1/cache/uploads/{_segment(hash_part)}"
