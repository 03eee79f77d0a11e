"""Downloading ahead: what an update will need is fetched, rooted and verified before its wave or window opens.

It must never begin an update, nor keep one from beginning: whoever begins one closes this first, and the machine
fetches what is left. Nothing of it is journalled, for all of it is safe to repeat.
"""

import asyncio
import logging
from contextlib import suppress
from typing import Final, Protocol

from nixfleet.agent.link import backoff_s, jittered
from nixfleet.agent.update import Offer, Trouble
from nixfleet.model.device import Cause
from nixfleet.model.ids import store_name

log = logging.getLogger("nixfleet.agent")

SPREAD_S: Final = 60.0
"""A whole fleet hears of a rollout at once, and is not to ask for all of it at once."""
_FINAL: Final = frozenset({Cause.UNTRUSTED, Cause.SPACE})
"""What another try does not mend; the update itself will tell."""


class Fetcher(Protocol):
    """Who downloads: the runner."""

    async def fetch_ahead(self, offer: Offer) -> Trouble | None: ...  # noqa: D102 (as `nixfleet.agent.runner.Runner`)
    async def drop_ahead(self) -> None: ...  # noqa: D102 (as `nixfleet.agent.runner.Runner`)


class Ahead:
    """At most one download ahead of its time."""

    def __init__(self, fetcher: Fetcher) -> None:
        """Begin with nothing."""
        self._fetcher = fetcher
        self._wanted: str | None = None
        self._task: asyncio.Task[None] | None = None

    async def want(self, offer: Offer | None) -> None:
        """Download this, unless it is under way or here; None: nothing is wanted ahead any more."""
        path = None if offer is None else offer.path
        if path == self._wanted:
            return
        await self.close()
        if offer is None:
            await self._fetcher.drop_ahead()
            return
        self._wanted = path
        self._task = asyncio.create_task(self._fetch(offer), name="ahead")

    async def close(self) -> None:
        """Stop downloading; what came stays for the update."""
        self._wanted = None
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _fetch(self, offer: Offer) -> None:
        """Try until it is here, or until trying again would not help."""
        await asyncio.sleep(jittered(SPREAD_S))
        failures = 0
        while (trouble := await self._fetcher.fetch_ahead(offer)) is not None:
            log.info("%s is not downloaded ahead: %s", store_name(offer.path), trouble.reason)
            if trouble.cause in _FINAL:
                return
            failures += 1
            await asyncio.sleep(backoff_s(failures))
        log.info("%s is here, ahead of its time", store_name(offer.path))
