"""``nixfleet agent``: arguments, the single-instance lock, signals and exit codes; the edge where clocks are made.

It must never import what the agent does not need (textual, litestar, sqlalchemy, click), nor log a secret.
"""

import argparse
import asyncio
import fcntl
import json
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import NoReturn

import msgspec

from nixfleet.agent import applying, checking, errands, pausing, status
from nixfleet.agent import identity as identities
from nixfleet.agent import settings as configs
from nixfleet.agent.agent import Agent
from nixfleet.agent.host import Host
from nixfleet.agent.identity import Identity
from nixfleet.agent.journal import Journal
from nixfleet.agent.member import Parts
from nixfleet.agent.memory import give_back
from nixfleet.agent.rescue import LastGood
from nixfleet.agent.service import Clock
from nixfleet.agent.settings import Settings
from nixfleet.client.logfile import known_state
from nixfleet.client.mirror import Mirror
from nixfleet.client.upstream import cache_answers
from nixfleet.errors import NixfleetError, Unreachable, Untrusted, UserError
from nixfleet.model.device import JoinToken
from nixfleet.model.typed import parse_date, parse_duration
from nixfleet.nix import Nix
from nixfleet.trust import token as tokens

log = logging.getLogger("nixfleet.agent")

SUPERVISED = "INVOCATION_ID"
"""Set by systemd (systemd.exec(5))."""


