"""Identifiers, patterns and bounds shared by everything on the wire; it must never import anything but typing."""

from typing import Annotated, NewType

import msgspec

DeviceId = NewType("DeviceId", str)
"""128 random bits as 32 lower-case hex digits, made by the agent."""
FleetId = NewType("FleetId", str)
"""SHA-256 of the first root payload, 64 lower-case hex digits."""
Digest = NewType("Digest", str)
"""SHA-256 of a statement's payload, 64 lower-case hex digits: how statements name each other."""
Fingerprint = NewType("Fingerprint", str)
"""A key's id, ``SHA256:`` and 43 base64 characters, as ``ssh-keygen -lf`` prints it."""

# `$` alone also matches before a final newline; the look-ahead closes that, and stays valid in JSON Schema.
HEX32 = r"^[0-9a-f]{32}$(?!\n)"
HEX64 = r"^[0-9a-f]{64}$(?!\n)"
FINGERPRINT = r"^SHA256:[A-Za-z0-9+/]{43}$(?!\n)"
NAME = r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$(?!\n)"
"""Names of devices and releases, and tag keys: host-name-like, at most 63 characters."""
NAME_CHARS = 63
TEXT_CHARS = 2_000
"""What people write freely, such as a note, has at most so many characters."""
PRINCIPAL = r"^[a-z0-9]([a-z0-9._@-]{0,61}[a-z0-9])?$(?!\n)"
TAG_VALUE = r"^[A-Za-z0-9._-]{1,63}$(?!\n)"
KEY_TEXT = r"^(ssh-ed25519|sk-ssh-ed25519@openssh\.com) [A-Za-z0-9+/]{40,600}={0,2}$(?!\n)"
STORE_PATH = r"^/nix/store/[0-9abcdfghijklmnpqrsvwxyz]{32}-[A-Za-z0-9+?=_-][A-Za-z0-9+._?=-]{0,210}$(?!\n)"
CACHE_KEY = r"^[A-Za-z0-9._-]{1,64}:[A-Za-z0-9+/]{43}=$(?!\n)"
CACHE_URL = r"^(/cache|https?://[!-~]{1,500})$(?!\n)"
URL = r"^https?://[!-~]{1,500}$(?!\n)"
SYSTEM = r"^[a-z0-9_]{1,20}-[a-z0-9]{1,20}$(?!\n)"

MAX_PAYLOAD_BYTES = 65_536
MAX_LEAF_BYTES = 1_024
MAX_NOTE_BYTES = 16_384
MAX_INT = 2**53 - 1
MAX_NESTING = 16
BASE_WINDOW = 4_096
"""How many entries after its base a statement may still be appended (trust.md, Log)."""
PROTOCOL = 1
"""The highest replay version this software follows."""

Hex32 = Annotated[str, msgspec.Meta(pattern=HEX32)]
Hex64 = Annotated[str, msgspec.Meta(pattern=HEX64)]
FingerprintText = Annotated[str, msgspec.Meta(pattern=FINGERPRINT)]
Name = Annotated[str, msgspec.Meta(pattern=NAME)]
PrincipalName = Annotated[str, msgspec.Meta(pattern=PRINCIPAL)]
TagValue = Annotated[str, msgspec.Meta(pattern=TAG_VALUE)]
KeyText = Annotated[str, msgspec.Meta(pattern=KEY_TEXT)]
StorePath = Annotated[str, msgspec.Meta(pattern=STORE_PATH)]
Seconds = Annotated[int, msgspec.Meta(ge=0, le=MAX_INT)]
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_INT)]
Text = Annotated[str, msgspec.Meta(max_length=TEXT_CHARS)]

Tags = dict[Name, TagValue]
Selector = dict[Name, Annotated[tuple[TagValue, ...], msgspec.Meta(min_length=1, max_length=64)]]
"""AND over ``tag in [values]``; the empty selector matches every device."""


def matches(select: Selector, tags: Tags) -> bool:
    """Tell whether a device with these tags is selected."""
    return all(tags.get(tag) in values for tag, values in select.items())


def covers(wide: Selector, narrow: Selector) -> bool:
    """Tell whether every device that `narrow` could ever select is selected by `wide` (trust.md, Statements)."""
    return all(tag in narrow and set(narrow[tag]) <= set(values) for tag, values in wide.items())


def store_name(path: str) -> str:
    """Name a store path without its folder and hash, by what people tell systems apart; any other by its last part."""
    base = path.rpartition("/")[2]
    return base[33:] if base[32:33] == "-" else base
