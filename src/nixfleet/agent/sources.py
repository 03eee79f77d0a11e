"""Where this device downloads from: the release's caches in their order, then its own; digests decide, whoever serves.

It must never name a cache that neither the signed release nor root on this device has named.
"""

from collections.abc import Callable

from nixfleet.agent.settings import Settings
from nixfleet.agent.update import Offer
from nixfleet.nix import Cache


class Sources:
    """The binary caches of an update."""

    def __init__(self, settings: Settings, cache_base: Callable[[], str], by_hand: str = "") -> None:
        """Prepare; `cache_base` gives the coordinator's address for ``/cache``, `by_hand` a cache in place of all."""
        self._settings, self._cache_base, self._by_hand = settings, cache_base, by_hand

    def of(self, offer: Offer) -> list[Cache]:
        """List what an update is downloaded from, each with the key that may sign there; none for a rollback."""
        if self._by_hand:
            return [Cache(self._by_hand, one.key) for one in offer.caches]
        base = self._cache_base().rstrip("/")
        named = [Cache(f"{base}{one.url}" if one.url.startswith("/") else one.url, one.key) for one in offer.caches]
        return [*named, *self.own()] if named else []

    def own(self) -> list[Cache]:
        """List the device's own caches; with all in one file, nobody else is asked."""
        return [] if self._by_hand else [Cache(one.url, one.key) for one in self._settings.caches]

    def others(self, offer: Offer) -> list[str]:
        """List the addresses where something else than the coordinator may show that the network works."""
        base = self._cache_base().rstrip("/")
        urls = dict.fromkeys([*(one.url for one in offer.caches), *(one.url for one in self.own())])
        return [url for url in urls if url.startswith(("http://", "https://")) and not url.startswith(f"{base}/")]
