"""The guard on a made-up machine: a real shell, real switches and real locks; only Nix is made up."""

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.agent.site import until
from tests.agent.workbench import Bench

from nixfleet.agent import guard as guards
from nixfleet.agent import guarding
from nixfleet.agent.guard import NOT_BACK, NOT_CONFIRMED, Guard
from nixfleet.agent.runner import Runner
from nixfleet.agent.units import Ran
from nixfleet.agent.update import (
    Activate,
    Arm,
    Armed,
    Check,
    Disarm,
    Disarmed,
    Effect,
    Event,
    GoBack,
    Keep,
    Offer,
    Overtaken,
    Result,
    Switched,
    Tidy,
    Trouble,
    Update,
)
from nixfleet.model.device import Cause, Phase

SOON_S = 0.2
NEVER_S = 86_400
PLAN = guarding.Guarding._plan


class Watched(Bench):
    """A bench with an update at hand, and the guard's folder."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.guard = Guard(self.machine.state_dir / "guard", self.host)

    def new(self, before: str = "") -> Offer:
        """Make a system that is here, and an offer of it; its switch does `before` first."""
        return self.machine.offer(self.machine.system("new", before=before))

    async def do(self, effect: Effect) -> Event | None:
        """Perform an effect as an agent that has just started."""
        return await self.runner().perform(effect)

    async def switched(self) -> Offer:
        """Arm the guard and switch to a new system."""
        offer = self.new()
        assert Armed() == await self.do(Arm(offer=offer, previous=self.old))
        await self.do(Activate(offer=offer))
        return offer

    def undone(self, offer: Offer) -> str:
        """Say what an agent that starts now is told of the guard."""
        update = Update(phase=Phase.CHECKING, offer=offer, give_up_s=0, boot_id="boot-1", previous=self.old)
        return self.runner().undone(update)[0]

    async def ended(self) -> None:
        """Wait until the guard's shell has ended."""
        await until(lambda: not self.guard.watches())

    def short(self) -> list[str]:
        """List the switches made: verb and name of the system."""
        return [f"{one.split()[0]} {one.rpartition('-')[2]}" for one in self.machine.switches()]

    def runs(self) -> tuple[str, str]:
        """Give the running system and the profile's."""
        return self.host.current_system(), self.host.profile_system()


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    """Give a bench whose guard looks often, and waits for ever unless a test says how long."""
    monkeypatch.setattr(guards, "LOOK_S", 0.02)
    patience(monkeypatch)
    made = Watched(tmp_path)
    yield made
    made.guard.release()
    await made.ended()


def patience(
    monkeypatch: pytest.MonkeyPatch, *, back_s: float = NEVER_S, latest_s: float = NEVER_S, switch_s: float = NEVER_S
) -> None:
    """Say how long guards wait that are armed from now on."""
    monkeypatch.setattr(
        guarding.Guarding,
        "_plan",
        lambda *told: replace(PLAN(*told), back_s=back_s, latest_s=latest_s, switch_s=switch_s),
    )


