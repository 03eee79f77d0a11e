"""A coordinator's address as people give it."""

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

from nixfleet.errors import UserError
from nixfleet.model.ids import URL

PORT: Final = 7070


def is_loopback(url: str) -> bool:
    """Tell whether only this machine can reach an address."""
    host = ""
    try:
        host = urlsplit(url).hostname or ""
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def checked_url(url: str) -> str:
    """Check a coordinator's address, without its last slash. Raises: UserError."""
    wrong = f"{url!r} is no coordinator's address; write it like http://192.168.1.10:7070"
    if not re.fullmatch(URL, url):
        raise UserError(wrong)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:  # brackets that do not match, or a port beyond 65,535
        raise UserError(wrong) from error
    if not parts.hostname or port == 0 or parts.query or parts.fragment:
        raise UserError(wrong)
    return url.rstrip("/")


def listen_for(url: str) -> str:
    """Choose where a coordinator listens for a fleet's URL: loopback alone where that is all that needs to reach it.

    It speaks plain HTTP: an https address is that of a proxy in front of it, on the same machine unless told otherwise.
    Raises: UserError for what is no address.
    """
    parts = urlsplit(checked_url(url))
    if parts.scheme == "https":
        return f"127.0.0.1:{PORT}"
    return f"{'127.0.0.1' if is_loopback(url) else '0.0.0.0'}:{parts.port or 80}"  # noqa: S104 (devices have to reach it)
