"""A coordinator before it has a fleet: it says how to claim it, and answers nothing but its health and the claim.

Its keys are made at its first start and kept, with the code, in one file of the state folder until the claim puts
them in their places: a restart changes nothing of what an admin has copied.
"""

import asyncio
import logging
from collections.abc import Callable

import msgspec
from litestar.types import Receive, Scope, Send

from nixfleet.config import write_atomic
from nixfleet.errors import NixfleetError, Refused, Unreachable, UserError
from nixfleet.model.claiming import Claim, Claimed
from nixfleet.model.reading import UNREADABLE
from nixfleet.model.statements import Root
from nixfleet.server.faults import Busy, Unknown, refusal
from nixfleet.server.routes.bodies import decoded, whole
from nixfleet.server.settings import CACHE, CACHE_KEY, CLAIM, DATABASE, LOG_KEY, ServerSettings
from nixfleet.server.setup import begun, create_fleet
from nixfleet.server.store import Store
from nixfleet.trust.claims import ClaimString, make_offer, new_code, proves
from nixfleet.trust.narinfo import CacheKey
from nixfleet.trust.sshsig import SecretKey
from nixfleet.trust.statements import parse

_log = logging.getLogger(__name__)

PATH = "/v1/claim"
WRONG_BURST = 5
WRONG_PER_S = 0.1
"""Five wrong codes at once, then one in ten seconds."""
_BUILT_IN = "/cache"
_UNNAMED = "nixfleet-1"
"""What the cache key is called when the root does not name the cache."""


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The file: secrets that become the fleet's."""

    v: int = 1
    code: str
    log_key: str
    cache_seed: str


async def wait_for_claim(
    settings: ServerSettings, wall_s: Callable[[], int], *, clock: Callable[[], float]
) -> "Unclaimed | None":
    """Give what waits for a claim where there is nothing of a fleet yet, neither keys nor a log; else None.

    What a claim has left that was cut off half-way, before there was a log, is cleared away: it may be made again.
    The caller holds the folder's lock. Raises: UserError; Unreachable where its database does not answer.
    """
    if begun(settings.data_dir) and not _half_claimed(settings):
        return None
    if settings.database_url is not None and await _has_log(settings):
        return None
    for name in begun(settings.data_dir):
        path = settings.data_dir / name
        path.rmdir() if path.is_dir() else path.unlink()
    return Unclaimed(settings, wall_s, clock=clock)


def _half_claimed(settings: ServerSettings) -> bool:
    """Tell whether a folder holds nothing but what a claim was putting in place, and not yet the database.

    Whatever else is there may be a fleet that somebody is moving in: it is nobody's to clear away.
    """
    kept, folder = _read(settings), settings.data_dir
    if kept is None or (folder / DATABASE).exists():
        return False
    try:
        own_log = (folder / LOG_KEY).read_text() == kept.log_key
        cache_key = folder / CACHE_KEY
        own_cache = not cache_key.exists() or CacheKey.parse(cache_key.read_text()).secret.seed.hex() == kept.cache_seed
        empty = not (folder / CACHE).exists() or not any((folder / CACHE).iterdir())
    except (OSError, UnicodeDecodeError, UserError):
        return False
    return own_log and own_cache and empty


async def _has_log(settings: ServerSettings) -> bool:
    store = Store(settings.url())
    try:
        await store.open()
        return await store.log.size() > 0
    finally:
        await store.close()