def main(argv: Sequence[str]) -> int:
    """Run ``nixfleet agent ARGV`` and give its exit code (`nixfleet.errors`)."""
    arguments = _parser().parse_args(argv)
    _log_to_stderr(verbose=arguments.verbose)
    try:
        settings = configs.load(arguments.config, os.environ, _flags(arguments))
        match arguments.command:
            case "status":
                return _status(settings, as_json=arguments.json)
            case "pause":
                return _pause(settings, arguments)
            case "resume":
                return _resume(settings)
            case "check":
                return checking.check(settings, as_json=arguments.json)
            case "join":
                return _join(settings, arguments.token, replace=arguments.replace)
            case "rekey":
                return _rekey(settings)
            case "apply":
                return _apply(settings, arguments)
            case _:
                return _run(settings, arguments)
    except NixfleetError as error:
        print(f"nixfleet agent: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where the help is; exit code 2."""
        self.exit(2, f"nixfleet agent: {message}; see 'nixfleet agent --help'\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="nixfleet agent", description="The agent on a device.", allow_abbrev=False)
    shared = _Parser(add_help=False)
    shared.add_argument("--config", type=Path, default=configs.DEFAULT_FILE, help="default: %(default)s")
    shared.add_argument("--state-dir", help="where the journal and the copy of the log are")
    shared.add_argument("--verbose", action="store_true", help="say more on standard error")
    commands = parser.add_subparsers(dest="command", metavar="run|status|check|pause|resume|apply|join|rekey")
    run = commands.add_parser("run", parents=[shared], help="follow the log and bring updates (the default)")
    run.add_argument("--rescue", action="store_true", help=argparse.SUPPRESS)
    run.add_argument("--once", action="store_true", help="sync once, bring what is wanted to its end, and exit")
    status = commands.add_parser("status", parents=[shared], help="say where this device stands, without the network")
    status.add_argument("--json", action="store_true", help="as JSON")
    pause = commands.add_parser("pause", parents=[shared], help="let no update begin on this device for a while")
    length = pause.add_mutually_exclusive_group(required=True)
    length.add_argument("--for", dest="span", metavar="2h", help="for how long, at most 7d")
    length.add_argument("--until", metavar="DATE", help="until a date and time, as 2027-01-31T18:00 (local time)")
    pause.add_argument("--reason", default="", metavar="TEXT", help="why; admins see it")
    commands.add_parser("resume", parents=[shared], help="end a pause: updates begin again")
    check = commands.add_parser("check", parents=[shared], help="check settings, state, units, own checks and contact")
    check.add_argument("--json", action="store_true", help="as JSON")
    apply = commands.add_parser("apply", parents=[shared], help="bring an update from a file, the agent being stopped")
    apply.add_argument("bundle", type=Path, metavar="BUNDLE", help="what 'nixfleet bundle export' wrote")
    apply.add_argument(
        "--receipt", type=Path, metavar="FILE", help="where to write what came of it; by default beside BUNDLE"
    )
    join = commands.add_parser("join", parents=[shared], help="join a fleet by a token, the agent being stopped")
    join.add_argument("token", nargs="?", metavar="TOKEN", help="a file with the token, - for standard input, or it")
    join.add_argument("--replace", action="store_true", help="become a new device, pinned anew, whatever it was")
    commands.add_parser("rekey", parents=[shared], help="change this device's key, the agent being stopped")
    parser.set_defaults(
        config=configs.DEFAULT_FILE, state_dir=None, verbose=False, once=False, rescue=False, json=False
    )
    return parser


def _flags(arguments: argparse.Namespace) -> dict[str, str]:
    return {"state_dir": arguments.state_dir} if arguments.state_dir is not None else {}


def _log_to_stderr(*, verbose: bool) -> None:
    """One line per event; the journal of systemd adds the time."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    log.handlers = [handler]
    log.propagate = False
    log.setLevel(logging.DEBUG if verbose else logging.INFO)


def _run(settings: Settings, arguments: argparse.Namespace) -> int:
    folder = _state_folder(settings)
    with _only_one(folder, waits=SUPERVISED in os.environ):
        parts = _parts(settings, Host(), folder)
        if arguments.rescue:
            log.warning("the agent of this system does not work: this one, the last that synced, stands in")
        noted = LastGood(parts.host, parts.store, folder, arguments.config)
        parts = msgspec.structs.replace(parts, rescue=arguments.rescue, last_good=None if arguments.rescue else noted)
        return asyncio.run(_serve(parts, once=arguments.once))


def _join(settings: Settings, text: str | None, *, replace: bool) -> int:
    """Join by a token, or ask by what agent.toml pins; with `replace`, as a new device."""
    host, folder = Host(), _state_folder(settings)
    token = _token(text) if text is not None else identities.read_token(host, settings)
    with _only_one(folder):
        errands.begin_join(host, settings, folder, token, replace=replace)
        parts = _parts(settings, host, folder, token)
        member = asyncio.run(errands.join(parts))
    print(f"joined as {' '.join(member.names())}, device {parts.identity.device}, key {member.key.public.fingerprint}")
    return 0


def _token(text: str) -> JoinToken:
    """Read a token from a file or standard input; on the command line others could read it. Raises: UserError."""
    if text.startswith(tokens.PREFIX):
        log.warning("others on this machine can read a command line: a file with the token, or -, is safer")
        return tokens.read(text)
    try:
        with nullcontext(sys.stdin.buffer) if text == "-" else Path(text).open("rb") as file:
            data = file.read(identities.MAX_TOKEN_BYTES + 1)
    except OSError as error:
        raise UserError(f"{text}: {error.strerror or error}") from error
    return tokens.read(data.decode("ascii", "replace"))


def _rekey(settings: Settings) -> int:
    """Change this device's key: the old one signs the new one, and is worth nothing once the log has that."""
    host, folder = Host(), _state_folder(settings)
    with _only_one(folder):
        errands.begin_rekey(host, settings, folder)
        parts = _parts(settings, host, folder)
        try:
            member = asyncio.run(errands.change_key(parts))
        except Unreachable as error:
            raise Unreachable(
                f"{error}; the new key is made, and the agent changes to it once it is reached"
            ) from error
    print(f"this device is known by the key {member.key.public.fingerprint} now; the old one is worth nothing")
    return 0


def _apply(settings: Settings, arguments: argparse.Namespace) -> int:
    """Bring an update from a bundle to its end, without any network."""
    folder = _state_folder(settings)
    with _only_one(folder):
        parts = _parts(settings, Host(), folder)
        print(asyncio.run(applying.apply(parts, arguments.bundle, arguments.receipt)))
    return 0


def _parts(settings: Settings, host: Host, folder: Path, given: JoinToken | None = None) -> Parts:
    found, key, token = identities.establish(host, settings, given)
    mirror = _open_log(folder, found)
    rate = settings.fetch.rate_bytes_s
    # Nix counts in KiB a second; versions without the setting warn and go on.
    speed = (("download-speed", str(max(rate >> 10, 1))),) if rate else ()
    netrc = settings.fetch.netrc_file
    options = (*speed, *((("netrc-file", netrc),) if netrc is not None else ()))
    return Parts(
        settings=identities.effective(settings, found),
        host=host,
        store=Nix(options=options),
        clock=_clock(),
        identity=found,
        key=key,
        token=token,
        mirror=mirror,
        journal=Journal(folder),
        supervised=SUPERVISED in os.environ,
        cache_answers=partial(cache_answers, netrc_file=netrc),
    )


def _open_log(folder: Path, found: Identity) -> Mirror:
    """Open the copy of the log; one that the disk has damaged is put aside, and fetched anew.

    Nobody may have to travel for it. The newest state that was verified, as far as the files still tell it, is pinned
    first: the log that comes must extend that one.
    """
    place = folder / "log"
    try:
        mirror = Mirror.open(place, found.fleet, pin=found.pin, device=found.device)
    except Untrusted as error:
        log.error("the copy of the log is put aside, and fetched anew: %s", error)  # noqa: TRY400 - one line, no trace
    else:
        give_back(mirror.size)
        return mirror
    found = identities.pin(folder, found, known_state(place, found.fleet))
    shutil.rmtree(folder / "log.damaged", ignore_errors=True)
    try:
        place.rename(folder / "log.damaged")
    except OSError as error:
        raise UserError(f"{place} cannot be put aside: {error.strerror or error}") from error
    return Mirror.open(place, found.fleet, pin=found.pin, device=found.device)


async def _serve(parts: Parts, *, once: bool) -> int:
    agent = Agent(parts)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop)
    log.info(
        "device %s of fleet %s, key %s", parts.identity.device, parts.identity.fleet[:12], parts.key.public.fingerprint
    )
    if once:
        return 0 if await agent.run_once() else 1
    watch = pausing.watch(Path(parts.settings.state_dir), parts.host, agent.told_system, agent.look)
    looking = asyncio.create_task(watch, name="look")
    try:
        await agent.run()
    finally:
        looking.cancel()
    log.info("ends, so that the agent of the system that runs now takes over" if agent.replaced else "ends")
    return 0


def _state_folder(settings: Settings) -> Path:
    """Make the state folder, for root alone. Raises: UserError."""
    folder = Path(settings.state_dir)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        if found.st_uid != os.geteuid():
            raise UserError(f"{folder} belongs to user {found.st_uid}, who could change the agent's memory; chown it")
        if found.st_mode & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error}") from error
    return folder


