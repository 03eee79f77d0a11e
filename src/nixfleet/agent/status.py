"""``nixfleet agent status``: where this device stands, from the state folder alone, whether an agent runs or not.

It must never write, wait for the agent, or ask the network.
"""

import os
from pathlib import Path
from typing import Any

import msgspec

from nixfleet.agent import identity as identities
from nixfleet.agent import pausing
from nixfleet.agent.history import drift
from nixfleet.agent.host import Host
from nixfleet.agent.identity import Identity
from nixfleet.agent.journal import Record, load
from nixfleet.agent.pausing import Pause
from nixfleet.agent.service import Clock
from nixfleet.agent.settings import Settings
from nixfleet.agent.update import Update
from nixfleet.errors import UserError
from nixfleet.model.device import Attempt
from nixfleet.model.ids import store_name
from nixfleet.model.text import clean

SHOWN = 5


def look(settings: Settings, host: Host, clock: Clock) -> tuple[dict[str, Any], list[str]]:
    """Say where this device stands, as a record and as lines. Raises: UserError."""
    folder = Path(settings.state_dir)
    found = load(folder / identities.IDENTITY, Identity)
    if found is None:
        raise UserError(f"{folder}: this device has not joined a fleet yet; has the agent run?")
    record = load(folder / "journal.json", Record) or Record()
    state, update, key = record.state, record.state.update, _fingerprint(host, found)
    paused = pausing.current(folder, host, clock)
    pause = paused[0] if paused is not None else None
    system, waits, runs = host.current_system(), _read(folder / "waits"), running(folder)
    drifted = drift(state, system)
    told: dict[str, Any] = {
        "device": found.device,
        "fleet": found.fleet,
        "key": key,
        "running": runs,
        "system": system,
        "booted": host.booted_system(),
        "phase": update.phase if update is not None else "idle",
        "waits": waits,
        "paused_until": pause.until_s if pause is not None else None,
        "pause_reason": pause.reason if pause is not None else "",
        "drifted_from": drifted,
        "update": update,
        "undelivered": state.outbox,
        "outcomes": state.outcomes,
        "confirmed": state.confirmed[-SHOWN:],
    }
    lines = [
        f"device   {found.device} of fleet {found.fleet[:12]}",
        f"key      {key or unreadable_key()}",
        f"agent    {'runs' if runs else 'does not run'}",
        f"system   {system or 'unknown'}",
        *([f"drifted  from {drifted}, which it last confirmed; the next rollout brings it back"] if drifted else []),
        *_update_lines(update),
        f"waits    {_waits(waits, pause, update)}",
        *(f"untold   {one.outcome} of rollout {one.rollout[:12]} run {one.run}" for one in state.outbox),
        *(f"ended    {_ended(one)}" for one in reversed(state.outcomes)),
    ]
    return msgspec.to_builtins(told), [clean(line) for line in lines]


def unreadable_key() -> str:
    """Say that the device's key cannot be read."""
    return "unreadable; 'nixfleet agent check' says why"


def _waits(waits: str, pause: Pause | None, update: Update | None) -> str:
    """Say what it waits for: the pause, what holds a staged update, or what the agent noted."""
    if pause is not None:
        return pause.words
    if update is not None and update.held:
        return update.reason
    return waits or "for nothing"


def _update_lines(update: Update | None) -> list[str]:
    """Say where the newest update stands or how it ended, with the end of its output where it went wrong."""
    if update is None:
        return ["phase    idle"]
    end = f" ({update.cause.value}): {update.reason}" if update.reason else ""
    lines = [f"phase    {update.phase.value} {update.offer.path}{end}"]
    lines.append(f"update   rollout {update.offer.rollout[:12]}, run {update.offer.run}, entry {update.offer.index}")
    if update.previous and update.previous != update.offer.path:
        lines.append(f"before   {update.previous}")
    return [*lines, *(f"         {line}" for line in update.lines[-SHOWN:])]


def _ended(told: Attempt) -> str:
    """Say how an update ended, and why where it did not confirm."""
    outcome = told.outcome.value if told.outcome is not None else "unknown"
    why = f" ({told.cause.value}): {told.reason}" if told.reason else ""
    return f"{outcome} {store_name(told.path)}, rollout {told.rollout[:12]} run {told.run}{why}"


def running(folder: Path, locks: Path = Path("/proc/locks")) -> bool:
    """Tell whether an agent holds the state folder, without taking its lock: it must never be in an agent's way.

    proc_locks(5): number, FLOCK, ADVISORY, WRITE, process, device and inode.
    """
    try:
        lock = (folder / "lock").stat()
        for line in locks.read_text().splitlines():
            words = line.split()
            if words[1:2] == ["FLOCK"] and words[5:6] and words[5].rpartition(":")[2] == str(lock.st_ino):
                return any(_is(one, lock) for one in Path(f"/proc/{words[4]}/fd").iterdir())
    except OSError:
        return False
    return False


def _is(place: Path, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(file, place.stat())
    except OSError:  # closed meanwhile
        return False


def _fingerprint(host: Host, found: Identity) -> str:
    """Give the key that this device is known by, as an admin compares it; empty when it cannot be read."""
    try:
        return identities.read_key(host, found).public.fingerprint
    except UserError:
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")[:1_000]
    except OSError:
        return ""
