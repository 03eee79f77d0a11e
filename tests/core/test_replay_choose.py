"""The choice of a rollout: order, staleness, rights at use, and what a device waits for."""

import hashlib
from typing import Any

import pytest
from tests.factories import T0, YEAR_S, Fleet, closure, device_id, fingerprint, store_path

from nixfleet.model.statements import CacheRef, Rule, SelectLine, Wave
from nixfleet.trust.replay import (
    Allowed,
    Choice,
    Denied,
    Follow,
    Hold,
    Idle,
    Missing,
    Needs,
    RolloutState,
    authorise_path,
    awaits,
    choose,
    is_left,
    missing,
    replay,
    supply,
)
from nixfleet.trust.replay.state import State, Unknown, Valid, Void

WEB = device_id("web-01")


def prod() -> Fleet:
    """Make a fleet with one production device."""
    fleet = Fleet()
    fleet.device("web-01", tags={"env": "prod"})
    return fleet


def chosen(fleet: Fleet, **arguments: Any) -> Choice:
    """Choose for web-01 at the fleet's present time."""
    return choose(fleet.state, WEB, arguments.pop("now", fleet.now), **arguments)


def said(choice: Choice) -> str:
    """Say a choice in a word: the kind of a hold, what was skipped, or the index followed."""
    match choice:
        case Follow():
            return f"follow {choice.rollout.index}"
        case Hold():
            return choice.kind
        case Idle():
            return "idle " + " ".join(skip.kind for skip in choice.skipped)


def test_the_newest_rollout_that_covers_wins() -> None:
    """Older ones and those for other tags do not matter."""
    fleet = prod()
    assert said(chosen(fleet)) == "idle "
    fleet.rollout(fleet.release("a")[0])
    fleet.rollout(fleet.release("b")[0])
    newest = fleet.size - 1
    fleet.rollout(fleet.release("c")[0], select={"env": ["dev"]})
    choice = chosen(fleet)
    assert isinstance(choice, Follow)
    assert (newest, closure("b"), 1) == (choice.rollout.index, choice.closure, choice.run)


def test_never_a_lower_one_than_attempted() -> None:
    """When the newest is cancelled, only devices that had not begun it go on with the one before."""
    fleet = prod()
    fleet.rollout(fleet.release("a")[0])
    first = fleet.size - 1
    second = fleet.rollout(fleet.release("b")[0])
    attempted = fleet.size - 1
    fleet.control(second, "cancel")
    assert said(chosen(fleet)) == f"follow {first}"
    assert said(chosen(fleet, attempted_index=attempted)) == "idle cancelled"


def test_a_rollout_that_was_held_back_does_not_count() -> None:
    """Signed before another that covers the device and appended after it: sign again."""
    fleet = prod()
    first, second = fleet.release("a")[0], fleet.release("b")[0]
    early = fleet.rollout_statement(first)
    fleet.rollout(second)
    newer = fleet.size - 1
    fleet.submit(early)
    choice = chosen(fleet)
    assert said(choice) == f"follow {newer}"
    assert isinstance(choice, Follow)
    assert [skip.kind for skip in choice.skipped] == ["stale"]


def test_a_rollout_for_other_devices_makes_nothing_stale() -> None:
    """Two people deploy to two devices at once; each device asks whether the other rollout has a line for it."""
    fleet = prod()
    first, second = fleet.release("a")[0], fleet.release("b", {"web-02": "b"})[0]
    early = fleet.rollout_statement(first)
    other = fleet.rollout(second)
    fleet.submit(early)
    asked = chosen(fleet)
    assert isinstance(asked, Hold)
    assert asked.rollout is not None
    assert ("line", other) == (asked.kind, asked.rollout.digest)
    assert said(chosen(fleet, covers=lambda _: False)) == f"follow {fleet.size - 1}"
    stale = chosen(fleet, covers=lambda _: True)
    assert said(stale) == f"follow {fleet.size - 2}"


