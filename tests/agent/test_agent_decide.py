"""From a verified log to an offer: every reason not to begin, and the one way to."""

import hashlib
from typing import Any

import pytest
from msgspec.structs import replace
from tests.factories import CACHE, DIGEST, T0, Fleet, device_id, fingerprint, key, principal, store_path, target_line

from nixfleet.agent.decide import GATES_MOST, Decision, Me, NeedLine, Proceed, Wait, decide, still, still_boots
from nixfleet.agent.update import Confirmed, Held, Offer, State, Withdrawn
from nixfleet.model.statements import Activation, LogKey, Rule, Statement, TargetLine, Wave, Window
from nixfleet.trust.gate import Gate, sign_gate
from nixfleet.trust.statements import encode, namespace_of

WEB = device_id("web-01")
NEVER = State()


class World:
    """A fleet with one device and one rollout of release `a`; what a device sees of it."""

    def __init__(self, **rollout: Any) -> None:
        self.fleet = Fleet()
        self.fleet.device("web-01", tags={"env": "prod"})
        self.fleet.grant("ops", "deploy", "release", "control")
        self.release, _ = self.fleet.release("a", {"web-01": "a"}, by="ops")
        self.rollout = self.fleet.rollout(self.release, by="ops", **rollout)
        self.lines: dict[str, TargetLine | None] = {self.release: target_line("web-01", "a")}
        self.wall_s = self.fleet.now

    def gate(self, signer: str = "log", **fields: Any) -> bytes:
        """Make the coordinator's word that the wave of this device is open."""
        made: dict[str, Any] = {
            "fleet": self.fleet.fleet,
            "rollout": self.rollout,
            "device": WEB,
            "run": 1,
            "log_size": self.fleet.size,
            "time": self.wall_s,
        }
        return sign_gate(Gate(**{**made, **fields}), key(signer))

    def me(self) -> Me:
        """Give the device's view of itself."""
        return Me(device=WEB, timezone="Europe/Berlin", wall_s=self.wall_s, orphan_s=1_800)

    def decide(self, *gates: bytes, state: State = NEVER) -> Decision:
        """Decide, by default with a good gate."""
        log_key = key("log").public
        return decide(self.fleet.state, log_key, self.me(), state, gates or (self.gate(),), self.lines)

    def still(self, offer: Offer, state: State = NEVER) -> Held | Withdrawn | None:
        """Judge an offer again."""
        return still(self.fleet.state, self.me(), state, offer, self.lines)

    def offer(self) -> Offer:
        """Decide, and expect an offer."""
        decision = self.decide()
        assert isinstance(decision, Proceed)
        assert decision.refusal == ""
        return decision.offer


def attempted(index: int, **fields: Any) -> State:
    """Make the state of a device that has attempted an entry."""
    return State(attempted=(0, index), **fields)


def test_an_authorised_open_and_proven_update_may_begin() -> None:
    """Everything that the log and the line say is in the offer, and nothing else."""
    world = World(device_timeout_s=900, activation=Activation(confirm_s=77, contact="any", rename=True))
    expected = Offer(
        rollout=world.rollout,
        epoch=0,
        index=world.fleet.size - 1,
        run=1,
        path=store_path("a"),
        system="x86_64-linux",
        digest=DIGEST,
        nar_bytes=1_000,
        caches=(CACHE,),
        confirm_s=77,
        contact="any",
        rename=True,
        timeout_s=900,
    )
    assert Proceed(offer=expected) == world.decide()


