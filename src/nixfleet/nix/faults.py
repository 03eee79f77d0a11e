"""Tell from what Nix printed why it failed.

Nix ends with exit code 1 for nearly everything, so the text is all there is. Pure; never raises. The patterns hold
for 2.8 to 2.34; where one failure prints several lines, the one that says most about trust decides, because a
network fault that hides a bad signature would only be retried for ever.
"""

import re
from collections.abc import Iterable
from enum import Enum
from typing import assert_never

import msgspec

from nixfleet.errors import NixFailed
from nixfleet.model.ids import store_name
from nixfleet.model.text import clean, one_line

REASON_CHARS = 300

_STORE_PATH = re.compile(r"/nix/store/([0-9a-z]{32}-[0-9a-zA-Z+._?=-]{1,211})", re.ASCII)
_FROM = re.compile(r"from '([^']{1,300})'")
_URL = re.compile(r"(?:unable to download|warning:|error:) '([a-z][a-z0-9+.-]*://[^']{1,300})':?\s*(.*)")


class FaultKind(Enum):
    """Who is at fault when Nix fails: the cache's honesty, its content, the way to it, or this machine."""

    untrusted = "untrusted"
    hash_mismatch = "hash-mismatch"
    missing = "missing"
    unreachable = "unreachable"
    stalled = "stalled"
    over_limit = "over-limit"
    no_space = "no-space"
    corrupt = "corrupt"
    interrupted = "interrupted"
    other = "other"


class Fault(msgspec.Struct, frozen=True):
    """Why a Nix command failed: the kind to act on, and a sentence to show."""

    kind: FaultKind
    reason: str


class NixError(NixFailed):
    """A Nix command failed, and its output says why: `kind` tells a trust failure from a network failure."""

    def __init__(self, argv: tuple[str, ...], exit_code: int, lines: tuple[str, ...], fault: Fault) -> None:
        """Keep the command, its exit code (negative: the signal), its last lines and the fault found in them."""
        super().__init__(argv, exit_code, lines, fault.reason)
        self.kind = fault.kind


# The first phrase that any line has wins: kinds in the order of the module docstring (trust before the network), and
# within a kind the phrase that says most.
_PHRASES: tuple[tuple[FaultKind, tuple[str, ...]], ...] = (
    (FaultKind.no_space, ("no space left on device", "disk quota exceeded", "database or disk is full")),
    (FaultKind.hash_mismatch, ("hash mismatch (?:importing|in) ",)),
    (
        FaultKind.untrusted,
        ("not signed by any of the keys", "lacks a (?:valid )?signature", "signature by a trusted key"),
    ),
    (
        FaultKind.corrupt,
        (
            "nar info file .* is corrupt",
            "failed to (?:open archive|read compressed data|read archive)",
            r"truncated \w+ input",
            "input compressed data",
            "bad archive",
            "input doesn't look like a",
            "unexpected end-of-file",
            "(?:de)?compress(?:ion|ing)? .*(?:error|failed)",
            "was modified! expected hash",
            "database disk image is malformed",
        ),
    ),
    (
        FaultKind.stalled,
        # An answer had begun, else the status is 0 or absent: then it was the connection that timed out.
        ("operation too slow", r"less than \d+ bytes/sec", r"http error 2\d\d .*(?:timeout was reached|timed out)"),
    ),
    (
        FaultKind.unreachable,
        (
            "unable to download",
            "(?:couldn't|could not) (?:connect|resolve)",
            "connection (?:refused|reset|timed out)",
            "timeout was reached",
            "network is unreachable",
            "does not appear to be a binary cache",
        ),
    ),
    (
        FaultKind.missing,
        (
            "does not exist in binary cache",
            "don't know how to build these paths",
            "there is no substituter that can",
            "could not be realised",
            "path '[^']*' is not valid",
        ),
    ),
    (FaultKind.interrupted, ("interrupted by the user",)),
)
_PATTERNS = tuple((kind, re.compile(phrase, re.IGNORECASE)) for kind, phrases in _PHRASES for phrase in phrases)


def classify(lines: Iterable[str]) -> Fault:
    """Find the fault in the lines that a failed Nix command printed, oldest first."""
    cleaned = [clean(line).rstrip() for line in lines]
    for kind, pattern in _PATTERNS:
        found = [number for number, line in enumerate(cleaned) if pattern.search(line)]
        if found:
            # A line that ends in a colon names its paths on the lines after it.
            number = found[-1]
            return Fault(kind, _sentence(kind, " ".join(cleaned[number : number + 1 + cleaned[number].endswith(":")])))
    return Fault(FaultKind.other, _sentence(FaultKind.other, _last_error(cleaned)))


def _last_error(lines: list[str]) -> str:
    """Give what stands after the last `error:`, with its continuation on the next line when it stands alone."""
    for number in range(len(lines) - 1, -1, -1):
        _, found, text = lines[number].partition("error:")
        if found:
            rest = [line.strip() for line in lines[number + 1 :] if line.strip()]
            return text.strip() or (rest[0] if rest else "")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _sentence(kind: FaultKind, line: str) -> str:
    """Say the fault in a person's words, with the path's name and the cache where the line has them."""
    found = _STORE_PATH.search(line)
    what = store_name(found.group()) if found else "a path"
    match kind:
        case FaultKind.untrusted:
            source = _FROM.search(line)
            text = f"{what} from {source.group(1) if source else 'the cache'} is not signed by a key that may sign it"
        case FaultKind.hash_mismatch:
            text = f"{what} came with other content than its signed hash says"
        case FaultKind.corrupt:
            text = f"the cache or the store holds damaged data: {_after_error(line)}"
        case FaultKind.no_space:
            text = "no space left on the disk that holds the Nix store"
        case FaultKind.stalled:
            text = f"the download of {_transfer(line)[0]} stalled"
        case FaultKind.unreachable:
            text = "{} cannot be downloaded: {}".format(*_transfer(line))
        case FaultKind.missing:
            text = f"no cache has {what}" if found else f"no cache has it: {_after_error(line)}"
        case FaultKind.interrupted:
            text = "the Nix command was interrupted"
        case FaultKind.over_limit | FaultKind.other:
            text = _after_error(line) or "Nix failed and printed no reason"
        case _:
            assert_never(kind)
    return one_line(text, REASON_CHARS)


def _transfer(line: str) -> tuple[str, str]:
    """Take the address and the trouble out of a line on a failed transfer."""
    found = _URL.search(line)
    return (found.group(1), found.group(2)) if found else ("what the cache serves", _after_error(line))


def _after_error(line: str) -> str:
    return line.rpartition("error:")[2].strip()
