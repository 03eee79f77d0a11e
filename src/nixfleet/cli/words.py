"""Reading what people type: tags, ``NAME=PATH`` pairs, durations, waves; errors name the word that is wrong."""

import re
from collections.abc import Iterable
from datetime import datetime

from nixfleet.errors import UserError
from nixfleet.model.ids import NAME, STORE_PATH, TAG_VALUE
from nixfleet.model.typed import UNITS_S


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


def duration(seconds: int) -> str:
    """Give seconds as the largest whole unit: ``90s``, ``10m``, ``2h``."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % UNITS_S[unit] == 0:
            return f"{seconds // UNITS_S[unit]}{unit}"
    return f"{seconds}s"
