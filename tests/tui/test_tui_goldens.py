"""Every screen as text at three sizes, and the pictures of the README; NIXFLEET_UPDATE_GOLDENS=1 writes them anew."""

import os
from pathlib import Path

import pytest
from tests.tui.console_fleet import NOW
from tests.tui.console_pilot import console

from nixfleet.tui.desk import Options

GOLDENS = Path(__file__).parent / "goldens"
PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
UPDATE = bool(os.environ.get("NIXFLEET_UPDATE_GOLDENS"))

PAGES: dict[str, tuple[str, ...]] = {
    "devices": (),
    "devices-query": ("slash", *"tag.site:berlin status:updating,failed", "enter"),
    "device": ("j", "enter"),
    "device-history": ("j", "enter", "h"),
    "device-facts": ("j", "enter", "i"),
    "rollouts": ("2",),
    "rollout": ("2", "j", "enter"),
    "timeline": ("2", "j", "enter", "t"),
    "rollout-halted": ("2", "enter"),
    "enroll": ("3",),
    "enroll-taken": ("3", "A"),
    "token": ("3", "T"),
    "audit": ("4",),
    "witnesses": ("4", "d"),
    "refused": ("4", "f"),
    "audit-void": ("4", "v"),
    "entry": ("4", "j", "enter"),
    "releases": ("5",),
    "release": ("5", "enter"),
    "device-change": ("slash", *"kiosk-berlin-03", "enter", "enter", "d"),
    "access": ("6", *"jjjjjjjjj"),
    "right": ("6", *"jjjjjjjjjj", "enter"),
    "revoke": ("6", *"jjjjjjjjj", "X"),
    "sign": ("6", "A"),
    "grant": ("6", "N", *"ci", "down", *"ssh-ed25519 AAAAC3", "down", *"deploy release", "down", *"site=oslo"),
    "explain": ("6", *"jjjjjjjjj", "e", *"nas-oslo-02"),
    "help": ("question_mark",),
    "menu": ("a",),
    "calls": ("at",),
    "confirm": ("2", "P"),
    "deploy": ("2", "D"),
    "deploy-pace": ("2", "D", "down", "enter"),
    "deploy-device": ("2", "D", *["down"] * 3, "enter", *["down"] * 3, "left", *"xyz"),
    "deploy-confirm": ("2", "D", "enter"),
    "rollback": ("2", "j", "R"),
}
SIZES = ((80, 24), (120, 40), (200, 60))


def check(path: Path, actual: str) -> None:
    """Compare with what was accepted, or accept it."""
    if UPDATE:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(actual, encoding="utf-8")
    expected = path.read_text(encoding="utf-8")
    assert expected == actual


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("page", PAGES)
async def test_screen_as_text(page: str, size: tuple[int, int]) -> None:
    """A screen shows exactly what was accepted for it at this size."""
    async with console(size=size) as driven:
        await driven.press(*PAGES[page])
        check(GOLDENS / f"{page}-{size[0]}x{size[1]}.txt", driven.text)


def test_no_golden_is_left_over() -> None:
    """Every golden belongs to a screen and a size."""
    expected = {f"{page}-{width}x{height}.txt" for page in PAGES for width, height in SIZES}
    assert expected == {path.name for path in GOLDENS.iterdir()}


@pytest.mark.parametrize("page", ["devices", "device", "rollout", "audit", "enroll", "access", "deploy-confirm"])
async def test_readme_picture(page: str) -> None:
    """The pictures in the README are what the console draws."""
    size = (110, 30)
    async with console(size=size, options=Options(clock=lambda: NOW, context="acme")) as driven:
        await driven.press(*PAGES[page])
        check(PICTURES / f"{page}.svg", driven.app.export_screenshot(title="nixfleet") + "\n")
