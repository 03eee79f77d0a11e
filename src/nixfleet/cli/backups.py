"""Where a coordinator of this machine writes its daily backups, and by whose passphrase; it must never write one."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nixfleet.config import Context

if TYPE_CHECKING:
    from nixfleet.server.settings import ServerSettings


def backed_up(settings: "ServerSettings", context: Context | None, env: Mapping[str, str]) -> "ServerSettings":
    """Fill in what no flag has said: by the environment, then by a fleet's context."""
    folder, passphrase = (context.backup_dir, context.backup_passphrase_file) if context is not None else ("", "")
    passphrase = env.get("NIXFLEET_BACKUP_PASSPHRASE_FILE") or passphrase
    return replace(
        settings,
        backup_dir=settings.backup_dir or _path(env.get("NIXFLEET_BACKUP_DIR") or folder),
        backup_passphrase_file=settings.backup_passphrase_file or _path(passphrase),
    )


def _path(text: str) -> Path | None:
    return Path(text).expanduser() if text else None
