"""The next root version: built from wishes, refused in words where it would lock people out, and who has signed it."""

from typing import Any

import pytest
from tests.factories import CACHE, Fleet, fingerprint, key, principal

from nixfleet.client.acts import Head
from nixfleet.client.roots import RootWishes, in_force, next_root
from nixfleet.errors import Refused, UserError
from nixfleet.model.ids import Digest
from nixfleet.model.ruletext import parse_rule
from nixfleet.model.statements import CacheRef, Root
from nixfleet.trust.proposals import Proposal, find_proposal, may_sign, proposals
from nixfleet.trust.replay import Valid, Void
from nixfleet.trust.replay.rights import joins_root
from nixfleet.trust.rootwords import differences, warnings
from nixfleet.trust.statements import encode, parse

NOTE = parse_rule("env=prod: deploy approvals=1 note")


def proposed(fleet: Fleet, by: str = "admin", **wishes: Any) -> Root:
    """Build the next root of a fleet as somebody."""
    head = Head(fleet.fleet, fingerprint(by), fleet.now, fleet.log)
    return next_root(head, fleet.state, RootWishes(**wishes))


def founded(*admins: str, **root: Any) -> Fleet:
    """Make a fleet whose root needs two signatures, and has them."""
    fleet = Fleet(*admins, threshold=2, **root)
    fleet.approve(Digest(fleet.fleet), admins[1])
    return fleet


def named(name: str, by: str = "") -> tuple[str, str]:
    """Give a principal's name and a key's text."""
    return name, key(by or name).public.text


def test_what_is_not_named_stays() -> None:
    """The next version is the old one with the wishes in it, in the strict form that replay takes."""
    fleet = founded("admin", "bob")
    made = proposed(fleet, add_keys=(named("bob", "bob-2"),), add_rules=(NOTE,), threshold=2)
    assert made == parse(encode(made))
    assert (2, 2, (NOTE,), (CACHE,)) == (made.version, made.threshold, made.rules, made.caches)
    assert [principal("admin"), principal("bob", "bob", "bob-2")] == list(made.principals)


def test_each_part_can_be_taken_back() -> None:
    """Principals, keys, rules, caches and addresses go as they came; the difference says each in a line."""
    other = CacheRef(url="https://cache.example.org", key=CACHE.key)
    fleet = founded("admin", "bob", rules=(NOTE,), caches=(CACHE, other))
    made = proposed(
        fleet,
        add_principals=(principal("carol"),),
        remove_principals=("bob",),
        add_keys=(named("admin", "admin-2"),),
        remove_keys=(fingerprint("admin"),),
        urls=("https://new.example.org",),
        remove_caches=(other.url,),
        remove_rules=(1,),
        threshold=1,
    )
    assert (
        f"- key of admin {fingerprint('admin')}",
        f"+ key of admin {fingerprint('admin-2')}",
        f"- principal bob {fingerprint('bob')}",
        f"+ principal carol {fingerprint('carol')}",
        "~ threshold 2 → 1",
        "- url http://127.0.0.1:7070",
        "+ url https://new.example.org",
        f"- cache {other.url} {other.key}",
        "- rule env=prod: deploy approvals=1 note",
    ) == differences(in_force(fleet.state), made)


def test_the_order_of_addresses_is_a_difference() -> None:
    """Devices try them in order, so turning them around is shown."""
    fleet = Fleet(urls=("http://a", "http://b"))
    made = proposed(fleet, urls=("http://b", "http://a"))
    assert ("~ urls in the order http://a http://b → http://b http://a",) == differences(in_force(fleet.state), made)


@pytest.mark.parametrize(
    ("wishes", "why"),
    [
        ({}, "nothing would change"),
        ({"urls": ("http://127.0.0.1:7070",)}, "nothing would change"),
        ({"remove_principals": ("admin", "bob")}, "a root needs a principal"),
        ({"remove_principals": ("eve",)}, "no root principal 'eve'; there are admin, bob"),
        ({"add_principals": (principal("bob", "x"),)}, "bob is a root principal already.*--add-key bob="),
        ({"add_principals": (principal("eve", "bob"),)}, "is bob's already"),
        ({"add_keys": (named("eve"),)}, "no root principal 'eve'.*--add-principal eve="),
        ({"add_keys": (named("bob", "admin"),)}, "is admin's already"),
        ({"add_keys": (named("bob", "gone"),)}, "is revoked, for ever"),
        ({"remove_keys": (fingerprint("eve"),)}, "is no root key"),
        ({"remove_keys": (fingerprint("bob"),)}, "bob would have no key.*--remove-principal bob"),
        ({"threshold": 3}, r"threshold of 3 needs 3 principals.*would have 2 \(admin, bob\)"),
        ({"add_rules": (NOTE,)}, "whoever is bound by its rules could lift them alone; add --threshold 2"),
        ({"remove_rules": (1,)}, "there is no rule 1: the root has 0 rules"),
        ({"add_caches": (CACHE,)}, "names the cache /cache with this key already"),
        ({"remove_caches": ("http://x",)}, "names no cache http://x; it names /cache"),
        ({"protocol": 2}, "this nixfleet follows protocol 1, not 2: update it first"),
        ({"add_keys": (named("bob", "log"),)}, "the log key is also a principal's"),
    ],
)
def test_what_cannot_be_is_said_before_anybody_signs(wishes: dict[str, Any], why: str) -> None:
    """Each wish that replay would void, or that would lock people out, is refused with the way on."""
    fleet = Fleet("admin", "bob")
    fleet.grant("gone", "deploy")
    fleet.revoke(key_name="gone")
    with pytest.raises(UserError, match=why):
        proposed(fleet, **wishes)


