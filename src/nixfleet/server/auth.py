"""Who is asking: the RFC 9421 signature of a request, and whether that key may ask this (docs/protocol.md).

What may be read is `trust.replay.reach`'s rule; each refusal names the missing right, and stands in the journal. It
judges requests only; statements and reports carry signatures of their own.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from litestar import Request

from nixfleet.errors import Refused, Untrusted
from nixfleet.model.ids import Fingerprint, Tags
from nixfleet.model.statements import Root
from nixfleet.server.coordinator.bygone import ended_token
from nixfleet.server.coordinator.core import Coordinator
from nixfleet.trust.holdings import lacks
from nixfleet.trust.httpsig import Head, verify_head
from nixfleet.trust.replay import State, may_ever
from nixfleet.trust.replay.reach import Reach, is_person, is_token, may_delegate, reach, was_person
from nixfleet.trust.replay.rights import grants
from nixfleet.trust.sshsig import PublicKey, parse_public_key

_KEY_ID: Final = re.compile(r'keyid="(SHA256:[A-Za-z0-9+/]{43})"', re.ASCII)

AnyRequest = Request[Any, Any, Any]


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose key signed the request, in every role that it has."""

    key: Fingerprint | None = None
    """The key that is answerable: the person's own, also when a session key signed."""
    device: str | None = None
    person: Fingerprint | None = None
    joining: bool = False
    until: int | None = None
    """When the session ends whose key signed (unix seconds)."""
    bygone: str = ""
    """What became of a key that was a device's or a join token's, and is nobody's now."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A person or CI, what it may read of, and the request's body."""

    key: Fingerprint
    reach: Reach
    until: int | None
    body: bytes


