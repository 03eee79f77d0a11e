"""What a key may read, and the words of what it lacks: pure, on made-up logs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factories import T0, YEAR_S, Fleet, fingerprint, principal

from nixfleet.model.ids import Tags
from nixfleet.trust.holdings import holdings, lacks
from nixfleet.trust.replay.reach import Reach, keys_named, may_enrol, reach

WEB, DB, PROD_WEB = {"team": "web"}, {"team": "db"}, {"team": "web", "env": "prod"}


def _reach(fleet: Fleet, name: str, now: int = 0) -> Reach | None:
    return reach(fleet.state, fingerprint(name), now or fleet.now)


def test_root_and_a_grant_without_a_selector_reach_everything() -> None:
    """A root principal, and an auditor whose grant names no devices, read of every device there is or will be."""
    fleet = Fleet()
    fleet.grant("auditor")
    for name in ("admin", "auditor"):
        found = _reach(fleet, name)
        assert found is not None
        assert found.everything
        assert found.over({})


def test_reading_is_what_any_live_grant_covers() -> None:
    """Two grants are two ways; each is an AND over its tags, and one of no actions counts like any other."""
    fleet = Fleet()
    fleet.grant("ops", "deploy", select={"team": ["web"], "env": ["prod"]})
    fleet.grant("ops", select={"team": ["db"]})
    found = _reach(fleet, "ops")
    assert found is not None
    assert not found.everything
    assert [found.over(tags) for tags in (PROD_WEB, WEB, DB, {})] == [True, False, True, False]


def test_a_chain_reads_no_further_than_each_of_its_links() -> None:
    """A child is read by its own selector, and by nothing once a link above it is gone."""
    fleet = Fleet()
    top = fleet.grant("org", "deploy", "grant", select={"team": ["web"]}, depth=1)
    fleet.grant("ci", "deploy", by="org", parent=top, select={"team": ["web"], "env": ["prod"]})
    found = _reach(fleet, "ci")
    assert found is not None
    assert [found.over(tags) for tags in (PROD_WEB, WEB)] == [True, False]
    fleet.revoke(grant=top)
    assert _reach(fleet, "ci") is None


@pytest.mark.parametrize("now", [T0 - 61, T0 + YEAR_S + 1])
def test_a_grant_reads_only_in_its_time(now: int) -> None:
    """Before it begins, and after it has ended, a grant entitles to nothing."""
    fleet = Fleet()
    fleet.grant("auditor")
    assert _reach(fleet, "auditor", now) is None


def test_strangers_tokens_devices_and_revoked_keys_reach_nothing() -> None:
    """None of them is a person; a token beside a real grant takes nothing from it."""
    fleet = Fleet()
    fleet.grant("token", "enroll", max_uses=1)
    fleet.grant("gone")
    fleet.revoke(key_name="gone")
    fleet.device("web-01")
    assert [_reach(fleet, name) for name in ("stranger", "token", "gone", "web-01")] == [None] * 4
    fleet.grant("token", select={"team": ["web"]})
    assert _reach(fleet, "token") is not None


def test_who_is_to_join_root_reads_the_log_alone() -> None:
    """A key that only a waiting root names may open a session for the log, and reads of no device."""
    fleet = Fleet("lead", "security", threshold=2)
    fleet.approve(fleet.fleet, "security")  # type: ignore[arg-type]  # the fleet id is root 1's digest
    principals = tuple(principal(name) for name in ("lead", "security", "new"))
    fleet.root(by="lead", principals=principals)
    found = _reach(fleet, "new")
    assert found is not None
    assert not found.everything
    assert [found.over(tags) for tags in (WEB, {})] == [False, False]
    words = lacks(fleet.state, fingerprint("new"), "to list the devices", fleet.now)
    assert "is named by a root that waits for signatures: it reads the log, and lacks the right to list" in words


def test_requests_are_seen_by_who_could_enrol_them() -> None:
    """A tag that is asked for must be allowed; one that is not asked for is the enroller's to add."""
    fleet = Fleet()
    fleet.grant("enroller", "enroll", select={"team": ["web"]})
    fleet.grant("operator", "deploy", select={"team": ["web"]})
    fleet.grant("auditor")
    asked: list[Tags] = [PROD_WEB, {}, DB]
    for name, sees, may in (
        ("enroller", [True, True, False], [True, True, False]),
        ("operator", [False] * 3, [False] * 3),
        ("auditor", [True] * 3, [False] * 3),
        ("admin", [True] * 3, [True] * 3),
    ):
        found = _reach(fleet, name)
        assert found is not None
        assert [found.enrols(tags) for tags in asked] == sees
        assert [may_enrol(fleet.state, fingerprint(name), tags, fleet.now) for tags in asked] == may


