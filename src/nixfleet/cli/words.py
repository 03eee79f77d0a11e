"""Reading what people type: tags, ``NAME=PATH`` pairs, durations, waves; errors name the word that is wrong."""

import re
from collections.abc import Iterable
from typing import Final

from nixfleet.errors import UserError
from nixfleet.model.ids import NAME, STORE_PATH, TAG_VALUE

UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
DURATION_MAX_S: Final = 31_536_000


def check_name(name: str, what: str) -> None:
    """Check a name for a `what` (fleet, release) before anything is made under it. Raises: UserError."""
    if not re.fullmatch(NAME, name):
        raise UserError(f"{name!r} is no {what} name; use lower-case letters, digits, '-', '_' and '.', 63 at most")


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


def parse_targets(texts: Iterable[str]) -> dict[str, str]:
    """Read ``NAME=PATH`` pairs of device name and store path. Raises: UserError."""
    targets: dict[str, str] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or not name:
            raise UserError(f"{text!r} is not NAME=PATH, for example web-01=/nix/store/…-nixos-system-web-01")
        if not re.fullmatch(STORE_PATH, path):
            raise UserError(
                f"{path!r} is no store path; it must be /nix/store/HASH-NAME itself, not a link or a part of one"
            )
        if name in targets:
            raise UserError(f"device {name!r} is given twice")
        targets[name] = path
    return targets


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