def test_one_without_the_right_makes_nothing_stale() -> None:
    """Somebody who may not touch the device cannot push others' rollouts aside."""
    fleet = prod()
    fleet.grant("ops", "deploy", select={"env": ["dev"]})
    early = fleet.rollout_statement(fleet.release("a")[0])
    fleet.rollout(early.release, by="ops")  # type: ignore[arg-type]  # a digest
    fleet.submit(early)
    assert said(chosen(fleet)) == f"follow {fleet.size - 1}"


def test_rights_are_judged_again_at_use() -> None:
    """A revoked or expired signer of rollout or release stops what is open."""
    fleet = prod()
    grant = fleet.grant("ops", "deploy", not_after=T0 + 1_000)
    ci = fleet.grant("ci", "release")
    fleet.rollout(fleet.release("a", by="ci")[0], by="ops")
    assert said(chosen(fleet)).startswith("follow")
    assert said(chosen(fleet, now=T0 + 1_001)) == "idle unauthorised"
    assert said(chosen(fleet, now=0)).startswith("follow")  # a clock at 1970 is raised to the last log time
    fleet.revoke(grant=ci)
    assert said(chosen(fleet)) == "idle release"
    fleet.revoke(grant=grant)
    assert said(chosen(fleet)) == "idle unauthorised"


def test_a_cosignature_by_a_revoked_key_counts_no_more() -> None:
    """The root's threshold stands behind an open rollout only while its keys do."""
    fleet = Fleet("lead", "security", "third", threshold=2)
    fleet.approve(_digest(fleet), "security")
    fleet.approve(fleet.device("web-01", by="lead"), "security")
    release = fleet.release("a", by="lead")[0]
    fleet.approve(release, "third")
    fleet.approve(fleet.rollout(release, by="lead"), "security")
    assert said(chosen(fleet)) == "follow 6"
    fleet.revoke(key_name="security", by="security")
    assert said(chosen(fleet)) == "idle approvals"


def test_what_a_device_waits_for_is_told() -> None:
    """Held, retired, paused, expired, not begun, not enrolled: each has its kind, and its time where one ends it."""
    fleet = prod()
    assert said(choose(fleet.state, "0" * 32, T0)) == "not-enrolled"
    rollout = fleet.rollout(fleet.release("a")[0], not_before=T0 + 100, not_after=T0 + 200)
    assert said(chosen(fleet)) == "idle not-yet"
    assert said(chosen(fleet, now=T0 + 100)).startswith("follow")
    assert said(chosen(fleet, now=T0 + 201)) == "expired"
    fleet.control(rollout, "pause")
    assert said(chosen(fleet, now=T0 + 100)) == "paused"
    fleet.device("web-01", state="held", until=T0 + 150)
    hold = chosen(fleet, now=T0 + 149)
    assert isinstance(hold, Hold)
    assert ("held", T0 + 150) == (hold.kind, hold.until)
    assert said(chosen(fleet, now=T0 + 150)) == "paused"
    fleet.device("web-01", state="retired", until=None)
    assert said(chosen(fleet)) == "retired"


def test_a_device_line_decides_who_is_covered() -> None:
    """With device lines the answer comes from outside: unknown asks, false passes over to an older rollout."""
    fleet = prod()
    fleet.rollout(fleet.release("a")[0])
    older = fleet.size - 1
    fleet.rollout(fleet.release("b", {"web-01": "b"})[0])
    newer = fleet.size - 1

    def answer(value: bool) -> Any:
        return lambda rollout: value if rollout.index == newer else None

    assert said(chosen(fleet)) == "line"
    assert said(chosen(fleet, covers=answer(True))) == f"follow {newer}"
    assert said(chosen(fleet, covers=answer(False))) == f"follow {older}"


def test_selector_lines_match_in_order() -> None:
    """The first match wins; without one the rollout does not cover the device."""
    fleet = prod()
    lines = (
        SelectLine(select={"env": ("dev",)}, closure=closure("dev")),
        SelectLine(select={"env": ("prod",)}, closure=closure("prod")),
        SelectLine(select={}, closure=closure("rest")),
    )
    fleet.rollout(fleet.release("a", lines=lines)[0])
    choice = chosen(fleet)
    assert isinstance(choice, Follow)
    assert closure("prod") == choice.closure
    fleet.rollout(fleet.release("b", lines=lines[:1])[0])
    assert said(chosen(fleet)) == f"follow {choice.rollout.index}"


