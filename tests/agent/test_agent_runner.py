"""The effects of the update machine on a made-up NixOS machine: real switches, a made-up Nix."""

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
from tests.agent.made_up import CACHE, Machine, MadeUpStore, Silent, digest_of

from nixfleet.agent import switching, tools
from nixfleet.agent.health import Ran
from nixfleet.agent.jobs import Job
from nixfleet.agent.runner import Runner
from nixfleet.agent.settings import Checks, CommandCheck, ExtraCache, Settings, TcpCheck
from nixfleet.agent.tools import run_detached
from nixfleet.agent.update import (
    Activate,
    Check,
    CheckDevice,
    Checked,
    Fetch,
    GoBack,
    Keep,
    Look,
    Looked,
    Passed,
    Ready,
    Result,
    Stage,
    Switched,
    Tidy,
    Trouble,
    Verify,
)
from nixfleet.model.device import Cause
from nixfleet.nix import Fault, FaultKind


class Bench:
    """A machine that runs `old`, its store, and a runner."""

    def __init__(self, root: Path) -> None:
        self.machine = Machine(root)
        self.host = self.machine.host
        self.old = self.machine.system("old")
        self.machine.boot(self.old)
        self.store = MadeUpStore(self.machine)
        self.watcher = Silent()
        self.settings = Settings(state_dir=str(self.machine.state_dir), volatile_state=True)

    def runner(self, settings: Settings | None = None) -> Runner:
        """Make a runner, as after a restart of the agent."""
        return Runner(
            host=self.host,
            store=self.store,
            settings=settings or self.settings,
            watcher=self.watcher,
            cache_base=lambda: "http://coordinator.example/",
            names=lambda: {"web-01"},
        )

    def roots(self) -> dict[str, str]:
        """List the garbage collector roots."""
        return {one.name: str(one.readlink()) for one in self.host.gc_root(".").iterdir()}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Give a bench in a folder of its own."""
    return Bench(tmp_path)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, with a deadline."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - a file that appears sets no event
            await asyncio.sleep(0.01)


async def test_looking_names_the_running_system(bench: Bench) -> None:
    """The way back is what runs now, not the generation before."""
    offer = bench.machine.offer(bench.old)
    assert Looked(current=bench.old) == await bench.runner().perform(Look(offer=offer))


async def test_preflight_roots_the_way_back(bench: Bench) -> None:
    """The previous system cannot be collected while it is needed."""
    offer = bench.machine.offer(bench.machine.system("new", at="cache"))
    answer = await bench.runner().perform(CheckDevice(offer=offer, previous=bench.old))
    assert Passed(previous_digest=digest_of(bench.old)) == answer
    assert bench.roots() == {"previous": bench.old}


async def test_a_full_store_is_cleared_of_old_generations_and_then_told(bench: Bench) -> None:
    """Only generations that nothing may need go; what is still short is said in MiB, and retried."""
    one, two = bench.machine.system("one"), bench.machine.system("two")
    for path in (one, two, bench.old):
        bench.machine.boot(path)
    bench.host.gc_root("confirmed-1").symlink_to(two)
    bench.store.unpacked_bytes = 1 << 60
    offer = bench.machine.offer(bench.machine.system("new", at="cache"))
    answer = await bench.runner().perform(CheckDevice(offer=offer, previous=bench.old))
    assert isinstance(answer, Trouble)
    assert (answer.cause, answer.later) == (Cause.SPACE, True)
    assert answer.reason.startswith("/nix/store is short of ")
    left = [generation.path for generation in await bench.store.generations(bench.host.profile())]
    assert [bench.old, two, bench.old] == left


async def test_on_a_full_store_garbage_goes_first_and_what_nix_says_is_a_lack_of_space(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nix cannot open its database then: "disk I/O error" is told as what it is, and waited out."""
    monkeypatch.setattr(type(bench.host), "free_bytes", lambda *_: (4_096, 1 << 30))
    offer = bench.machine.offer(bench.machine.system("new", at="cache"))
    await bench.runner().perform(CheckDevice(offer=offer, previous=bench.old))
    assert f"collect {64 << 20}" == bench.store.calls[0]
    bench.store.fetch_fault = Fault(FaultKind.other, "disk I/O error")
    answer = await bench.runner().perform(Fetch(offer=offer))
    expected = "/nix/store is full: disk I/O error"
    assert Trouble(cause=Cause.SPACE, reason=expected, later=True, lines=("said Nix",)) == answer