class Auth:
    """Judges requests by the log as this coordinator has replayed it; what it refuses stands in the journal."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    async def caller(self, request: AnyRequest) -> tuple[Caller, bytes]:
        """Give who asks, and the body. Raises: Untrusted, Skewed, Bound; Refused for a key whose rights have ended."""
        headers = _headers(request)
        found = _KEY_ID.search(headers.get("signature-input", ""))
        key, caller = await self._signer(Fingerprint(found[1])) if found else (None, Caller())
        head = self._head(request, headers, key)
        if caller.device is None and caller.person is None and not caller.joining:
            # Before its body is read: this key had rights once, and has none now.
            what = f"ask for {request.url.path}"
            if caller.key is not None and caller.bygone:
                raise await self._coordinator.journal.refused(caller.key, what, caller.bygone)
            raise await self.refuse(caller, what, "to ask anything")
        body = await request.body()
        head.digest.check(body)
        return caller, body

    async def device(self, request: AnyRequest, what: str) -> tuple[str, bytes]:
        """Demand an enrolled device, which wants to do `what`. Raises: Untrusted, Refused."""
        caller, body = await self.caller(request)
        if caller.device is None:
            assert caller.key is not None
            raise await self._coordinator.journal.refused(caller.key, what, f"only an enrolled device may {what}")
        return caller.device, body

    async def log_reader(self, request: AnyRequest) -> Caller:
        """Demand somebody who may read the log. Raises: Untrusted, Refused."""
        caller, _ = await self.caller(request)
        return caller

    async def reader(self, request: AnyRequest, what: str) -> Reader:
        """Demand a person or CI, which wants to do `what`, such as ``list the devices``. Raises: Untrusted, Refused."""
        caller, body = await self.caller(request)
        found = self.reach(caller.person, caller.until)
        if caller.person is None or found is None:
            raise await self.refuse(caller, what, f"to {what}")
        return Reader(caller.person, found, caller.until, body)

    def reach(self, key: Fingerprint | None, until: int | None = None) -> Reach | None:
        """Say what a key may read of now; None when nothing, or when the session has ended by which it asks."""
        now = self._coordinator.wall_s()
        if key is None or (until is not None and now >= until):
            return None
        return reach(self._coordinator.log.state, key, now)

    async def over(self, reader: Reader, tags: Tags, what: str) -> None:
        """Demand that a reader may read of a device with these tags. Raises: Refused."""
        if not reader.reach.over(tags):
            raise await self.refuse(Caller(reader.key), what, f"to {what}")

    async def releaser(self, request: AnyRequest) -> bytes:
        """Demand a person or CI with the right to release, and give the body. Raises: Untrusted, Refused."""
        what = "upload to the cache" if request.method != "GET" else "ask for an upload"
        reader = await self.reader(request, what)
        state, now = self._coordinator.log.state, self._coordinator.wall_s()
        if not may_ever(state, reader.key, ("release",), now):
            raise await self.refuse(Caller(reader.key), what, "to release")
        return reader.body

    async def refuse(self, caller: Caller, what: str, right: str) -> Refused:
        """Note in the journal that somebody lacks a right; gives the error to raise, which names it."""
        key = caller.key
        assert key is not None
        reason = lacks(self._coordinator.log.state, key, right, self._coordinator.wall_s())
        return await self._coordinator.journal.refused(key, what, reason)

    def _head(self, request: AnyRequest, headers: Mapping[str, str], key: PublicKey | None) -> Head:
        scope = request.scope
        try:
            path, query = scope["raw_path"].decode("ascii"), scope["query_string"].decode("ascii")
        except UnicodeDecodeError as error:
            raise Untrusted("the request's path or query is not ASCII") from error
        return verify_head(
            headers,
            method=request.method,
            path=path,
            query=query,
            now=self._coordinator.wall_s(),
            fleet=self._coordinator.log.fleet,
            key_of=lambda _signer: key,
        )

    async def _signer(self, signer: Fingerprint) -> tuple[PublicKey | None, Caller]:
        """Find a key; one that has no role here may have got one from another coordinator a moment ago."""
        key, caller = await self._known(signer)
        if caller.device is None and caller.person is None and not caller.joining:
            await self._coordinator.catch_up()
            key, caller = await self._known(signer)
        return key, caller

    async def _known(self, signer: Fingerprint) -> tuple[PublicKey | None, Caller]:
        """Find a key: a device's, one that root or a grant names, or a session's; a person's whose rights have ended.

        A device's key that is revoked, and a join token's that is used up, are as unknown as a stranger's.
        """
        log, now = self._coordinator.log, self._coordinator.wall_s()
        device = None if signer in log.state.revoked_keys else log.device_of(signer)
        if is_person(log.state, signer, now):
            # First: a device that claims a person's key as its own must not take that person's rights away.
            joining = is_token(log.state, signer, now)
            return _key_of(log.state, signer), Caller(signer, device, None if joining else signer, joining)
        if device is not None:
            return log.device_key(device), Caller(signer, device)
        session = await self._coordinator.people.session(signer)
        if session is not None and may_delegate(log.state, session.by, now):
            return session.key, Caller(session.by, person=session.by, until=session.not_after)
        if was_person(log.state, signer):
            return _key_of(log.state, signer), Caller(signer)
        if former := log.former.get(signer):
            return former.key, Caller(signer, bygone=former.words(log.state))
        if ended := ended_token(log.state, signer, now):
            return ended[0], Caller(signer, bygone=ended[1])
        return None, Caller()


def _headers(request: AnyRequest) -> dict[str, str]:
    """Give the headers by lower-case name. Raises: Untrusted when one of the signature's stands twice."""
    headers: dict[str, str] = {}
    for raw_name, value in request.scope["headers"]:
        name = raw_name.decode("latin-1").lower()
        if name in headers and name in {"signature", "signature-input", "content-digest"}:
            raise Untrusted(f"the request's header {name} stands twice")
        headers[name] = value.decode("latin-1")
    return headers


def _key_of(state: State, signer: Fingerprint) -> PublicKey | None:
    """Find the key that root, a root that waits for signatures, or a grant names by its fingerprint."""
    roots = [state.log_root, *(one.statement for waiting in state.pending.values() for one in waiting)]
    people = [principal for root in roots if isinstance(root, Root) for principal in root.principals]
    texts = [text for principal in people for text in principal.keys]
    texts += [text for record in grants(state, signer) for text in record.statement.to.keys]
    for text in texts:
        key = parse_public_key(text)
        if key.fingerprint == signer:
            return key
    return None
