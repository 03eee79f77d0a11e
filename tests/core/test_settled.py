"""What became of an entry that waited: it still does, is in force since, or waits no longer."""

from collections.abc import Callable

import pytest
from tests.factories import Fleet

from nixfleet.model.ids import Digest
from nixfleet.trust.statements import digest
from nixfleet.trust.words import entry_view

ONE_MORE = "1 more root signature is needed"


def said(fleet: Fleet, index: int) -> tuple[str, str]:
    """Give an entry's verdict and reason as somebody reads them now."""
    leaf, payload = fleet.entries[index]
    view = entry_view(index, leaf, payload, fleet.verdicts[index], fleet.state)
    return view.verdict, view.why


@pytest.fixture
def fleet() -> Fleet:
    """Make a fleet whose root takes two, with a device and a grant in force."""
    made = Fleet("admin", "second", threshold=2)
    made.approve(digest(made.entries[0][1]), "second")
    made.approve(made.device("web-01"), "second")
    made.grant("ops", "deploy")
    made.approve(digest(made.entries[-1][1]), "second")
    return made


def granted(fleet: Fleet) -> Digest:
    """Propose a grant."""
    fleet.grant("ci", "deploy")
    return digest(fleet.entries[-1][1])


ACTS: tuple[Callable[[Fleet], Digest], ...] = (
    granted,
    lambda fleet: fleet.device("web-01", name="web-02"),
    lambda fleet: fleet.revoke(grant=next(iter(fleet.state.grants))),
    lambda fleet: fleet.root(urls=("http://127.0.0.1:1",)),
)


@pytest.mark.parametrize("act", ACTS)
def test_what_has_its_signatures_by_now_is_in_force(fleet: Fleet, act: Callable[[Fleet], Digest]) -> None:
    """A grant, a device, a revocation and a root wait for the second person, and are valid when they have signed."""
    proposed, index = act(fleet), fleet.size - 1
    assert ("waiting", ONE_MORE) == said(fleet, index)
    fleet.approve(proposed, "second")
    in_force = ("valid", f"since entry {index + 1}")
    assert (in_force, ("valid", "")) == (said(fleet, index), said(fleet, index + 1))
    fleet.approve(act(fleet), "second")
    assert in_force == said(fleet, index), "also when it was changed again"


def test_what_another_one_has_overtaken_waits_no_longer(fleet: Fleet) -> None:
    """Of two next versions the first to be complete is in force, and the other one is not said to wait."""
    fleet.device("web-01", name="web-02")
    overtaken = fleet.size - 1
    fleet.approve(fleet.device("web-01", name="web-03"), "second")
    fleet.approve(digest(fleet.entries[overtaken][1]), "second")
    assert ("waiting", f"{ONE_MORE}; it waits no longer") == said(fleet, overtaken)