def test_an_unknown_line_is_fetched_first_and_none_means_nothing_to_do() -> None:
    """A release with device lines says nothing without one's own line; without one it does not cover the device."""
    world = World()
    world.lines.clear()
    assert NeedLine(rollout=world.rollout, release=world.release) == world.decide()
    world.lines[world.release] = None
    assert Wait() == world.decide()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"signer": "stranger"}, "its wave is not open yet"),
        ({"device": device_id("web-02")}, "its wave is not open yet"),
        ({"rollout": "0" * 64}, "its wave is not open yet"),
        ({"fleet": "0" * 64}, "its wave is not open yet"),
        ({"time": T0 - 700}, "the word that its wave is open is older than 10 minutes"),
        ({"log_size": 4}, "the word that its wave is open is older than the rollout"),
        ({"run": 2}, "nobody signed try 2 on this device"),
    ],
)
def test_a_gate_that_is_not_ours_fresh_and_signed_opens_nothing(fields: dict[str, Any], reason: str) -> None:
    """Gates pace: by the log key, for this device, rollout and fleet, at most ten minutes old."""
    world = World()
    assert Wait(reason=reason) == world.decide(world.gate(**fields))


def test_a_device_whose_clock_begins_in_1970_updates_by_a_fresh_gate_only() -> None:
    """The last log time, and the newest gate that came along, are what such a device knows of the time."""
    world = World()
    now = world.fleet.now
    world.wall_s = 0
    assert isinstance(world.decide(world.gate(time=now + 5_000)), Proceed)
    stale = Wait(reason="the word that its wave is open is older than 10 minutes")
    assert stale == world.decide(world.gate(time=now - 700))
    other = world.gate(time=now + 5_000, rollout="0" * 64)
    assert stale == world.decide(world.gate(time=now + 4_300), other)
    assert isinstance(world.decide(world.gate(time=now + 4_400), other), Proceed)


def test_without_any_gate_the_wave_is_closed() -> None:
    """No word, no start."""
    assert Wait(reason="its wave is not open yet") == World().decide(b"garbage")


def test_only_so_many_gates_are_looked_at() -> None:
    """Each costs a signature check, and a coordinator could send a bodyful of them."""
    world = World()
    junk = [b"garbage"] * GATES_MOST
    assert Wait(reason="its wave is not open yet") == world.decide(*junk, world.gate())
    assert isinstance(world.decide(*junk[1:], world.gate()), Proceed)


def test_a_signed_wave_needs_its_signature() -> None:
    """The coordinator alone cannot open a wave whose gate is `signed`."""
    world = World(waves=(Wave(members={"ring": ("canary",)}), Wave(members="100%", gate="signed")))
    assert Wait(reason="wave 2 waits for a signature") == world.decide(world.gate(wave=2))
    world.fleet.control(world.rollout, "advance", by="ops", wave=2)
    assert isinstance(world.decide(world.gate(wave=2)), Proceed)


def test_a_gate_that_names_an_early_wave_opens_no_signed_one() -> None:
    """What the coordinator says of the wave lowers nothing: the device knows from its tags that it is no canary."""
    world = World(waves=(Wave(members={"ring": ("canary",)}), Wave(members="100%", gate="signed")))
    for wave in (1, 2, 3):
        decision = world.decide(world.gate(wave=wave))
        assert Wait(reason=f"wave {max(wave, 2)} waits for a signature") == decision
    early = World(waves=(Wave(members={"env": ("prod",)}), Wave(members="100%", gate="signed")))
    assert isinstance(early.decide(early.gate(wave=1)), Proceed)
    world.fleet.control(world.rollout, "advance", by="ops", wave=2)
    assert isinstance(world.decide(world.gate(wave=1)), Proceed)


def test_a_device_that_joined_later_is_in_the_last_wave() -> None:
    """Its tags do not make it a canary of a rollout that is older than it is."""
    world = World()
    waves = (Wave(members={"env": ("prod",)}), Wave(members="100%", gate="signed"))
    release, lines = world.fleet.release("b", {"web-02": "b"}, by="ops")
    rollout = world.fleet.rollout(release, by="ops", waves=waves)
    world.fleet.device("web-02", tags={"env": "prod"})
    assert lines is not None
    me, late = replace(world.me(), device=device_id("web-02")), target_line("web-02", "b")
    gate = world.gate(rollout=rollout, device=me.device, wave=1)
    log_key = key("log").public
    assert Wait(reason="wave 2 waits for a signature") == decide(
        world.fleet.state, log_key, me, NEVER, (gate,), {release: late}
    )


