"""The pause that root sets on the device itself: no update begins until it ends, however often the device restarts.

A file in the state folder, read anew for each decision. It is bounded whatever the clocks say, and must never keep an
update that has changed the device from being confirmed or taken back.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from nixfleet.agent.host import Host
from nixfleet.agent.journal import load
from nixfleet.agent.service import Clock
from nixfleet.config import sync_folder, write_atomic
from nixfleet.errors import UserError
from nixfleet.model.device import SHORT_CHARS, Short
from nixfleet.model.ids import Count, Seconds
from nixfleet.model.text import clean, utc

log = logging.getLogger("nixfleet.agent")

FILE: Final = "pause.json"
MOST_S: Final = 7 * 86_400
"""Who wants more says so again in a week, or asks for a signed hold."""
CLOCK_SET_S: Final = 1_704_067_200
"""2024 began; a clock that shows less was never set."""
LOOK_S: Final = 2.0


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """A pause as root set it: `until_s` by the wall clock; in `boot_id`, `until_boot_s` by the boot clock."""

    until_s: Seconds
    for_s: Count
    boot_id: str
    until_boot_s: Count
    reason: Short = ""

    @property
    def words(self) -> str:
        """Say it, as the reason why nothing begins."""
        why = f": {self.reason}" if self.reason else ""
        return f"paused on this device until {utc(self.until_s)}{why}"[:SHORT_CHARS]


def left_s(pause: Pause, *, wall_s: int, boot_s: int, boot_id: str) -> int:
    """Give how long a pause still holds; not above 0 once it is over.

    Until its time by the wall clock, and never for longer than its span of being awake, which starts anew with a boot:
    a clock that begins in 1970 would stretch the first for ever. One that was so wrong as the pause was set counts for
    nothing: once it is put right, the pause would be over at once.
    """
    awake_s = (pause.until_boot_s if boot_id == pause.boot_id else pause.for_s) - boot_s
    known = pause.until_s - pause.for_s >= CLOCK_SET_S
    return min(pause.until_s - wall_s, awake_s) if known else awake_s


def begin(folder: Path, host: Host, clock: Clock, *, for_s: int, reason: str) -> Pause:
    """Pause for so many seconds from now, in place of whatever pause there is. Raises: UserError."""
    if not 1 <= for_s <= MOST_S:
        raise UserError(f"a pause lasts a second to {MOST_S // 86_400} days; ask an admin for a signed hold")
    reason = clean(reason).strip()
    if len(reason) > SHORT_CHARS // 2:
        raise UserError(f"a reason has at most {SHORT_CHARS // 2} characters")
    pause = Pause(
        until_s=clock.wall() + for_s,
        for_s=for_s,
        boot_id=host.boot_id(),
        until_boot_s=clock.boot() + for_s,
        reason=reason,
    )
    write_atomic(folder / FILE, msgspec.json.encode(pause))
    return pause


def end(folder: Path) -> bool:
    """End the pause; False when there was none. Raises: UserError."""
    try:
        (folder / FILE).unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UserError(f"{folder / FILE}: {error.strerror or error}") from error
    sync_folder(folder)
    return True


def current(folder: Path, host: Host, clock: Clock) -> tuple[Pause, int] | None:
    """Give the pause in force, and the seconds it has left; a file that cannot be read is none: it would never end."""
    try:
        pause = load(folder / FILE, Pause)
    except UserError as error:
        log.warning("there is no pause: %s", error)
        return None
    if pause is None:
        return None
    left = left_s(pause, wall_s=clock.wall(), boot_s=clock.boot(), boot_id=host.boot_id())
    return (pause, left) if left > 0 else None


async def watch(folder: Path, host: Host, told: Callable[[], str], changed: Callable[[], None]) -> None:
    """Call when a pause was set or ended, or another system runs than was `told`, by somebody's hand; for ever."""
    seen = _mark(folder)
    while True:
        await asyncio.sleep(LOOK_S)
        now, system = _mark(folder), told()
        # Against what was told, not against the last look: a switch there and back is quicker than that.
        if now != seen or (system and host.current_system() != system):
            seen = now
            changed()


def _mark(folder: Path) -> tuple[int, int]:
    try:
        found = (folder / FILE).stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_ino