def test_a_limited_signer_needs_a_release_with_few_lines() -> None:
    """`max_devices` forces device lines and bounds their number, for rollout and release alike."""
    fleet = prod()
    fleet.grant("ops", "deploy", "release", max_devices=1)
    fleet.rollout(fleet.release("a")[0], by="ops")
    assert said(chosen(fleet)) == "idle release"
    two = fleet.release("b", {"web-01": "b", "web-02": "b"})[0]
    fleet.rollout(two, by="ops")
    assert said(chosen(fleet)) == "idle release release"
    fleet.rollout(fleet.release("c", {"web-01": "c"})[0], by="ops")
    assert said(chosen(fleet, covers=lambda _: True)) == f"follow {fleet.size - 1}"
    fleet.rollout(two)
    fleet.rollout(fleet.release("d", {"web-01": "d", "web-02": "d"}, by="ops")[0])
    choice = chosen(fleet, covers=lambda _: True)
    assert isinstance(choice, Follow)
    assert [skip.kind for skip in choice.skipped] == ["release"]


def test_a_cache_that_the_root_dropped_brings_nothing() -> None:
    """When the root no longer names any of a release's caches, it is not used."""
    fleet = prod()
    fleet.rollout(fleet.release("a")[0])
    fleet.root(caches=(CacheRef(url="https://new.example", key="new-1:" + "A" * 43 + "="),))
    assert said(chosen(fleet)) == "idle release"


def test_rules_bind_rollouts_at_use() -> None:
    """Approvals, notes, soak and pace of the root's rules, for the devices that they select."""
    rule = Rule(select={"env": ("prod",)}, actions=("deploy",), approvals=1, min_soak_s=60, max_in_flight=5)
    fleet = Fleet("lead", "security", threshold=2, rules=(rule,))
    fleet.approve(_digest(fleet), "security")
    for name, action in (("ops", "deploy"), ("ops", "release"), ("oncall", "approve")):
        fleet.grant(name, action, by="lead", select={})  # type: ignore[arg-type]  # an action
        fleet.approve(_digest(fleet), "security")
    fleet.grant("hr", "enroll", "device", by="lead")
    fleet.approve(_digest(fleet), "security")
    fleet.device("web-01", by="hr", tags={"env": "prod"})
    release = fleet.release("a", by="ops")[0]
    fleet.rollout(release, by="ops", soak_s=0)
    fleet.approve(_digest(fleet), "oncall")
    assert said(chosen(fleet)) == "idle rule"
    fleet.rollout(release, by="ops", soak_s=60, max_in_flight=6)
    fleet.approve(_digest(fleet), "oncall")
    assert said(chosen(fleet)) == "idle rule rule"
    fleet.rollout(release, by="ops", soak_s=60, max_in_flight=5)
    assert said(chosen(fleet)) == "idle approvals rule rule"
    fleet.approve(_digest(fleet), "oncall")
    assert said(chosen(fleet)).startswith("follow")
    fleet.revoke(key_name="oncall", by="oncall")
    assert said(chosen(fleet)) == "idle approvals approvals approvals"


def test_a_rule_on_releases_binds_what_was_published_before_it() -> None:
    """A release without a note is not used where the root in force asks for one."""
    fleet = Fleet("lead", "security", threshold=2)
    fleet.approve(_digest(fleet), "security")
    fleet.approve(fleet.device("web-01", by="lead"), "security")
    for note in (None, "OPS-7"):
        release = fleet.release("a", by="lead", note=note)[0]
        fleet.approve(release, "security")
        fleet.approve(fleet.rollout(release, by="lead"), "security")
    rule = Rule(select={}, actions=("release",), note_required=True)
    fleet.approve(fleet.root(by="lead", rules=(rule,)), "security")
    assert said(chosen(fleet)) == "follow 10"
    fleet.approve(fleet.control(list(fleet.state.rollouts)[-1], "cancel", by="lead"), "security")
    assert said(chosen(fleet)) == "idle cancelled release"