def test_a_revoked_signer_starts_nothing_and_withdraws_what_began() -> None:
    """Rights are judged again at use."""
    world = World()
    offer = world.offer()
    world.fleet.revoke(key_name="ops")
    revoked = f"the key {fingerprint('ops')} is revoked"
    assert Wait(reason=revoked) == world.decide()
    assert Withdrawn(reason=revoked) == world.still(offer)


def test_a_forged_rollout_is_nothing() -> None:
    """A statement by a key that nobody named is void, whatever gate the coordinator signs for it."""
    world = World()
    forged = world.fleet.rollout_statement(world.release, by="stranger")
    payload = encode(forged)
    digest = world.fleet.append(payload, namespace_of(forged), "stranger")
    decision = world.decide(world.gate(rollout=digest))
    assert Wait(reason="its wave is not open yet") == decision


def test_a_statement_of_another_fleet_is_nothing() -> None:
    """The same signer's rollout of another fleet does not count in this one."""
    world = World()
    foreign = replace(world.fleet.rollout_statement(world.release, by="ops"), fleet="9" * 64)
    digest = world.fleet.append(encode(foreign), namespace_of(foreign), "ops")
    assert digest not in world.fleet.state.rollouts
    assert Wait(reason="its wave is not open yet") == world.decide(world.gate(rollout=digest))


def test_a_replayed_rollout_does_not_come_again() -> None:
    """An older rollout, appended again after a newer one, is a repeat and void; the newer one holds."""
    world = World()
    leaf, payload = world.fleet.entries[-1]
    old = world.rollout
    release, _ = world.fleet.release("b", {"web-01": "b"}, by="ops")
    world.rollout = world.fleet.rollout(release, by="ops")
    world.lines[release] = target_line("web-01", "b")
    world.fleet.append_leaf(leaf, payload)
    done = attempted(world.fleet.state.rollouts[world.rollout].index)
    assert Wait() == world.decide(world.gate(rollout=old), state=done)


def test_an_attempted_rollout_is_not_begun_again() -> None:
    """Neither the same nor a lower one, whatever gates say."""
    world = World()
    index = world.offer().index
    assert [Wait(), Wait()] == [world.decide(state=attempted(index)), world.decide(state=attempted(index + 5))]


def test_after_a_new_epoch_the_order_begins_again() -> None:
    """Order is (epoch, index): an index attempted in an earlier epoch does not bar a later one."""
    world = World()
    assert isinstance(world.decide(state=State(attempted=(-1, 10_000))), Proceed)


def test_paused_waits_and_cancelled_is_forgotten() -> None:
    """Controls count the moment they are in the log."""
    world = World()
    offer = world.offer()
    world.fleet.control(world.rollout, "pause", by="ops")
    assert Wait(reason="the rollout is paused") == world.decide()
    assert Held(reason="the rollout is paused") == world.still(offer)
    world.fleet.control(world.rollout, "resume", by="ops")
    assert world.still(offer) is None
    world.fleet.control(world.rollout, "cancel", by="ops")
    assert (Wait(), Withdrawn(reason="it is cancelled")) == (world.decide(), world.still(offer))


def test_a_newer_rollout_takes_the_place_of_one_that_has_not_switched() -> None:
    """The highest rollout that covers a device wins."""
    world = World()
    offer = world.offer()
    release, _ = world.fleet.release("b", {"web-01": "b"}, by="ops")
    newer = world.fleet.rollout(release, by="ops")
    world.lines[release] = target_line("web-01", "b")
    assert Withdrawn(reason="a newer rollout took its place") == world.still(offer)
    decision = world.decide(world.gate(rollout=newer))
    assert isinstance(decision, Proceed)
    assert decision.offer.path == store_path("b")


