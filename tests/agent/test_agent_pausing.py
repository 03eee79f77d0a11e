"""A pause that root sets on the device: nothing begins, it is told, it ends; and a local switch is told as drift."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.agent.site import Site, until
from tests.agent.test_agent_main import agent as program
from tests.agent.test_agent_main import joined

from nixfleet.agent import pausing
from nixfleet.agent import status as statuses
from nixfleet.agent.agent import Agent
from nixfleet.agent.pausing import MOST_S, Pause, left_s
from nixfleet.agent.service import Clock
from nixfleet.errors import UserError
from nixfleet.model.device import LocalPause, Phase
from nixfleet.model.ids import store_name
from nixfleet.model.text import utc

NOW_S = 1_800_000_000


def _pause(site: Site, for_s: int, reason: str = "") -> Pause:
    """Pause as the command does."""
    clock = Clock(wall=lambda: site.fleet.now, boot=lambda: site.boot_s)
    return pausing.begin(site.machine.state_dir, site.machine.host, clock, for_s=for_s, reason=reason)


def _run_system(site: Site, path: str) -> None:
    """Run another system, as a local ``nixos-rebuild switch`` does."""
    link = site.machine.root / "run/current-system"
    link.unlink()
    link.symlink_to(path)


def _look(site: Site) -> tuple[dict[str, Any], list[str]]:
    clock = Clock(wall=lambda: site.fleet.now, boot=lambda: site.boot_s)
    return statuses.look(site.settings, site.machine.host, clock)


@pytest.mark.parametrize(
    ("at_s", "wall_s", "boot_s", "boot_id", "left"),
    [
        (NOW_S, NOW_S, 100, "one", 7_200),
        (NOW_S, NOW_S + 7_199, 7_299, "one", 1),
        (NOW_S, NOW_S + 7_200, 200, "one", 0),
        (NOW_S, NOW_S - 86_400, 7_300, "one", 0),
        (NOW_S, NOW_S + 10, 4, "two", 7_190),
        (NOW_S, 100, 4, "two", 7_196),
        (NOW_S, 100, 7_200, "two", 0),
        (50, NOW_S, 200, "one", 7_100),
        (50, NOW_S, 7_300, "one", 0),
    ],
)
def test_a_pause_ends_whatever_the_clocks_say(at_s: int, wall_s: int, boot_s: int, boot_id: str, left: int) -> None:
    """By the wall clock, and by its span of being awake: neither 1970 nor a reboot stretches it without end."""
    pause = Pause(until_s=at_s + 7_200, for_s=7_200, boot_id="one", until_boot_s=7_300)
    assert left == left_s(pause, wall_s=wall_s, boot_s=boot_s, boot_id=boot_id)


@pytest.mark.usefixtures("impatient")
async def test_a_paused_device_begins_nothing_until_the_pause_ends(tmp_path: Path) -> None:
    """Over restarts of the agent; it says so in its signed report, and goes on by itself when the time is over."""
    site = Site(tmp_path)
    new = site.machine.system("new", at="cache")
    async with site.running():
        device = await site.member()
    pause = _pause(site, 7_200, "moving the rack")
    rollout = site.deploy(device, new)
    site.server.open_gate(rollout, device)
    for _ in range(2):
        async with site.running() as agent:
            await until(lambda agent=agent: agent.desk.waits == pause.words)  # type: ignore[misc]
            told = LocalPause(until=pause.until_s, reason="moving the rack")
            await until(lambda told=told: site.server.reports[-1].paused == told)  # type: ignore[misc]
    assert ([], f"paused on this device until {utc(pause.until_s)}: moving the rack") == (
        site.machine.switches(),
        pause.words,
    )
    said, lines = _look(site)
    assert (pause.until_s, "moving the rack", f"waits    {pause.words}" in lines) == (
        said["paused_until"],
        said["pause_reason"],
        True,
    )
    site.fleet.now += 7_200
    site.server.open_gate(rollout, device)
    async with site.running():
        await until(lambda: bool(site.server.outcomes()))
    assert ([(rollout, 1, "confirmed")], None) == (site.server.outcomes(), site.server.reports[-1].paused)


@pytest.mark.usefixtures("impatient")
async def test_a_pause_amid_a_download_holds_the_switch_and_resume_lets_it_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has changed nothing yet waits before the switch; the end of the pause is noticed without a sync."""
    site = Site(tmp_path)
    new = site.machine.system("new", at="cache")
    gate, realise = asyncio.Event(), site.store.realise

    async def slowly(path: str, **options: Any) -> None:
        await gate.wait()
        await realise(path, **options)

    monkeypatch.setattr(site.store, "realise", slowly)
    async with site.running() as agent:
        device = await site.member()
        site.server.open_gate(site.deploy(device, new), device)
        await until(lambda: _phase(agent) is Phase.FETCHING)
        pause = _pause(site, 60)
        agent.look()
        gate.set()
        await until(lambda: _held(agent) == pause.words)
        assert [] == site.machine.switches()
        assert pausing.end(site.machine.state_dir)
        agent.look()
        await until(lambda: bool(site.server.outcomes()))
    assert [f"switch {new}"] == site.machine.switches()


def _phase(agent: Agent) -> Phase:
    update = agent.service.state.update
    return Phase.IDLE if update is None else update.phase


def _held(agent: Agent) -> str:
    update = agent.service.state.update
    return update.reason if update is not None and update.held else ""


