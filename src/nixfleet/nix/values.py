"""The values that come out of Nix and go into it; holds no behaviour beyond checking itself."""

import re
from pathlib import Path

import msgspec

from nixfleet.errors import UserError

_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s\"'\\]{1,2000}", re.ASCII)
_PUBLIC_KEY = re.compile(r"[!-9;-~]{1,128}:[A-Za-z0-9+/]{43}=", re.ASCII)


class PathInfo(msgspec.Struct, frozen=True):
    """What the Nix database says of one valid path; `nar_hash` is `sha256:<nix base32>`, references are full paths."""

    path: str
    nar_hash: str
    nar_bytes: int
    references: tuple[str, ...]
    deriver: str | None


class Cache(msgspec.Struct, frozen=True):
    """A binary cache and the one public key (`name:base64`) that may sign what comes from it."""

    url: str
    key: str

    def __post_init__(self) -> None:
        """Refuse what would smuggle a second setting into the space-separated lists that Nix reads."""
        if not _URL.fullmatch(self.url):
            raise UserError(
                f"{self.url!r} is no address of a binary cache; it needs to look like https://cache.example.org"
            )
        if not _PUBLIC_KEY.fullmatch(self.key):
            raise UserError(f"{self.key!r} is no public key of a binary cache; it needs to look like name:base64")


class Progress(msgspec.Struct, frozen=True):
    """How far a download is: compressed bytes and paths; `total_bytes` is None until Nix knows one, and can grow."""

    done_bytes: int
    total_bytes: int | None
    paths_done: int
    paths_total: int
    rate_bytes_s: int = 0


class FetchLimits(msgspec.Struct, frozen=True):
    """When a download has taken too long or too much; `nar_bytes` bounds the unpacked size of all missing paths."""

    whole_s: int = 6 * 3600
    nar_bytes: int = 64 << 30
    connect_s: int = 10
    stall_s: int = 30
    attempts: int = 5


class Generation(msgspec.Struct, frozen=True):
    """A numbered entry of a profile; `path` is the store path it points to."""

    number: int
    path: str
    current: bool


class MissingBytes(msgspec.Struct, frozen=True):
    """What is still to come of a closure, as far as the caches tell, rounded as Nix prints it."""

    download_bytes: int
    unpacked_bytes: int


SYSTEM_PROFILE = Path("/nix/var/nix/profiles/system")