def test_an_expired_rollout_starts_nothing_and_a_held_device_waits() -> None:
    """Times are judged by the larger of the device's clock and the last log time."""
    world = World(not_after=T0 + 1_000)
    world.wall_s = T0 + 1_001
    assert Wait(reason="the rollout has expired") == world.decide()
    world = World()
    world.fleet.device("web-01", state="held", until=world.fleet.now + 1_000)
    until_s = world.fleet.now + 999
    assert Wait(reason="the device is held by a signed act", until_s=until_s) == world.decide()


def test_a_clock_that_jumps_ahead_holds_an_update_and_does_not_end_it() -> None:
    """Years ahead every right and rollout looks over; put right, it goes on; the log's own time ends it for good."""
    world = World(not_after=T0 + 1_000)
    offer, right_s = world.offer(), world.wall_s
    for ahead_s in (T0 + 1_001, T0 + 10 * 365 * 86_400):
        world.wall_s = ahead_s
        assert isinstance(world.still(offer), Held)
    world.wall_s = right_s
    assert world.still(offer) is None
    world.fleet.now += 1_001
    world.fleet.grant("other", "deploy")
    assert world.fleet.state.last_time > T0 + 1_000
    assert Withdrawn(reason="the rollout has expired") == world.still(offer)


def test_a_path_that_was_left_comes_back_only_by_who_may_roll_back() -> None:
    """A deploy of a left path is refused with an outcome; with the right to roll back it may begin."""
    world = World()
    old, new = store_path("a"), store_path("b")
    confirmed = Confirmed(rollout="0" * 64, path=new, previous=old)
    state = State(attempted=(0, 1), confirmed=(confirmed,), left=(old,))
    (grant,) = world.fleet.state.grants
    limit = f"its grant {grant[:12]} allows deploy, release, control only"
    lacks = f"ops lacks the right to roll back web-01 (rollback): {limit}"
    assert Withdrawn(reason=lacks) == world.still(world.offer(), state)
    decision = world.decide(state=state)
    assert isinstance(decision, Proceed)
    assert decision.refusal == f"{lacks}: this device has left a"
    world.fleet.grant("ops", "rollback")
    decision = world.decide(state=state)
    assert isinstance(decision, Proceed)
    assert decision.refusal == ""
    drifted = replace(state, confirmed=(replace(confirmed, path=old),), left=())
    assert isinstance(world.decide(state=drifted), Proceed)


def test_a_rollback_returns_to_what_this_device_journalled() -> None:
    """The way back comes from the device's own journal, needs no cache, and skips who never confirmed."""
    world = World()
    world.fleet.grant("ops", "rollback")
    first = world.rollout
    world.rollout = world.fleet.rollout(None, by="ops", kind="rollback", of=first)
    confirmed = Confirmed(rollout=first, path=store_path("a"), previous=store_path("before"))
    decision = world.decide(state=attempted(3, confirmed=(confirmed,)))
    assert isinstance(decision, Proceed)
    assert (store_path("before"), (), "") == (decision.offer.path, decision.offer.caches, decision.offer.digest)
    never = world.decide(state=attempted(world.fleet.size - 2))
    assert not isinstance(never, Proceed)


def test_a_closed_window_waits_until_it_opens() -> None:
    """A window in the device's own time zone says when to look again."""
    window = Window(days=("mon", "tue", "wed", "thu", "fri", "sat", "sun"), from_="22:00", to="23:00", tz="device")
    world = World(window=window)
    world.wall_s = T0 + 100  # 2027-01-15 09:01:40 in Berlin
    decision = world.decide()
    assert isinstance(decision, Wait)
    assert decision.reason == "outside its window (22:00 to 23:00 Europe/Berlin)"
    assert decision.until_s is not None
    world.wall_s = decision.until_s
    offer = world.offer()
    assert world.still(offer) is None
    world.wall_s += 3_600
    assert Held(reason=decision.reason) == world.still(offer)


