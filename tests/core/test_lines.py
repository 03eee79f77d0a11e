"""Target lines: a device proves its own line, and no other passes for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factories import device_id, target_line

from nixfleet.errors import Untrusted, UserError
from nixfleet.trust.lines import LineTree, verify_line
from nixfleet.trust.statements import Malformed


@given(st.integers(1, 40), st.data())
def test_every_device_proves_its_own_line_and_no_other(count: int, data: st.DataObject) -> None:
    """Proofs hold for the device they are of, at their place, in the signed tree, and for nothing else."""
    names = [f"host-{number}" for number in range(count)]
    tree = LineTree([target_line(name, name) for name in names])
    name = data.draw(st.sampled_from(names))
    text, index, hashes = tree.proof(device_id(name))
    line = verify_line(text, index, count, hashes, tree.targets, device_id(name))
    assert target_line(name, name) == line
    with pytest.raises(Untrusted):
        verify_line(text, index, count, hashes, tree.targets, device_id("another"))
    with pytest.raises(Untrusted):
        verify_line(text.replace("host", "hast"), index, count, hashes, tree.targets, device_id(name))
    with pytest.raises(Untrusted):
        verify_line(text, index, count + 1, hashes, tree.targets, device_id(name))
    other = LineTree([target_line(name, "other")]).targets
    with pytest.raises(Untrusted):
        verify_line(text, index, count, hashes, other, device_id(name))


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
