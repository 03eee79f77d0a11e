"""A person's session: a key in a file that their own key signed once for twelve hours; it signs requests only.

It must never sign a statement, nor leave this machine.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from nixfleet.client.api import Client
from nixfleet.config import write_atomic
from nixfleet.errors import Untrusted
from nixfleet.model.device import Session
from nixfleet.model.reading import UNREADABLE
from nixfleet.model.wire import Signed
from nixfleet.trust.reports import NAMESPACE_SESSION, SESSION_MAX_S, session_payload
from nixfleet.trust.signers import MemorySigner, Signer
from nixfleet.trust.sshsig import SecretKey

_RENEW_BEFORE_S: Final = 300
_SKEW_S: Final = 30
"""Clocks nearer than this are not why a session was refused."""


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The session file: whose it is, the key's seed (secret), and when it ends in unix seconds."""

    by: str
    seed: str
    not_after: int


class SessionKeeper:
    """Gives a client a key for its requests, and a new one when the old is refused or about to end."""

    def __init__(self, signer: Signer, *, fleet: str, file: Path, clock: Callable[[], int]) -> None:
        """Keep the session of `signer` for a fleet in `file` (0600)."""
        self._signer = signer
        self._fleet = fleet
        self._file = file
        self._clock = clock

    async def attach(self, client: Client) -> None:
        """Let a client sign with this session from now on; asks for a signature only when no session is left.

        A key in memory signs requests itself. Raises: the errors of signing and of the coordinator.
        """
        if isinstance(self._signer, MemorySigner):
            client.use_key(self._signer.secret)
            return
        kept = await asyncio.to_thread(self._read)
        client.use_key(kept or await self.renew(client))
        client.renew_with(lambda: self.renew(client))

    async def renew(self, client: Client) -> SecretKey:
        """Sign and register a new session key, and keep it.

        Where the clocks are too far apart for it, once more by the coordinator's: it bounds the session's life alone.
        """
        key, at = SecretKey.generate(), self._clock() + client.skew_s
        try:
            await self._open(client, key, at)
        except Untrusted:
            ahead_s = await client.ahead_s(at)
            if abs(ahead_s) < _SKEW_S:
                raise
            await self._open(client, key, at + ahead_s)
        by, ends = self._signer.key.fingerprint, self._clock() + SESSION_MAX_S
        kept = _Kept(by=by, seed=key.seed.hex(), not_after=ends)
        await asyncio.to_thread(write_atomic, self._file, msgspec.json.encode(kept))
        return key

    async def _open(self, client: Client, key: SecretKey, at: int) -> None:
        session = Session(
            v=1,
            fleet=self._fleet,
            by=self._signer.key.fingerprint,
            key=key.public.text,
            at=at,
            not_after=at + SESSION_MAX_S,
        )
        payload = session_payload(session)
        signature = await asyncio.to_thread(self._signer.sign, NAMESPACE_SESSION, payload)
        await client.open_session(Signed(payload=payload, signature=signature))

    def _read(self) -> SecretKey | None:
        """Read a session that still lasts a while; a damaged or foreign file counts as none."""
        try:
            kept = msgspec.json.decode(self._file.read_bytes(), type=_Kept)
            seed = bytes.fromhex(kept.seed)
        except (OSError, ValueError, *UNREADABLE):
            return None
        ends_soon = kept.not_after - self._clock() < _RENEW_BEFORE_S
        if ends_soon or kept.not_after - self._clock() > SESSION_MAX_S or len(seed) != 32:
            return None
        return SecretKey.from_seed(seed) if kept.by == self._signer.key.fingerprint else None