@contextmanager
def _only_one(folder: Path, *, waits: bool = False) -> Iterator[None]:
    """Hold the state folder against a second agent (flock(2): let go by the kernel, whatever happens).

    A service `waits` for its turn: a switch that root makes with `apply` starts it, and it must not crash into a failed
    unit, by which that very update would be judged.
    """
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if waits:
                log.info("another agent is at work on %s: this one waits until it has ended", folder)
                fcntl.flock(file, fcntl.LOCK_EX)
                yield
                return
            raise UserError(
                f"another agent is running on {folder}; stop it first ('systemctl stop nixfleet-agent')"
            ) from None
        yield


def _status(settings: Settings, *, as_json: bool) -> int:
    """Say where this device stands, from the state folder alone."""
    told, lines = status.look(settings, Host(), _clock())
    print(json.dumps(told) if as_json else "\n".join(lines))
    return 0


def _pause(settings: Settings, arguments: argparse.Namespace) -> int:
    """Let no update begin for a while, whether the agent runs or not."""
    clock = _clock()
    for_s = parse_duration(arguments.span) if arguments.span else parse_date(arguments.until) - clock.wall()
    if for_s < 1:
        raise UserError("a pause ends in the future; write --for 2h, or a later --until")
    pause = pausing.begin(_state_folder(settings), Host(), clock, for_s=for_s, reason=arguments.reason)
    print(f"{pause.words}; 'nixfleet agent resume' ends it")
    return 0


def _resume(settings: Settings) -> int:
    """End a pause."""
    there = pausing.end(_state_folder(settings))
    print("updates begin again" if there else "it was not paused")
    return 0


def _clock() -> Clock:
    return Clock(wall=_wall_s, boot=_boot_s)


def _wall_s() -> int:
    return int(time.time())  # noqa: TID251 - the edge where the clock is made


def _boot_s() -> int:
    return int(time.clock_gettime(time.CLOCK_MONOTONIC))
