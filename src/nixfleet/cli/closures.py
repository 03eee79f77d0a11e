"""What a signer stands behind: a system in this machine's own Nix store, read and digested there (trust.md)."""

from collections.abc import Iterable
from pathlib import Path

from nixfleet.errors import UserError
from nixfleet.model.statements import Closure
from nixfleet.nix import Nix


async def closures_of(nix: Nix, paths: Iterable[str]) -> dict[str, Closure]:
    """Read each system once: its platform, its closure digest from the local Nix database, its NAR bytes in sum.

    Raises:
        UserError: a path is not in the local store, or is no system.
        NixFailed: Nix cannot read its database.

    """
    found: dict[str, Closure] = {}
    for path in paths:
        if path not in found:
            found[path] = await _closure(nix, path)
    return found


async def check_here(nix: Nix, path: str) -> None:
    """Check that a path is in the local store, with all it needs. Raises: UserError, NixFailed."""
    if not await nix.is_valid(path):
        raise UserError(f"{path} is not in this machine's Nix store; build it here, or copy it with 'nix copy'")


async def _closure(nix: Nix, path: str) -> Closure:
    await check_here(nix, path)
    platform = _platform(Path(path))
    digest, nar_bytes = await nix.digest(path)
    return Closure(path=path, system=platform, digest=digest, nar_size=nar_bytes)


def _platform(path: Path) -> str:
    """Read which platform a system is for. Raises: UserError when it is no system."""
    if not (path / "bin" / "switch-to-configuration").exists():
        raise UserError(f"{path} is no NixOS system: it has no bin/switch-to-configuration")
    try:
        return (path / "system").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no NixOS system: it does not say its platform in 'system'") from error
