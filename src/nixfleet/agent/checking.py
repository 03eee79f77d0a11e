"""``nixfleet agent check``: is all well on this device now? The checks an update has to pass, and what the agent needs.

It changes nothing and takes no lock: the agent runs on beside it.
"""

import asyncio
import json
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from nixfleet.agent import health, units
from nixfleet.agent import identity as identities
from nixfleet.agent.host import Host
from nixfleet.agent.identity import Identity
from nixfleet.agent.journal import Record, load
from nixfleet.agent.mounts import VOLATILE, filesystem_of
from nixfleet.agent.settings import Settings
from nixfleet.agent.tools import run_beside
from nixfleet.client.api import Client
from nixfleet.client.mirror import Mirror
from nixfleet.errors import NixfleetError, Unreachable, Untrusted, UserError
from nixfleet.model.text import one_line
from nixfleet.model.typed import is_url
from nixfleet.nix import Nix

CONTACT_S = 10.0


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What one check came to; `exit_code` is the command's when nothing worse is found."""

    check: str
    verdict: Literal["ok", "wrong"] = "ok"
    text: str = ""
    exit_code: int = 0


def check(settings: Settings, *, as_json: bool) -> int:
    """Run every check now and print what each came to. Raises: what keeps the agent from starting at all.

    Exit codes: 4 when a log is shown that does not hold, 1 when a check fails, 5 when only the contact does.
    """
    host = Host()
    first, mirror, found = _needs(host, settings)
    verdicts = (first, *asyncio.run(_now(host, settings, mirror, found)))
    if as_json:
        shown = [{"check": one.check, "verdict": one.verdict, "text": one.text} for one in verdicts]
        print(json.dumps({"checks": shown}))
    else:
        for one in verdicts:
            print(f"{one.verdict}: {one.check}{', ' if one.check and one.text else ''}{one.text}")
    codes = {one.exit_code for one in verdicts}
    return next((code for code in (Untrusted.exit_code, 1, Unreachable.exit_code) if code in codes), 0)


def _needs(host: Host, settings: Settings) -> tuple[Verdict, Mirror | None, Identity | None]:
    """Look at what the agent needs on this machine. Raises: the first thing that is wrong."""
    folder, mirror = Path(settings.state_dir), None
    found = load(folder / "identity.json", Identity)
    if found is not None:
        identities.read_key(host, found)
        if (folder / "log").exists():
            mirror = Mirror.open(folder / "log", found.fleet, pin=found.pin, device=found.device)
    elif identities.read_token(host, settings) is None and (settings.fleet is None or settings.checkpoint is None):
        raise UserError("no fleet is pinned: set token_file, or fleet and checkpoint (and urls), in agent.toml")
    kind = filesystem_of(host, str(folder))
    if kind in VOLATILE and not settings.volatile_state:
        raise UserError(f"the state folder {folder} is on {kind}: a reboot would lose the way back")
    _needs_netrc(settings.fetch.netrc_file)
    version = asyncio.run(Nix().version())
    text = f"{'identity, log, ' if found else ''}Nix {'.'.join(map(str, version))}"
    return Verdict(check="settings", text=text), mirror, found


def _needs_netrc(file: str | None) -> None:
    """See that the passwords of caches can be read, and by root alone. Raises: UserError."""
    if file is None:
        return
    try:
        mode = Path(file).stat().st_mode
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}; fetch.netrc_file in agent.toml names it") from error
    if stat.S_IMODE(mode) & 0o077:
        raise UserError(f"{file} can be read by others than root; run 'chmod 600 {file}'")


async def _now(host: Host, settings: Settings, mirror: Mirror | None, found: Identity | None) -> list[Verdict]:
    record = load(Path(settings.state_dir) / "journal.json", Record) or Record()
    baseline = record.state.update.baseline if record.state.update is not None else ()
    own, failed, contact = await asyncio.gather(
        health.findings(settings.checks, run_beside), _units(host, baseline), _contact(settings, mirror, found)
    )
    told = [_judged(one.check, one.trouble) for one in own]
    return [*failed, *told, *contact]


def _judged(name: str, trouble: str) -> Verdict:
    if not trouble:
        return Verdict(check=name)
    return Verdict(check=name, verdict="wrong", text=one_line(trouble), exit_code=1)


async def _units(host: Host, baseline: Sequence[str]) -> list[Verdict]:
    """Tell which units have failed; those that had before the last update do not count, as they do not for that."""
    if not host.has_systemd():
        return []
    failed = await units.failed(host, run_beside)
    if failed is None:
        return [_judged("units", units.NO_ANSWER)]
    new = [unit for unit in failed if unit not in baseline]
    if new:
        lines = await units.described(new, run_beside)
        return [_judged("units", "; ".join((f"failed: {', '.join(new)}", *lines)))]
    old = f"failed before the last update, too: {', '.join(failed)}" if failed else "none has failed"
    return [Verdict(check="units", text=old)]


async def _contact(settings: Settings, mirror: Mirror | None, found: Identity | None) -> list[Verdict]:
    """See that a coordinator answers with a checkpoint by the fleet's log key; before joining there is no such key."""
    if mirror is None or found is None or not mirror.size:
        return []
    root = mirror.state.root
    named = dict.fromkeys((*(root.urls if root is not None else ()), *settings.urls, *found.urls))
    urls = [url for url in named if is_url(url)]
    try:
        async with Client(urls, fleet=found.fleet, key=None, clock=_wall_s, timeout_s=CONTACT_S) as client:
            mirror.goes_on_from(await client.checkpoint())
            return [Verdict(check="contact", text=client.url)]
    except NixfleetError as error:
        code = error.exit_code if isinstance(error, Untrusted | Unreachable) else 1
        return [Verdict(check="contact", verdict="wrong", text=str(error), exit_code=code)]


def _wall_s() -> int:
    return int(time.time())  # noqa: TID251 - the edge where the clock is made
