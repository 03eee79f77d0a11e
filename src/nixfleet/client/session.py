"""A person's session: a key in a file that their own key signed once for twelve hours; it signs requests only.

It must never sign a statement, nor leave this machine.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec

from nixfleet.client.api import Client
from nixfleet.config import write_atomic
from nixfleet.model.device import Session
from nixfleet.model.ids import PROTOCOL
from nixfleet.model.wire import Signed
from nixfleet.trust.reports import NAMESPACE_SESSION, SESSION_MAX_S, session_payload
from nixfleet.trust.signers import MemorySigner, Signer
from nixfleet.trust.sshsig import SecretKey

_RENEW_BEFORE_S = 300


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
        """Sign and register a new session key, and keep it."""
        key, at = SecretKey.generate(), self._clock() + client.skew_s
        by, end = self._signer.key.fingerprint, at + SESSION_MAX_S
        session = Session(v=PROTOCOL, fleet=self._fleet, by=by, key=key.public.text, at=at, not_after=end)
        payload = session_payload(session)
        signature = await asyncio.to_thread(self._signer.sign, NAMESPACE_SESSION, payload)
        await client.open_session(Signed(payload=payload, signature=signature))
        kept = _Kept(by=by, seed=key.seed.hex(), not_after=self._clock() + SESSION_MAX_S)
        await asyncio.to_thread(write_atomic, self._file, msgspec.json.encode(kept))
        return key

    def _read(self) -> SecretKey | None:
        """Read a session that still lasts a while; a damaged or foreign file counts as none."""
        try:
            kept = msgspec.json.decode(self._file.read_bytes(), type=_Kept)
            seed = bytes.fromhex(kept.seed)
        except (OSError, msgspec.MsgspecError, ValueError):
            return None
        ends_soon = kept.not_after - self._clock() < _RENEW_BEFORE_S
        if ends_soon or kept.not_after - self._clock() > SESSION_MAX_S or len(seed) != 32:
            return None
        return SecretKey.from_seed(seed) if kept.by == self._signer.key.fingerprint else None
