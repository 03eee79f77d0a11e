"""One request at a time to a coordinator: addresses in turn, signatures, clocks, bounds, and errors in our words.

It must never follow a redirect, hold an answer beyond its bound, or wait without an end.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Self, TypeVar
from urllib.parse import quote, urlencode

import nixfleet
from nixfleet.client.faults import Skewed, from_answer, not_ours, translated
from nixfleet.errors import Unreachable, Untrusted, UserError
from nixfleet.model.text import counted
from nixfleet.model.typed import checked_url
from nixfleet.trust import httpsig

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
    from types import TracebackType

    import httpx

    from nixfleet.trust.sshsig import SecretKey

T = TypeVar("T")

JSON: Final = "application/json"
BYTES: Final = "application/octet-stream"
TEXT: Final = "text/plain"
NARINFO: Final = "text/x-nix-narinfo"
EVENTS: Final = "text/event-stream"

CONNECT_S: Final = 10.0
SLOWEST_BYTES_S: Final = 2_000
"""A line slower than this counts as dead; what is larger than a line of this speed can carry gets more time."""
_ERROR_BYTES: Final = 65_536
_URLS_MAX: Final = 24
"""Eight of the root, of agent.toml and of the token each."""
_TIME_MOST_S: Final = 2**32
"""A server's clock that says more (2106) is not believed."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request as the API means it: its path below the coordinator's address, and what kind of answer is expected."""

    method: str
    path: str
    query: tuple[tuple[str, str | int], ...] = ()
    body: bytes = b""
    answer: str = JSON
    max_bytes: int = 8 << 20
    signed: bool = True
    work_s: float = 0.0
    """How long the coordinator may take to do what is asked, beyond the usual patience."""

    @property
    def query_text(self) -> str:
        """The query as it stands on the wire, without its question mark."""
        return urlencode(self.query, quote_via=quote)


class Transport:
    """Sends calls to the first address that answers; the one that did is asked first from then on."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        fleet: str,
        key: SecretKey | None,
        clock: Callable[[], int],
        timeout_s: float,
        silence_s: float,
        connect_s: float = CONNECT_S,
    ) -> None:
        """Take addresses in order of preference. Raises: UserError for one that is no http(s) address."""
        if not urls or len(urls) > _URLS_MAX:
            raise UserError(f"a coordinator needs 1 to {_URLS_MAX} addresses, got {len(urls)}")
        self._urls = [checked_url(url) for url in urls]
        self._fleet = fleet
        self._key = key
        self._clock = clock
        self._timeout_s = timeout_s
        self._silence_s = silence_s
        self._connect_s = min(connect_s, timeout_s)
        self._skew_s = 0
        self._renew: Callable[[], Awaitable[SecretKey]] | None = None
        self._renewing = asyncio.Lock()
        self._http: httpx.AsyncClient | None = None
        self._entered = False

    async def __aenter__(self) -> Self:
        self._entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered = False
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    def _client(self) -> httpx.AsyncClient:
        """Make the HTTP client when it is first needed: importing httpx takes time that a first paint has not.

        Raises: UserError.
        """
        assert self._entered, "use the client as a context manager"
        if self._http is not None:
            return self._http
        import httpx

        try:
            self._http = httpx.AsyncClient(
                headers={"user-agent": f"nixfleet/{nixfleet.__version__}", "accept-encoding": "identity"},
                timeout=httpx.Timeout(self._timeout_s, connect=self._connect_s),
                follow_redirects=False,
                trust_env=True,
                verify=_tls(),
            )
        except (ValueError, ImportError, OSError, httpx.InvalidURL) as error:
            raise UserError(f"the proxy or certificate settings of the environment do not work: {error}") from error
        return self._http

    @property
    def url(self) -> str:
        """The address that is asked first now."""
        return self._urls[0]

    @property
    def skew_s(self) -> int:
        """How far ahead the coordinator's clock is, in seconds, as far as a refusal told."""
        return self._skew_s

    def use_key(self, key: SecretKey | None) -> None:
        """Sign requests with this key from now on."""
        self._key = key

    def renew_with(self, renew: Callable[[], Awaitable[SecretKey]]) -> None:
        """Ask for another key, once for each call, when the coordinator does not take the one in use."""
        self._renew = renew

    async def send(self, call: Call) -> bytes:
        """Send a call and read the whole answer. Raises: any of our errors."""

        async def act(url: str) -> bytes:
            async with aclosing(await self._begun(url, call)) as response:
                return await self._whole(url, response, call.max_bytes)

        return await self._over_urls(act)

    async def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        """Send a call and give the answer's bytes as they come. Raises: Unreachable after silence or at its end."""
        response = await self._over_urls(lambda url: self._begun(url, call))
        url = f"{response.url.scheme}://{response.url.netloc.decode()}"
        async with aclosing(response):
            with translated(url):
                async for chunk in response.aiter_raw():
                    yield chunk
        raise Unreachable(f"{url} ended the event stream")

    async def _begun(self, url: str, call: Call) -> httpx.Response:
        """Wait until an answer begins: as long as a slow line needs for the body, and the patience."""
        limit_s = self._timeout_s + self._connect_s + call.work_s + len(call.body) / SLOWEST_BYTES_S
        try:
            async with asyncio.timeout(limit_s):
                return await self._response(url, call)
        except TimeoutError:
            raise Unreachable(f"{url} takes longer than {limit_s:.0f} s to answer") from None

    async def _over_urls(self, act: Callable[[str], Awaitable[T]]) -> T:
        """Act on the first address that can be reached; the first one's error is told when none can."""
        first: Unreachable | None = None
        for url in tuple(self._urls):
            try:
                result = await act(url)
            except Unreachable as error:
                first = first or error
                continue
            self._urls.remove(url)
            self._urls.insert(0, url)
            return result
        assert first is not None
        if len(self._urls) > 1:
            raise Unreachable(f"{first}; nor can {counted(len(self._urls) - 1, 'other address')}") from first
        raise first

    async def _response(self, url: str, call: Call) -> httpx.Response:
        """Open an answer of status 2xx and the expected kind; a wrong clock and an ended session are put right once."""
        used = self._key
        try:
            return await self._timed(url, call)
        except Untrusted as error:
            if self._renew is None or not call.signed or isinstance(error, Skewed):
                raise
            async with self._renewing:
                # Several requests at once find the session ended: the person is asked for one signature.
                if self._key is used:
                    self._key = await self._renew()
            return await self._timed(url, call)

    async def _timed(self, url: str, call: Call) -> httpx.Response:
        try:
            return await self._judged(url, call)
        except Skewed as skewed:
            # docs/protocol.md: `kind: skewed` when only the clock is off, then once more with the server's time.
            if not 0 <= skewed.server_time <= _TIME_MOST_S:
                raise  # nobody signed that time, and it goes into what this side signs
            self._skew_s = skewed.server_time - self._clock()
            return await self._judged(url, call)

    async def _judged(self, url: str, call: Call) -> httpx.Response:
        response = await self._sent(url, call)
        kind = response.headers.get("content-type", "")
        if response.is_success and call.answer == kind.partition(";")[0].strip().lower():
            return response
        async with aclosing(response):
            if response.is_success:
                raise not_ours(url, response.status_code, kind)
            raise from_answer(url, response.status_code, kind, await self._whole(url, response, _ERROR_BYTES))

    async def _sent(self, url: str, call: Call) -> httpx.Response:
        """Send once; once more where a kept connection turns out to be dead. Every call is safe to repeat."""
        import httpx

        http = self._client()
        with translated(url):
            try:
                return await http.send(self._request(http, url, call), stream=True)
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                return await http.send(self._request(http, url, call), stream=True)

    def _request(self, http: httpx.AsyncClient, url: str, call: Call) -> httpx.Request:
        import httpx

        # A stream is dead when nothing, not even a ping, came for `silence_s`; other answers end sooner.
        read_s = self._silence_s if call.answer == EVENTS else self._timeout_s + call.work_s
        query = call.query_text
        headers = {"accept": call.answer, **self._signature(call, query)}
        if call.body:
            headers["content-type"] = BYTES if call.method == "PUT" else JSON
        return http.build_request(
            call.method,
            f"{url}{call.path}{'?' if query else ''}{query}",
            content=call.body or None,
            headers=headers,
            timeout=httpx.Timeout(self._timeout_s, connect=self._connect_s, read=read_s),
        )

    def _signature(self, call: Call, query: str) -> Mapping[str, str]:
        """Sign the path as the API knows it: a proxy that serves us below a prefix takes the prefix off again."""
        if self._key is None or not call.signed:
            return {}
        return httpsig.sign_request(
            self._key,
            method=call.method,
            path=call.path,
            query=query,
            body=call.body,
            created=max(0, self._clock() + self._skew_s),
            fleet=self._fleet,
        )

    async def _whole(self, url: str, response: httpx.Response, max_bytes: int) -> bytes:
        """Read an answer to its end, but never beyond its bound, nor slower than the slowest line that is of use."""
        held = bytearray()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                with translated(url):
                    async for chunk in response.aiter_raw():
                        held += chunk
                        limit.reschedule(begun + self._timeout_s + len(held) / SLOWEST_BYTES_S)
                        if len(held) > max_bytes:
                            break
        except TimeoutError:
            raise Unreachable(f"{url} answers too slowly to ever end") from None
        if len(held) > max_bytes:
            raise Unreachable(f"{url} sent an answer larger than {max_bytes} bytes")
        return bytes(held)


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """Load the trusted authorities once for all clients: it costs 20 ms and a megabyte each time."""
    import httpx

    return httpx.create_ssl_context()
