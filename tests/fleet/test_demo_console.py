"""The demo's console over its made-up fleet: the story happens, and the person may do everything.

With NIXFLEET_UPDATE_PICTURES=1 the README's first picture is made anew, from two hundred devices.
"""

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from textual.pilot import Pilot

from nixfleet.cli.demo import Behind, Look, options_of
from nixfleet.cli.options import Globals
from nixfleet.model.statements import Wave
from nixfleet.model.views import RolloutView
from nixfleet.rollout.asking import Order, RolloutWishes
from nixfleet.sim.process import Plan, Served
from nixfleet.sim.scenario import BUILT_IN, Scenario, checked, load, scaled
from nixfleet.tui.app import ConsoleApp
from nixfleet.tui.desk import Desk
from nixfleet.tui.ports import Deployment
from nixfleet.tui.widgets.dialogs import ConfirmDialog, PageDialog

PICTURE = Path(__file__).parents[2] / "docs/pictures/demo.svg"
UPDATES = "NIXFLEET_UPDATE_PICTURES" in os.environ
LIMIT_S = 120
CANARY = "kiosk-lab-03"


@asynccontextmanager
async def console(scenario: Scenario, *, speed: float, size: tuple[int, int]) -> AsyncIterator[Pilot[int]]:
    """Open the demo's console without a terminal."""
    served = Served(Plan(scenario=scenario, seed=1, speed=speed, begun_s=time.time()))
    behind = Behind(served)
    look = Look(view="devices", query="", theme="dark", mouse=False, speed=speed)
    app = ConsoleApp(Desk(behind.connect, options_of(Globals(env={}), behind, scenario, look)))
    app.animation_level = "none"
    try:
        async with app.run_test(size=size) as pilot:
            yield pilot
    finally:
        await behind.close()


async def until(pilot: Pilot[int], holds: Callable[[], bool], what: str) -> None:
    """Wait until the console knows something."""
    ends = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < ends, f"it did not come about that {what}"
        await pilot.pause(0.05)
    await pilot.pause()


def ours(pilot: Pilot[int]) -> ConsoleApp:
    """Give the application under the pilot."""
    assert isinstance(pilot.app, ConsoleApp)
    return pilot.app


def rollout(app: ConsoleApp, release: str) -> RolloutView | None:
    """Find a rollout by its release's name."""
    return next((one for one in app.desk.store.rollouts.values() if one.release_name == release), None)


def halted(app: ConsoleApp) -> bool:
    """Tell whether the canary's failure has halted the kiosks' rollout."""
    found = rollout(app, "kiosk-2026.11")
    return found is not None and found.state == "halted"


async def test_the_story_of_the_first_minute() -> None:
    """A canary fails and halts the rollout; the person lets a device in, deploys the fix, and the canary runs it."""
    scenario = checked(scaled(load(BUILT_IN), 36), "test")
    async with console(scenario, speed=60, size=(80, 24)) as pilot:
        app = ours(pilot)
        await until(pilot, lambda: isinstance(app.screen, PageDialog), "the story is told")
        await pilot.press("escape")
        await until(pilot, lambda: app.desk.feed.check.state == "valid", "the log is verified")
        assert app.desk.options.mark == "DEMO at speed 60"

        await until(pilot, lambda: halted(app), "the rollout halted")
        devices = {one.name: one for one in app.desk.store.devices.values()}
        assert "kiosk-session.service failed" in devices[CANARY].reason
        assert devices[CANARY].system != devices[CANARY].intended

        await until(pilot, lambda: bool(app.desk.store.requests), "a device asks")
        (request,) = app.desk.store.requests.values()
        await pilot.press("3")
        await pilot.pause()
        await pilot.press("A")
        await until(pilot, lambda: isinstance(app.screen, ConfirmDialog), "the fingerprint is shown")
        await pilot.press("y")
        await until(pilot, lambda: request.device in app.desk.store.devices, "the device is in")

        fix = next(one for one in app.desk.store.releases.values() if one.name == "kiosk-2026.11.1")
        await app.desk.acts.deploy(deployment_of(fix.id))
        await until(pilot, lambda: runs(app, fix.name), "the canary runs the fix")
        await pilot.press("q")


def deployment_of(release: str) -> Deployment:
    """Give the wish to deploy a release to the canaries, at once."""
    wishes = RolloutWishes(select={"ring": ("canary",)}, waves=(Wave(members="100%"),), soak_s=0)
    return Deployment(release=release, order=Order(wishes=wishes))


def runs(app: ConsoleApp, release: str) -> bool:
    """Tell whether the canary has confirmed a release."""
    found = next(one for one in app.desk.store.devices.values() if one.name == CANARY)
    return found.release == release and found.outcome == "confirmed"


if UPDATES:

    async def test_picture_of_the_demo() -> None:
        """The README's first picture shows the demo's devices just after the canary failed."""
        async with console(load(BUILT_IN), speed=10, size=(120, 34)) as pilot:
            app = ours(pilot)
            await pilot.press("escape")
            await until(pilot, lambda: halted(app), "the rollout halted")
            await until(pilot, lambda: app.desk.store.counts.get("new", 0) == 0, "all have reported")
            await until(pilot, lambda: app.desk.store.counts.get("updating", 0) > 2, "some are updating")
            app.flush()
            await pilot.pause(1.5)
            PICTURE.write_text(app.export_screenshot(title="nixfleet demo"))
