"""Every small history, exhaustively: the replay against an obvious account of who may do what, kept beside it.

Eleven acts of a root of two, an operator, a build server below them and an approver, in every order: grants,
revocations, rollouts, approvals, a retagging, a cancellation. After each the device follows what the account says.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.factories import Fleet, device_id

from nixfleet.model.ids import Digest
from nixfleet.model.statements import Rule
from nixfleet.trust.replay import Follow, Idle, Valid, Waiting, choose
from nixfleet.trust.statements import digest

DEPTH = 4
WEB = device_id("web-01")


@dataclass
class Run:
    """A rollout of the account: who signed it, who approved it, whether it was cancelled."""

    digest: Digest
    by: str
    approved: set[str] = field(default_factory=set)
    cancelled: bool = False


@dataclass
class Account:
    """What happened, in plain words: no chains, no selectors, no log."""

    ops_granted: bool = False
    ops_revoked: bool = False
    keys_revoked: set[str] = field(default_factory=set)
    ci_granted: bool = False
    in_production: bool = True
    runs: list[Run] = field(default_factory=list)

    def may_deploy(self, who: str) -> bool:
        """Tell whether somebody may deploy to the device now: the operator by the root, the build server by both."""
        ops = self.ops_granted and not self.ops_revoked and "ops" not in self.keys_revoked
        return ops and (who == "ops" or self.ci_granted)

    def counts(self, run: Run) -> bool:
        """Tell whether the device may take a rollout: its signer's right, and in production another's approval.

        The operator approves neither their own nor what their build server submits: they handed that right on.
        """
        approved = "oncall" in run.approved - self.keys_revoked
        return not run.cancelled and self.may_deploy(run.by) and (approved or not self.in_production)

    def followed(self) -> Digest | None:
        """Name the newest rollout that counts."""
        return next((run.digest for run in reversed(self.runs) if self.counts(run)), None)


def beginning() -> Fleet:
    """Make a fleet of one device in production, under a rule, with two who may approve."""
    rule = Rule(select={"env": ("prod",)}, actions=("deploy",), approvals=1)
    fleet = Fleet("lead", "second", threshold=2, rules=(rule,))
    fleet.approve(newest(fleet), "second")
    for name in ("ops", "oncall"):
        fleet.grant(name, "approve", by="lead")
        fleet.approve(newest(fleet), "second")
    fleet.device("web-01", by="lead", tags={"env": "prod"})
    fleet.approve(newest(fleet), "second")
    return fleet


def newest(fleet: Fleet) -> Digest:
    """Give the digest of the newest payload."""
    return digest(fleet.entries[-1][1])


def co_signed(fleet: Fleet) -> bool:
    """Let the root's second person sign what its first has just signed; tells whether it took effect."""
    waited = isinstance(fleet.verdicts[-1], Waiting)
    fleet.approve(newest(fleet), "second")
    left = {one.digest for waiting in fleet.state.pending.values() for one in waiting}
    return waited and isinstance(fleet.verdicts[-1], Valid) and newest(fleet) not in left


def grant_ops(fleet: Fleet, account: Account) -> bool:
    """Let the root let the operator deploy to production and elsewhere, and hand that on once."""
    fleet.grant("ops", "deploy", "release", "grant", by="lead", depth=1, id="a" * 32)
    done = co_signed(fleet)
    assert done is not account.ops_granted
    account.ops_granted = True
    return done


def grant_ci(fleet: Fleet, account: Account) -> bool:
    """Let the operator hand it on to their build server."""
    expected = account.may_deploy("ops") and not account.ci_granted
    fleet.grant("ci", "deploy", "release", by="ops", parent="a" * 32, id="b" * 32)
    account.ci_granted |= expected
    return _as(expected, fleet)


def revoke_ops(fleet: Fleet, account: Account) -> bool:
    """Let the root end the operator's grant."""
    expected = account.ops_granted and not account.ops_revoked
    fleet.revoke(grant="a" * 32, by="lead")
    done = co_signed(fleet)
    assert expected is done
    account.ops_revoked |= expected
    return done


def revoke_key(who: str) -> Callable[[Fleet, Account], bool]:
    """Let somebody's key end itself: it was stolen."""

    def act(fleet: Fleet, account: Account) -> bool:
        expected = who not in account.keys_revoked
        fleet.revoke(key_name=who, by=who)
        account.keys_revoked.add(who)
        return _as(expected, fleet)

    return act


