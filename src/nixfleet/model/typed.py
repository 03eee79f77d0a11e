"""What people type: names, addresses, durations, dates, tags: one rule each for every program.

Errors say how to write it.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from nixfleet.errors import UserError
from nixfleet.model.ids import FINGERPRINT, NAME, PRINCIPAL, TAG_VALUE, URL, Fingerprint

UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
DURATION_MAX_S: Final = 31_536_000


def check_name(name: str, what: str) -> None:
    """Check a name for a `what` (fleet, release) before anything is made under it. Raises: UserError."""
    if not re.fullmatch(NAME, name):
        raise UserError(
            f"{name!r} is no {what} name; use lower-case letters, digits, '-', '_' and '.', at most 63, and begin and"
            " end with a letter or digit"
        )


def check_principal(name: str) -> None:
    """Check the name of a person or a CI before anything is signed for it. Raises: UserError."""
    if not re.fullmatch(PRINCIPAL, name):
        raise UserError(
            f"{name!r} is no principal's name; use lower-case letters and digits, and . _ @ - between them, at most 63"
        )


def checked_fingerprint(text: str) -> Fingerprint:
    """Check a key's fingerprint as it was typed. Raises: UserError."""
    if not re.fullmatch(FINGERPRINT, text):
        raise UserError(f"{text!r} is no fingerprint; it is written SHA256:… as 'ssh-keygen -lf FILE.pub' prints it")
    return Fingerprint(text)


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


def is_url(url: str) -> bool:
    """Tell whether this can be a coordinator's address at all."""
    try:
        checked_url(url)
    except UserError:
        return False
    return True


def parse_duration(text: str) -> int:
    """Read a duration such as ``90``, ``10m`` or ``2h`` as seconds. Raises: UserError."""
    found = re.fullmatch(r"([0-9]{1,8})([smhd]?)", text)
    if not found:
        raise UserError(f"{text!r} is no duration; write it like 90s, 10m, 2h or 1d")
    seconds = int(found[1]) * UNITS_S[found[2] or "s"]
    if seconds > DURATION_MAX_S:
        raise UserError(f"{text!r} is longer than a year")
    return seconds


def duration(seconds: int) -> str:
    """Give seconds as the largest whole unit: ``90s``, ``10m``, ``2h``."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % UNITS_S[unit] == 0:
            return f"{seconds // UNITS_S[unit]}{unit}"
    return f"{seconds}s"


def parse_tags(texts: Iterable[str]) -> dict[str, str]:
    """Read ``key=value`` tags. Raises: UserError."""
    tags: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not re.fullmatch(NAME, key) or not re.fullmatch(TAG_VALUE, value):
            raise UserError(f"{text!r} is no tag; write KEY=VALUE, for example site=berlin")
        if tags.setdefault(key, value) != value:
            raise UserError(f"tag {key!r} is given twice")
    return tags


def parse_select(texts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Read ``key=value[,value…]`` as a selector: devices that match all of them. Raises: UserError."""
    select: dict[str, tuple[str, ...]] = {}
    for text in texts:
        key, equals, listed = text.partition("=")
        values = tuple(dict.fromkeys(listed.split(",")))
        if not equals or not re.fullmatch(NAME, key) or not all(re.fullmatch(TAG_VALUE, value) for value in values):
            raise UserError(f"{text!r} selects nothing; write KEY=VALUE or KEY=VALUE,VALUE, for example env=test,dev")
        if select.setdefault(key, values) != values:
            raise UserError(f"{key!r} is given twice; write its values with commas: {key}=A,B")
    return select


def parse_date(text: str) -> int:
    """Read a date (ISO 8601, local time unless it names an offset) as unix seconds. Raises: UserError."""
    try:
        when = datetime.fromisoformat(text)
        return int((when if when.tzinfo else when.astimezone()).timestamp())
    except (ValueError, OverflowError, OSError) as error:
        raise UserError(f"{text!r} is no date; write it like 2027-01-31 or 2027-01-31T18:00") from error
