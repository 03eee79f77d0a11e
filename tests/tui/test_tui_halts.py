"""A halt is told to a person who looks elsewhere: once, whatever else is shown, and safely."""

import msgspec
import pytest
from tests.tui.console_fleet import HALTED, ROLLOUT, fleet_rollouts
from tests.tui.console_pilot import console

from nixfleet.tui.alarm import Halts, desktop_note, halted_words

ROLLOUTS = {one.id: one for one in fleet_rollouts()}
STOPPED = msgspec.structs.replace(ROLLOUTS[ROLLOUT], state="halted", halted="2 of 7 devices of wave 2 failed")


def test_a_halt_is_news_once() -> None:
    """What had halted before is none; a halt is told once, and again when the rollout went on in between."""
    halts = Halts()
    assert [] == halts.fresh(ROLLOUTS)
    assert [STOPPED] == halts.fresh({**ROLLOUTS, ROLLOUT: STOPPED})
    assert [] == halts.fresh({**ROLLOUTS, ROLLOUT: STOPPED})
    assert [] == halts.fresh(ROLLOUTS)
    assert [STOPPED] == halts.fresh({**ROLLOUTS, ROLLOUT: STOPPED})
    assert [] == halts.fresh({HALTED: ROLLOUTS[HALTED]})


def test_a_note_for_the_desktop_cannot_be_left() -> None:
    """A name full of control characters neither ends the sequence nor begins another; a long one is cut."""
    evil = msgspec.structs.replace(STOPPED, release_name="x\x07\x1b]52;c;ZXZpbA==\x07", halted="y" * 5_000)
    note = desktop_note(halted_words(evil))
    assert (1, 1) == (note.count("\x1b"), note.count("\x07"))
    assert note.startswith("\x1b]9;nixfleet: x")
    assert len(note) < 300


@pytest.mark.parametrize("keys", [(), ("p",), ("question_mark",)])
async def test_a_halt_rings_and_says_why(keys: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The bell rings and a toast has the reason, also while the view is held still or a page stands over it."""
    rung: list[str] = []
    async with console() as driven:
        monkeypatch.setattr(driven.app, "bell", lambda: rung.append("bell"))
        await driven.press(*keys)
        assert [] == rung, "the one that had halted before is no news"
        driven.source.put_rollout(STOPPED)
        await driven.until(lambda: bool(rung))
        await driven.until(lambda: "kiosk-2304 halted: 2 of 7" in driven.text)
        assert ["bell"] == rung
