"""Who is asking: the RFC 9421 signature of a request, and whether that key may ask this (docs/protocol.md).

It judges requests only; statements and reports carry signatures of their own.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from litestar import Request

from nixfleet.errors import Refused, Untrusted
from nixfleet.model.ids import Fingerprint
from nixfleet.model.statements import Action, Root
from nixfleet.server.coordinator.core import Coordinator
from nixfleet.server.coordinator.people import is_person, is_token, may_delegate
from nixfleet.trust.httpsig import Head, verify_head
from nixfleet.trust.replay import State, may_ever
from nixfleet.trust.replay.rights import grants
from nixfleet.trust.sshsig import PublicKey, parse_public_key

_KEY_ID: Final = re.compile(r'keyid="(SHA256:[A-Za-z0-9+/]{43})"', re.ASCII)

AnyRequest = Request[Any, Any, Any]


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose key signed the request, in every role that it has."""

    device: str | None = None
    person: Fingerprint | None = None
    """The person's own key, also when a session key signed."""
    joining: bool = False


class Auth:
    """Judges requests by the log as this coordinator has replayed it."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    async def caller(self, request: AnyRequest) -> tuple[Caller, bytes]:
        """Give who asks, and the body. Raises: Untrusted, Skewed, Bound."""
        headers = _headers(request)
        found = _KEY_ID.search(headers.get("signature-input", ""))
        key, caller = await self._known(Fingerprint(found[1])) if found else (None, Caller())
        head = self._head(request, headers, key)
        body = await request.body()
        head.digest.check(body)
        return caller, body

    async def device(self, request: AnyRequest) -> tuple[str, bytes]:
        """Demand an enrolled device. Raises: Untrusted, Refused."""
        caller, body = await self.caller(request)
        if caller.device is None:
            raise Refused("only an enrolled device may ask this")
        return caller.device, body

    async def log_reader(self, request: AnyRequest) -> Caller:
        """Demand somebody who may read the log. Raises: Untrusted."""
        caller, _ = await self.caller(request)
        return caller

    async def syncer(self, request: AnyRequest) -> str | None:
        """Demand a device, or one that joins (None). Raises: Untrusted, Refused."""
        caller, _ = await self.caller(request)
        if caller.device is None and not caller.joining and caller.person is None:
            raise Refused("only a device may ask this")
        return caller.device

    async def person(self, request: AnyRequest, action: Action | None = None) -> bytes:
        """Demand a person or CI, with a right to an action if one is named, and give the body.

        Raises: Untrusted, Refused.
        """
        caller, body = await self.caller(request)
        if caller.person is None:
            raise Refused("only people and CI with a grant may ask this")
        state, now = self._coordinator.log.state, self._coordinator.wall_s()
        if action is not None and not may_ever(state, caller.person, (action,), now):
            raise Refused(f"this needs a grant of '{action}'")
        return body

    async def releaser(self, request: AnyRequest) -> bytes:
        """Demand the right to release, and give the body."""
        return await self.person(request, "release")

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

    async def _known(self, signer: Fingerprint) -> tuple[PublicKey | None, Caller]:
        """Find a key: a device's, one that root or a grant names, or a session's."""
        log, now = self._coordinator.log, self._coordinator.wall_s()
        device = None if signer in log.state.revoked_keys else log.device_of(signer)
        if is_person(log.state, signer, now):
            # First: a device that claims a person's key as its own must not take that person's rights away.
            joining = is_token(log.state, signer, now)
            return _key_of(log.state, signer), Caller(device, None if joining else signer, joining)
        if device is not None:
            return log.device_key(device), Caller(device)
        session = await self._coordinator.people.session(signer)
        if session is not None and may_delegate(log.state, session[1], now):
            return session[0], Caller(person=session[1])
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
