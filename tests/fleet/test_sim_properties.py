"""Whatever befalls a made-up fleet, in whatever order, what must hold of rollouts and updates holds.

A few histories in each run, always the same ones. NIXFLEET_FUZZ=N tries N / 1000 new ones instead, and makes what it
finds as small as it can: that becomes a test of its own in `test_sim_found`.
"""

import os

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.fleet.sim_world import Step, play

FUZZ = int(os.environ.get("NIXFLEET_FUZZ", "0"))
_PEOPLE = ("deploy", "deploy", "deploy", "rollback", "pause", "resume", "advance", "retry", "cancel")
_DEVICES = ("hold", "unhold", "retire", "retag", "join")
_FATES = ("cut", "mend", "die", "die", "die", "reboot", "down", "up", "bounce")
_TIMES = ("clock", "device_clock", "sleep", "nothing")
_NUMBERS = st.integers(0, 59)
_SPANS_S = st.sampled_from([0, 0, 5, 20, 60, 100, 200])
_STEPS = st.tuples(st.sampled_from([*_PEOPLE, *_DEVICES, *_FATES, *_TIMES]), _NUMBERS, _SPANS_S)
_HISTORIES = st.builds(
    lambda first, then_s, more: [("deploy", first, then_s), *more],
    _NUMBERS,
    _SPANS_S,
    st.lists(_STEPS, min_size=2, max_size=13),
)


@settings(
    max_examples=FUZZ // 1_000 or 4,
    derandomize=not FUZZ,
    database=None,
    phases=[Phase.generate, Phase.shrink] if FUZZ else [Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(_HISTORIES, st.integers(1, 1_000))
def test_whatever_happens_what_must_hold_does(steps: list[Step], seed: int) -> None:
    """No interleaving of acts, deaths, outages and clocks breaks an invariant; all comes to rest, or says why not."""
    play(steps, seed)
