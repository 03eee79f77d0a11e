"""Roots over random histories: a slow reference says which version is in force, and nobody is ever locked out."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.factories import Fleet, fingerprint, principal

from nixfleet.client.roots import in_force
from nixfleet.model.ids import Digest
from nixfleet.model.statements import Principal
from nixfleet.trust.proposals import may_sign, proposals
from nixfleet.trust.rootwords import live_keys
from nixfleet.trust.statements import digest

PEOPLE = ("ann", "ben", "cid")
KEYS = tuple(f"{name}-{number}" for name in PEOPLE for number in (1, 2))


@dataclass
class Version:
    """A root version as the reference sees it: who is in it, how many must sign, and who has."""

    number: int
    people: frozenset[str]
    threshold: int
    signers: set[str] = field(default_factory=set)

    def has(self, signers: set[str], revoked: set[str]) -> bool:
        """Tell whether enough of its people have signed, each by a key that is not revoked."""
        return len({key[:3] for key in signers - revoked} & self.people) >= self.threshold


@dataclass
class Reference:
    """Roots by their own rules alone: no log, no signatures, no code of the project."""

    root: Version
    waiting: dict[Digest, Version] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)

    def can_be(self, version: Version) -> bool:
        """Tell whether a version may follow, and would leave enough people with a key."""
        live = {key[:3] for key in set(KEYS) - self.revoked} & version.people
        return version.number == self.root.number + 1 and version.threshold <= len(live)

    def propose(self, of: Digest, by: str, people: frozenset[str], threshold: int) -> None:
        """Take in a version by one of the root's people."""
        version = Version(self.root.number + 1, people, threshold)
        if by[:3] in self.root.people and by not in self.revoked and self.can_be(version):
            self.waiting[of] = version
            self._judge(of, by)

    def sign(self, of: Digest, by: str) -> None:
        """Take one more signature, by who is in the root or in a version that can still follow it."""
        open_ones = [one for one in self.waiting.values() if one.number == self.root.number + 1]
        member = by[:3] in self.root.people or any(by[:3] in one.people for one in open_ones)
        if of in self.waiting and member and by not in self.revoked:
            self._judge(of, by)

    def _judge(self, of: Digest, by: str) -> None:
        version = self.waiting[of]
        version.signers.add(by)
        if not self.can_be(version):
            del self.waiting[of]
        elif all(one.has(version.signers, self.revoked) for one in (self.root, version)):
            self.root = self.waiting.pop(of)

    def revoke(self, by: str, key: str) -> None:
        """End a key: its own person may, or anybody of a root that acts by one signature."""
        person, root = by[:3], self.root
        may = person in root.people and by not in self.revoked and (person == key[:3] or root.threshold == 1)
        left = {one[:3] for one in set(KEYS) - self.revoked - {key}} & root.people
        if may and key not in self.revoked and (key[:3] not in root.people or len(left) >= root.threshold):
            self.revoked.add(key)


ACTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("propose"),
            st.sampled_from(KEYS),
            st.frozensets(st.sampled_from(PEOPLE), min_size=1),
            st.integers(1, 3),
        ),
        st.tuples(st.just("sign"), st.sampled_from(KEYS), st.integers(0, 3)),
        st.tuples(st.just("revoke"), st.sampled_from(KEYS), st.sampled_from(KEYS)),
    ),
    max_size=14,
)


def principals(people: frozenset[str]) -> tuple[Principal, ...]:
    """Give root principals with both keys each."""
    return tuple(principal(name, f"{name}-1", f"{name}-2") for name in sorted(people))


@given(acts=ACTS)
@settings(deadline=None, max_examples=150)
def test_the_root_in_force_is_what_the_thresholds_of_old_and_new_have_signed(acts: list[tuple[Any, ...]]) -> None:
    """No history of proposals, signatures and revocations, by whomever, brings another root, or leaves nobody."""
    both = frozenset(PEOPLE[:2])
    fleet = Fleet("ann-1", principals=principals(both))
    reference, made = Reference(Version(1, both, 1)), list[Digest]()
    for kind, by, *rest in acts:
        match kind, rest:
            case "propose", [people, threshold]:
                fleet.root_statement = in_force(fleet.state)
                tree = {"principals": principals(people), "threshold": min(threshold, len(people))}
                made.append(fleet.root(by, **tree))
                reference.propose(made[-1], by, people, min(threshold, len(people)))
            case "sign", [which] if which < len(made):
                before = [one for one in proposals(fleet.state) if one.index == index_of(fleet, made[which])]
                wanted = bool(before) and not may_sign(fleet.state, before[0], fingerprint(by))
                fleet.approve(made[which], by)
                after = [one for one in proposals(fleet.state) if one.index == index_of(fleet, made[which])]
                if wanted and after:
                    assert after[0].old.missing + after[0].new.missing < before[0].old.missing + before[0].new.missing
                reference.sign(made[which], by)
            case "revoke", [key]:
                fleet.revoke(key_name=key, by=by)
                reference.revoke(by, key)
        root = in_force(fleet.state)
        names = frozenset(one.name for one in root.principals)
        assert (reference.root.number, reference.root.people, reference.root.threshold) == (
            root.version,
            names,
            root.threshold,
        )
        assert {fingerprint(key) for key in reference.revoked} == set(fleet.state.revoked_keys)
        assert len(live_keys(fleet.state, root)) >= root.threshold


def index_of(fleet: Fleet, of: Digest) -> int:
    """Give the entry of a payload."""
    return next(index for index, (_, payload) in enumerate(fleet.entries) if digest(payload) == of)
