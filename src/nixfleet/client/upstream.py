"""Ask binary caches of the root's list, other than the built-in one, which paths they already have.

It must never take a cache's word: only a narinfo that the listed key signed, with the local content, counts.
"""

from __future__ import annotations

import asyncio
from netrc import NetrcParseError
from typing import TYPE_CHECKING, Final

from nixfleet.client.faults import translated
from nixfleet.errors import NixfleetError, Unreachable, Untrusted
from nixfleet.trust.narinfo import NARINFO_BYTES_MAX, hash_part, parse_narinfo, verify_narinfo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import httpx

    from nixfleet.model.statements import CacheRef

BUILT_IN: Final = "/cache"
"""How the root's list names the coordinator's own cache."""
_AT_ONCE: Final = 16
_TIMEOUT_S: Final = 10.0
_INFO_BYTES: Final = 4_096
_LATER: Final = (408, 429)
"""Too slow, too many: it may have the path all the same."""


async def cache_answers(url: str, timeout_s: float, netrc_file: str | None = None) -> bool:
    """Tell whether a binary cache answers at an address, by way of the environment's proxy, as Nix would go.

    `netrc_file` holds the passwords of caches. Nothing is trusted of it. A page of whoever is in between, as a
    network's login, is no cache, whatever its status.
    """
    import httpx

    place = f"{url.rstrip('/')}/nix-cache-info"
    try:
        auth = httpx.NetRCAuth(netrc_file) if netrc_file is not None else None
        async with asyncio.timeout(timeout_s), httpx.AsyncClient(timeout=timeout_s, auth=auth, trust_env=True) as http:
            with translated(place):
                async with http.stream("GET", place, follow_redirects=True) as answer:
                    held = bytearray()
                    async for chunk in answer.aiter_bytes():
                        held += chunk
                        if len(held) > _INFO_BYTES:
                            return False
    except (NixfleetError, TimeoutError, ValueError, OSError, NetrcParseError):
        return False
    # Nix asks for this line, too (nix-cache-info).
    return answer.status_code == 200 and b"StoreDir: /nix/store" in held.splitlines()


async def signed_upstream(nar_hashes: Mapping[str, str], caches: Sequence[CacheRef]) -> dict[str, CacheRef]:
    """Find the store paths that an upstream cache serves, signed by its listed key and with this NAR hash.

    `nar_hashes` maps paths to `sha256:<base32>`. A cache that cannot be reached has nothing: then more is pushed.
    """
    import httpx

    found: dict[str, CacheRef] = {}
    async with httpx.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=True, trust_env=True) as http:
        for cache in caches:
            if cache.url == BUILT_IN:
                continue
            wanted = {path: nar_hash for path, nar_hash in nar_hashes.items() if path not in found}
            found |= dict.fromkeys(await _served(http, cache, wanted), cache)
    return found


async def _served(http: httpx.AsyncClient, cache: CacheRef, wanted: Mapping[str, str]) -> list[str]:
    """Ask one cache, some at a time; stop asking once it cannot be reached."""
    slots, gone = asyncio.Semaphore(_AT_ONCE), asyncio.Event()

    async def ask(path: str, nar_hash: str) -> bool:
        async with slots:
            if gone.is_set():
                return False
            try:
                return await _has(http, cache, path, nar_hash)
            except NixfleetError:
                gone.set()
                return False

    answers = await asyncio.gather(*(ask(path, nar_hash) for path, nar_hash in wanted.items()))
    return [path for path, has in zip(wanted, answers, strict=True) if has]


async def _has(http: httpx.AsyncClient, cache: CacheRef, path: str, nar_hash: str) -> bool:
    text = await read_narinfo(http, cache, path)
    if text is None:
        return False
    try:
        info = parse_narinfo(text)
        signed = verify_narinfo(info, [cache.key]) is not None
    except Untrusted:
        return False
    return signed and (info.store_path, info.nar_hash) == (path, nar_hash)


async def read_narinfo(http: httpx.AsyncClient, cache: CacheRef, path: str) -> str | None:
    """Read what an upstream cache says of a store path, unverified; None when it has it not, or says too much.

    Raises: Unreachable, also for a cache that answers that it cannot now.
    """
    url = f"{cache.url.rstrip('/')}/{hash_part(path)}.narinfo"
    held = bytearray()
    with translated(url):
        async with http.stream("GET", url) as answer:
            if answer.status_code >= 500 or answer.status_code in _LATER:
                raise Unreachable(f"it answers HTTP {answer.status_code}")
            if answer.status_code != 200:
                return None
            async for chunk in answer.aiter_bytes():
                held += chunk
                if len(held) > NARINFO_BYTES_MAX:
                    return None
    return held.decode("utf-8", "replace")
