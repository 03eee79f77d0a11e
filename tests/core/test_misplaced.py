"""The words for an entry without effect say what its own payload shows."""

from tests.factories import Fleet

from nixfleet.model.statements import LogState
from nixfleet.trust.misplaced import why_void
from nixfleet.trust.replay import Void
from nixfleet.trust.view import first_void

WINDOW = "its base is not within the 4096 entries before it"


def words(fleet: Fleet) -> str:
    """Give the words for a fleet's newest entry."""
    verdict, (_, payload) = fleet.verdicts[-1], fleet.entries[-1]
    assert isinstance(verdict, Void)
    return why_void(fleet.size - 1, verdict, payload)


def test_a_statement_over_more_entries_than_stand_before_it_shows_that_some_are_missing() -> None:
    """Who signed it had seen entries that are not here: so it is told, on a device and by a check of the whole log."""
    fleet = Fleet()
    fleet.device("web-01", base=LogState(size=9, root="0" * 64))
    said = f"{WINDOW} (it was signed over 9 entries: some are left out here, or moved behind it)"
    assert said == words(fleet)
    assert (1, said) == first_void(fleet.fleet, fleet.entries)


def test_any_other_reason_stands_alone() -> None:
    """A base of another log, and one that is too old, are what replay says of them; so is what cannot be read."""
    fleet = Fleet()
    old = fleet.log
    fleet.device("web-01", base=LogState(size=1, root="0" * 64))
    assert "its base is not a state of this log" == words(fleet)
    for _ in range(4_097):
        fleet.append_leaf(bytes(80), b"")
    fleet.device("web-01", base=old)
    assert WINDOW == words(fleet)
    assert "why" == why_void(0, Void("why"), b"{")
    assert "why" == why_void(0, Void("why"), None)
