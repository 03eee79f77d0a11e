"""Proof that a device takes nothing but what somebody with the right has signed, says why, and goes on once mended."""

import time
from collections.abc import Callable

import msgspec
import pytest
from tests.acceptance.bench import (
    QUICK,
    Bench,
    join,
    kill_agent,
    log_size,
    said,
    spawn,
    state_of,
    until,
    update_of,
    waits_of,
)
from tests.acceptance.front import STREAM, Alter, Front
from tests.acceptance.hostile import Spoiled, in_line, in_sync, log_key, replayed, smuggle
from tests.factories import key
from tests.nix.harness import Device

from nixfleet.model.ids import Digest
from nixfleet.model.wire import Entry, Sync
from nixfleet.trust.gate import Gate, sign_gate
from nixfleet.trust.leaf import Leaf
from nixfleet.trust.note import Checkpoint, origin, sign_checkpoint
from nixfleet.trust.statements import encode, namespace_of

pytestmark = pytest.mark.nix

POLLS = "poll_s = 1\n"


@pytest.fixture
def ready(bench: Bench, front: Front, web: Device) -> Device:
    """Give a member that runs A since its last rollout, and reaches the coordinator through the front."""
    bench.open_fleet(front.url)
    join(web, bench.token(), POLLS + QUICK)
    until("web-01 has reported", lambda: "/v1/reports" in front.asked)
    bench.release("a", bench.systems.a, "web-01")
    bench.watch(bench.rollout("a"))
    bench.release("b", bench.systems.b, "web-01")
    return web


def stays(device: Device, system: str) -> None:
    """Check that a device is as it was: what runs, the profile, the boot loader's choice, and no further switch."""
    assert (system, system, system) == state_of(device)
    assert [("switch", system)] == device.switches()


def ends_right(bench: Bench, device: Device, rollout: str) -> None:
    """Check that the rollout to B ends, with one switch."""
    b = bench.systems.b
    bench.watch(rollout)
    assert (b, b, b) == state_of(device)
    assert [("switch", bench.systems.a), ("switch", b)] == device.switches()
    assert ("confirmed", b) == bench.outcomes("web-01")[-1]


def test_what_a_cache_serves_is_nothing_but_what_was_signed(bench: Bench, front: Front, ready: Device) -> None:
    """A tampered NAR, a wrong cache key, and other content by the right key: `untrusted`, until the cache is honest."""
    spoiled = Spoiled.of(bench, "-app-2.0")
    front.alter = spoiled.serving("nar")
    rollout = bench.rollout("b")
    fails(bench, ready, rollout, 1, "came with other content than its signed hash says")
    front.alter = spoiled.serving("key")
    again(bench, rollout)
    fails(bench, ready, rollout, 2, "is not signed by a key that may sign it")
    front.alter = spoiled.serving("both")
    again(bench, rollout)
    fails(bench, ready, rollout, 3, "is not the one that was signed: its digest differs")
    front.alter = None
    again(bench, rollout)
    until("it is tried again", lambda: update_of(ready)["offer"]["run"] == 4)
    ends_right(bench, ready, rollout)


def again(bench: Bench, rollout: str) -> None:
    """Let the failed device try again, and the halted rollout go on."""
    bench.nixfleet("rollout", "retry", rollout)
    bench.nixfleet("rollout", "resume", rollout)


def fails(bench: Bench, device: Device, rollout: str, run: int, reason: str) -> None:
    """Wait for a try's end as untrusted, which halts the rollout, and check that nothing has changed."""
    until(f"try {run} ends", lambda: ended(device, run))
    bench.watch(rollout, code=6)
    told = bench.device("web-01")
    assert ("failed", "untrusted") == (told["outcome"], told["cause"])
    assert reason in told["reason"]
    stays(device, bench.systems.a)


def ended(device: Device, run: int) -> bool:
    """Tell whether a try has an outcome in the agent's journal."""
    update = update_of(device)
    return update.get("offer", {}).get("run") == run and update.get("outcome") is not None


