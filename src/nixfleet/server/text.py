"""Device-supplied text is data: terminal escapes and control bytes are taken out where it comes in."""

import re
from typing import Final

import msgspec

from nixfleet.model.device import Facts

_ESCAPES: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
"""CSI, OSC and two-byte sequences (ECMA-48)."""
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0, C1, line separators, and what turns the direction of writing."""


def clean(text: str) -> str:
    """Give the text without escapes and control characters; tabs become blanks."""
    if text.isascii() and text.isprintable():
        return text
    return _CONTROLS.sub("", _ESCAPES.sub("", text.replace("\t", "    ")))


def clean_facts(facts: Facts | None) -> Facts | None:
    """Give facts with every text cleaned."""
    if facts is None:
        return None
    texts = {
        name: clean(value)
        for name in facts.__struct_fields__
        if isinstance(value := getattr(facts, name), str) and value
    }
    return msgspec.structs.replace(facts, **texts, addresses=tuple(map(clean, facts.addresses)))
