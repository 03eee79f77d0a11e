"""Fleets for the tests of the replay, and its last verdict in a word."""

from tests.factories import Fleet

from nixfleet.trust.replay import Void, Waiting


def last(fleet: Fleet) -> str:
    """Say the last verdict in a word, or why it is void or waits."""
    verdict = fleet.verdicts[-1]
    return verdict.reason if isinstance(verdict, Void | Waiting) else type(verdict).__name__


def prod() -> Fleet:
    """Make a fleet with a production and a development device."""
    fleet = Fleet()
    fleet.device("web-01", tags={"env": "prod"})
    fleet.device("dev-01", tags={"env": "dev"})
    return fleet
