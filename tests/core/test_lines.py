"""Target lines: a device proves its own line, and no other passes for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.factories import device_id, target_line

from nixfleet.errors import Untrusted, UserError
from nixfleet.model.wire import LineAbsence, LineProof
from nixfleet.trust.lines import LineTree, verify_absence, verify_line
from nixfleet.trust.statements import Malformed


@given(st.integers(1, 40), st.data())
def test_every_device_proves_its_own_line_and_no_other(count: int, data: st.DataObject) -> None:
    """Proofs hold for the device they are of, at their place, in the signed tree, and for nothing else."""
    names = [f"host-{number}" for number in range(count)]
    tree = LineTree([target_line(name, name) for name in names])
    name = data.draw(st.sampled_from(names))
    proof = tree.proof(device_id(name))
    assert target_line(name, name) == verify_line(proof, tree.targets, device_id(name))
    with pytest.raises(Untrusted):
        verify_line(proof, tree.targets, device_id("another"))
    with pytest.raises(Untrusted):
        verify_line(replace(proof, line=proof.line.replace("host", "hast")), tree.targets, device_id(name))
    with pytest.raises(Untrusted):
        verify_line(replace(proof, size=count + 1), tree.targets, device_id(name))
    other = LineTree([target_line(name, "other")]).targets
    with pytest.raises(Untrusted):
        verify_line(proof, other, device_id(name))


def test_lines_are_sorted_and_unique() -> None:
    """The tree sorts what it makes, and takes texts only as they must be."""
    tree = LineTree([target_line(name, name) for name in ("b", "a", "c")])
    assert sorted(tree.devices) == list(tree.devices)
    assert tree.root == LineTree.from_texts(tree.texts).root
    with pytest.raises(UserError, match="sorted"):
        LineTree.from_texts(tuple(reversed(tree.texts)))
    with pytest.raises(UserError, match="two"):
        LineTree([target_line("a", "x"), target_line("a", "y")])
    with pytest.raises(UserError, match="1 to"):
        LineTree([])


def test_texts_are_read_strictly() -> None:
    """A line with a doubled key has no place in a release."""
    text = LineTree([target_line("a", "a")]).texts[0]
    with pytest.raises(Malformed):
        LineTree.from_texts((text[:-1] + ',"nar_size":1}',))
    with pytest.raises(Malformed):
        LineTree.from_texts(("\ud800",))


def test_a_device_without_a_line_is_told_so() -> None:
    """Asking for another's place is an error that names the device."""
    with pytest.raises(UserError, match=device_id("b")):
        LineTree([target_line("a", "a")]).proof(device_id("b"))


def _proof(tree: LineTree, index: int) -> LineProof:
    return tree.proof(tree.devices[index])


@given(st.integers(1, 40), st.integers(0, 60))
def test_who_has_no_line_can_prove_it_and_who_has_one_cannot(count: int, asker: int) -> None:
    """Exactly one of a line and its absence can be proven, with any two lines that the release has."""
    tree = LineTree([target_line(f"host-{number}", "x") for number in range(count)])
    device = device_id(f"host-{asker}")
    absent = asker >= count
    if absent:
        verify_absence(tree.absence(device), tree.targets, device)
    else:
        with pytest.raises(UserError, match="has a line"):
            tree.absence(device)
    ends = [None, *(_proof(tree, index) for index in range(count))]
    accepted = 0
    for left in ends:
        for right in ends:
            try:
                verify_absence(LineAbsence(left=left, right=right), tree.targets, device)
            except Untrusted:
                continue
            accepted += 1
    assert accepted == int(absent)


def test_an_absence_holds_only_by_lines_of_the_signed_release() -> None:
    """Another place, size, text or release, or no line at all, proves nothing."""
    tree = LineTree([target_line(name, name) for name in "abcdefgh"])
    devices = tree.devices
    asker = f"{devices[2][:-1]}{'f' if devices[2][-1] != 'f' else 'e'}"
    asker = asker if devices[2] < asker < devices[3] else devices[2] + "0"
    good = tree.absence(asker)
    assert good.left is not None
    assert good.right is not None
    verify_absence(good, tree.targets, asker)
    other = LineTree([target_line(name, "other") for name in "abcdefgh"])
    bad = (
        LineAbsence(),
        LineAbsence(left=good.left),
        LineAbsence(right=good.right),
        LineAbsence(left=good.right, right=good.left),
        LineAbsence(left=good.left, right=_proof(tree, 4)),
        LineAbsence(left=good.left, right=replace(_proof(tree, 4), index=3)),
        replace(good, left=replace(good.left, line=good.left.line.replace("1000", "1001"))),
        replace(good, right=replace(good.right, size=9)),
        replace(good, right=replace(good.right, hashes=good.right.hashes[1:])),
        LineAbsence(right=replace(_proof(tree, 0), index=-1)),
        other.absence(asker),
    )
    for absence in bad:
        with pytest.raises(Untrusted):
            verify_absence(absence, tree.targets, asker)