def test_own_is_what_any_key_of_the_principal_has_signed() -> None:
    """A principal's second key owns what its first one signed; a namesake of another issuer owns nothing of it."""
    fleet = Fleet()
    fleet.grant("ops", "grant", "deploy", depth=1)
    fleet.grant("ci", "deploy", select={"team": ["web"]})
    found = _reach(fleet, "ci")
    assert found is not None
    assert found.owns(fleet.state, fingerprint("ci"))
    assert not found.owns(fleet.state, fingerprint("ops"))
    assert keys_named(fleet.state, found.names) == {fingerprint("ci")}


def test_a_delegate_that_calls_others_keys_its_own_reads_nothing_of_theirs() -> None:
    """Any issuer can name any key: the lab's name for the team's CI does not make its things the lab's."""
    fleet = Fleet()
    team = fleet.grant("team", "grant", "deploy", depth=1)
    fleet.grant("ci", "deploy", by="team", parent=team)
    lab = fleet.grant("lab", "grant", "deploy", select={"env": ["lab"]}, depth=1)
    fleet.grant("spy", "deploy", by="lab", parent=lab, select={"env": ["lab"]}, to=principal("spy", "spy", "ci"))
    found = _reach(fleet, "spy")
    assert found is not None
    assert found.owns(fleet.state, fingerprint("spy"))
    assert not found.owns(fleet.state, fingerprint("ci"))
    assert not found.owns(fleet.state, fingerprint("a device"))
    assert keys_named(fleet.state, found.names) == {fingerprint("spy")}


tags_of = st.dictionaries(st.sampled_from(["env", "team"]), st.sampled_from(["a", "b"]), max_size=2)
selects = st.dictionaries(
    st.sampled_from(["env", "team"]), st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=2, unique=True)
)


@given(st.lists(selects, max_size=4), tags_of)
def test_reach_is_the_or_over_grants_of_the_and_over_tags(made: list[dict[str, list[str]]], tags: Tags) -> None:
    """Whatever grants there are, a device is in reach just when one of them matches it tag by tag."""
    fleet = Fleet()
    for select in made:
        fleet.grant("ops", select=select)
    found = _reach(fleet, "ops")
    expected = any(all(tags.get(tag) in values for tag, values in select.items()) for select in made)
    assert expected == (found is not None and found.over(tags))


# Words


def test_a_refusal_names_what_is_missing_and_what_is_held() -> None:
    """It says who lacks which right, and lists what the grants allow instead."""
    fleet = Fleet()
    fleet.grant("ci", "deploy", select={"team": ["web"]})
    assert (
        "ci lacks the right to release; it holds: deploy on team=web; ask an admin for a grant"
        == lacks(fleet.state, fingerprint("ci"), "to release", fleet.now)
    )  # fmt: skip
    assert "everything, by root" == holdings(fleet.state, fingerprint("admin"), fleet.now)
    for site in "abcde":
        fleet.grant("ci", select={"site": [site]})
    assert holdings(fleet.state, fingerprint("ci"), fleet.now).endswith("read on site=c and 2 more")


def test_who_holds_nothing_is_told_why() -> None:
    """Ended, not begun, revoked, a device, a token, a stranger: each has words of its own."""
    fleet = Fleet()
    fleet.grant("ended", "release", not_after=T0 + 60)
    fleet.grant("early", "release", not_before=T0 + 7_200)
    grant = fleet.grant("cut", "release")
    fleet.grant("gone", "release")
    fleet.grant("token", "enroll", max_uses=1)
    fleet.device("web-01")
    fleet.revoke(grant=grant)
    fleet.revoke(key_name="gone")
    for name, words in (
        ("ended", "nothing since 2027-01-15 08:01 UTC, when its grant ended"),
        ("early", "nothing before 2027-01-15 10:00 UTC, when its grant begins"),
        ("cut", "nothing, for its grant was revoked"),
        ("gone", "is revoked, and may do nothing"),
        ("token", "token is a join token: it reads the log and enrols devices, and lacks the right to release"),
        ("web-01", "web-01 is a device: it reads the log and its own things, and lacks the right to release"),
        ("stranger", "neither root nor a grant names the key SHA256:"),
    ):
        assert words in lacks(fleet.state, fingerprint(name), "to release", T0 + 3_600)
