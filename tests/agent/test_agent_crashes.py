"""The crash matrix: every row of the machine's own table, with everything that can go wrong in it.

Generated, so that no state and no effect can come without its cells: who adds one has to say how it is reached.
"""

import asyncio
from pathlib import Path
from typing import get_args

import pytest
from msgspec.structs import replace
from tests.agent.crash_lab import SCENARIOS, Fault, Lab, Row, Scenario, rows

from nixfleet.agent import guard, guarding, switching
from nixfleet.agent.update import Effect
from nixfleet.model.device import Phase

KINDS = ("before the write", "after the write", "after the effect", "fails", "hangs", "power cut")
ROWS = sorted(rows())
PLAN = guarding.Guarding._plan
GOES_BACK: set[tuple[str, Row]] = {
    # What cannot be judged is not kept, nor what went down before it was the boot default: the only cells that end
    # otherwise than without the fault.
    ("power cut", (Phase.CONFIRMING, "MakeDefault")),
    ("fails", (Phase.ACTIVATING, "Activate")),
    ("fails", (Phase.CHECKING, "Check")),
    ("fails", (Phase.CONFIRMING, "Contact")),
    ("hangs", (Phase.CONFIRMING, "Contact")),
    ("power cut", (Phase.CHECKING, "Check of a trial")),
    ("power cut", (Phase.REVERTING, "GoBack of a trial")),
    ("fails", (Phase.CHECKING, "Check of a trial")),
}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often: the times are not what is tested here."""
    monkeypatch.setattr(guard, "LOOK_S", 0.05)
    monkeypatch.setattr(guarding, "POLL_S", 0.005)
    monkeypatch.setattr(switching, "POLL_S", 0.005)


@pytest.fixture(scope="module")
def courses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Lab]:
    """Run each scenario once without a fault."""
    found = {}
    for scenario in SCENARIOS:
        lab = Lab(tmp_path_factory.mktemp("course"), scenario)
        asyncio.run(asyncio.wait_for(lab.run(), 60))
        found[scenario.name] = lab
    return found


def course_of(courses: dict[str, Lab], row: Row) -> tuple[Scenario, Lab]:
    """Give the first scenario that visits a row."""
    for lab in courses.values():
        if row in lab.visited:
            return lab.scenario, lab
    pytest.fail(f"no scenario of tests/agent/crash_lab.py visits {row}: add one that does")


def expected(scenario: Scenario) -> dict[str, object]:
    """Say what a scenario has to come to, whatever goes wrong."""
    new = scenario.stays
    return {
        "outcomes": [scenario.outcome],
        "runs": ("new", "new") if new else ("old", "old"),
        "at most once": True,
        "confirmed": int(new),
        "guarded": False,
        "incoming": False,
        "boots": ("new" if new else "old", ""),
    }


def test_every_state_and_every_effect_has_its_row(courses: dict[str, Lab]) -> None:
    """All phases but idle, all effects, all rows; and each is visited by a scenario that ends as it should."""
    assert {*Phase} - {Phase.IDLE} == {phase for phase, _ in ROWS}
    assert {kind.__name__ for kind in get_args(Effect)} == {name.split()[0] for _, name in ROWS}
    for row in ROWS:
        course_of(courses, row)
    for scenario in SCENARIOS:
        assert expected(scenario) == courses[scenario.name].end(), scenario.name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0].value}-{row[1]}")
async def test_whatever_goes_wrong_the_end_is_the_same_and_comes_once(
    tmp_path: Path, courses: dict[str, Lab], row: Row, kind: str
) -> None:
    """One outcome, one activation at most, the right system and boot default, no guard and no root left over."""
    scenario, _ = course_of(courses, row)
    lab = Lab(tmp_path, scenario, Fault(kind, row))
    async with asyncio.timeout(60):
        await lab.run()
    assert lab.fault is None, "it never came to that"
    if (kind, row) in GOES_BACK:
        scenario = Scenario(scenario.name, "reverted")
    assert expected(scenario) == lab.end()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0].value}-{row[1]}")
async def test_killed_after_each_step_inside_an_effect_the_end_is_the_same(
    tmp_path: Path, courses: dict[str, Lab], row: Row
) -> None:
    """After each command of Nix that changes something, and after the start of a switch."""
    scenario, course = course_of(courses, row)
    steps = course.visited[row]
    for point in range(1, steps + 1):
        folder = tmp_path / str(point)
        folder.mkdir()
        lab = Lab(folder, scenario, Fault("during", row, point))
        async with asyncio.timeout(60):
            await lab.run()
        assert (None, expected(scenario)) == (lab.fault, lab.end()), point
    assert steps > 0 or row[1].split()[0] not in {"CheckDevice", "Fetch", "Stage", "Activate", "GoBack", "Keep", "Tidy"}


@pytest.mark.parametrize("kind", ["after the write, and stays away", "after the effect, and stays away"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0].value}-{row[1]}")
async def test_while_the_agent_is_dead_the_guard_takes_back_what_did_not_confirm(
    tmp_path: Path, courses: dict[str, Lab], row: Row, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one watches; the agent that returns in the end reports that, once, and nothing is switched twice."""
    monkeypatch.setattr(
        guarding.Guarding, "_plan", lambda *told: replace(PLAN(*told), switch_s=1, back_s=0.5, latest_s=1.5)
    )
    scenario, _ = course_of(courses, row)
    lab = Lab(tmp_path, scenario, Fault(kind, row))
    async with asyncio.timeout(60):
        await lab.run()
    assert lab.fault is None, "it never came to that"
    after = {Phase.ACTIVATING, Phase.CHECKING, Phase.CONFIRMING, Phase.REVERTING, Phase.REBOOT_PENDING}
    off = kind == "after the effect, and stays away" and row[1].split()[0] in {"Disarm", "GoBack"}
    off = off or row[1] in {"Reboot", "MakeDefault"}
    settling = row == (Phase.REVERTING, "Contact")
    assert lab.guarded == ((row[0] in after and not off and not settling) or _just_armed(row, kind))
    if lab.guarded and row[0] in after and row != (Phase.REVERTING, "GoBack of a trial"):
        scenario = Scenario(scenario.name, "reverted")
    assert expected(scenario) == lab.end()


def _just_armed(row: Row, kind: str) -> bool:
    return row == (Phase.STAGED, "Arm") and kind == "after the effect, and stays away"
