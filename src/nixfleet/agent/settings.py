"""What agent.toml may say: its shape, its defaults, and what environment and flags put on top.

It holds no secret: settings name the files that do. The same reader judges the agent.toml inside a new system
(`agent.preflight`), so that a system whose agent would not start is refused before it is switched to.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from nixfleet.config import read_toml, wrong_value
from nixfleet.errors import UserError
from nixfleet.model.ids import CACHE_KEY, HEX64, NAME, URL, Tags

DEFAULT_FILE = Path("/etc/nixfleet/agent.toml")
DEFAULT_STATE_DIR = "/var/lib/nixfleet"
ENV_PREFIX = "NIXFLEET_AGENT_"

Span = Annotated[int, msgspec.Meta(ge=1, le=86_400)]
Delay = Annotated[int, msgspec.Meta(ge=0, le=3_600)]
Retries = Annotated[int, msgspec.Meta(ge=0, le=100)]
AbsolutePath = Annotated[str, msgspec.Meta(pattern=r"^/[^\x00-\x1f]{0,1000}$(?!\n)")]
Url = Annotated[str, msgspec.Meta(pattern=URL)]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of agent.toml: an unknown key is an error."""


class ExtraCache(_Table, frozen=True, kw_only=True):
    """A further binary cache; what is installed is decided by signed digests all the same."""

    url: Url
    key: Annotated[str, msgspec.Meta(pattern=CACHE_KEY)]


class _Check(_Table, frozen=True, kw_only=True):
    """How patient a check is; `retries` are tries after the first."""

    timeout_s: Span = 10
    retries: Retries = 5
    start_delay_s: Delay = 0


class UnitCheck(_Check, frozen=True, kw_only=True):
    """A systemd unit that must be active after an update."""

    unit: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9:_.@\\][A-Za-z0-9:_.@\\-]{0,254}$(?!\n)")]


class HttpCheck(_Check, frozen=True, kw_only=True):
    """An address that must answer, with `status` if given, else with any below 400."""

    url: Url
    status: Annotated[int, msgspec.Meta(ge=100, le=599)] | None = None


class TcpCheck(_Check, frozen=True, kw_only=True):
    """A port that must accept a connection."""

    host: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)]


class CommandCheck(_Check, frozen=True, kw_only=True):
    """A command that must exit with 0."""

    argv: Annotated[tuple[Annotated[str, msgspec.Meta(max_length=4_000)], ...], msgspec.Meta(min_length=1)]


class Checks(_Table, frozen=True, kw_only=True):
    """Checks beside the one that is always on: no newly failed unit, told `settle_s` after the switch."""

    units: Annotated[tuple[UnitCheck, ...], msgspec.Meta(max_length=64)] = ()
    http: Annotated[tuple[HttpCheck, ...], msgspec.Meta(max_length=64)] = ()
    tcp: Annotated[tuple[TcpCheck, ...], msgspec.Meta(max_length=64)] = ()
    command: Annotated[tuple[CommandCheck, ...], msgspec.Meta(max_length=64)] = ()
    settle_s: Delay = 3


class Fetching(_Table, frozen=True, kw_only=True):
    """Limits of a download: bytes a second (0: none), seconds without a byte, seconds in all; and who it is for."""

    rate_bytes_s: Annotated[int, msgspec.Meta(ge=0, le=2**40)] = 0
    stall_s: Span = 30
    total_s: Span = 6 * 3_600
    netrc_file: AbsolutePath | None = None
    """A file with the passwords of caches (curl(1), --netrc-file); without it, Nix's own ``/etc/nix/netrc``."""


class Settings(_Table, frozen=True, kw_only=True):
    """The whole file; the NixOS module (nix/module.nix) has an option for each key and says what it is for."""

    name: Annotated[str, msgspec.Meta(pattern=NAME)] | None = None
    token_file: AbsolutePath | None = None
    urls: Annotated[tuple[Url, ...], msgspec.Meta(max_length=8)] = ()
    fleet: Annotated[str, msgspec.Meta(pattern=HEX64)] | None = None
    checkpoint: Annotated[str, msgspec.Meta(pattern=r"^(0|[1-9][0-9]{0,14}):[0-9a-f]{64}$(?!\n)")] | None = None
    tags: Tags = {}
    key_file: AbsolutePath | None = None
    state_dir: AbsolutePath = DEFAULT_STATE_DIR
    caches: Annotated[tuple[ExtraCache, ...], msgspec.Meta(max_length=16)] = ()
    checks: Checks = Checks()
    orphan_s: Span = 1_800
    poll_s: Annotated[int, msgspec.Meta(ge=1, le=3_600)] = 15
    report_lines: bool = True
    fetch: Fetching = Fetching()
    protocol: Annotated[int, msgspec.Meta(ge=1, le=1_000)] | None = None
    """The highest replay version of the agent that this file came with; a new system's may not be below ours."""
    volatile_state: bool = False
    """Accept a state folder that a reboot empties: containers and tests only."""


def load(file: Path, env: Mapping[str, str], flags: Mapping[str, str]) -> Settings:
    """Read the file, then ``NIXFLEET_AGENT_*``, then flags (by setting name).

    Raises:
        UserError: it names the file, the variable or the flag, and the key.

    """
    settings = read_toml(file, Settings)
    for source, prefix, values in ((ENV_PREFIX, "", _from_env(env)), ("--", "--", flags)):
        for key, text in values.items():
            name = f"{prefix}{key.replace('_', '-')}" if prefix else f"{source}{key.upper()}"
            settings = _override(settings, key, text, name)
    return settings


def pinned(settings: Settings) -> tuple[int, str] | None:
    """Split ``SIZE:ROOT`` of the pinned checkpoint; the root as 64 hex digits."""
    if settings.checkpoint is None:
        return None
    size, _, root = settings.checkpoint.partition(":")
    return int(size), root


def _from_env(env: Mapping[str, str]) -> dict[str, str]:
    return {
        name.removeprefix(ENV_PREFIX).lower(): value
        for name, value in sorted(env.items())
        if name.startswith(ENV_PREFIX)
    }


def _override(settings: Settings, key: str, text: str, source: str) -> Settings:
    """Put one value of text on top; lists of words are comma-separated, tables stay in the file."""
    tree: dict[str, Any] = msgspec.to_builtins(settings)
    kind = next((field.type for field in msgspec.structs.fields(Settings) if field.name == key), None)
    if kind is None:
        raise UserError(f"{source}: there is no setting {key!r}")
    if key in {"tags", "caches", "checks", "fetch"}:
        raise UserError(f"{source}: {key} can only be set in the file")
    tree[key] = [word for word in re.split(r"[,\s]+", text) if word] if key == "urls" else text
    try:
        return msgspec.convert(tree, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise UserError(f"{source}: {wrong_value(str(error).partition(' - at `$')[0])}") from error