def test_a_revoked_key_counts_for_nobody() -> None:
    """A principal whose only key is revoked does not fill a threshold; a stranger proposes nothing."""
    fleet = Fleet("admin", "bob")
    fleet.revoke(key_name="bob")
    with pytest.raises(UserError, match=r"would have 1 \(admin\)"):
        proposed(fleet, threshold=2)
    with pytest.raises(Refused, match=r"only a root principal proposes a new root: .* is no key of admin, bob"):
        proposed(fleet, by="eve", threshold=2)


def test_the_protocol_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fleet whose protocol was raised keeps it."""
    monkeypatch.setattr("nixfleet.client.roots.PROTOCOL", 2)
    monkeypatch.setattr("nixfleet.trust.replay.rules.PROTOCOL", 2)
    fleet = Fleet(protocol=2)
    with pytest.raises(UserError, match="never goes back: it is 2"):
        proposed(fleet, protocol=1)


def test_what_may_be_regretted_is_warned_of() -> None:
    """A lone key, and people who must all sign with a key each, are said; keys to spare are not."""
    fleet = Fleet()
    assert "1 root key" in warnings(fleet.state, in_force(fleet.state))[0]
    both = proposed(fleet, add_principals=(principal("bob"),), threshold=2)
    assert "all 2 principals must sign, and admin, bob have a single key" in warnings(fleet.state, both)[0]
    spare = proposed(fleet, add_keys=(named("admin", "admin-2"),))
    assert () == warnings(fleet.state, spare)


def only(fleet: Fleet) -> Proposal:
    """Give the one root version that waits."""
    (found,) = proposals(fleet.state)
    return found


def test_a_version_waits_until_old_and_new_have_signed() -> None:
    """Who has signed and who has not is told for either side, until the last one makes it the root in force."""
    fleet = founded("admin", "bob", "carol")
    of = fleet.root("admin", principals=(principal("admin"), principal("dave")))
    first = only(fleet)
    assert (("admin",), 1, ("bob", "carol")) == (first.signed, first.old.missing, first.old.left)
    assert (1, ("dave",)) == (first.new.missing, first.new.left)
    assert "1 more of bob, carol for the root in force and 1 more of dave for the new one" == first.waits
    fleet.approve(of, "dave")
    second = only(fleet)
    assert ((), 0) == (second.new.left[1:], second.new.missing)
    assert "1 more of bob, carol for the root in force" == second.waits
    fleet.approve(of, "carol")
    assert ((), 2) == (proposals(fleet.state), in_force(fleet.state).version)


def test_whose_signature_brings_a_version_no_further_is_told() -> None:
    """A stranger, who has signed, and whose side is complete are told whom it waits for; the others may sign."""
    fleet = founded("admin", "bob", "carol")
    fleet.root("admin", principals=(principal("admin"), principal("bob"), principal("dave")))
    waiting = only(fleet)
    assert "neither the root in force nor the new one; it waits for bob, carol, dave" in may_sign(
        fleet.state, waiting, fingerprint("eve")
    )
    assert "admin has signed it already" in may_sign(fleet.state, waiting, fingerprint("admin"))
    assert ["", "", ""] == [may_sign(fleet.state, waiting, fingerprint(name)) for name in ("bob", "carol", "dave")]
    fleet.revoke(key_name="carol", by="carol")
    assert "is revoked" in may_sign(fleet.state, waiting, fingerprint("carol"))


def test_a_superseded_version_can_not_be_signed() -> None:
    """When another version of the same number came in force, the one that waited never can, and says so."""
    fleet = founded("admin", "bob")
    loser = fleet.root("admin", urls=("http://loser",))
    fleet.root_statement = in_force(fleet.state)
    winner = fleet.root("bob", urls=("http://winner",))
    assert isinstance(fleet.approve(winner, "admin"), Valid)
    assert ("http://winner",) == in_force(fleet.state).urls
    waiting = only(fleet)
    assert "root 2 is superseded: root 2 is in force" == waiting.superseded
    assert "propose it anew" in may_sign(fleet.state, waiting, fingerprint("bob"))
    fleet.approve(loser, "bob")
    assert ("http://winner",) == in_force(fleet.state).urls


def test_a_version_that_was_overtaken_gives_its_new_principals_nothing() -> None:
    """While it waits they may co-sign it; afterwards their key is as unheard of as before."""
    fleet = founded("admin", "bob")
    loser = fleet.root("admin", principals=(principal("admin"), principal("carol")))
    assert joins_root(fleet.state, fingerprint("carol"))
    fleet.root_statement = in_force(fleet.state)
    fleet.approve(fleet.root("bob", urls=("http://winner",)), "admin")
    assert not joins_root(fleet.state, fingerprint("carol"))
    late = fleet.approve(loser, "carol")
    assert isinstance(late, Void)
    assert "names its key" in late.reason


def test_a_waiting_version_is_found_by_digest_or_entry() -> None:
    """The only one needs no name; of several, the first digits or the entry say which."""
    fleet = founded("admin", "bob")
    with pytest.raises(UserError, match="no root version waits"):
        find_proposal([], "")
    first = fleet.root("admin", urls=("http://a",))
    fleet.root_statement = in_force(fleet.state)
    second = fleet.root("bob", urls=("http://b",))
    found = list(zip((first, second), proposals(fleet.state), strict=True))
    with pytest.raises(UserError, match=f"2 root versions wait.*{first[:12]}, {second[:12]}"):
        find_proposal(found, "")
    with pytest.raises(UserError, match="no root version 'ffff' waits"):
        find_proposal(found, "ffff")
    assert [first, second] == [find_proposal(found, text)[0] for text in (first[:8], str(found[1][1].index))]
    assert Digest(second) == find_proposal(found[1:], "")[0]
