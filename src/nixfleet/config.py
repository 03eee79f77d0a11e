"""Settings and where files live: TOML, then ``NIXFLEET_*``, then flags; the sole user of platformdirs.

It never holds a secret: settings name the files that do.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
import platformdirs

from nixfleet.errors import UserError

T = TypeVar("T")

MAX_CONFIG_BYTES = 1_048_576


def read_toml(path: Path, shape: type[T]) -> T:
    """Read a TOML file into a struct that forbids unknown fields.

    Raises:
        UserError: the file is missing, unreadable, too large, not TOML, or has a wrong or unknown key; it names both.

    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    if len(data) > MAX_CONFIG_BYTES:
        raise UserError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes")
    try:
        tree = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not TOML: {error}") from error
    try:
        return msgspec.convert(tree, shape)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {_in_words(str(error))}") from error


def _in_words(text: str) -> str:
    """Turn msgspec's sentence into ours: the key first, its trouble after."""
    trouble, _, where = text.partition(" - at `$")
    where = where.strip(".`")
    if trouble.startswith("Object contains unknown field"):
        name = trouble.removeprefix("Object contains unknown field").strip(" `")
        return f"unknown key {name} in {where}" if where else f"unknown key {name}"
    return f"{where}: {trouble}" if where else trouble


def admin_dirs(env: Mapping[str, str] = os.environ) -> tuple[Path, Path, Path]:
    """Give the admin's config, data and state folders; ``NIXFLEET_HOME`` puts all three under one folder."""
    if home := env.get("NIXFLEET_HOME"):
        base = Path(home)
        return base / "config", base / "data", base / "state"
    dirs = platformdirs.PlatformDirs("nixfleet", appauthor=False)
    return Path(dirs.user_config_dir), Path(dirs.user_data_dir), Path(dirs.user_state_dir)
