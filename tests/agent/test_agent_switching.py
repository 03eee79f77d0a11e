"""How a switch runs, ends and is taken back, on a made-up NixOS machine: real programs, a made-up Nix."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from msgspec.structs import replace
from tests.agent.made_up import digest_of
from tests.agent.site import until
from tests.agent.workbench import SYSTEMD_RUN, Bench, with_systemd

from nixfleet.agent import switching, tools
from nixfleet.agent.jobs import Job
from nixfleet.agent.tools import run_detached
from nixfleet.agent.units import Ran
from nixfleet.agent.update import (
    Activate,
    GoBack,
    Result,
    Switched,
    Trouble,
)
from nixfleet.model.device import Cause
from nixfleet.nix import Fault, FaultKind


async def test_a_switch_sets_the_profile_runs_and_tells_its_last_lines(bench: Bench) -> None:
    """Exit 0 with the right system running is done; the lines come live and with the outcome."""
    offer = bench.machine.offer(bench.machine.system("new"))
    answer = await bench.runner().perform(Activate(offer=offer))
    lines = (f"switching to {offer.path}", "switched")
    assert Switched(result=Result.DONE, exit_code=0, lines=lines) == answer
    assert (list(lines), offer.path) == (bench.watcher.lines, bench.host.profile_system())


@pytest.mark.parametrize(
    ("code", "before", "result"),
    [
        (2, "", Result.HALFWAY),
        (4, "", Result.UNITS),
        (100, "", Result.REBOOT),
        (1, "", Result.ERROR),
        (0, "exit 0", Result.ELSEWHERE),
        (0, "kill -9 $PPID $$", Result.INTERRUPTED),
    ],
)
async def test_each_end_of_a_switch_is_told_apart(bench: Bench, code: int, before: str, result: Result) -> None:
    """Five exit codes, a lie, and a supervisor that is killed."""
    offer = bench.machine.offer(bench.machine.system("new", code=code, before=before))
    answer = await bench.runner().perform(Activate(offer=offer))
    assert isinstance(answer, Switched)
    assert result == answer.result


async def test_mode_boot_waits_for_the_reboot(bench: Bench) -> None:
    """A successful `boot` is not done before the machine has booted."""
    offer = replace(bench.machine.offer(bench.machine.system("new")), verb="boot")
    answer = await bench.runner().perform(Activate(offer=offer))
    assert isinstance(answer, Switched)
    assert (Result.REBOOT, bench.old) == (answer.result, bench.host.current_system())


@pytest.mark.parametrize(("verb", "code"), [("boot", 0), ("switch", 100)])
@pytest.mark.parametrize("booted", [True, False])
async def test_a_reboot_before_its_need_was_noted_is_the_one_that_was_needed(
    bench: Bench, verb: Literal["boot", "switch"], code: int, *, booted: bool
) -> None:
    """The switch ended, the machine rebooted, and only then an agent collects the end: it must not wait for another."""
    offer = replace(bench.machine.offer(bench.machine.system("new", code=code)), verb=verb)
    await bench.runner().perform(Activate(offer=offer))
    bench.machine.write("/proc/sys/kernel/random/boot_id", "boot-2\n")
    bench.machine.boot(offer.path if booted else bench.old)
    answer = await bench.runner().perform(Activate(offer=offer))
    assert isinstance(answer, Switched)
    assert (Result.DONE if booted else Result.ELSEWHERE) == answer.result


@pytest.mark.parametrize("systemd", [False, True])
async def test_a_switch_outlives_the_agent_and_its_end_is_collected(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, systemd: bool
) -> None:
    """An agent that ends mid-switch finds the result; the next one calls nothing a second time."""
    asked = with_systemd(bench, monkeypatch) if systemd else None
    go = bench.machine.root / "go"
    wait = f"while [ ! -e {go} ]; do sleep 0.02; done"
    offer = bench.machine.offer(bench.machine.system("new", before=wait))
    first = asyncio.create_task(bench.runner().perform(Activate(offer=offer)))
    await until(lambda: bool(bench.machine.switches()))
    first.cancel()
    await asyncio.wait([first])
    bench.watcher.lines.clear()
    second = asyncio.create_task(bench.runner().perform(Activate(offer=offer)))
    # What it would start it has started by the time it reads on; the switch that runs is kept waiting until then.
    await until(lambda: bool(bench.watcher.lines))
    go.touch()
    answer = await second
    assert isinstance(answer, Switched)
    assert (Result.DONE, [f"switch {offer.path}"]) == (answer.result, bench.machine.switches())
    assert asked is None or 1 == asked().count("--collect")


def test_a_supervisor_that_comes_second_runs_nothing(bench: Bench) -> None:
    """An agent killed before the first had claimed its folder starts another: the switch runs once, its words stay."""
    job = Job(bench.machine.state_dir / "jobs/x", bench.host)
    job.prepare()
    path = bench.machine.system("new")
    command = ("/bin/sh", *job.command(str(bench.host.at(f"{path}/bin/switch-to-configuration")), "switch"))
    ends = [subprocess.run(command, timeout=20, check=False).returncode for _ in range(3)]
    assert [0, 0, 0] == ends
    assert ([f"switch {path}"], 0) == (bench.machine.switches(), job.exit_code)
    assert (f"switching to {path}", "switched") == job.lines()


async def test_a_switch_cut_by_a_power_failure_is_not_run_again(bench: Bench) -> None:
    """A folder of an earlier boot without an exit code was interrupted, whatever was written."""
    offer = bench.machine.offer(bench.machine.system("new"))
    job = Job(Path(bench.settings.state_dir) / "jobs" / f"{offer.rollout[:16]}-1-switch-0", bench.host)
    assert job.prepare()
    bench.machine.write("/proc/sys/kernel/random/boot_id", "boot-2\n")
    answer = await bench.runner().perform(Activate(offer=offer))
    assert Switched(result=Result.INTERRUPTED, reason="the machine went down during the switch") == answer
    assert bench.machine.switches() == []


async def test_a_switch_that_hangs_is_killed_with_all_it_started(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hang becomes an interruption, and the device can go back."""
    monkeypatch.setattr(switching, "SWITCH_S", 0.2)
    pid = bench.machine.root / "pid"
    offer = bench.machine.offer(bench.machine.system("new", before=f"sleep 600 & echo $! >{pid}; wait"))
    answer = await bench.runner().perform(Activate(offer=offer))
    assert isinstance(answer, Switched)
    assert (Result.INTERRUPTED, "the switch did not end within 0 s") == (answer.result, answer.reason)
    number = int(pid.read_text())
    await until(lambda: not _runs(number))


