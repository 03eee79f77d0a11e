"""A coordinator's address as people give it."""

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from nixfleet.model.typed import checked_url

PORT: Final = 7070


def is_loopback(url: str) -> bool:
    """Tell whether only this machine can reach an address."""
    host = ""
    try:
        host = urlsplit(url).hostname or ""
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def listen_for(url: str) -> str:
    """Choose where a coordinator listens for a fleet's URL: loopback alone where that is all that needs to reach it.

    It speaks plain HTTP: an https address is that of a proxy in front of it, on the same machine unless told otherwise.
    Raises: UserError for what is no address.
    """
    parts = urlsplit(checked_url(url))
    if parts.scheme == "https":
        return f"127.0.0.1:{PORT}"
    return f"{'127.0.0.1' if is_loopback(url) else '0.0.0.0'}:{parts.port or 80}"  # noqa: S104 (devices have to reach it)
