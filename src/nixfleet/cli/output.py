"""How results are shown: JSON for programs, aligned tables and progress for people; it never asks or decides."""

import os
import re
import sys
import time
import unicodedata
from collections.abc import Iterable, Sequence
from json import dumps
from typing import Final

import click
import msgspec

from nixfleet.model.ids import store_name
from nixfleet.model.text import clean

WIDE: Final = {"W", "F"}
EVERY_S: Final = 2
"""A line of progress away from a terminal comes no sooner after another."""
_BEYOND: Final = re.compile(r"[^\x00-\x7e]")
"""What the encoder leaves as it is; ASCII's own control characters it escapes."""


def cells(text: str) -> int:
    """Give the width of a text in terminal cells."""
    return sum(
        2 if unicodedata.east_asian_width(char) in WIDE else 1 for char in text if not unicodedata.combining(char)
    )


def as_json(value: object) -> None:
    """Write a value (structs too) as indented JSON on standard output; what could steer a terminal is escaped."""
    click.echo(_BEYOND.sub(_escaped, dumps(msgspec.to_builtins(value), indent=2, ensure_ascii=False)))


def _escaped(found: re.Match[str]) -> str:
    """Keep what is to be read; escape controls, marks of direction, and what ends a line (RFC 8259 section 7)."""
    char = found[0]
    return char if char.isprintable() else dumps(char)[1:-1]


def done(value: object, text: str, *, json: bool, quiet: bool) -> None:
    """Tell that an act is done: as JSON on standard output, or as a sentence on standard error."""
    if json:
        as_json(value)
    elif not quiet:
        click.echo(clean(text), err=True)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], empty: str) -> None:
    """Write an aligned table, or the sentence `empty` (what to do next) on standard error when there are no rows."""
    lines = [tuple(clean(cell) for cell in row) for row in rows]
    if not lines:
        click.echo(empty, err=True)
        return
    widths = [max(cells(line[column]) for line in [tuple(head), *lines]) for column in range(len(head))]
    for line in [tuple(head), *lines]:
        padded = (cell + " " * (width - cells(cell)) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def fields(pairs: Iterable[tuple[str, str]]) -> None:
    """Write name and value pairs, the names aligned."""
    rows = [(name, clean(value)) for name, value in pairs]
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")


def size(count: int) -> str:
    """Give bytes in words: ``512 B``, ``3.4 MiB``."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def age(then: int | None, now: int) -> str:
    """Give how long ago something was, in one step of precision; ``never`` for 0 or None."""
    if not then:
        return "never"
    seconds = max(0, now - then)
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit} ago"
    return "now"


def shortened(text: str) -> str:
    """Give the first digits of a digest or an id, as many as commands take; any other text whole."""
    return text[:12] if re.fullmatch(r"[0-9a-f]{32}|[0-9a-f]{64}", text) else text


def system_name(path: str) -> str:
    """Give a store path's name without its hash, and the hash's first digits: what a person can tell apart."""
    base, name = path.rpartition("/")[2], store_name(path)
    return f"{name} ({base[:6]})" if name != base else base


class Meter:
    """Progress of long work: one redrawn line on a terminal, a plain line every few seconds elsewhere, or nothing."""

    def __init__(self, what: str, *, quiet: bool) -> None:
        """Start a meter for `what`."""
        self.what = what
        self.quiet = quiet
        self.terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.said = 0.0
        self.last = ""
        self.withheld = False
        """Whether the last text came too soon after another one to be a line of its own."""

    def show(self, text: str, *, final: bool = False) -> None:
        """Show where the work stands; `final` ends the line. What came too soon is told when it is shown again."""
        if self.quiet or (text == self.last and not final and not self.withheld):
            return
        self.last = text
        now = time.monotonic()
        if self.terminal:
            click.echo(f"\r\x1b[K{self.what}: {text}", err=True, nl=final)
            return
        self.withheld = not final and now - self.said < EVERY_S
        if not self.withheld:
            self.said = now
            click.echo(f"{self.what}: {text}", err=True)

    def bytes(self, done: int, total: int | None) -> None:
        """Show bytes of a total, as a bar where there is room for one."""
        if not total:
            if done:
                self.show(size(done))
            return
        share = min(1.0, done / total)
        bar = "█" * round(share * 24)
        self.show(
            f"{bar:<24} {share:4.0%} {size(done)} of {size(total)}"
            if self.terminal
            else f"{share:4.0%} of {size(total)}"
        )

    def interrupt(self, text: str) -> None:
        """Write a line of its own above the meter's."""
        click.echo(f"\r\x1b[K{text}" if self.terminal else text, err=True)

    def clear(self) -> None:
        """Take back the line that is being redrawn, where there is one."""
        if self.terminal and self.last:
            click.echo("\r\x1b[K", err=True, nl=False)
        self.last = ""

    def end(self, text: str) -> None:
        """End with a last sentence."""
        self.show(text, final=True)