class Unclaimed:
    """The application until the claim; `claimed` is set once the fleet is in the folder."""

    def __init__(self, settings: ServerSettings, wall_s: Callable[[], int], *, clock: Callable[[], float]) -> None:
        """Take up the keys and the code of an earlier start, or make them. Raises: UserError."""
        kept = _read(settings) or _make(settings)
        self._settings = settings
        self._wall_s = wall_s
        self._log_key = SecretKey.from_openssh(kept.log_key)
        self._cache_key = SecretKey.from_seed(bytes.fromhex(kept.cache_seed))
        self._code = kept.code
        self._offer = make_offer(self._log_key, self._cache_key.public.raw)
        self._tries = _Tries(clock)
        self._one_at_a_time = asyncio.Lock()
        self.claimed = asyncio.Event()

    @property
    def string(self) -> ClaimString:
        """What an admin needs to claim it."""
        return ClaimString(self._code, self._log_key.public.fingerprint)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        method, path = str(scope.get("method", "")), scope["path"]
        try:
            body = await self._answer(method, path, receive)
            if body is None:
                return
            status = 200
        except Exception as error:  # noqa: BLE001 - every failure is answered, as in `app`
            status, body = refusal(error, f"{method} {path}", self._wall_s())
        head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _answer(self, method: str, path: str, receive: Receive) -> bytes | None:
        """Give what is answered; None when the asker has gone. Raises: Unreachable for all that a fleet would serve."""
        if (method, path) == ("GET", PATH):
            return msgspec.json.encode(self._offer)
        if (method, path) == ("POST", PATH):
            text = await whole(receive, "a claim")
            return None if text is None else msgspec.json.encode(await self._claim(decoded(text, Claim)))
        # Its health is no other: it serves nothing yet.
        raise Unreachable("this coordinator has no fleet yet: its own log says how to claim it")

    async def _claim(self, claim: Claim) -> Claimed:
        """Begin the fleet that a claim is for. Raises: Refused, Busy, Unknown, and what `create_fleet` raises."""
        async with self._one_at_a_time:
            if self.claimed.is_set():
                raise Unknown("this coordinator is claimed: its code was for one time")
            # The right code is taken however many wrong ones came: nobody may keep its owner out.
            if not proves(self._code, self._offer, claim):
                self._tries.wrong()
                _log.warning("somebody tried to claim this coordinator with a wrong code")
                raise Refused("the code is not this coordinator's: copy the claim string whole from its own log")
            cache_key = CacheKey(_cache_name(claim.payload, self._cache_key), self._cache_key)
            fleet = await asyncio.to_thread(
                create_fleet,
                self._settings.data_dir,
                claim.payload,
                claim.signature,
                self._log_key,
                cache_key.text,
                self._settings.database_url,
                now=self._wall_s(),
            )
            forget(self._settings)
            self.claimed.set()
        _log.info("claimed: this is the coordinator of fleet %s", fleet)
        return Claimed(fleet=fleet)


def forget(settings: ServerSettings) -> None:
    """Throw away what an earlier, unclaimed start has kept: there is a fleet."""
    try:
        (settings.data_dir / CLAIM).unlink(missing_ok=True)
    except OSError as error:
        _log.warning("%s is of no use any more and cannot be removed: %s", settings.data_dir / CLAIM, error.strerror)


def _cache_name(payload: bytes, key: SecretKey) -> str:
    """Find what a root calls the built-in cache's key. Raises: UserError for another key; Malformed."""
    root = parse(payload)
    for cache in root.caches if isinstance(root, Root) else ():
        name, _, raw = cache.key.partition(":")
        if cache.url == _BUILT_IN:
            if raw != CacheKey(name, key).public.partition(":")[2]:
                raise UserError("the root names another key for the built-in cache than this coordinator's")
            return name
    return _UNNAMED


class _Tries:
    """Bounds wrong codes in time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._at = clock()
        self._left = float(WRONG_BURST)

    def wrong(self) -> None:
        """Note a wrong code. Raises: Busy when there were too many, so that they fill no log and wear nothing out."""
        now = self._clock()
        self._left = min(float(WRONG_BURST), self._left + max(0.0, now - self._at) * WRONG_PER_S)
        self._at = now
        if self._left < 1:
            raise Busy("the code is not this coordinator's, and too many wrong ones came; try again in ten seconds")
        self._left -= 1


def _read(settings: ServerSettings) -> _Kept | None:
    """Read what an earlier start has kept. Raises: UserError."""
    path = settings.data_dir / CLAIM
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
        SecretKey.from_openssh(kept.log_key)
        SecretKey.from_seed(bytes.fromhex(kept.cache_seed))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, NixfleetError, *UNREADABLE) as error:
        raise UserError(f"{path} is damaged: remove it, and a new claim string is made") from error
    return kept


def _make(settings: ServerSettings) -> _Kept:
    """Make keys and code, and keep them (mode 0600). Raises: UserError."""
    kept = _Kept(code=new_code(), log_key=SecretKey.generate().to_openssh(), cache_seed=SecretKey.generate().seed.hex())
    write_atomic(settings.data_dir / CLAIM, msgspec.json.encode(kept))
    return kept
