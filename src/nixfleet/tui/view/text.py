"""Pieces of text with a role instead of a colour, measured in terminal cells; safe for text that devices supply."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, get_args

from rich.cells import cell_len, set_cell_size  # the width table that the screen is drawn with

from nixfleet.model import text as text_rules
from nixfleet.model.text import clean

Role = Literal["plain", "dim", "strong", "accent", "ok", "busy", "warn", "bad", "head"]
ROLES: tuple[Role, ...] = get_args(Role)


class Span(NamedTuple):
    """Text and what it means; the screen's theme decides how that looks."""

    text: str
    role: Role = "plain"


Line = tuple[Span, ...]

age = text_rules.age
size = text_rules.size


def width(line: Line) -> int:
    """Measure a line in cells."""
    return sum(cell_len(span.text) for span in line)


def clip(text: str, cells: int) -> str:
    """Shorten text to at most so many cells; what is cut ends in an ellipsis."""
    if cells <= 0:
        return ""
    if len(text) <= cells and text.isascii():
        return text
    return text if cell_len(text) <= cells else set_cell_size(text, cells - 1).rstrip() + "…"


def fit(line: Line, cells: int, *, right: bool = False) -> Line:
    """Cut or pad a line to exactly so many cells."""
    kept: list[Span] = []
    room = cells
    for span in line:
        size = cell_len(span.text)
        if size > room:
            kept.append(Span(clip(span.text, room), span.role))
            room -= cell_len(kept[-1].text)
            break
        kept.append(span)
        room -= size
    if room > 0:
        pad = Span(" " * room)
        return (pad, *kept) if right else (*kept, pad)
    return tuple(kept)


def wrap(text: str, cells: int, role: Role = "plain", *, indent: int = 0, most: int = 0) -> list[Line]:
    """Break text at spaces into lines of at most so many cells; `most` limits their number, 0 does not."""
    room = max(4, cells - indent)
    lines: list[str] = []
    now = ""
    for word in clean(text).split(" "):
        while cell_len(word) > room:
            if now:
                lines.append(now)
                now = ""
            head = set_cell_size(word, room).rstrip()
            lines.append(head)
            word = word[len(head) :]  # noqa: PLW2901 - the rest of a word that is longer than a line
        grown = f"{now} {word}" if now else word
        if cell_len(grown) > room:
            lines.append(now)
            now = word
        else:
            now = grown
    lines.append(now)
    if most and len(lines) > most:
        lines = [*lines[: most - 1], clip(" ".join(lines[most - 1 :]), room)]
    return [(Span(" " * indent + text, role),) for text in lines]


def spread(left: Line, right: Line, cells: int) -> Line:
    """Put two lines at the two ends of one; the left one gives way."""
    room = cells - width(right)
    if room < 0:
        return fit(left, cells)
    return (*fit(left, room), *right)


def ago(at: int, now: int) -> str:
    """Say how long ago a time was, or ``never``."""
    return age(max(0, now - at)) if at else "never"


def of_total(done: int, total: int) -> str:
    """Print bytes of a total, the unit once where it is the same."""
    first, second = size(done), size(total)
    if first.rpartition(" ")[2] == second.rpartition(" ")[2]:
        first = first.rpartition(" ")[0]
    return f"{first}/{second}"


def thousands(count: int) -> str:
    """Print a count with thin groups."""
    return f"{count:,}"


def meter(done: int, total: int, cells: int) -> Line:
    """Draw a bar of so many cells, filled as far as `done` of `total`."""
    full = 0 if total <= 0 else min(cells, done * cells // total)
    return (Span("━" * full, "busy"), Span("─" * (cells - full), "dim"))


def store_name(path: str) -> str:
    """Name a store path without folder and hash."""
    base = path.removeprefix("/nix/store/")
    return clean(base[33:] if len(base) > 33 and base[32] == "-" else base)


def store_short(path: str) -> str:
    """Name a store path with the start of its hash, which tells apart what shares a name."""
    base = path.removeprefix("/nix/store/")
    return f"{clean(base[:6])}… {store_name(path)}" if len(base) > 33 else clean(base)


def system_short(path: str) -> str:
    """Name a system by the start of its hash, host and version: what all systems' names share is left out."""
    return store_short(path).replace(" nixos-system-", " ")


def system_change(old: str, new: str, cells: int) -> tuple[str, str]:
    """Name two systems by what tells them apart, beside each other with an arrow between them.

    They lose what their names share up to the last hyphen; of one name, or without the room, they differ by hash.
    """
    one, two = (store_name(path).removeprefix("nixos-system-") for path in (old, new))
    shared = _shared(one, two).rpartition("-")[0]
    told = [name[len(shared) + 1 :] if shared else name for name in (one, two)]
    hashes = [f"{clean(path.removeprefix('/nix/store/')[:6])}…" for path in (old, new)]
    if one == two:
        told = [hashes[0], f"{hashes[1]} {two}"]
    before, after = told if cell_len(" → ".join(told)) <= cells else hashes
    return before, after


def _shared(one: str, two: str) -> str:
    """Give the longest beginning of both."""
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, two, strict=False))
    return "".join(letter for letter, _ in same)


def why(sentence: str) -> str:
    """Leave out of a sentence who it is that waits, for rows that say so themselves."""
    return clean(sentence.rpartition(" waits: ")[2])


def reflow(line: Line, cells: int) -> list[Line]:
    """Break a line that is too long; it then has one role. A column before it, which ends in blanks, stays one."""
    if width(line) <= cells:
        return [line]
    if len(line) == 2 and line[0].text.endswith("  ") and width(line[:1]) * 2 < cells:
        lead = width(line[:1])
        first, *rest = wrap(line[1].text, cells - lead, line[1].role)
        return [(line[0], *first), *((Span(" " * lead), *more) for more in rest)]
    return wrap("".join(span.text for span in line), cells, line[-1].role)


def trimmed(lines: Iterable[Line], cells: int) -> list[Line]:
    """Cut whatever is too long for a page."""
    return [line if width(line) <= cells else fit(line, cells) for line in lines]


def joined(parts: Iterable[Line], between: str = "  ") -> Line:
    """Join lines that are not empty into one."""
    spans: list[Span] = []
    for part in parts:
        if part:
            spans += [Span(between), *part] if spans else part
    return tuple(spans)


def plain(lines: Sequence[Line]) -> str:
    """Print lines without roles, as for the clipboard or a file."""
    return "\n".join("".join(span.text for span in line).rstrip() for line in lines)


def pairs(rows: Sequence[tuple[str, Line]], cells: int, *, label: int = 11) -> list[Line]:
    """Set out labels and values, one a line; rows without a value are left out."""
    return [fit((Span(f"{name:<{label}} ", "dim"), *value), cells) for name, value in rows if value]
