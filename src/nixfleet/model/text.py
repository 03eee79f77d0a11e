"""Text for people: what others wrote made harmless, and numbers and times in words. Pure; it must never judge.

Every party cleans with the same rule, where foreign text comes in and again where it is shown: what Python calls
printable stays (letters of any script), and nothing that moves a cursor, turns the direction of writing or hides.
"""

import re
from datetime import UTC, datetime
from typing import Final

_MINUTE: Final = 60
_STEPS: Final = ((31_536_000, "y"), (604_800, "w"), (86_400, "d"), (3_600, "h"), (_MINUTE, "m"))
_WEEKS_FROM: Final = 14 * 86_400
_SIZES: Final = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
LINE_CHARS: Final = 2_000
"""What `one_line` gives at most unless told otherwise."""

# ECMA-48: control sequences, control strings (title, clipboard, …) up to their end, and the shorter sequences. One
# that has no end loses its escape alone, so that it hides nothing of what follows.
_ESCAPES: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x80-\x9f]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]+[0-~]"
    r"|\x1b[0-Z\\^-~]"
)
_ENDS: Final = re.compile(r"\r\n|\r|\n")
_BLANK: Final = re.compile(r"\s")


def clean(text: str) -> str:
    """Give foreign text as one line that cannot steer a terminal.

    Escape sequences vanish whole, each white space becomes a blank, and of the rest only what is printable stays:
    no control or format character, no lone surrogate, nothing unassigned.
    """
    if text.isprintable():
        return text
    spaced = _BLANK.sub(" ", _ESCAPES.sub("", text))
    return "".join(filter(str.isprintable, spaced))


def one_line(text: str, most: int = LINE_CHARS) -> str:
    """Give foreign text as a sentence: cleaned, single blanks, at most so many characters; a cut ends in ``…``."""
    flat = " ".join(clean(text).split())
    return flat if len(flat) <= most else f"{flat[: most - 1]}…"


def clean_lines(text: str) -> tuple[str, ...]:
    """Split foreign text where a terminal would begin a line (also at a lone carriage return), each line cleaned."""
    return tuple(map(clean, _ENDS.split(text)))


def counted(number: int, noun: str) -> str:
    """Count in words: ``1 wave``, ``2 waves``, ``1,200 entries``."""
    if number == 1:
        return f"1 {noun}"
    if noun.endswith("y") and noun[-2:-1] not in set("aeou"):
        return f"{number:,} {noun[:-1]}ies"
    return f"{number:,} {noun}{'es' if noun.endswith('s') else 's'}"


def utc(at_s: int) -> str:
    """Write unix seconds as UTC, to the minute; the bounds of a calendar are not those of the wire."""
    try:
        return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M} UTC"
    except (OverflowError, ValueError, OSError):
        return "the far future"


def age(seconds: int) -> str:
    """Say how long ago in steps that do not tick: ``<1m``, ``4m``, ``3h``, ``2d``, ``5w``, ``1y``."""
    if seconds < _MINUTE:
        return "<1m"
    for size_s, unit in _STEPS:
        if seconds >= size_s and not (unit == "w" and seconds < _WEEKS_FROM):
            return f"{seconds // size_s}{unit}"
    raise AssertionError("a minute is the last step")


def size(count: int) -> str:
    """Print bytes with three digits at most: ``812 B``, ``1.2 GiB``, ``340 MiB``."""
    for step, unit in _SIZES:
        if count >= step:
            amount = count / step
            return f"{amount:.1f} {unit}" if amount < 10 else f"{amount:.0f} {unit}"
    return f"{count} B"
