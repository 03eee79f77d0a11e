"""Follow closures through the narinfos of binary caches: which paths, how large, over plain HTTP, with no Nix here.

Only what a listed key signed counts. It must never hang, follow references without an end, or fail because a cache
does: what cannot be read is said, and the rest is known all the same.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final

from nixfleet.client.narinfo_memory import NarinfoMemory
from nixfleet.client.upstream import BUILT_IN, read_narinfo
from nixfleet.errors import NixfleetError, Untrusted, UserError
from nixfleet.model.ids import STORE_PATH, store_name
from nixfleet.model.text import counted, one_line
from nixfleet.preview.closures import StoreObject
from nixfleet.trust.narinfo import hash_part, parse_narinfo, verify_narinfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import httpx

    from nixfleet.client.api import Client
    from nixfleet.model.statements import CacheRef

AT_ONCE: Final = 24
BATCH: Final = 512
"""So many paths are looked up together on disk."""
TURN: Final = 32
"""So many signatures are checked in one go: some milliseconds."""
REQUEST_S: Final = 10.0
WALK_S: Final = 120.0
FAULTS_MAX: Final = 6
"""A cache that failed so often in a row is not asked again in this walk."""
TRIES: Final = 2
_PATH: Final = re.compile(STORE_PATH)
PATHS_MAX: Final = 200_000
REFERENCES_MAX: Final = 4_000_000
"""What all systems of a fleet may name together: a cache's key is no reason to fill this machine's memory."""


class Walk:
    """One walk over closures; `known` grows while `run` is under way."""

    def __init__(
        self,
        client: Client,
        caches: Sequence[CacheRef],
        memory: Path | None = None,
        *,
        local: Mapping[str, StoreObject] | None = None,
        request_s: float = REQUEST_S,
        walk_s: float = WALK_S,
    ) -> None:
        """Ask `caches` in their order; `local` is what this machine's own store says already, but for file sizes."""
        self._client, self._caches, self._memory_file = client, tuple(caches), memory
        self._local = dict(local or {})
        self._request_s, self._walk_s = request_s, walk_s
        self.known: dict[str, StoreObject] = dict(self._local)
        self._asked: set[str] = set()
        self._found: set[str] = set()
        self._references = 0
        self._faults = dict.fromkeys(self._caches, 0)
        self._gone: dict[CacheRef, str] = {}
        self._unsigned: dict[CacheRef, int] = dict.fromkeys(self._caches, 0)
        self._absent: list[str] = []
        self._cut = ""
        self._last: CacheRef | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What kept the walk from knowing everything, in sentences."""
        gone = [
            f"the cache {cache.url} cannot be read ({why}); what only it has is not counted"
            for cache, why in self._gone.items()
        ]
        forged = [
            f"the cache {cache.url} sent {counted(count, 'answer')} that its listed key has not signed: not counted"
            for cache, count in self._unsigned.items()
            if count
        ]
        absent = []
        if self._absent:
            others = f" and {len(self._absent) - 1:,} more" if len(self._absent) > 1 else ""
            absent = [f"in no cache that can be read: {store_name(self._absent[0])}{others}"]
        return (*gone, *forged, *absent, *([self._cut] if self._cut else []))

    async def run(self, roots: Iterable[str]) -> None:
        """Learn of everything that these paths need, level by level; ends by itself, at a bound at the latest."""
        import httpx

        memory = NarinfoMemory(self._memory_file)
        try:
            async with httpx.AsyncClient(timeout=self._request_s, follow_redirects=True, trust_env=True) as http:
                async with asyncio.timeout(self._walk_s):
                    await self._levels([path for path in dict.fromkeys(roots) if _PATH.match(path)], memory, http)
        except TimeoutError:
            self._cut = f"the caches are too slow: after {self._walk_s:.0f} s the rest was left out"
        finally:
            memory.close()

    async def _levels(self, level: list[str], memory: NarinfoMemory, http: httpx.AsyncClient) -> None:
        while level:
            following: dict[str, None] = {}
            for start in range(0, len(level), BATCH):
                batch = [path for path in level[start : start + BATCH] if path not in self._asked]
                self._asked.update(batch)
                await self._batch(batch, memory, http)
                for path in batch:
                    self._follow(path, following)
                if self._cut:
                    return
            level = [path for path in following if path not in self._asked]

    def _follow(self, path: str, following: dict[str, None]) -> None:
        found = self.known.get(path)
        if found is None:
            self._absent.append(path)
            return
        self._references += len(found.references)
        if self._references > REFERENCES_MAX or len(self.known) > PATHS_MAX:
            self._cut = f"more than {PATHS_MAX:,} paths, or {REFERENCES_MAX:,} references: the rest was left out"
            return
        following.update(dict.fromkeys(found.references))

    async def _batch(self, batch: Sequence[str], memory: NarinfoMemory, http: httpx.AsyncClient) -> None:
        """Learn of some paths: from disk, then from the caches."""
        left = {hash_part(path): path for path in batch}
        for cache in self._caches:
            for count, (part, text) in enumerate(memory.get(cache.key, list(left)).items()):
                if count % TURN == 0:
                    await asyncio.sleep(0)  # a screen gets its turn, and the bound of time is looked at
                if self._learn(cache, left[part], text):
                    del left[part]
        fresh: dict[CacheRef, dict[str, str]] = {cache: {} for cache in self._caches}
        slots = asyncio.Semaphore(AT_ONCE)

        async def ask(path: str) -> None:
            async with slots:
                # A fault is no answer: whoever had one is asked once more.
                caches = self._in_order()
                for _ in range(TRIES):
                    caches = [cache for cache in caches if await self._has_fault(cache, path, http, fresh[cache])]
                    if path in self._found or not caches:
                        return

        try:
            async with asyncio.TaskGroup() as tasks:
                for path in left.values():
                    tasks.create_task(ask(path))
        finally:
            for cache, texts in fresh.items():
                memory.put(cache.key, texts)

    def _in_order(self) -> list[CacheRef]:
        """Give the caches that still answer, the one that had the last path first."""
        alive = [cache for cache in self._caches if cache not in self._gone]
        return sorted(alive, key=lambda cache: cache is not self._last)

    async def _has_fault(self, cache: CacheRef, path: str, http: httpx.AsyncClient, fresh: dict[str, str]) -> bool:
        """Ask one cache for a path that none had so far; tells whether it could not answer."""
        if path in self._found or cache in self._gone:
            return False
        try:
            async with asyncio.timeout(self._request_s):
                text = await self._text(cache, path, http)
        except TimeoutError:
            return self._fault(cache, f"no answer within {self._request_s:g} s")
        except NixfleetError as error:
            return self._fault(cache, one_line(str(error), 200))
        self._faults[cache] = 0
        if text is not None and self._learn(cache, path, text):
            fresh[hash_part(path)] = text
            self._last = cache
        return False

    def _fault(self, cache: CacheRef, why: str) -> bool:
        self._faults[cache] += 1
        if self._faults[cache] >= FAULTS_MAX:
            self._gone.setdefault(cache, why)
        return True

    async def _text(self, cache: CacheRef, path: str, http: httpx.AsyncClient) -> str | None:
        if cache.url == BUILT_IN:
            return await self._client.narinfo(hash_part(path))
        return await read_narinfo(http, cache, path)

    def _learn(self, cache: CacheRef, path: str, text: str) -> bool:
        """Take a narinfo in, if it is of this path and signed by the key that is listed for the cache."""
        try:
            info = parse_narinfo(text)
            signed = info.store_path == path and verify_narinfo(info, [cache.key]) is not None
        except (Untrusted, UserError):
            signed = False
        if not signed:
            self._unsigned[cache] += 1
            return False
        local = self._local.get(path)
        self.known[path] = StoreObject(
            path=path,
            nar_bytes=info.nar_bytes if local is None else local.nar_bytes,
            file_bytes=info.file_bytes,
            references=info.references if local is None else local.references,
        )
        self._found.add(path)
        return True
