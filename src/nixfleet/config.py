"""Settings and where files live; the sole user of platformdirs.

It never holds a secret: settings name the files that do. What it writes appears whole or not at all.
"""

import json
import os
import re
import tempfile
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec
import platformdirs

from nixfleet.errors import UserError
from nixfleet.model.ids import CACHE_KEY, HEX64, NAME, TAG_VALUE, URL, Hex64, Name

T = TypeVar("T")

MAX_CONFIG_BYTES = 1_048_576


class Context(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fleet that this admin works with; `key` is a key file or a ``SHA256:`` fingerprint.

    `passphrase_file` holds the passphrase of a sealed key, for machines without a person; only its owner may read it.
    Where this machine serves the fleet, `backup_dir` gets a sealed backup every day, under the passphrase in
    `backup_passphrase_file`.
    """

    fleet: Hex64
    urls: Annotated[tuple[Annotated[str, msgspec.Meta(pattern=URL)], ...], msgspec.Meta(min_length=1, max_length=16)]
    key: Annotated[str, msgspec.Meta(max_length=1_000)] = ""
    passphrase_file: Annotated[str, msgspec.Meta(max_length=1_000)] = ""
    backup_dir: Annotated[str, msgspec.Meta(max_length=1_000)] = ""
    backup_passphrase_file: Annotated[str, msgspec.Meta(max_length=1_000)] = ""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The admin's config.toml: contexts, the current one, and what the console's keys are remapped to."""

    current: Annotated[str, msgspec.Meta(max_length=63)] = ""
    contexts: Annotated[dict[Name, Context], msgspec.Meta(max_length=256)] = {}
    keys: Annotated[dict[str, str], msgspec.Meta(max_length=256)] = {}


def read_toml(path: Path, shape: type[T]) -> T:
    """Read a TOML file into a struct that forbids unknown fields.

    Raises:
        UserError: the file is missing, unreadable, too large, not TOML, or has a wrong or unknown key; it names both.

    """
    return _converted(_tree(path), shape, str(path))


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """Read a file that somebody named, whatever it is. Raises: UserError for one that cannot be read, or is larger."""
    try:
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    if len(data) > most_bytes:
        raise UserError(f"{path}: larger than {most_bytes} bytes")
    return data


def _tree(path: Path) -> dict[str, Any]:
    data = read_bounded(path, MAX_CONFIG_BYTES)
    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not TOML: {error}") from error


def _converted(tree: dict[str, Any], shape: type[T], where: str) -> T:
    try:
        return msgspec.convert(tree, shape)
    except msgspec.ValidationError as error:
        raise UserError(f"{where}: {_in_words(str(error), tree, shape)}") from error


def _in_words(text: str, tree: dict[str, Any], shape: type[object]) -> str:
    """Turn msgspec's sentence into ours: the key first, its trouble after."""
    trouble, _, where = text.partition(" - at `")
    place = where.replace("key` in `", "").strip("$.`")
    # msgspec does not say which entry of a table it is.
    name = _wrong_entry(text, tree, place.partition("[")[0], shape)
    if where.startswith("key`"):
        return f"{place}: {repr(name) if name else 'a key'} is no name; it {wrong_value(trouble)}"
    place = place.replace("[...]", f".{name}" if name else "")
    if trouble.startswith("Object contains unknown field"):
        name = trouble.removeprefix("Object contains unknown field").strip(" `")
        return f"unknown key {name} in {place}" if place else f"unknown key {name}"
    return f"{place}: {wrong_value(trouble)}" if place else wrong_value(trouble)


def _wrong_entry(text: str, tree: dict[str, Any], table: str, shape: type[object]) -> str:
    """Find the entry of a table that alone brings the same sentence; empty where the table lies deeper."""
    entries = tree.get(table)
    for name, value in entries.items() if isinstance(entries, dict) else ():
        try:
            msgspec.convert({**tree, table: {name: value}}, shape)
        except msgspec.ValidationError as error:
            if str(error) == text:
                return str(name)
    return ""


# Keyed by what msgspec prints of a pattern, its repr.
_FORMS: Final = {
    repr(HEX64): "needs to be 64 hex digits",
    repr(NAME): "needs to be lower-case letters, digits, '-', '_' and '.', at most 63, and no mark at either end",
    repr(TAG_VALUE): "needs to be letters, digits, '.', '_' and '-', at most 63",
    repr(URL): "needs to be an address like http://192.168.1.10:7070",
    repr(CACHE_KEY): "needs to be a cache's public key, NAME:BASE64",
}
_TYPES: Final = {
    "str": "text in quotes",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list in brackets",
    "object": "a table",
}
_EXPECTED: Final = re.compile(r"Expected `(\w+)(?: \| null)?`(?: of (length))?(?: ([<>]=) (\d+))?(?:, got `(\w+)`)?")


def wrong_value(trouble: str) -> str:
    """Say in words what a value has to be, from what msgspec says of it (without the place)."""
    if " matching regex " in trouble:
        return _FORMS.get(trouble.partition(" matching regex ")[2], "is not written as it needs to be")
    if missing := re.fullmatch(r"Object missing required field `(.*)`", trouble):
        return f"{missing[1]} is missing"
    found = _EXPECTED.fullmatch(trouble)
    if not found or found[1] not in _TYPES:
        return trouble
    wanted, length, sign, bound, got = found.groups()
    if bound:
        most = "at most" if sign == "<=" else "at least"
        return f"needs {'a length of' if length else 'to be'} {most} {bound}"
    return f"needs to be {_TYPES[wanted]}" + (f", not {_TYPES.get(got, got)}" if got else "")


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a file so that a reader, and a crash at any point, sees the old or the new content, whole and durable.

    Raises: UserError when the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable (fsync(2) on the folder)."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def admin_dirs(env: Mapping[str, str] = os.environ) -> tuple[Path, Path, Path]:
    """Give the admin's config, data and state folders; ``NIXFLEET_HOME`` puts all three under one folder."""
    if home := env.get("NIXFLEET_HOME"):
        base = Path(home)
        return base / "config", base / "data", base / "state"
    dirs = platformdirs.PlatformDirs("nixfleet", appauthor=False)
    return Path(dirs.user_config_dir), Path(dirs.user_data_dir), Path(dirs.user_state_dir)


def settings_file(env: Mapping[str, str] = os.environ) -> Path:
    """Give the path of the admin's config.toml."""
    return admin_dirs(env)[0] / "config.toml"


def coordinator_dir(name: str, env: Mapping[str, str] = os.environ) -> Path:
    """Give the folder of a fleet's own coordinator: database, log key, cache key, cache."""
    return admin_dirs(env)[1] / "fleets" / name


def mirror_dir(fleet: str, env: Mapping[str, str] = os.environ) -> Path:
    """Give the folder of this admin's verified copy of a fleet's log, by fleet id."""
    return admin_dirs(env)[2] / "mirrors" / fleet


def session_file(fleet: str, fingerprint: str, env: Mapping[str, str] = os.environ) -> Path:
    """Give the file of the session key (secret, 0600) that a person's key has signed for a fleet."""
    safe = fingerprint.removeprefix("SHA256:").replace("/", "_").replace("+", "-")
    return admin_dirs(env)[2] / "sessions" / fleet / safe


def narinfo_file(env: Mapping[str, str] = os.environ) -> Path:
    """Give the file in which narinfos are remembered, which never change; it can be thrown away."""
    return admin_dirs(env)[2] / "narinfos.sqlite"


def log_dir(env: Mapping[str, str] = os.environ) -> Path:
    """Give the folder of this admin's own log files."""
    return admin_dirs(env)[2] / "logs"


def read_admin(env: Mapping[str, str] = os.environ) -> Settings:
    """Read the admin's config.toml; a missing one is empty. Raises: UserError."""
    path = settings_file(env)
    return read_toml(path, Settings) if path.exists() else Settings()


def write_admin(settings: Settings, env: Mapping[str, str] = os.environ) -> None:
    """Write the admin's config.toml, atomically; comments in it are not kept. Raises: UserError."""
    write_atomic(settings_file(env), _as_toml(settings).encode())


def put_context(name: str, context: Context, *, use: bool = True, env: Mapping[str, str] = os.environ) -> None:
    """Add or replace a context, and make it the current one. Raises: UserError for a malformed name."""
    old = read_admin(env)
    current = name if use or not old.current else old.current
    changed = msgspec.structs.replace(old, contexts={**old.contexts, name: context}, current=current)
    write_admin(_converted(msgspec.to_builtins(changed), Settings, "context"), env)


def use_context(name: str, env: Mapping[str, str] = os.environ) -> None:
    """Make a context the current one. Raises: UserError when there is none of that name."""
    old = read_admin(env)
    if name not in old.contexts:
        raise UserError(f"there is no context {name!r}; {_known(old)}")
    write_admin(msgspec.structs.replace(old, current=name), env)


def choose_context(wanted: str | None, env: Mapping[str, str] = os.environ) -> tuple[str, Context]:
    """Choose by flag, then ``NIXFLEET_CONTEXT``, then the current one, then the only one. Raises: UserError."""
    settings = read_admin(env)
    name = wanted or env.get("NIXFLEET_CONTEXT") or settings.current
    if not name and len(settings.contexts) == 1:
        name = next(iter(settings.contexts))
    if not settings.contexts:
        raise UserError(
            "no fleet is known here; make one with 'nixfleet init NAME --url URL', or 'nixfleet context add URL'"
        )
    if not name:
        raise UserError(f"no context is chosen; 'nixfleet context use NAME': {_known(settings)}")
    if name not in settings.contexts:
        raise UserError(f"there is no context {name!r}; {_known(settings)}")
    return name, settings.contexts[name]


def _known(settings: Settings) -> str:
    return f"known are {', '.join(sorted(settings.contexts))}" if settings.contexts else "none is known"


def _as_toml(settings: Settings) -> str:
    """Write settings as TOML; only strings and lists of strings occur in them."""
    lines = [f"current = {_quoted(settings.current)}"] if settings.current else []
    if settings.keys:
        lines += ["", "[keys]", *(f"{_quoted(name)} = {_quoted(key)}" for name, key in sorted(settings.keys.items()))]
    for name, context in sorted(settings.contexts.items()):
        urls = ", ".join(_quoted(url) for url in context.urls)
        lines += ["", f"[contexts.{_quoted(name)}]", f"fleet = {_quoted(context.fleet)}", f"urls = [{urls}]"]
        for key in ("key", "passphrase_file", "backup_dir", "backup_passphrase_file"):
            lines += [f"{key} = {_quoted(value)}"] if (value := getattr(context, key)) else []
    return "\n".join(lines).lstrip("\n") + "\n"


def _quoted(text: str) -> str:
    """Write a TOML basic string (TOML 1.0): JSON's escapes are a part of its own, but DEL needs one too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
