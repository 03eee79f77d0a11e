"""The red banner, to the letter: a log that is not to be trusted, as text at three sizes and as a picture."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.tui.console_fleet import NOW, device, digest
from tests.tui.console_pilot import console
from tests.tui.console_ports import FakeSource, FakeVerifier, connect
from tests.tui.test_tui_goldens import SIZES, check
from textual.pilot import Pilot

from nixfleet.model.device import Phase
from nixfleet.query import status_of
from nixfleet.trust.view import rewritten
from nixfleet.tui.app import ConsoleApp
from nixfleet.tui.desk import Desk, Options
from nixfleet.tui.ports import CheckState, LogCheck
from nixfleet.tui.view.devices import phrase

GOLDENS = Path(__file__).parent / "alarms"
WHY: dict[CheckState, str] = {
    "fork": rewritten(40),
    "behind": "the coordinator has 40 entries of the 42 known: an old backup; what it lacks could not be given back:"
    " the coordinator does not answer at http://fleet.acme.example:7070",
    "invalid": "entry 41: its payload is not the one that was signed",
}
"""What the mirror says of each."""
PAGES: dict[str, tuple[CheckState, tuple[str, ...]]] = {
    "fork": ("fork", ()),
    "fork-witnesses": ("fork", ("4", "d")),
    "behind": ("behind", ()),
    "behind-rollout": ("behind", ("2", "enter")),
    "invalid": ("invalid", ("4",)),
}


def distrusted(state: CheckState) -> tuple[FakeSource, FakeVerifier]:
    """Make a fleet whose log is not to be trusted; with a fork two devices have seen another one, too."""
    source = FakeSource()
    verifier = FakeVerifier(LogCheck(state=state, size=42, root=digest("root"), detail=WHY[state]))
    for record in [one for one in source.devices.values() if one.name in {"web-oslo-02", "nas-oslo-01"}]:
        if state == "fork":
            source.devices[record.id] = msgspec.structs.replace(record, log_state="fork", log_root=digest("other"))
    return source, verifier


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("page", PAGES)
async def test_the_banner_as_text(page: str, size: tuple[int, int]) -> None:
    """A screen under the banner shows exactly what was accepted for it at this size."""
    state, keys = PAGES[page]
    source, verifier = distrusted(state)
    async with console(size=size, source=source, verifier=verifier) as driven:
        await driven.press(*keys)
        check(GOLDENS / f"{page}-{size[0]}x{size[1]}.txt", driven.text)


@pytest.mark.parametrize(
    ("reason", "role"),
    [
        ("untrusted: entry 8: its payload is needed and missing", "bad"),
        ("behind: the coordinator has 5 entries of the 6 known: an old backup", "bad"),
        ("its wave is not open yet", "dim"),
    ],
)
def test_a_device_that_does_not_trust_the_log_waits_in_red(reason: str, role: str) -> None:
    """It waits as others do, but for no ordinary reason."""
    waiting = msgspec.structs.replace(
        device("a", "web", "oslo"), phase=Phase.IDLE, outcome=None, waits=reason, reason=reason
    )
    assert ("waiting", ((reason, role),)) == (status_of(waiting), phrase(waiting, 80))


def test_no_alarm_is_left_over() -> None:
    """Every golden belongs to a screen and a size."""
    expected = {f"{page}-{width}x{height}.txt" for page in PAGES for width, height in SIZES}
    assert expected == {path.name for path in GOLDENS.iterdir()}


def test_the_banner_as_a_picture(snap_compare: Callable[..., bool]) -> None:
    """It is red."""
    source, verifier = distrusted("fork")
    app = ConsoleApp(Desk(connect(source, verifier=verifier), Options(clock=lambda: NOW)))
    app.animation_level = "none"

    async def ready(pilot: Pilot[int]) -> None:
        while not (app.desk.store.loaded and verifier.check.state == "fork"):
            await pilot.pause()
        app.flush()
        await pilot.pause()

    assert snap_compare(app, run_before=ready, terminal_size=(100, 26))
