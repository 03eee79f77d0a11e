"""Who comes in: devices that ask to be enrolled, and session keys of people; bounded, for anybody may ask."""

import msgspec

from nixfleet.errors import Refused
from nixfleet.model.device import EnrollRequest
from nixfleet.model.ids import Fingerprint
from nixfleet.model.views import EnrollView
from nixfleet.model.wire import Signed
from nixfleet.server.coordinator.clock import RunClock
from nixfleet.server.coordinator.log import LogKeeper
from nixfleet.server.faults import Busy, Unknown
from nixfleet.server.store import EnrollRow, SessionRow, Store
from nixfleet.server.text import clean, clean_facts
from nixfleet.trust import sshsig
from nixfleet.trust.replay import State
from nixfleet.trust.replay.rights import alive, grants
from nixfleet.trust.reports import open_enroll, open_session
from nixfleet.trust.sshsig import PublicKey

REQUESTS_MAX = 10_000
SESSIONS_MAX = 10_000
SESSIONS_OF_ONE = 64
"""One per machine and key is what people need; nobody keeps the others out."""
REPEAT_S = 10
"""A device that asks again sooner changes nothing."""


class People:
    """Enrolment requests and sessions, held in memory and in the store."""

    def __init__(self, store: Store, log: LogKeeper, clock: RunClock) -> None:
        self._store = store
        self._log = log
        self._clock = clock
        self._requests: dict[str, EnrollView] = {}
        self._sessions: dict[str, SessionRow] = {}

    async def load(self) -> None:
        """Take up the stored requests."""
        for row in await self._store.people.requests():
            self._requests[row.device] = _view(msgspec.json.decode(row.payload, type=EnrollRequest), row)

    async def ask(self, signed: Signed) -> EnrollView | None:
        """Keep a request to be enrolled; None when it changes nothing. Raises: Untrusted, Busy."""
        request = open_enroll(signed, fleet=self._log.fleet)
        now = self._clock.wall_s()
        held = self._requests.get(request.device)
        if held is None and len(self._requests) >= REQUESTS_MAX:
            raise Busy(f"{REQUESTS_MAX} devices wait to be enrolled already; enrol or forget some first")
        known = self._log.device(request.device)
        if known is not None and known.key == request.key and known.state != "retired":
            return None
        if held is not None and held.key != request.key:
            # Who asked first stays: nobody can put their key under a device id that somebody is about to approve.
            raise Refused("another key asks to be enrolled under this device id; an admin has to forget it first")
        if held is not None and now - held.seen_at < REPEAT_S:
            return None
        row = EnrollRow(request.device, signed.payload, signed.signature, held.asked_at if held else now, now)
        view = _view(request, row)
        if held != msgspec.structs.replace(view, seen_at=held.seen_at if held else now):
            await self._store.people.ask(row)  # that it still asks is not worth a write
        self._requests[request.device] = view
        return view

    async def forget(self, device: str) -> None:
        """Drop a request. Raises: Unknown."""
        if self._requests.pop(device, None) is None:
            raise Unknown(f"no device {device[:40]} asks to be enrolled")
        await self._store.people.forget(device)

    def requests(self) -> list[EnrollView]:
        """List who asks, the oldest first."""
        return sorted(self._requests.values(), key=lambda one: (one.asked_at, one.device))

    def asks(self, device: str) -> bool:
        """Tell whether a device asks to be enrolled."""
        return device in self._requests

    async def open_session(self, signed: Signed) -> None:
        """Take a session key that a person signed. Raises: Untrusted, Refused, Busy."""
        now = self._clock.wall_s()
        session = open_session(signed, fleet=self._log.fleet, now=now)
        if not may_delegate(self._log.state, Fingerprint(session.by), now):
            raise Refused(f"neither root nor a live grant names the key {session.by} as a person's")
        key = sshsig.parse_public_key(session.key)
        row = SessionRow(key.fingerprint, key.text, session.by, session.not_after)
        await self._store.people.save_session(row, now, most=SESSIONS_MAX, most_of_one=SESSIONS_OF_ONE)
        self._sessions = {held.key: held for held in self._sessions.values() if held.not_after > now}
        self._sessions[row.key] = row

    async def session(self, key: str) -> tuple[PublicKey, Fingerprint] | None:
        """Give a live session's key and whose it is (a fingerprint)."""
        row = self._sessions.get(key) or await self._store.people.session(key)
        if row is None or row.not_after <= self._clock.wall_s():
            self._sessions.pop(key, None)
            return None
        self._sessions[key] = row
        return sshsig.parse_public_key(row.text), Fingerprint(row.by)


def is_person(state: State, key: Fingerprint, now: int) -> bool:
    """Tell whether the root or any live grant names a key; a grant of no actions may read."""
    if key in state.revoked_keys:
        return False
    return key in state.root_keys or any(alive(state, record, now) for record in grants(state, key))


def is_token(state: State, key: Fingerprint, now: int) -> bool:
    """Tell whether all that a key may do is to enrol a counted number of devices: a join token's key."""
    if key in state.root_keys:
        return False
    live = [record.statement for record in grants(state, key) if alive(state, record, now)]
    return bool(live) and all(grant.actions == ("enroll",) and grant.max_uses is not None for grant in live)


def may_delegate(state: State, key: Fingerprint, now: int) -> bool:
    """Tell whether a session may speak for a key: a join token lies on devices, and speaks for nobody."""
    return is_person(state, key, now) and not is_token(state, key, now)


def _view(request: EnrollRequest, row: EnrollRow) -> EnrollView:
    return EnrollView(
        device=request.device,
        name=request.name,
        key=request.key,
        fingerprint=sshsig.parse_public_key(request.key).fingerprint,
        tags=request.tags,
        facts=clean_facts(request.facts),
        asked_at=row.asked_at,
        seen_at=row.seen_at,
        reason=clean(request.reason),
    )