async def test_without_an_agent_the_old_system_goes_back(bench: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Profile and system are the old ones again, by one switch, and an agent that comes back is told why."""
    patience(monkeypatch, back_s=SOON_S)
    offer = await bench.switched()
    assert (offer.path, offer.path) == bench.runs()
    await bench.ended()
    assert ((bench.old, bench.old), ["switch new", "switch old"]) == (bench.runs(), bench.short())
    assert NOT_BACK == bench.undone(offer)


async def test_what_the_guard_did_is_not_done_again(bench: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent that returns goes back without another switch, and the bad generation is gone."""
    patience(monkeypatch, back_s=SOON_S)
    offer = await bench.switched()
    await bench.ended()
    for _ in range(2):  # the second time as after a crash
        event = await bench.do(GoBack(offer=offer, previous=bench.old, number=0))
        assert event == Switched(result=Result.DONE)
    assert ["switch new", "switch old"] == bench.short()
    assert offer.path not in {one.path for one in await bench.store.generations(bench.host.profile())}
    await bench.do(Tidy(offer=offer, delete=False))
    assert ("", False) == (bench.undone(offer), bench.guard.folder.exists())


async def test_an_agent_that_came_back_is_waited_for_until_the_latest_time(
    bench: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that waits for contact is not undone early; one whose agent died meanwhile is in the end."""
    patience(monkeypatch, back_s=0.1, latest_s=1)
    offer = bench.new()
    assert Armed() == await bench.do(Arm(offer=offer, previous=bench.old))
    bench.guard.note_back()
    await bench.do(Activate(offer=offer))
    await bench.ended()
    assert (NOT_CONFIRMED, ["switch new", "switch old"]) == (bench.undone(offer), bench.short())


async def test_checking_tells_the_guard_that_an_agent_is_back(bench: Watched) -> None:
    """The first thing that an agent does on a new system."""
    offer = await bench.switched()
    assert not (bench.guard.folder / "back").exists()
    await bench.do(Check(offer=offer, baseline=()))
    assert (bench.guard.folder / "back").exists()


@pytest.mark.parametrize("end", ["disarm", "keep", "tidy"])
async def test_a_guard_that_is_taken_off_ends_and_never_acts(
    bench: Watched, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Before it acts, it looks whether it still may; what confirmed, or ended otherwise, stays."""
    patience(monkeypatch, back_s=NEVER_S)
    offer = await bench.switched()
    effects: dict[str, Effect] = {
        "disarm": Disarm(offer=offer),
        "keep": Keep(offer=offer, paths=(offer.path,)),
        "tidy": Tidy(offer=offer, delete=False),
    }
    event = await bench.do(effects[end])
    assert event == (Disarmed() if end == "disarm" else None)
    await bench.ended()
    assert ((offer.path, offer.path), "") == (bench.runs(), bench.undone(offer))
    assert Disarmed() == await bench.do(Disarm(offer=offer))


async def test_what_is_confirmed_while_the_guard_reaches_for_the_lock_stays(
    bench: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time is over, but an agent holds the lock and takes it off: it does not act."""
    patience(monkeypatch, back_s=SOON_S)
    offer = bench.new()
    assert Armed() == await bench.do(Arm(offer=offer, previous=bench.old))
    with bench.guard.held() as held:
        assert held
        await bench.do(Activate(offer=offer))
        await until(lambda: _waits_for_lock(bench.guard.folder / "lock"))
        bench.guard.release()
    await bench.ended()
    assert ["switch new"] == bench.short()


def _waits_for_lock(file: Path) -> bool:
    """Tell whether a process waits for the lock of a file (proc_locks(5))."""
    inode = str(file.stat().st_ino)
    return any("->" in line and f":{inode} " in line for line in Path("/proc/locks").read_text().splitlines())


HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], "ab")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""


def _holder(file: Path) -> "subprocess.Popen[bytes]":
    """Start a process that holds a lock until it is killed."""
    process = subprocess.Popen((sys.executable, "-c", HOLDER, str(file)), stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


async def test_an_agent_that_dies_while_it_goes_back_is_not_waited_for(
    bench: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel lets go of its lock, and the guard finishes what it began."""
    patience(monkeypatch, back_s=SOON_S)
    offer = bench.new()
    assert Armed() == await bench.do(Arm(offer=offer, previous=bench.old))
    with _holder(bench.guard.folder / "lock") as agent:
        await bench.do(Activate(offer=offer))
        await until(lambda: _waits_for_lock(bench.guard.folder / "lock"))
        assert ["switch new"] == bench.short()
        agent.kill()
    await bench.ended()
    assert ((bench.old, bench.old), ["switch new", "switch old"]) == (bench.runs(), bench.short())


async def test_an_update_cannot_confirm_once_the_guard_acts(bench: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both at once would report a system that does not run."""
    patience(monkeypatch, back_s=SOON_S)
    offer = await bench.switched()
    await bench.ended()
    assert Overtaken(reason=NOT_BACK) == await bench.do(Disarm(offer=offer))


@pytest.mark.parametrize("shell", ["sh", "bash", "busybox"])
async def test_a_switch_that_hangs_without_an_agent_is_ended(
    bench: Watched, monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    """Whatever shell the system has, it kills the switch with all it started: NixOS's lock is free for the way back."""
    place = shutil.which(shell)
    if place is None:
        pytest.skip(f"there is no {shell} here")
    applet = "sh" if shell == "busybox" else ""
    bench.machine.write(f"{bench.old}/sw/bin/sh", f'#!/bin/sh\nexec {place} {applet} "$@"\n')
    (bench.host.at(bench.old) / "sw/bin/sh").chmod(0o755)
    patience(monkeypatch, back_s=SOON_S, switch_s=SOON_S)
    root = bench.machine.root
    offer = bench.new(before=f"echo $$ >{root}/hung; sleep 600 & echo $! >>{root}/hung; wait")
    assert Armed() == await bench.do(Arm(offer=offer, previous=bench.old))
    asked = asyncio.create_task(bench.do(Activate(offer=offer)))
    await bench.ended()
    assert isinstance(event := await asked, Switched)
    assert Result.INTERRUPTED == event.result
    hung = [int(line) for line in (root / "hung").read_text().split()]
    await until(lambda: not any(_runs(one) for one in hung))
    assert ((bench.old, bench.old), ["switch new", "switch old"]) == (bench.runs(), bench.short())


def _runs(number: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


async def test_a_way_back_that_fails_is_tried_again_and_left_to_the_agent(
    bench: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five tries, then it gives up; the agent that returns tries by itself."""
    patience(monkeypatch, back_s=SOON_S)
    offer = bench.new()
    switch = bench.host.at(bench.old) / "bin/switch-to-configuration"
    works = switch.read_text()
    switch.write_text(works.replace("exit 0", "exit 1"))
    assert Armed() == await bench.do(Arm(offer=offer, previous=bench.old))
    await bench.do(Activate(offer=offer))
    await bench.ended()
    assert ["switch new", *["switch old"] * guards.BACK_TRIES] == bench.short()
    switch.write_text(works)
    event = await bench.do(GoBack(offer=offer, previous=bench.old, number=0))
    assert isinstance(event, Switched)
    assert (Result.DONE, 0, bench.old) == (event.result, event.exit_code, bench.host.current_system())


async def test_a_switch_back_that_an_agent_began_is_waited_for(bench: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its agent died, it runs on and holds NixOS's lock: the guard does not use up its tries on that."""
    patience(monkeypatch, back_s=SOON_S)
    offer = bench.new()
    assert Armed() == await bench.do(Arm(offer=offer, previous=bench.old))
    with bench.host.at(guards.SWITCH_LOCK).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        await bench.do(Activate(offer=offer))
        await until(lambda: bench.guard.acted(jobs_name(offer)) != "")
        assert ["switch new"] == bench.short()
    await bench.ended()
    assert ["switch new", "switch old"] == bench.short()


def jobs_name(offer: Offer) -> str:
    """Name the switch of an offer's first try."""
    return f"{offer.rollout[:16]}-{offer.run}-switch-0"


async def test_arming_again_finds_the_guard_that_watches(bench: Watched) -> None:
    """An agent that was killed between arming and its journal starts no second guard."""
    offer = bench.new()
    assert Armed() == await bench.do(Arm(offer=offer, previous=bench.old))
    before = (bench.guard.folder / "watch").stat().st_ino
    assert Armed() == await bench.do(Arm(offer=offer, previous=bench.old))
    assert before == (bench.guard.folder / "watch").stat().st_ino


@pytest.mark.parametrize("left", ["dead", "other", "boot"])
async def test_a_guard_that_does_not_watch_this_update_is_replaced(bench: Watched, left: str) -> None:
    """A dead one, another update's, or an earlier boot's: a new one is armed, and an old one ends by itself."""
    offer = bench.new()
    assert Armed() == await bench.do(Arm(offer=offer, previous=bench.old))
    if left == "dead":
        [shell] = _shells(bench.guard.folder)
        os.kill(shell, signal.SIGKILL)
        await bench.ended()
    if left == "boot":
        bench.machine.write("/proc/sys/kernel/random/boot_id", "boot-2\n")
    old = _shells(bench.guard.folder)
    offer = replace(offer, run=2) if left == "other" else offer
    assert Armed() == await bench.do(Arm(offer=offer, previous=bench.old))
    await until(lambda: not any(_runs(one) for one in old))
    assert bench.guard.guards(f"{offer.rollout[:16]}-{offer.run}-switch-0")


def _shells(folder: Path) -> list[int]:
    """List the shells that run the guard of a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            found += [int(entry.name)] if str(folder / "guard").encode() in words else []
    return found


async def test_a_second_shell_of_one_guard_ends_at_once(bench: Watched) -> None:
    """Whoever starts it again by mistake: one watches."""
    offer = bench.new()
    assert Armed() == await bench.do(Arm(offer=offer, previous=bench.old))
    ran = await bench.runner().run_tool(("/bin/sh", str(bench.guard.folder / "guard")), 20)
    assert 0 == ran.exit_code
    # A shell has its name until the program that it forked for has begun.
    await until(lambda: 1 == len(_shells(bench.guard.folder)))


async def test_without_its_programs_there_is_no_way_forward(bench: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way back is proven first: what could not be undone is not done."""
    (bench.host.at(bench.old) / "sw/bin/nix-env").unlink()
    monkeypatch.setenv("PATH", "/nonexistent")
    event = await bench.do(Arm(offer=bench.new(), previous=bench.old))
    reason = "no way back without the agent: neither the running system nor PATH has sh"
    assert event == Trouble(cause=Cause.INTERNAL, reason=reason)
    assert not bench.guard.folder.exists()


async def test_a_guard_that_does_not_start_is_tried_again_later(
    bench: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is switched without it, and what may mend itself is waited for."""
    monkeypatch.setattr(guarding, "run_detached", lambda *_: Ran(1, ("no more processes",)))
    event = await bench.do(Arm(offer=bench.new(), previous=bench.old))
    expected = Trouble(cause=Cause.INTERNAL, reason="the guard could not be started: no more processes", later=True)
    assert (expected, False) == (event, bench.guard.folder.exists())


async def test_where_systemd_runs_the_guard_is_a_unit_that_is_begun_again(
    bench: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transient unit of its own, by the old system's programs alone, the last to be killed for memory."""
    asked: list[tuple[str, ...]] = []

    def run_tool(argv: tuple[str, ...], _: float) -> Ran:
        asked.append(argv)
        return Ran(1, ())

    monkeypatch.setattr(guarding, "run_tool", run_tool)
    bench.machine.write("/run/systemd/system/x", "")
    for name in ("sh", "flock", "sleep", "timeout", "mv", "systemctl"):
        bench.machine.write(f"{bench.old}/sw/bin/{name}", "")
    offer = bench.new()
    await bench.do(Arm(offer=offer, previous=bench.old))
    [argv] = asked
    own = str(bench.host.at(f"{bench.old}/sw/bin/sh"))
    assert ("systemd-run", own, str(bench.guard.folder / "guard")) == (argv[0], argv[-2], argv[-1])
    assert f"--unit=nixfleet-guard-{jobs_name(offer)}" in argv
    assert {"--property=Restart=on-failure", "--property=OOMScoreAdjust=-900", "--collect"} < set(argv)


async def test_the_guard_names_the_old_systems_programs_alone(bench: Watched) -> None:
    """Each program of its script is by its place in the old system, never by a name that the new one could fill."""
    for name in ("sh", "flock", "sleep", "timeout", "mv"):
        bench.machine.write(f"{bench.old}/sw/bin/{name}", "")
    tools = guards.find_tools(bench.host, bench.old)
    assert {"sh", "flock", "sleep", "timeout", "mv", "nix_env", "systemctl"} == set(tools)
    inside = str(bench.host.at(bench.old))
    assert [name for name, place in tools.items() if not place.startswith(inside)] == ["systemctl"]


async def test_the_guard_waits_longer_than_the_agent_ever_does(bench: Watched) -> None:
    """Switch, the new system's own checks, and the wait for contact are all within its patience."""
    toml = f'state_dir = "{bench.machine.state_dir}"\n[[checks.tcp]]\nhost = "db"\nport = 1\nstart_delay_s = 3000\n'
    path = bench.machine.system("slow", agent_toml=toml)
    offer = replace(bench.machine.offer(path), orphan_s=7_000, confirm_s=100)
    runner: Runner = bench.runner()
    job = runner._forward(offer, 0)
    plan = PLAN(runner._guarding, job, offer, bench.old)
    assert plan.back_s > offer.confirm_s
    assert plan.latest_s > plan.switch_s + 3_000 + offer.orphan_s
    short = PLAN(runner._guarding, job, replace(offer, contact="none"), bench.old)
    assert plan.latest_s - short.latest_s == offer.orphan_s - offer.confirm_s


def test_times_are_whole_looks_and_never_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell counts in whole numbers; a deadline comes late by less than a look, never early."""
    monkeypatch.setattr(guards, "LOOK_S", 5.0)
    looks: Callable[[float], str] = guards._looks
    assert ("0", "1", "1", "2") == (looks(0), looks(1), looks(5), looks(5.1))