def pending(**rollout: Any) -> tuple[World, Offer]:
    """Give a device that has switched within its window, which is over, and waits for a reboot."""
    window = Window(days=("mon", "tue", "wed", "thu", "fri", "sat", "sun"), from_="22:00", to="23:00", tz="device")
    world = World(window=window, **rollout)
    decision = world.decide()
    assert isinstance(decision, Wait)
    assert decision.until_s is not None
    world.wall_s = decision.until_s
    offer = world.offer()
    world.wall_s += 3_600
    return world, offer


def boots(world: World, offer: Offer, *, clock_late: bool = False) -> Held | Withdrawn | None:
    """Judge the reboot of an update."""
    me = replace(world.me(), clock_late=clock_late)
    return still_boots(world.fleet.state, me, NEVER, offer, world.lines)


def test_a_reboot_within_the_window_waits_for_the_next_one() -> None:
    """In the device's own time zone; inside of it, it may."""
    world, offer = pending(reboot="in_window")
    assert Held(reason="outside its window (22:00 to 23:00 Europe/Berlin)") == boots(world, offer)
    world.wall_s -= 1_800
    assert boots(world, offer) is None


def test_a_reboot_at_once_is_not_held_by_the_window_that_the_switch_was_in() -> None:
    """But by a pause, as anything else."""
    world, offer = pending(reboot="now")
    assert boots(world, offer) is None
    world.fleet.control(world.rollout, "pause", by="ops")
    assert isinstance(boots(world, offer), Held)


def test_a_clock_behind_the_log_opens_no_window() -> None:
    """A battery that thinks it is 1970 would see the hour of the newest entry for ever."""
    world, offer = pending(reboot="in_window")
    world.wall_s -= 1_800
    held = Held(reason="its clock is behind the log, so whether its window is open is not known")
    assert held == boots(world, offer, clock_late=True)
    world, offer = pending(reboot="now")
    assert boots(world, offer, clock_late=True) is None


@pytest.mark.parametrize("policy", ["in_window", "now"])
def test_a_cancelled_rollout_reboots_nobody(policy: str) -> None:
    """Whatever its clock says."""
    world, offer = pending(reboot=policy)
    world.fleet.control(world.rollout, "cancel", by="ops")
    assert isinstance(boots(world, offer, clock_late=True), Withdrawn)


def test_a_rollout_says_whether_a_reboot_without_a_fallback_is_accepted() -> None:
    """By a field of its signed activation."""
    assert World().offer().accept_no_fallback is False
    offer = World(reboot="now", activation=Activation(no_fallback=True)).offer()
    assert ("now", True) == (offer.reboot, offer.accept_no_fallback)


def test_a_trial_goes_as_long_as_was_signed() -> None:
    """Mode `test` is told to the switch, with its time; no other mode has one."""
    decision = World(mode="test", activation=Activation(for_s=600)).decide()
    assert isinstance(decision, Proceed)
    assert ("test", 600, "") == (decision.offer.verb, decision.offer.for_s, decision.refusal)
    other = World(mode="boot", activation=Activation(for_s=600)).decide()
    assert isinstance(other, Proceed)
    assert ("boot", 0) == (other.offer.verb, other.offer.for_s)


def test_caches_that_the_root_no_longer_names_are_not_used() -> None:
    """Only caches of the root in force may serve an update."""
    world = World()
    world.fleet.root(caches=())
    assert Wait(reason="the root no longer names any of its release's caches") == world.decide()
    world = World()
    other = replace(CACHE, url="https://other.example")
    world.fleet.root(caches=(CACHE, other))
    world.release, _ = world.fleet.release("b", caches=(CACHE, other))
    world.rollout = world.fleet.rollout(world.release)
    assert (CACHE, other) == world.offer().caches
    world.fleet.root(caches=(other,))
    assert (other,) == world.offer().caches


