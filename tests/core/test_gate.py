"""Gates: only the log key opens one, for one device, for ten minutes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factories import T0, device_id, key

from nixfleet.errors import Untrusted
from nixfleet.trust.gate import Gate, fresh, open_gate, sign_gate
from nixfleet.trust.note import sign_note

FLEET = "f" * 64
GATE = Gate(FLEET, "a" * 64, device_id("web-01"), run=2, log_size=7, time=T0, wave=3)


def test_a_gate_reads_back() -> None:
    """All fields are signed and read."""
    assert GATE == open_gate(sign_gate(GATE, key("log")), key("log").public, FLEET)


def test_another_key_or_fleet_opens_nothing() -> None:
    """A gate is the log key's word for its own fleet."""
    note = sign_gate(GATE, key("stranger"))
    with pytest.raises(Untrusted):
        open_gate(note, key("log").public, FLEET)
    with pytest.raises(Untrusted):
        open_gate(sign_gate(GATE, key("log")), key("log").public, "0" * 64)


def test_the_text_names_the_fleet_too() -> None:
    """One log key may serve two fleets: the name it signs under does not stand for what the gate says."""
    text = sign_gate(GATE, key("log")).decode().partition("\n\n")[0] + "\n"
    with pytest.raises(Untrusted, match="another fleet"):
        open_gate(sign_note(text, key("log"), f"nixfleet/{'0' * 64}/gate"), key("log").public, "0" * 64)


@pytest.mark.parametrize("gate", [GATE._replace(run=0), GATE._replace(wave=0)])
def test_runs_and_waves_are_counted_from_1(gate: Gate) -> None:
    """A zero is no number of either."""
    with pytest.raises(Untrusted, match="out of range"):
        open_gate(sign_gate(gate, key("log")), key("log").public, FLEET)


@given(st.data())
def test_no_byte_of_a_gate_can_change(data: st.DataObject) -> None:
    """A changed byte is refused."""
    note = sign_gate(GATE, key("log"))
    place = data.draw(st.integers(0, len(note) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != note[place]))
    with pytest.raises(Untrusted):
        open_gate(note[:place] + bytes([byte]) + note[place + 1 :], key("log").public, FLEET)


def test_a_gate_is_fresh_for_ten_minutes() -> None:
    """Older is stale; ahead of a clock that lags is fresh, or a device at 1970 could never update."""
    assert (True, False, True) == (fresh(GATE, T0 + 600), fresh(GATE, T0 + 601), fresh(GATE, 0))


def test_where_the_clock_lags_a_newer_gate_shows_that_another_is_old() -> None:
    """Gates that came with it lift the clock, so that a device at 1970 takes no stale one either."""
    beside = [GATE, GATE._replace(time=T0 + 600)]
    assert fresh(GATE, 0, beside)
    assert not fresh(GATE, 0, [*beside, GATE._replace(time=T0 + 601)])