def _digest(fleet: Fleet) -> Any:
    return hashlib.sha256(fleet.entries[-1][1]).hexdigest()


def test_a_left_path_needs_rollback() -> None:
    """Left = confirmed, then replaced by another confirmed path; the last one is drift repair."""
    a, b = store_path("a"), store_path("b")
    assert (True, False, False) == (is_left([a, b], a), is_left([a, b], b), is_left([], a))
    assert not is_left([a, b, a], a)
    fleet = prod()
    fleet.grant("ops", "deploy")
    rollout = fleet.state.rollouts[fleet.rollout(fleet.release("a")[0], by="ops")]
    assert isinstance(authorise_path(fleet.state, rollout, WEB, fleet.now, [a, b], a), Denied)
    assert isinstance(authorise_path(fleet.state, rollout, WEB, fleet.now, [b, a], a), Allowed)
    fleet.grant("ops", "rollback")
    assert isinstance(authorise_path(fleet.state, rollout, WEB, fleet.now, [a, b], a), Allowed)


def test_a_rollback_covers_who_confirmed() -> None:
    """Only the device's own history tells whether a rollback is for it."""
    fleet = prod()
    first = fleet.rollout(fleet.release("a")[0])
    fleet.rollout(None, kind="rollback", of=first)
    assert said(chosen(fleet)) == "line"
    assert said(chosen(fleet, covers=lambda one: one.statement.of is not None)) == f"follow {fleet.size - 1}"


def test_a_limited_signer_takes_back_only_what_had_few_lines() -> None:
    """`max_devices` bounds a rollback by the release that it takes back."""
    fleet = prod()
    fleet.grant("ops", "rollback", max_devices=1)
    for devices, expected in (({"web-01": "a"}, "follow"), ({"web-01": "b", "web-02": "b"}, "unauthorised")):
        first = fleet.rollout(fleet.release("a", devices)[0])
        fleet.rollout(None, kind="rollback", of=first, by="ops")
        choice = chosen(fleet, covers=lambda _: True, attempted_index=fleet.size - 1)
        assert expected in said(choice)
    again = next(one for one in fleet.state.rollouts.values() if one.statement.kind == "rollback")
    fleet.rollout(None, kind="rollback", of=again.digest, by="ops")
    choice = chosen(fleet, covers=lambda _: True, attempted_index=fleet.size - 1)
    assert said(choice) == "idle unauthorised"  # how many devices that touches, no release tells


def test_signed_gates_open_in_order() -> None:
    """A wave is open when every signed gate up to it has its advance."""
    fleet = prod()
    waves = (Wave(members={"env": ("test",)}), Wave(members="50%", gate="signed"), Wave(members="100%"))
    rollout = fleet.rollout(fleet.release("a")[0], waves=waves)

    def opened() -> list[bool]:
        return [fleet.state.rollouts[rollout].wave_open(wave) for wave in (1, 2, 3)]

    assert opened() == [True, False, False]
    fleet.control(rollout, "advance", wave=2)
    assert opened() == [True, True, True]


@pytest.mark.parametrize("first", [True, False])
def test_a_copy_under_another_signature_does_not_stand_in_for_a_release(first: bool) -> None:
    """Before it or behind it: who reads the payload late knows the release as who held it from the start."""
    fleet, twin = prod(), prod()
    for one in (fleet, twin):
        one.grant("copycat", "release")
    release, _ = twin.release("a")
    signed, payload = twin.entries[-1]
    copy = fleet.leaf(payload, "nixfleet-release-v1", "copycat")
    for leaf in (copy, signed) if first else (signed, copy):
        fleet.append_leaf(leaf, payload)
    fleet.rollout(release)
    agent = State(fleet.state.fleet)
    for index, (leaf, held) in enumerate(fleet.entries):
        replay(agent, index, leaf, None if held == payload else held)
    assert fleet.entries.index((signed, payload)) == awaits(agent, payload)
    assert isinstance(supply(agent, payload), Valid)
    assert (f"follow {fleet.size - 1}", fleet.state.releases) == (said(choose(agent, WEB, fleet.now)), agent.releases)
    assert chosen(fleet) == choose(agent, WEB, fleet.now)