@pytest.mark.usefixtures("impatient")
async def test_a_local_switch_is_told_and_not_fought(tmp_path: Path) -> None:
    """The next report names the system that runs, status says what it drifted from, and nothing is switched back."""
    site = Site(tmp_path)
    new, own = site.machine.system("new", at="cache"), site.machine.system("own")
    async with site.running() as agent:
        device = await site.member()
        site.server.open_gate(site.deploy(device, new), device)
        await until(lambda: bool(site.server.outcomes()))
        await until(lambda: not agent.service.state.outbox)
        assert "" == _look(site)[0]["drifted_from"]
        _run_system(site, own)
        agent.look()
        await until(lambda: site.server.reports[-1].system == own)
    said, lines = _look(site)
    assert (new, [f"switch {new}"]) == (said["drifted_from"], site.machine.switches())
    assert any(line.startswith(f"drifted  from {new}") for line in lines)


@pytest.mark.usefixtures("impatient")
async def test_status_says_how_the_last_updates_ended(tmp_path: Path) -> None:
    """Delivered ones, too, newest first and with the reason; without their output, and without a network."""
    site = Site(tmp_path)
    bad = site.machine.system("bad", at="cache", code=2, before="echo snippet failed")
    async with site.running() as agent:
        device = await site.member()
        rollout = site.deploy(device, bad)
        site.server.open_gate(rollout, device)
        await until(lambda: bool(site.server.outcomes()))
        await until(lambda: not agent.service.state.outbox)
    said, lines = _look(site)
    assert ((), 1) == (said["undelivered"], len(said["outcomes"]))
    expected = f"ended    reverted bad, rollout {rollout[:12]} run 1 (activation): the activation script failed"
    assert expected.replace(" bad,", f" {store_name(bad)},") in lines
    assert "         snippet failed" in lines


async def test_what_somebody_does_on_the_device_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause and its end each call once; another system than was told does until that is told."""
    monkeypatch.setattr(pausing, "LOOK_S", 0.001)
    site, seen = Site(tmp_path), list[int]()
    site.machine.state_dir.mkdir(parents=True, exist_ok=True)
    told = [""]

    def look() -> None:
        seen.append(1)
        told[0] = site.machine.host.current_system()

    watch = pausing.watch(site.machine.state_dir, site.machine.host, lambda: told[0], look)
    task = asyncio.create_task(watch)
    await asyncio.sleep(0)
    acts: tuple[Callable[[], object], ...] = (
        lambda: _pause(site, 60),
        lambda: pausing.end(site.machine.state_dir),
        lambda: _run_system(site, site.machine.system("own")),
    )
    for number, act in enumerate(acts, 1):
        act()
        await until(lambda number=number: len(seen) == number)  # type: ignore[misc]
    task.cancel()


def test_a_pause_has_bounds(tmp_path: Path) -> None:
    """Longer than a week, none at all, or a reason that is a book: one line, and no pause."""
    site = Site(tmp_path)
    site.machine.state_dir.mkdir(parents=True, exist_ok=True)
    for for_s, reason, why in ((MOST_S + 1, "", "7 days"), (0, "", "7 days"), (60, "x" * 151, "150 characters")):
        with pytest.raises(UserError, match=why):
            _pause(site, for_s, reason)
    assert not (site.machine.state_dir / pausing.FILE).exists()


def test_a_pause_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    """Its end could not be known; the device goes on with updates, and the next pause takes its place."""
    site = Site(tmp_path)
    folder = site.machine.state_dir
    folder.mkdir(parents=True, exist_ok=True)
    clock = Clock(wall=lambda: site.fleet.now, boot=lambda: site.boot_s)
    for text in ("{", '{"until_s": -1}', json.dumps({"until_s": 2**63, "for_s": 1, "boot_id": "", "until_boot_s": 1})):
        (folder / pausing.FILE).write_text(text)
        assert pausing.current(folder, site.machine.host, clock) is None
    _pause(site, 60, "\x1b[31mred")
    found = pausing.current(folder, site.machine.host, clock)
    assert found is not None
    assert ("red", 60) == (found[0].reason, found[1])


def test_pause_and_resume_as_commands(tmp_path: Path) -> None:
    """Set, shown, ended; a length is needed, one in the past is refused, a second resume says that there is none."""
    joined(tmp_path)
    done = program(tmp_path, "pause", "--for", "2h", "--reason", "moving the rack")
    assert (0, True) == (done.returncode, done.stdout.startswith("paused on this device until ")), done.stderr
    told = json.loads(program(tmp_path, "status", "--json").stdout)
    assert ("moving the rack", False) == (told["pause_reason"], told["running"])
    for argv, why in (
        (("pause",), "--for"),
        (("pause", "--for", "8d"), "7 days"),
        (("pause", "--until", "2020-01-01"), "future"),
        (("pause", "--for", "soon"), "no duration"),
        (("pause", "--for", "1h", "--until", "2030-01-01"), "not allowed with"),
    ):
        refused = program(tmp_path, *argv)
        assert (2, True) == (refused.returncode, why in refused.stderr), refused.stderr
        assert 1 == len(refused.stderr.splitlines())
    assert "updates begin again\n" == program(tmp_path, "resume").stdout
    assert "it was not paused\n" == program(tmp_path, "resume").stdout
    assert json.loads(program(tmp_path, "status", "--json").stdout)["paused_until"] is None