def test_an_agent_below_the_protocol_begins_what_is_older_and_says_that_it_is_too_old() -> None:
    """A rollout below the root that raised the protocol may bring the newer agent; without one, the reason is told."""
    world = World()
    raised = world.fleet.size
    world.fleet.root(protocol=2)
    world.fleet.rollout(world.release)
    assert world.offer().index < raised
    expected = Wait(reason=f"agent too old: entry {raised} raised the protocol")
    assert expected == world.decide(state=attempted(raised - 1))


def test_a_retry_raises_the_run_only_as_far_as_somebody_signed() -> None:
    """The gate's run counts when signatures cover it; a gate for an old run of an attempted rollout is nothing."""
    world = World()
    index = world.offer().index
    world.fleet.control(world.rollout, "retry", by="ops", devices="failed")
    decision = world.decide(world.gate(run=2))
    assert isinstance(decision, Proceed)
    assert decision.offer.run == 2
    assert Wait() == world.decide(world.gate(run=1), state=attempted(index))


def test_a_device_that_is_retired_or_unknown_does_nothing() -> None:
    """Membership comes first."""
    world = World()
    offer = world.offer()
    world.fleet.device("web-01", state="retired")
    assert Wait(reason="the device is retired") == world.decide()
    assert Withdrawn(reason="the device is retired") == world.still(offer)
    empty = Fleet(log=LogKey(key=key("log").public.text, epoch=0))
    nobody = decide(empty.state, key("log").public, world.me(), NEVER, (), {})
    assert Wait(reason="the device is not enrolled") == nobody


def test_what_the_journal_knows_covers_the_device_whatever_lines_say() -> None:
    """A rollout that was begun or confirmed here cannot be denied: an older one, held back, is stale after it."""
    world = World()
    old = world.fleet.rollout_statement(world.release, by="ops")
    release, _ = world.fleet.release("b", {"web-01": "b"}, by="ops")
    new = world.fleet.rollout(release, by="ops")
    index = world.fleet.size - 1
    world.fleet.submit(old, "ops")
    confirmed = Confirmed(rollout=new, path=store_path("b"), previous=store_path("zero"))
    for state in (attempted(index), State(confirmed=(confirmed,))):
        for known in (False, True):
            world.lines = {world.release: target_line("web-01", "a")}
            if known:
                world.lines[release] = None
            decision = world.decide(world.gate(), world.gate(rollout=old_digest(old)), state=state)
            assert not isinstance(decision, Proceed)


def old_digest(statement: Statement) -> str:
    """Name a statement by its payload."""
    return hashlib.sha256(encode(statement)).hexdigest()


def test_approvals_are_counted_on_the_device_itself() -> None:
    """Whatever the coordinator says, it begins with them alone, and goes no further once one counts no more."""
    world = World()
    rule = Rule(select={"env": ("prod",)}, actions=("deploy",), approvals=1)
    fleet = world.fleet
    fleet.grant("oncall", "approve")
    fleet.grant("ops", "approve")
    fleet.approve(fleet.root(principals=(principal("admin"), principal("boss")), threshold=2, rules=(rule,)), "boss")
    waits = Wait(reason="1 more approval is needed, by another principal with the right to approve")
    for approver in ("ops", "boss"):
        fleet.approve(world.rollout, approver)
        assert waits == world.decide()
    fleet.approve(world.rollout, "oncall")
    offer = world.offer()
    assert world.still(offer) is None
    fleet.revoke(key_name="oncall", by="oncall")
    assert Withdrawn(reason=waits.reason) == world.still(offer)


def test_a_device_whose_clock_is_in_2070_waits_and_loses_nothing() -> None:
    """What its clock alone has ended is held, and begins once the clock is right: a bad battery expires nothing."""
    world = World()
    offer, true_s = world.offer(), world.wall_s
    world.wall_s = 3_155_760_000
    waits = world.decide()
    assert isinstance(waits, Wait)
    assert "" != waits.reason
    assert isinstance(world.still(offer), Held)
    world.wall_s = true_s
    assert world.still(offer) is None
    assert isinstance(world.decide(), Proceed)