async def test_a_download_comes_from_the_named_caches_in_order_then_our_own(bench: Bench) -> None:
    """`/cache` is the coordinator's; the device's own caches come last, and progress is told."""
    settings = replace(bench.settings, caches=(ExtraCache(url="http://own.example", key=CACHE.key),))
    offer = bench.machine.offer(bench.machine.system("new", at="cache"))
    offer = replace(offer, caches=(replace(CACHE, url="/cache"), CACHE))
    assert Passed() == await bench.runner(settings).perform(Fetch(offer=offer))
    assert ["realise http://coordinator.example/cache http://cache.example:80 http://own.example"] == bench.store.calls
    assert ([500, 1_000], {"incoming": offer.path}) == (bench.watcher.done_bytes, bench.roots())


@pytest.mark.parametrize(
    ("kind", "cause", "later"),
    [
        (FaultKind.untrusted, Cause.UNTRUSTED, False),
        (FaultKind.hash_mismatch, Cause.UNTRUSTED, False),
        (FaultKind.corrupt, Cause.UNTRUSTED, False),
        (FaultKind.over_limit, Cause.UNTRUSTED, False),
        (FaultKind.unreachable, Cause.NETWORK, True),
        (FaultKind.missing, Cause.NETWORK, True),
        (FaultKind.stalled, Cause.NETWORK, True),
        (FaultKind.interrupted, Cause.NETWORK, True),
        (FaultKind.no_space, Cause.SPACE, True),
        (FaultKind.other, Cause.INTERNAL, True),
    ],
)
async def test_a_fault_of_nix_tells_who_must_act(bench: Bench, kind: FaultKind, cause: Cause, later: bool) -> None:
    """A lie ends the attempt, a gap in the network is waited out."""
    bench.store.fetch_fault = Fault(kind, "the reason")
    answer = await bench.runner().perform(Fetch(offer=bench.machine.offer(bench.old)))
    assert Trouble(cause=cause, reason="the reason", later=later, lines=("said Nix",)) == answer


async def test_a_rollback_downloads_nothing_and_needs_the_system_here(bench: Bench) -> None:
    """What a device goes back to is what it kept."""
    offer = replace(bench.machine.offer(bench.old), caches=(), digest="")
    assert Passed() == await bench.runner().perform(Fetch(offer=offer))
    gone = replace(offer, path=bench.machine.system("gone", at="cache"))
    answer = await bench.runner().perform(Fetch(offer=gone))
    assert isinstance(answer, Trouble)
    assert ("the system to go back to is no longer on this device", []) == (answer.reason, bench.store.calls)


@pytest.mark.parametrize(("wrong", "trusted"), [(0, True), (1, True), (2, False)])
async def test_a_wrong_digest_is_repaired_once_and_then_untrusted(bench: Bench, wrong: int, trusted: bool) -> None:
    """A cache signature does not bind content to intent; the digest does."""
    bench.store.wrong_digests = wrong
    offer = bench.machine.offer(bench.machine.system("new"))
    answer = await bench.runner().perform(Verify(offer=offer, previous=bench.old))
    assert bench.store.calls.count("repair") == min(wrong, 1)
    if trusted:
        assert Passed() == answer
    else:
        assert isinstance(answer, Trouble)
        assert (Cause.UNTRUSTED, False) == (answer.cause, answer.later)


@pytest.mark.parametrize(
    ("digest", "cause", "refused"), [("", Cause.PREFLIGHT, True), ("ab" * 32, Cause.UNTRUSTED, False)]
)
async def test_a_kept_path_that_does_not_hold_what_ran_is_not_rolled_back_to(
    bench: Bench, digest: str, cause: Cause, refused: bool
) -> None:
    """A path can be collected and filled again by a cache that lies; the journal says what it held."""
    kept = bench.machine.system("kept")
    offer = replace(bench.machine.offer(kept), caches=(), digest=digest)
    answer = await bench.runner().perform(Verify(offer=offer, previous=bench.old))
    assert isinstance(answer, Trouble)
    assert (cause, refused) == (answer.cause, answer.refused)
    whole = replace(offer, digest=digest_of(kept))
    assert Passed() == await bench.runner().perform(Verify(offer=whole, previous=bench.old))


async def test_staging_tells_a_system_that_runs_already(bench: Bench) -> None:
    """Running, and the profile's: then there is nothing to switch."""
    offer = bench.machine.offer(bench.old)
    staged = await bench.runner().perform(Stage(offer=offer, previous=bench.old))
    assert Ready(baseline=(), in_place=True) == staged


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


async def test_keeping_roots_the_confirmed_systems_before_it_lets_go_of_the_incoming(bench: Bench) -> None:
    """Done twice it is the same; what is no longer here is skipped."""
    new = bench.machine.system("new")
    offer = bench.machine.offer(new)
    await bench.runner().perform(Stage(offer=offer, previous=bench.old))
    keep = Keep(offer=offer, paths=(new, bench.machine.system("gone", at="cache"), bench.old))
    for _ in range(2):
        await bench.runner().perform(keep)
        assert {"confirmed-1": new, "confirmed-3": bench.old, "previous": bench.old} == bench.roots()