def roll_out(by: str) -> Callable[[Fleet, Account], bool]:
    """Let somebody release and roll out a system to every device."""

    def act(fleet: Fleet, account: Account) -> bool:
        expected = account.may_deploy(by)
        release, _ = fleet.release(f"r{fleet.size}", by=by)
        rollout = fleet.rollout(release, by=by)
        if expected:
            account.runs.append(Run(rollout, by))
        return _as(expected, fleet)

    return act


def approve(by: str) -> Callable[[Fleet, Account], bool]:
    """Let somebody sign the newest rollout as well."""

    def act(fleet: Fleet, account: Account) -> bool:
        if not account.runs:
            return False
        run = account.runs[-1]
        expected = by not in run.approved | account.keys_revoked
        fleet.approve(run.digest, by)
        run.approved |= {by} if expected else set()
        return _as(expected, fleet)

    return act


def retag(fleet: Fleet, account: Account) -> bool:
    """Let the root take the device out of production."""
    expected = account.in_production
    fleet.device("web-01", by="lead", tags={"env": "dev"})
    done = co_signed(fleet)
    assert done
    account.in_production = False
    return expected


def cancel(fleet: Fleet, account: Account) -> bool:
    """Let the root cancel the newest rollout."""
    if not account.runs:
        return False
    run = account.runs[-1]
    expected = not run.cancelled
    fleet.control(run.digest, "cancel", by="lead")
    done = co_signed(fleet)
    assert expected is done
    run.cancelled = True
    return done


def _as(expected: bool, fleet: Fleet) -> bool:
    """Compare the newest verdict with what the account says."""
    assert expected is isinstance(fleet.verdicts[-1], Valid), fleet.verdicts[-1]
    return expected


ACTS: dict[str, Callable[[Fleet, Account], bool]] = {
    "grant ops": grant_ops,
    "grant ci": grant_ci,
    "revoke ops": revoke_ops,
    "revoke key of ops": revoke_key("ops"),
    "revoke key of oncall": revoke_key("oncall"),
    "ops rolls out": roll_out("ops"),
    "ci rolls out": roll_out("ci"),
    "oncall approves": approve("oncall"),
    "ops approves": approve("ops"),
    "retag": retag,
    "cancel": cancel,
}


def branched(fleet: Fleet) -> Fleet:
    """Give a log that goes on from here by itself."""
    other = copy.copy(fleet)
    other.state, other.tree = fleet.state.copy(), copy.deepcopy(fleet.tree)
    other.entries, other.verdicts = list(fleet.entries), list(fleet.verdicts)
    return other


def check(fleet: Fleet, account: Account, history: tuple[str, ...]) -> bool:
    """Compare what the device follows with what the account says; tells whether it follows anything."""
    choice = choose(fleet.state, WEB, fleet.now, covers=lambda _: True)
    assert isinstance(choice, Follow | Idle), history
    followed = choice.rollout.digest if isinstance(choice, Follow) else None
    assert account.followed() == followed, history
    return followed is not None


def explored(fleet: Fleet, account: Account, history: tuple[str, ...], depth: int) -> tuple[int, int]:
    """Go through every history from here; count those, and those in which the device follows something.

    What takes no effect is not gone on from: it leaves everything as it was, which the verdict has said.
    """
    seen, followed = 1, int(check(fleet, account, history))
    for name, act in ACTS.items() if depth else ():
        log, kept = branched(fleet), copy.deepcopy(account)
        if act(log, kept):
            more, moving = explored(log, kept, (*history, name), depth - 1)
            seen, followed = seen + more, followed + moving
        else:
            check(log, kept, (*history, name))
    return seen, followed


def test_no_small_history_lets_a_device_act_without_a_right() -> None:
    """From nothing, and from where both have their grants and a rollout of the build server stands approved."""
    seen, _ = explored(beginning(), Account(), (), DEPTH)
    assert seen > 100
    fleet, account = beginning(), Account()
    for name in ("grant ops", "grant ci", "ci rolls out", "oncall approves"):
        assert ACTS[name](fleet, account)
    seen, followed = explored(fleet, account, ("with all",), DEPTH - 1)
    assert (seen > 200, seen > followed > 50) == (True, True)
