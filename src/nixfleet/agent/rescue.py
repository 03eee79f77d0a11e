"""The last agent that synced: which one that was, kept with its settings, for the day when another does not start.

Every full signed sync proves the agent that made it; its store path is a garbage collector root and its agent.toml is
copied. The rescue unit of the NixOS module starts that agent again when the present one crashes or is silent. It must
never stop an agent that works: what cannot be noted is not.
"""

import logging
from pathlib import Path, PurePosixPath

import nixfleet
from nixfleet.agent.host import Host
from nixfleet.agent.runner import Store
from nixfleet.config import write_atomic
from nixfleet.errors import NixfleetError

log = logging.getLogger("nixfleet.agent")

ROOT = "last-good"
SETTINGS_FILE = "last-good.toml"
SILENCE_FILE = "silent-hours"
"""Counted up by the module's timer, hour by hour; gone after a sync."""
STANDS_IN = "the agent of this system does not work: the last one that synced stands in"
UNDONE = "the new agent does not work: the last one that synced took over"


def package_of(file: str) -> str:
    """Name the store path of the package that a file of this program is in; empty when it is not in the store."""
    parts = PurePosixPath(file).parts
    return str(PurePosixPath(*parts[:4])) if parts[:3] == ("/", "nix", "store") and len(parts) > 4 else ""


class LastGood:
    """Where the last agent that synced is noted."""

    def __init__(self, host: Host, store: Store, folder: Path, settings_file: Path, package: str | None = None) -> None:
        """Prepare; `package` is what this agent is of, if it is of the Nix store."""
        self._host = host
        self._store = store
        self._folder = folder
        self._settings_file = settings_file
        self._package = package_of(nixfleet.__file__ or "") if package is None else package
        self._noted = False

    async def note(self) -> None:
        """Note that this agent has synced; at most once what changes a file."""
        (self._folder / SILENCE_FILE).unlink(missing_ok=True)
        program = self._host.resolve(f"{self._package}/bin/nixfleet") if self._package else None
        if self._noted or program is None:
            return
        try:
            # Settings first: an agent without its own would be started with what may have broken this one's successor.
            self._copy_settings()
            root = self._host.gc_root(ROOT)
            if self._host.link(f"/nix/var/nix/gcroots/nixfleet/{ROOT}") != self._package:
                await self._store.add_root(self._package, root)
            self._noted = True
        except (NixfleetError, OSError) as error:
            log.warning("this agent cannot be noted as the last one that synced: %s", error)

    def _copy_settings(self) -> None:
        try:
            data = self._settings_file.read_bytes()
        except FileNotFoundError:
            data = b""
        place = self._folder / SETTINGS_FILE
        if not place.exists() or place.read_bytes() != data:
            write_atomic(place, data)
