"""Leaves: exact bytes, bounds, and what a namespace tells."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nixfleet.errors import Untrusted
from nixfleet.trust.leaf import Leaf, subject_of, type_of


@given(st.integers(0, 2**53 - 1), st.binary(min_size=64, max_size=64), st.binary(min_size=1, max_size=952))
def test_pack_and_unpack_are_inverse(log_time: int, sha512: bytes, sshsig: bytes) -> None:
    """A leaf is read back as it was written."""
    leaf = Leaf(log_time, sha512, sshsig)
    assert leaf == Leaf.unpack(leaf.pack())


@given(st.binary(max_size=1_100))
def test_unpack_is_total(data: bytes) -> None:
    """Any bytes are a leaf that packs to the same bytes, or are refused."""
    try:
        leaf = Leaf.unpack(data)
    except Untrusted:
        return
    assert data == leaf.pack()


def test_a_leaf_has_at_most_1024_bytes() -> None:
    """One byte more than 1 KiB is refused, both ways."""
    Leaf.unpack(bytes(1_024))
    with pytest.raises(Untrusted, match="1025 bytes"):
        Leaf.unpack(bytes(1_025))
    with pytest.raises(Untrusted, match="1024"):
        Leaf(0, bytes(64), bytes(953)).pack()


@pytest.mark.parametrize(
    ("namespace", "expected"),
    [
        ("nixfleet-root-v1", ("root", "")),
        ("nixfleet-approve-v1", ("approve", "")),
        ("nixfleet-device-v1@" + "a" * 32, ("device", "a" * 32)),
        ("nixfleet-control-v1@" + "0" * 32, ("control", "0" * 32)),
        ("nixfleet-device-v1", None),
        ("nixfleet-root-v1@" + "a" * 32, None),
        ("nixfleet-root-v2", None),
        ("nixfleet-report-v1", None),
        ("nixfleet-root-v1\n", None),
        ("git", None),
    ],
)
def test_a_namespace_tells_type_and_subject(namespace: str, expected: tuple[str, str] | None) -> None:
    """Only the namespaces of statements are read, and only in their one form."""
    assert expected == subject_of(namespace)


def test_type_of_a_foreign_namespace_is_refused() -> None:
    """A signature made for something else is no statement."""
    assert type_of("nixfleet-grant-v1") == "grant"
    with pytest.raises(Untrusted, match="namespace"):
        type_of("file")
