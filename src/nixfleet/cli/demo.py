"""``nixfleet demo``: the console on a made-up fleet, which is gone when one leaves.

Nothing of the person's own configuration is read or written, but for the keys that the console's keys are remapped to.
"""

import asyncio
import math
import os
import signal
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nixfleet.cli.clock import now
from nixfleet.cli.console import THEMES, place
from nixfleet.cli.options import Count, Globals, command
from nixfleet.config import Context, put_context, read_admin, write_atomic
from nixfleet.errors import UserError
from nixfleet.model.text import counted

if TYPE_CHECKING:
    from nixfleet.sim.process import Served
    from nixfleet.sim.scenario import Scenario
    from nixfleet.tui.desk import Options
    from nixfleet.tui.ports import Ports

SPEED = 10.0
CONTEXT = "demo"


@click.command()
@click.argument("address", required=False)
@click.option("--devices", type=Count(1, 5_000), help="How many; by default the scenario's, 200.")
@click.option(
    "--seed", type=Count(0, 2**31), default=1, show_default=True, help="Decides who fails, and how fast all are."
)
@click.option(
    "--scenario", type=click.Path(path_type=Path), metavar="FILE", help="Another fleet than the built-in one."
)
@click.option(
    "--speed", type=click.FloatRange(1, 60), default=SPEED, show_default=True, help="Seconds that pass in one."
)
@click.option("--headless", is_flag=True, help="Without the console: for the other commands, until Ctrl-C.")
@click.option("--theme", type=click.Choice(THEMES), default="dark", show_default=True, help="The colours.")
@click.option("--no-mouse", is_flag=True, help="Leave the mouse to the terminal.")
@command
async def demo(
    given: Globals,
    address: str | None,
    devices: int | None,
    seed: int,
    scenario: Path | None,
    speed: float,
    headless: bool,
    theme: str,
    no_mouse: bool,
) -> int:
    """Try it: the console on a made-up fleet with an update under way.

    Every device runs the real agent; only Nix, the clock and the network are made up. You hold the fleet's root key
    and may do everything. Nothing is left when you leave.
    """
    if not math.isfinite(speed):  # a range lets what is no number pass
        raise UserError("--speed nan is no number; give one from 1 to 60")
    view, query = place(address or "")
    if not headless and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError("the demo needs a terminal; with --headless it serves the other commands")
    from nixfleet.sim.process import Plan, Served

    told = _scenario(scenario, devices)
    served = Served(Plan(scenario=told, seed=seed, speed=speed, begun_s=float(now())))
    behind = Behind(served)
    try:
        if headless:
            await asyncio.to_thread(served.wait)
            await _serve(served, told, quiet=given.quiet)
            return 0
        from nixfleet.tui.app import run_async

        look = Look(view=view, query=query, theme=theme, mouse=not no_mouse, speed=speed)
        return await run_async(behind.connect, options=options_of(given, behind, told, look))
    finally:
        await behind.close()


def _scenario(path: Path | None, devices: int | None) -> "Scenario":
    """Read the scenario, for so many devices. Raises: UserError."""
    from nixfleet.sim.scenario import BUILT_IN, checked, load, scaled

    found = load(path or BUILT_IN)
    return found if devices is None else checked(scaled(found, devices), str(path or "--devices"))


class Behind:
    """What stands behind the demo's console; `connect` may be called again after it failed."""

    def __init__(self, served: "Served") -> None:
        self._served = served
        self._open = AsyncExitStack()
        self._started = False
        self._ports: Ports | None = None

    def clock(self) -> int:
        """Give the fleet's time, or ours before there is one."""
        return self._served.wall_s() if self._started else now()

    async def connect(self) -> "Ports":
        """Make the fleet, and connect to it. Raises: UserError, Unreachable."""
        from nixfleet.cli.ports import ports_of
        from nixfleet.client.api import Client
        from nixfleet.client.mirror import Mirror
        from nixfleet.trust.signers import MemorySigner

        if not self._started:
            await asyncio.to_thread(self._served.wait)
            self._started = True
        if self._ports is None:
            told, key = self._served.told, self._served.key
            folder = Path(told.folder) / "console"
            mirror = Mirror.open_later(folder / "mirror", told.fleet)
            await mirror.load()
            client = Client((told.address,), fleet=told.fleet, key=key, clock=self.clock)
            await self._open.enter_async_context(client)
            self._ports = ports_of(
                client,
                mirror,
                MemorySigner(key),
                clock=self.clock,
                exports=folder / "exports",
                memory=folder / "narinfos",
            )
        return self._ports

    async def close(self) -> None:
        """Hang up, and end the fleet."""
        try:
            await self._open.aclose()
        finally:
            await asyncio.to_thread(self._served.close)


@dataclass(frozen=True, kw_only=True)
class Look:
    """How the demo is to look, and where it opens."""

    view: str
    query: str
    theme: str
    mouse: bool
    speed: float


def options_of(given: Globals, behind: Behind, told: "Scenario", look: Look) -> "Options":
    """Give how the demo's console behaves."""
    from nixfleet.cli.welcome import welcome
    from nixfleet.tui.desk import Options

    return Options(
        clock=behind.clock,
        view=look.view,
        query=look.query,
        context=told.name,
        mark=f"DEMO at speed {look.speed:g}",
        welcome=welcome(told, look.speed),
        theme=f"nixfleet-{look.theme}",  # type: ignore[arg-type]  # the option allows these four alone
        mouse=look.mouse,
        keys=read_admin(given.env).keys,
        stays="The whole fleet runs behind this console; suspended, it would stand still.",
    )


async def _serve(served: "Served", told: "Scenario", *, quiet: bool) -> None:
    """Let other commands work on the fleet until this one is ended."""
    home = Path(served.told.folder) / "admin"
    key = home / "key"
    env = {**os.environ, "NIXFLEET_HOME": str(home)}
    await asyncio.to_thread(write_atomic, key, served.told.key.encode())
    put_context(CONTEXT, Context(fleet=served.told.fleet, urls=(served.told.address,), key=str(key)), env=env)
    if not quiet:
        click.echo(f"{told.name}: {counted(told.count, 'device')} at {served.told.address}, until Ctrl-C", err=True)
        click.echo("in another terminal, for the other commands:", err=True)
    click.echo(f"export NIXFLEET_HOME={home}")
    sys.stdout.flush()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