def test_late_payloads_are_judged_as_in_their_place() -> None:
    """An agent that lacks a release or a control asks for it, and then knows what all know."""
    fleet = prod()
    rollout = fleet.rollout(fleet.release("a")[0])
    fleet.control(rollout, "pause")
    fleet.control(rollout, "resume")
    fleet.control(rollout, "retry", devices="failed")
    agent = State(fleet.state.fleet)
    withheld = {2, 4, 6}
    for index, (leaf, payload) in enumerate(fleet.entries):
        verdict = replay(agent, index, leaf, None if index in withheld else payload)
        assert (Unknown() == verdict) == (index in withheld or index == 5)
    assert said(choose(agent, WEB, fleet.now)) == "missing"
    release = next(iter(fleet.state.releases))
    assert Missing((release,), (4, 6)) == missing(agent, WEB)
    assert isinstance(supply(agent, fleet.entries[2][1]), Valid)
    assert said(choose(agent, WEB, fleet.now)) == "missing"  # it could be paused
    assert isinstance(supply(agent, fleet.entries[6][1]), Unknown)
    assert isinstance(supply(agent, fleet.entries[4][1]), Valid)
    assert not missing(agent, WEB)
    assert fleet.state.rollouts == agent.rollouts
    assert chosen(fleet) == choose(agent, WEB, fleet.now)
    assert isinstance(supply(agent, fleet.entries[4][1]), Void)


def test_a_release_is_asked_for_only_where_its_rollouts_signer_may_deploy() -> None:
    """A key that may deploy to few devices cannot make all others ask for a release, in the log or in none."""
    fleet = prod()
    fleet.device("dev-01", tags={"env": "dev"})
    fleet.grant("limited", "deploy", "release", select={"env": ["dev"]})
    fleet.rollout(Fleet().release("x")[0], by="limited")
    assert (0, 1) == tuple(len(missing(fleet.state, device).releases) for device in (WEB, device_id("dev-01")))
    line = SelectLine(select={"env": ("dev",)}, closure=closure("b"))
    fleet.rollout(fleet.release("b", lines=(line,))[0], by="limited")
    agent, needs = State(fleet.state.fleet), Needs(fleet.state, WEB)
    for index, (leaf, payload) in enumerate(fleet.entries):
        replay(agent, index, leaf, payload if needs(leaf) else None)
    assert (False, {}) == (bool(missing(agent, WEB)), agent.releases)
    assert "idle unauthorised unauthorised" == said(chosen(fleet)) == said(choose(agent, WEB, fleet.now))


def test_a_release_that_is_in_no_log_stops_until_cancelled() -> None:
    """An agent cannot tell it from one that it lacks, so nobody goes past it but by a signed act."""
    fleet = prod()
    fleet.rollout(fleet.release("a")[0])
    good = fleet.size - 1
    unlogged = fleet.rollout(Fleet().release("x")[0])
    assert said(chosen(fleet)) == "missing"
    fleet.control(unlogged, "cancel")
    assert said(chosen(fleet)) == f"follow {good}"


def test_a_missing_payload_that_all_need_stops_everything() -> None:
    """Nothing starts before a root, grant, revoke or rollout is known."""
    fleet = prod()
    fleet.rollout(fleet.release("a")[0])
    agent = State(fleet.state.fleet)
    for index, (leaf, payload) in enumerate(fleet.entries):
        replay(agent, index, leaf, None if index == 3 else payload)
    assert agent.blind_at == 3
    assert said(choose(agent, WEB, fleet.now)) == "missing"
    assert T0 + YEAR_S > fleet.now
    assert isinstance(next(iter(fleet.state.rollouts.values())), RolloutState)
    assert fingerprint("admin") in agent.root_keys
