"""Signed gates: they stand only where a device can tell by itself that it is behind them."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.rollout_factories import member
from tests.core.rollout_factories import rollout as planned
from tests.factories import Fleet, device_id, fingerprint

from nixfleet.client import acts
from nixfleet.errors import UserError
from nixfleet.model.ids import Selector, Tags
from nixfleet.model.statements import Wave
from nixfleet.rollout.asking import RolloutWishes
from nixfleet.rollout.waves import waves as line_up
from nixfleet.trust.fields import unchecked_gate
from nixfleet.trust.replay import Void, first_wave
from nixfleet.trust.statements import Malformed, encode, namespace_of

CANARY: Selector = {"ring": ("canary",)}
BAD: list[tuple[Wave, ...]] = [
    (Wave(members=1), Wave(members="100%", gate="signed")),
    (Wave(members="10%"), Wave(members=CANARY, gate="signed"), Wave(members="100%")),
    (Wave(members=CANARY), Wave(members=1), Wave(members="50%"), Wave(members="100%", gate="signed")),
    (Wave(members="10%", gate="signed"), Wave(members="100%", gate="signed")),
]
GOOD: list[tuple[Wave, ...]] = [
    (Wave(members="100%", gate="signed"),),
    (Wave(members=CANARY), Wave(members="100%", gate="signed")),
    (Wave(members=CANARY, gate="signed"), Wave(members=1, gate="signed"), Wave(members="100%")),
    (Wave(members=1), Wave(members="100%")),
]


@pytest.mark.parametrize("waves", BAD)
def test_a_signed_gate_behind_a_counted_wave_is_no_statement(waves: tuple[Wave, ...]) -> None:
    """No client signs it, no writer writes it, and the replay voids it."""
    fleet = Fleet()
    fleet.device("web-01")
    digest, _ = fleet.release("a")
    head = acts.Head(fleet.fleet, fingerprint("admin"), fleet.now, fleet.log)
    with pytest.raises(UserError, match="a signed gate may only follow waves by selector"):
        acts.rollout_of(head, fleet.state, RolloutWishes(waves=waves), release=digest)
    statement = fleet.rollout_statement(digest, waves=waves)
    with pytest.raises(Malformed, match="a signed gate may only follow waves by selector"):
        encode(statement)
    fleet.now += 1
    fleet.append(msgspec.json.encode(statement), namespace_of(statement), "admin")
    assert isinstance(fleet.verdicts[-1], Void)
    assert "a signed gate may only follow" in fleet.verdicts[-1].reason
    assert fleet.state.rollouts == {}


@pytest.mark.parametrize("waves", GOOD)
def test_a_signed_gate_behind_selectors_is_fine(waves: tuple[Wave, ...]) -> None:
    """Of the first counted wave on, nobody can be in an earlier one."""
    fleet = Fleet()
    assert fleet.rollout(fleet.release("a")[0], waves=waves) in fleet.state.rollouts


_MEMBERS: Any = st.one_of(
    st.integers(1, 4),
    st.sampled_from(["1%", "50%", "100%"]),
    st.fixed_dictionaries({}, optional={"ring": st.sampled_from([("a",), ("b",), ("a", "b")])}),
)
_WAVES = st.lists(
    st.builds(Wave, members=_MEMBERS, gate=st.sampled_from(["auto", "signed"])), min_size=1, max_size=5
).filter(lambda waves: not unchecked_gate(waves))
_TAGS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=8)


@given(_WAVES, _TAGS)
def test_a_device_asks_for_the_gates_of_the_wave_that_it_is_in(waves: list[Wave], rings: list[str]) -> None:
    """Neither more than the planner's line-up asks for nor less, though the device knows only itself."""
    fleet = Fleet()
    tags: list[Tags] = [{"ring": ring} for ring in rings]
    for number, each in enumerate(tags):
        fleet.device(f"web-{number}", tags=each)
    one = fleet.state.rollouts[fleet.rollout(fleet.release("a")[0], waves=tuple(waves))]
    crowd = [member(0, device=device_id(f"web-{number}"), tags=each) for number, each in enumerate(tags)]
    for number, devices in enumerate(line_up(planned(waves), crowd), start=1):
        for device in devices:
            first = first_wave(fleet.state, one, device)
            assert first <= number
            assert all(wave.gate == "auto" for wave in waves[first:number])
