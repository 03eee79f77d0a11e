"""Routes of the log: append, entries, payloads, proofs."""

from typing import Literal

from litestar import Response, get, post
from litestar.params import FromPath, FromQuery
from litestar.types import ControllerRouterHandler

from nixfleet.model.answers import Refusals
from nixfleet.model.ids import MAX_INT
from nixfleet.model.wire import AppendRequest, AppendResponse, Entries, Offer, OfferAnswer, Proof
from nixfleet.server.auth import AnyRequest, Auth
from nixfleet.server.coordinator.core import Coordinator
from nixfleet.server.coordinator.journal import as_refusal
from nixfleet.server.routes.bodies import APPEND_BYTES, OPEN_APPEND_BYTES, bounded, decoded
from nixfleet.trust.replay.reach import keys_named

Payloads = Literal["all", "mine", "none"]
_LIMIT = 1_000


def log_routes(coordinator: Coordinator, auth: Auth) -> list[ControllerRouterHandler]:
    """Make the routes."""
    return [*_writing(coordinator, auth), *_reading(coordinator, auth), *_auditing(coordinator, auth)]


def _writing(coordinator: Coordinator, auth: Auth) -> list[ControllerRouterHandler]:
    @post("/v1/log", status_code=200, request_max_body_size=APPEND_BYTES)
    async def append(request: AnyRequest) -> AppendResponse:
        """Append signed statements, all or none; each carries its own signature."""
        size = request.content_length
        if size is None or size > OPEN_APPEND_BYTES:
            # Judged by its head, before memory is spent on the body of a stranger.
            await auth.caller(request)
        return await coordinator.append(decoded(await request.body(), AppendRequest))

    @post("/v1/log/offers", status_code=200, request_max_body_size=APPEND_BYTES)
    async def offer(request: AnyRequest) -> OfferAnswer:
        """Take entries back that an old backup lacks; checkpoint, proof and digests speak for themselves."""
        size = request.content_length
        if size is None or size > OPEN_APPEND_BYTES:
            await auth.caller(request)
        return await coordinator.offer(decoded(await request.body(), Offer))

    return [append, offer]


def _reading(coordinator: Coordinator, auth: Auth) -> list[ControllerRouterHandler]:
    log = coordinator.log

    @get("/v1/log/entries")
    async def entries(
        request: AnyRequest,
        start: FromQuery[int] = 0,
        limit: FromQuery[int] = _LIMIT,
        payloads: FromQuery[Payloads] = "all",
    ) -> Entries:
        """Give entries in order; a device gets the payloads that it needs."""
        caller = await auth.log_reader(request)
        bounded(start, 0, MAX_INT, "start")
        bounded(limit, 1, _LIMIT, "limit")
        kind = payloads if caller.person is not None or payloads == "none" else "mine"
        return await coordinator.syncs.entries(start, limit, kind, caller.device)

    @get("/v1/log/payloads/{digest:str}", media_type="application/octet-stream")
    async def payload(request: AnyRequest, digest: FromPath[str]) -> Response[bytes]:
        """Give a statement's payload by its SHA-256."""
        caller = await auth.log_reader(request)
        kind, subject, data = await log.payload(digest)
        if caller.person is None and kind == "device" and subject != caller.device:
            what = "read another device's statement"
            raise await auth.refuse(caller, what, f"to {what}")
        return Response(data, media_type="application/octet-stream")

    @get("/v1/log/inclusion")
    async def inclusion(request: AnyRequest, index: FromQuery[int], size: FromQuery[int]) -> Proof:
        """Prove that an entry is in the log (RFC 6962)."""
        await auth.log_reader(request)
        await log.reach(size)
        return log.inclusion(index, size)

    @get("/v1/log/consistency")
    async def consistency(request: AnyRequest, old: FromQuery[int], new: FromQuery[int]) -> Proof:
        """Prove that the log extends an older one (RFC 6962)."""
        await auth.log_reader(request)
        await log.reach(new)
        return log.consistency(old, new)

    return [entries, payload, inclusion, consistency]


def _auditing(coordinator: Coordinator, auth: Auth) -> list[ControllerRouterHandler]:
    log = coordinator.log

    @get("/v1/audit")
    async def audit(request: AnyRequest, start: FromQuery[int] = 0, limit: FromQuery[int] = _LIMIT) -> Response[bytes]:
        """Give entries in the coordinator's words."""
        await auth.reader(request, "read the audit")
        said = await coordinator.store.log.said(bounded(start, 0, MAX_INT, "start"), bounded(limit, 1, _LIMIT, "limit"))
        body = b'{"entries":[%b],"size":%d}' % (b",".join(said), log.size)
        return Response(body, media_type="application/json")

    @get("/v1/audit/refusals")
    async def refusals(request: AnyRequest, limit: FromQuery[int] = _LIMIT) -> Refusals:
        """List the newest refusals, newest first: all to who may read everything, their own to others."""
        reader = await auth.reader(request, "read what was refused")
        by = None if reader.reach.everything else keys_named(log.state, reader.reach.names)
        rows = await coordinator.store.log.refused(bounded(limit, 1, _LIMIT, "limit"), by)
        return Refusals(refusals=tuple(map(as_refusal, rows)))

    return [audit, refusals]
