"""The replay: what a log says, and who may do what. Pure and total; the one judge for agent, coordinator and console.

Fold with `replay(state, index, leaf, payload)`; ask with `authorise`, `choose`, `authorise_path`, `missing`.
It must never do IO, read a clock, or raise for anything that a log can contain.
"""

from nixfleet.trust.replay.explain import Chain, Explanation, Link, explain
from nixfleet.trust.replay.judge import ESSENTIAL, awaits, foresee, replay, supply
from nixfleet.trust.replay.links import Over
from nixfleet.trust.replay.needs import Missing, Needs, missing, needed
from nixfleet.trust.replay.rights import (
    Allowed,
    Denied,
    approvals_missing,
    authorise,
    authorise_over,
    may_ever,
    principal_of,
)
from nixfleet.trust.replay.select import (
    Choice,
    Covers,
    Follow,
    Hold,
    Idle,
    Skip,
    authorise_path,
    caches_for,
    choose,
    closure_for,
    covering,
    first_wave,
    is_left,
    release_for,
    right_of,
    selected,
)
from nixfleet.trust.replay.state import (
    DeviceRecord,
    GrantRecord,
    Place,
    ReleaseRecord,
    RolloutState,
    State,
    Unknown,
    Valid,
    Verdict,
    Void,
    Waiting,
)
from nixfleet.trust.replay.stopping import Stopped, would_stop

__all__ = [
    "ESSENTIAL",
    "Allowed",
    "Chain",
    "Choice",
    "Covers",
    "Denied",
    "DeviceRecord",
    "Explanation",
    "Follow",
    "GrantRecord",
    "Hold",
    "Idle",
    "Link",
    "Missing",
    "Needs",
    "Over",
    "Place",
    "ReleaseRecord",
    "RolloutState",
    "Skip",
    "State",
    "Stopped",
    "Unknown",
    "Valid",
    "Verdict",
    "Void",
    "Waiting",
    "approvals_missing",
    "authorise",
    "authorise_over",
    "authorise_path",
    "awaits",
    "caches_for",
    "choose",
    "closure_for",
    "covering",
    "explain",
    "first_wave",
    "foresee",
    "is_left",
    "may_ever",
    "missing",
    "needed",
    "principal_of",
    "release_for",
    "replay",
    "right_of",
    "selected",
    "supply",
    "would_stop",
]