def _runs(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return " Z " not in Path(f"/proc/{number}/stat").read_text()


async def test_a_torn_exit_code_is_no_exit_code(bench: Bench) -> None:
    """Only a whole line counts; a supervisor killed while writing it was interrupted."""
    job = Job(Path(bench.settings.state_dir) / "jobs/x", bench.host)
    job.prepare()
    for text, expected in (("", None), ("1", None), ("1 en", None), ("1 end\n", 1), ("100 end\n", 100)):
        (job.folder / "exit").write_text(text)
        assert expected == job.exit_code


async def test_output_is_bounded_printable_and_told_in_whole_lines(bench: Bench) -> None:
    """What a switch prints is data: control bytes go, long lines are cut, old ones dropped."""
    job = Job(Path(bench.settings.state_dir) / "jobs/x", bench.host)
    job.prepare()
    output = job.folder / "output"
    output.write_bytes(b"one\n\x1b[31mtwo\x07\nhal")
    assert (("one", "two"), ()) == (job.new_lines(), job.new_lines())
    output.write_bytes(b"one\n\x1b[31mtwo\x07\nhalf\n" + b"x" * 200_000 + b"\nlast\n")
    assert job.new_lines()[-1] == "last"
    assert all(len(line) <= 500 for line in job.lines())


async def test_going_back_switches_to_the_previous_system_and_deletes_the_bad_generation(bench: Bench) -> None:
    """Profile, running system and boot default are the old ones again; the failed generation is gone."""
    offer = bench.machine.offer(bench.machine.system("bad", code=2))
    await bench.runner().perform(Activate(offer=offer))
    answer = await bench.runner().perform(GoBack(offer=offer, previous=bench.old, number=0))
    assert isinstance(answer, Switched)
    assert Result.DONE == answer.result
    assert [bench.old, bench.old] == [bench.host.current_system(), bench.host.profile_system()]
    assert offer.path not in [one.path for one in await bench.store.generations(bench.host.profile())]
    assert [f"switch {offer.path}", f"switch {bench.old}"] == bench.machine.switches()


@pytest.mark.parametrize(("wrong", "calls"), [(0, ["digest"]), (1, ["digest", "repair", "digest"])])
async def test_going_back_asks_once_whether_the_way_back_is_what_ran(
    bench: Bench, wrong: int, calls: list[str]
) -> None:
    """One query of the local database when all is well, one repair when it is not."""
    offer = bench.machine.offer(bench.machine.system("bad", code=2))
    await bench.runner().perform(Activate(offer=offer))
    bench.store.wrong_digests = wrong
    back = GoBack(offer=offer, previous=bench.old, digest=digest_of(bench.old), number=0)
    answer = await bench.runner().perform(back)
    assert isinstance(answer, Switched)
    assert (Result.DONE, calls) == (answer.result, bench.store.calls)


async def test_a_way_back_with_other_content_is_refused(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """What a cache planted under the old path is not run as root because something else failed."""
    offer = bench.machine.offer(bench.machine.system("bad", code=2))
    await bench.runner().perform(Activate(offer=offer))
    answer = await bench.runner().perform(GoBack(offer=offer, previous=bench.old, digest="ab" * 32, number=0))
    reason = "the system to go back to is not the one that ran here"
    assert Trouble(cause=Cause.UNTRUSTED, reason=reason) == answer
    assert [f"switch {offer.path}"] == bench.machine.switches()
    assert (1, offer.path) == (bench.store.calls.count("repair"), bench.host.profile_system())
    assert f"not going back to {bench.old}: {reason}" in caplog.text


async def test_a_way_back_that_is_gone_is_fetched_or_refused(bench: Bench) -> None:
    """A path that the collector took comes again from the caches, and is compared like any other."""
    offer = bench.machine.offer(bench.machine.system("bad", code=2))
    await bench.runner().perform(Activate(offer=offer))
    gone = bench.machine.system("gone", at="cache")
    back = GoBack(offer=offer, previous=gone, digest=digest_of(gone), number=0)
    bench.store.fetch_fault = Fault(FaultKind.unreachable, "no cache answers")
    answer = await bench.runner().perform(back)
    assert isinstance(answer, Trouble)
    assert answer.reason.endswith("cannot be repaired: no cache answers")
    bench.store.fetch_fault = None
    answer = await bench.runner().perform(back)
    assert isinstance(answer, Switched)
    assert (Result.DONE, gone) == (answer.result, bench.host.current_system())


async def test_lines_stay_here_when_settings_say_so(bench: Bench) -> None:
    """`report_lines = false` keeps the output of a switch on the device."""
    offer = bench.machine.offer(bench.machine.system("new", code=2))
    answer = await bench.runner(replace(bench.settings, report_lines=False)).perform(Activate(offer=offer))
    assert isinstance(answer, Switched)
    assert answer.lines == ()


async def test_a_signal_to_the_agent_does_not_reach_the_switch(bench: Bench) -> None:
    """The supervisor leads no group of ours: what ends the agent leaves the switch alone."""
    offer = bench.machine.offer(bench.machine.system("new", before="sleep 0.3"))
    task = asyncio.create_task(bench.runner().perform(Activate(offer=offer)))
    await until(lambda: bool(bench.machine.switches()))
    job = Job(Path(bench.settings.state_dir) / "jobs" / f"{offer.rollout[:16]}-1-switch-0", bench.host)
    supervisor = job.pid
    assert supervisor is not None
    assert os.getpgid(supervisor) != os.getpgid(0)
    assert os.getsid(supervisor) != os.getsid(0)
    assert signal.SIGTERM not in signal.sigpending()
    answer = await task
    assert isinstance(answer, Switched)
    assert Result.DONE == answer.result


async def test_where_systemd_runs_the_switch_gets_a_unit_of_its_own(
    bench: Bench, asked: Callable[[], list[str]]
) -> None:
    """A transient unit: replacing the agent's own unit does not touch the switch."""
    offer = bench.machine.offer(bench.machine.system("new"))
    answer = await bench.runner().perform(Activate(offer=offer))
    assert isinstance(answer, Switched)
    assert answer.result == Result.DONE
    unit = f"--unit=nixfleet-switch-{offer.rollout[:16]}-1-switch-0"
    assert ["--collect", "--quiet", unit] == asked()[:3]


async def test_where_systemd_starts_nothing_the_switch_never_runs_and_nothing_is_changed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never runs in the agent's own unit, nor later; going back needs no switch then, only the profile."""
    with_systemd(bench, monkeypatch)
    tool = bench.machine.root / "tools/systemd-run"
    tool.write_text("#!/bin/sh\necho Failed to start transient service unit\nexit 1\n")
    monkeypatch.setattr(switching, "START_S", 0.3)
    offer = bench.machine.offer(bench.machine.system("new"))
    never = Switched(
        result=Result.ERROR,
        reason="the switch could not be started",
        lines=("Failed to start transient service unit",),
    )
    assert never == await bench.runner().perform(Activate(offer=offer))
    assert replace(never, lines=()) == await bench.runner().perform(Activate(offer=offer))

    tool.write_text(SYSTEMD_RUN.format(python=sys.executable, asked=str(bench.machine.root / "asked")))
    job = Job(bench.machine.state_dir / "jobs" / f"{offer.rollout[:16]}-1-switch-0", bench.host)
    late = ("/bin/sh", *job.command(str(bench.host.at(f"{offer.path}/bin/switch-to-configuration")), "switch"))
    assert 0 == (await asyncio.to_thread(subprocess.run, late, timeout=20, check=False)).returncode
    back = GoBack(offer=offer, previous=bench.old, number=0)
    assert Switched(result=Result.DONE) == await bench.runner().perform(back)
    assert ([], False) == (bench.machine.switches(), (bench.machine.root / "asked").exists())
    assert (bench.old, bench.old) == (bench.host.profile_system(), bench.host.current_system())
    assert {bench.old} == {one.path for one in await bench.store.generations(bench.host.profile())}


def test_a_switch_that_could_not_be_detached_in_time_is_told_and_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception would pass by what forbids it, and it could still begin, after the device has gone back."""
    assert Ran(0, ()) == run_detached(("true",), 20)
    monkeypatch.setattr(tools, "DETACH", "exec sleep 60")
    assert Ran(None, ()) == run_detached(("true",), 0)


async def test_a_service_manager_that_is_busy_with_itself_is_asked_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first request fails, as while systemd is replaced; the switch runs all the same, once."""
    asked = with_systemd(bench, monkeypatch)
    tool = bench.machine.root / "tools/systemd-run"
    first = bench.machine.root / "first"
    run = f'#!/bin/sh\n[ -e {first} ] && exec {tool}.real "$@"\n: >{first}\nexit 1\n'
    tool.rename(f"{tool}.real")
    tool.write_text(run)
    tool.chmod(0o755)
    monkeypatch.setattr(switching, "AGAIN_S", 0.01)
    offer = bench.machine.offer(bench.machine.system("new"))
    answer = await bench.runner().perform(Activate(offer=offer))
    assert Switched(result=Result.DONE, exit_code=0, lines=(f"switching to {offer.path}", "switched")) == answer
    assert ([f"switch {offer.path}"], 1) == (bench.machine.switches(), asked().count("--collect"))


async def test_a_long_switch_under_systemd_is_known_to_run(bench: Bench, asked: Callable[[], list[str]]) -> None:
    """Nothing that systemd would rewrite is among its arguments, so the supervisor's process id is the real one."""
    offer = bench.machine.offer(bench.machine.system("new", before="sleep 3"))
    task = asyncio.create_task(bench.runner().perform(Activate(offer=offer)))
    job = Job(Path(bench.settings.state_dir) / "jobs" / f"{offer.rollout[:16]}-1-switch-0", bench.host)
    await until(lambda: job.started)
    assert job.pid is not None
    answer = await task
    assert isinstance(answer, Switched)
    assert (Result.DONE, 0o700) == (answer.result, (job.folder / "supervisor").stat().st_mode & 0o777)
    assert [] == [word for word in asked() if "$" in word or "%" in word]