def test_what_a_coordinator_says_is_nothing_but_what_was_signed(bench: Bench, front: Front, ready: Device) -> None:
    """A changed payload, a forged entry, checkpoint, gate and line: nothing begins, and the report says why."""
    device = bench.device("web-01")["id"]
    kill_agent(ready)
    front.refused = (STREAM,)
    rollout = bench.rollout("b")
    for alter, reason in (
        (in_sync(_changed_payload), "untrusted: entry"),
        (in_sync(_forged_entry), "untrusted: the checkpoint is for"),
        (in_sync(_foreign_checkpoint(bench)), "untrusted: the note is not signed by the key"),
    ):
        front.alter = alter
        spawn(ready, "nixfleet", "agent")
        refuses(bench, ready, reason)
        kill_agent(ready)
    bench.nixfleet("rollout", "pause", rollout)
    front.alter = _gating(bench, rollout, device, by_log_key=True)
    spawn(ready, "nixfleet", "agent")
    refuses(bench, ready, "the rollout is paused")
    front.alter = _gating(bench, rollout, device, by_log_key=False)
    bench.nixfleet("rollout", "resume", rollout)
    refuses(bench, ready, "the word that its wave is open does not hold")
    front.alter = in_line(lambda line: line.replace(bench.systems.b, bench.systems.bad))
    refuses(bench, ready, "the line that the coordinator serves does not hold")
    front.alter, front.refused = None, ()
    ends_right(bench, ready, rollout)


def refuses(bench: Bench, device: Device, reason: str) -> None:
    """Wait for the reason in the device's signed report, and check that nothing has changed."""
    until(f"it says {reason!r}", lambda: reason in waits_of(device))
    until(f"it reports {reason!r}", lambda: reason in bench.device("web-01")["reason"])
    stays(device, bench.systems.a)


def _changed_payload(sync: Sync) -> Sync:
    """Let a rollout say something else than what was signed."""
    entries = tuple(
        msgspec.structs.replace(entry, payload=entry.payload.replace(b'"soak_s":0', b'"soak_s":1'))
        if entry.payload is not None
        else entry
        for entry in sync.entries
    )
    return msgspec.structs.replace(sync, entries=entries)


def _forged_entry(sync: Sync) -> Sync:
    """Add an entry that the checkpoint does not cover."""
    last = sync.entries[-1]
    return msgspec.structs.replace(sync, entries=(*sync.entries, Entry(leaf=last.leaf)))


def _foreign_checkpoint(bench: Bench) -> Callable[[Sync], Sync]:
    """Sign the log by another key."""
    state, _ = replayed(bench)

    def change(sync: Sync) -> Sync:
        size = sync.start + len(sync.entries)
        note = sign_checkpoint(Checkpoint(origin(state.fleet, 0), size, b"\0" * 32), key("stranger"))
        return msgspec.structs.replace(sync, checkpoint=note)

    return change


def _gating(bench: Bench, rollout: str, device: str, *, by_log_key: bool) -> Alter:
    """Open the device's wave, by the real log key or by a stranger's."""
    state, _ = replayed(bench)
    signer = log_key(bench) if by_log_key else key("stranger")

    def change(sync: Sync) -> Sync:
        gate = Gate(state.fleet, rollout, device, 1, 1_000, int(time.time()))
        return msgspec.structs.replace(sync, gates=(sign_gate(gate, signer),))

    return in_sync(change)


def test_what_no_admin_signed_for_this_fleet_has_no_effect_in_the_log(
    bench: Bench, front: Front, ready: Device
) -> None:
    """A forged, a replayed and another fleet's rollout, in the coordinator's own database: void, and why, for all."""
    state, entries = replayed(bench)
    [first] = state.rollouts.values()
    release = next(digest for digest, record in state.releases.items() if record.statement.name == "b")
    wanted = msgspec.structs.replace(first.statement, release=Digest(release), base=first.statement.base)
    admin = bench.signer()
    stranger = key("stranger")
    forged = encode(msgspec.structs.replace(wanted, by=stranger.public.fingerprint))
    foreign = encode(msgspec.structs.replace(wanted, fleet="ab" * 32))
    leaf, payload = entries[first.index]
    bench.kill()
    reasons = [
        smuggle(bench, forged, stranger.sign(namespace_of(wanted), forged)),
        smuggle(bench, foreign, admin.sign(namespace_of(wanted), foreign)),
        smuggle(bench, payload, Leaf.unpack(leaf).sshsig),
    ]
    expected = ["neither root nor grant names its key", "it is for another fleet", f"it repeats entry {first.index}"]
    assert expected == [reason.partition(" (")[0] for reason in reasons]
    front.drop()
    bench.start()
    told = bench.json("audit", "list")["entries"][-3:]
    assert [("void", reason) for reason in reasons] == [(one["verdict"], one["why"]) for one in told]
    assert f"entry {len(entries)} is the first without effect" in bench.nixfleet("audit", "verify").stdout
    until("the device holds them too", lambda: log_size(ready) == len(entries) + 3)
    refused = [f"entry {index} has no effect: {reason}" for index, reason in enumerate(reasons, len(entries))]
    until("it reports the newest", lambda: bench.device("web-01")["reason"] == refused[-1])
    assert all(line in said(ready) for line in refused)
    stays(ready, bench.systems.a)
    rollout = bench.rollout("b")
    ends_right(bench, ready, rollout)