@pytest.mark.parametrize("delete", [False, True])
async def test_tidying_lets_go_and_deletes_only_what_is_not_trusted(bench: Bench, delete: bool) -> None:
    """A closure that is not what was signed does not stay on the disk."""
    offer = bench.machine.offer(bench.machine.system("new"))
    await bench.runner().perform(Stage(offer=offer, previous=bench.old))
    await bench.runner().perform(Tidy(offer=offer, delete=delete))
    assert ("incoming" in bench.roots(), delete) == (False, not bench.host.at(offer.path).exists())


async def test_tidying_drops_what_a_failed_download_left_and_nothing_older(bench: Bench) -> None:
    """A cache can send paths that nobody asked for before it fails; they go, with the paths of an earlier try."""
    older = bench.machine.system("older")
    probe, made_ns = bench.machine.root / "probe", bench.host.at(older).stat().st_ctime_ns

    def tick() -> bool:
        probe.write_text("")
        return probe.stat().st_ctime_ns > made_ns

    await until(tick)  # the clock of the file system is coarse
    offer = bench.machine.offer(bench.machine.system("new", at="cache"))
    bench.store.fetch_fault = Fault(FaultKind.unreachable, "why")
    await bench.runner().perform(Fetch(offer=offer))
    planted = bench.machine.system("planted")
    bench.machine.write("/nix/store/.links/x", "")
    await bench.runner().perform(Tidy(offer=offer, delete=False))
    assert bench.host.at(planted).exists()
    await bench.runner().perform(Fetch(offer=offer))
    await bench.runner().perform(Tidy(offer=offer, delete=True))
    left = [bench.host.at(path).exists() for path in (bench.old, older, planted)]
    assert [True, True, False] == left
    again = bench.machine.system("again")
    await bench.runner().perform(Tidy(offer=offer, delete=True))
    assert bench.host.at(again).exists()


async def test_own_checks_decide_and_name_what_is_wrong(bench: Bench) -> None:
    """Command and port checks are retried, then told in words."""
    checks = Checks(
        command=(
            CommandCheck(argv=("/bin/sh", "-c", "echo nope; exit 3"), retries=0),
            CommandCheck(argv=("/bin/true",)),
        ),
        tcp=(TcpCheck(host="127.0.0.1", port=1, retries=0),),
    )
    offer = bench.machine.offer(bench.old)
    answer = await bench.runner(replace(bench.settings, checks=checks)).perform(Check(offer=offer, baseline=()))
    expected = ("127.0.0.1:1 does not accept connections", "/bin/sh ended with 3: nope")
    assert Checked(problems=expected) == answer


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


SYSTEMD_RUN = """\
#!{python}
import os, re, subprocess, sys
words = sys.argv[1:]
with open({asked!r}, "a") as file:
    file.write("\\n".join(words) + "\\n")
while words[0].startswith("--"):
    words.pop(0)
# systemd.service(5), Command lines: specifiers first, then variables, where $$ is a dollar.
words = [re.sub("%(.)", lambda found: "%" if found[1] == "%" else "", word) for word in words]
variable = "[$](?:[$]|{{(\\\\w+)}})"
words = [re.sub(variable, lambda found: os.environ.get(found[1], "") if found[1] else "$", word) for word in words]
subprocess.Popen(words, stdin=-3, stdout=-3, stderr=-3, start_new_session=True)
"""
"""A stand-in for systemd-run that writes down what it is asked, and unescapes it as systemd does."""


def with_systemd(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Make the machine one where systemd runs; give a way to read the lines of systemd-run's arguments."""
    (bench.machine.root / "run/systemd/system").mkdir(parents=True)
    place = bench.machine.root / "asked"
    tool = bench.machine.root / "tools/systemd-run"
    tool.parent.mkdir()
    tool.write_text(SYSTEMD_RUN.format(python=sys.executable, asked=str(place)))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    return lambda: place.read_text().splitlines()


@pytest.fixture
def asked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Give what systemd-run was asked, on a machine where systemd runs."""
    return with_systemd(bench, monkeypatch)


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


@pytest.mark.parametrize("name", ["a$b", "50%"])
async def test_a_state_folder_that_systemd_would_rename_makes_no_update(bench: Bench, name: str) -> None:
    """The folder is an argument of the switch, and going back would fail the same way."""
    settings = replace(bench.settings, state_dir=f"{bench.settings.state_dir}/{name}")
    offer = bench.machine.offer(bench.machine.system("new", at="cache"))
    answer = await bench.runner(settings).perform(CheckDevice(offer=offer, previous=bench.old))
    assert isinstance(answer, Trouble)
    assert "which systemd would expand" in answer.reason
