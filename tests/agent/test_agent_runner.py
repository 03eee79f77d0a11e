"""The effects of the update machine before and after a switch, on a made-up NixOS machine with a made-up Nix."""

import pytest
from msgspec.structs import replace
from tests.agent.made_up import CACHE, digest_of
from tests.agent.site import until
from tests.agent.workbench import Bench

from nixfleet.agent.settings import Checks, CommandCheck, ExtraCache, TcpCheck
from nixfleet.agent.update import (
    Check,
    CheckDevice,
    Checked,
    Fetch,
    Keep,
    Look,
    Looked,
    Passed,
    Ready,
    Stage,
    Tidy,
    Trouble,
    Verify,
)
from nixfleet.model.device import Cause
from nixfleet.nix import Fault, FaultKind


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
    expected = ("127.0.0.1:1 does not accept connections: Connection refused", "/bin/sh ended with 3: nope")
    assert Checked(problems=expected) == answer


@pytest.mark.parametrize("name", ["a$b", "50%"])
async def test_a_state_folder_that_systemd_would_rename_makes_no_update(bench: Bench, name: str) -> None:
    """The folder is an argument of the switch, and going back would fail the same way."""
    settings = replace(bench.settings, state_dir=f"{bench.settings.state_dir}/{name}")
    offer = bench.machine.offer(bench.machine.system("new", at="cache"))
    answer = await bench.runner(settings).perform(CheckDevice(offer=offer, previous=bench.old))
    assert isinstance(answer, Trouble)
    assert "which systemd would expand" in answer.reason
