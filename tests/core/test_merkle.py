"""The Merkle tree against the recursive definitions of RFC 6962, known vectors, and forged proofs."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nixfleet.errors import Untrusted
from nixfleet.trust import merkle

# The leaves and roots that Certificate Transparency implementations share as test vectors.
LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]

sizes = st.integers(0, 200)


def leaves(count: int) -> list[bytes]:
    """Make distinct leaves."""
    return [f"leaf {number}".encode() for number in range(count)]


def tree_of(content: list[bytes]) -> merkle.Tree:
    """Make a tree of these leaves."""
    tree = merkle.Tree()
    for leaf in content:
        tree.append(leaf)
    return tree


def split(count: int) -> int:
    """Return the largest power of two smaller than count, by counting up."""
    power = 1
    while power * 2 < count:
        power *= 2
    return power


def mth(content: list[bytes]) -> bytes:
    """Return MTH of RFC 6962 section 2.1, word by word."""
    if not content:
        return hashlib.sha256().digest()
    if len(content) == 1:
        return hashlib.sha256(b"\0" + content[0]).digest()
    k = split(len(content))
    return hashlib.sha256(b"\1" + mth(content[:k]) + mth(content[k:])).digest()


def path(index: int, content: list[bytes]) -> list[bytes]:
    """Return PATH of RFC 6962 section 2.1.1."""
    if len(content) == 1:
        return []
    k = split(len(content))
    if index < k:
        return [*path(index, content[:k]), mth(content[k:])]
    return [*path(index - k, content[k:]), mth(content[:k])]


def subproof(old: int, content: list[bytes], whole: bool) -> list[bytes]:
    """Return SUBPROOF of RFC 6962 section 2.1.2."""
    if old == len(content):
        return [] if whole else [mth(content)]
    k = split(len(content))
    if old <= k:
        return [*subproof(old, content[:k], whole), mth(content[k:])]
    return [*subproof(old - k, content[k:], False), mth(content[:k])]


def test_known_vectors() -> None:
    """Roots of the shared vectors come out at every size, from tree and frontier."""
    tree, frontier = merkle.Tree(), merkle.Frontier()
    assert ROOTS[0] == tree.root().hex() == frontier.root().hex() == merkle.EMPTY_ROOT.hex()
    for leaf, root in zip(LEAVES, ROOTS[1:], strict=True):
        tree.append(leaf)
        frontier = frontier.append(leaf)
        assert root == tree.root().hex() == frontier.root().hex()
    assert ROOTS == [tree.root(size).hex() for size in range(9)]


@given(size=sizes)
def test_root_is_mth(size: int) -> None:
    """Every root that tree and frontier give is MTH of the leaves so far."""
    content = leaves(size)
    tree, frontier = tree_of(content), merkle.Frontier()
    for leaf in content:
        frontier = frontier.append_hash(merkle.leaf_hash(leaf))
    assert (size, size) == (tree.size, frontier.size)
    assert mth(content) == tree.root() == frontier.root()
    assert mth(content[: size // 2]) == tree.root(size // 2)


@given(st.lists(st.integers(0, 40), max_size=20))
def test_a_root_stays_while_the_tree_grows(sizes: list[int]) -> None:
    """Whatever was asked before, in whatever order, the root of a size is that of its leaves."""
    content = leaves(40)
    tree = merkle.Tree()
    for count, leaf in enumerate(content, start=1):
        tree.append(leaf)
        for size in sizes:
            if size <= count:
                assert mth(content[:size]) == tree.root(size)
    assert mth(content) == tree.root()


def test_frontier_is_immutable() -> None:
    """An appended frontier leaves the one before as it was, so a verdict can be taken back."""
    before = merkle.Frontier().append(b"a")
    after = before.append(b"b")
    assert (1, mth([b"a"])) == (before.size, before.root())
    assert mth([b"a", b"c"]) == before.append(b"c").root()
    assert after == merkle.Frontier(2, after.peaks)
    with pytest.raises(AssertionError):
        merkle.Frontier(3, after.peaks)


@given(data=st.data(), size=st.integers(1, 130))
def test_inclusion_is_path_and_verifies(data: st.DataObject, size: int) -> None:
    """The proof equals PATH, verifies for its leaf, and for no other leaf, place, size or root."""
    content = leaves(size)
    index = data.draw(st.integers(0, size - 1))
    tree = tree_of([*content, *leaves(data.draw(st.integers(0, 9)))])
    proof = tree.inclusion(index, size)
    assert path(index, content) == proof
    leaf, root = merkle.leaf_hash(content[index]), tree.root(size)
    merkle.verify_inclusion(leaf, index, size, proof, root)
    other = data.draw(st.integers(0, size - 1).filter(lambda number: number != index)) if size > 1 else 1
    for bad in (
        (merkle.leaf_hash(b"other"), index, size, proof, root),
        (leaf, other, size, proof, root),
        (leaf, -1, size, proof, root),
        (leaf, size, size, proof, root),
        (leaf, index, size, [*proof, leaf], root),
        (leaf, index, size, proof, merkle.leaf_hash(root)),
    ):
        with pytest.raises(Untrusted):
            merkle.verify_inclusion(*bad)
    for cut in range(len(proof)):
        with pytest.raises(Untrusted):
            merkle.verify_inclusion(leaf, index, size, proof[:cut], root)
        with pytest.raises(Untrusted):
            merkle.verify_inclusion(leaf, index, size, [*proof[:cut], b"", *proof[cut + 1 :]], root)


@given(data=st.data(), new=st.integers(0, 130))
def test_consistency_is_subproof_and_verifies(data: st.DataObject, new: int) -> None:
    """The proof equals SUBPROOF, verifies, and fails once any part of it is changed, cut or added to."""
    content = leaves(new)
    old = data.draw(st.integers(0, new))
    tree = tree_of([*content, b"later"])
    proof = tree.consistency(old, new)
    assert (subproof(old, content, True) if old else []) == proof
    old_root, new_root = tree.root(old), tree.root(new)
    merkle.verify_consistency(old, old_root, new, new_root, proof)
    wrong = merkle.leaf_hash(b"wrong")
    bad = [(wrong, new_root, proof), (old_root, new_root, [*proof, wrong])]
    if old:
        bad.append((old_root, wrong, proof))
    bad += [(old_root, new_root, proof[:cut]) for cut in range(len(proof))]
    bad += [(old_root, new_root, [*proof[:at], wrong, *proof[at + 1 :]]) for at in range(len(proof))]
    bad += [(old_root, new_root, [*proof[:at], b"short", *proof[at + 1 :]]) for at in range(len(proof))]
    for forged_old, forged_new, forged in bad:
        with pytest.raises(Untrusted):
            merkle.verify_consistency(old, forged_old, new, forged_new, forged)


@given(data=st.data(), new=st.integers(2, 70))
@settings(max_examples=60)
def test_rewritten_history_is_noticed(data: st.DataObject, new: int) -> None:
    """A tree whose past has another leaf proves consistency with no root seen before."""
    content = leaves(new)
    old = data.draw(st.integers(1, new - 1))
    seen = tree_of(content).root(old)
    content[data.draw(st.integers(0, old - 1))] = b"rewritten"
    forged = tree_of(content)
    with pytest.raises(Untrusted, match="rewritten"):
        merkle.verify_consistency(old, seen, new, forged.root(), forged.consistency(old, new))


def test_sizes_out_of_order_are_refused() -> None:
    """A smaller tree extends nothing, and an empty one has one root only."""
    tree = tree_of(leaves(3))
    with pytest.raises(Untrusted, match="does not extend"):
        merkle.verify_consistency(3, tree.root(), 2, tree.root(2), [])
    with pytest.raises(Untrusted):
        merkle.verify_consistency(0, tree.root(), 0, tree.root(), [])
    with pytest.raises(Untrusted):
        merkle.verify_consistency(-1, tree.root(), 3, tree.root(), [])
    merkle.verify_consistency(0, merkle.EMPTY_ROOT, 0, merkle.EMPTY_ROOT, [])


def test_a_leaf_is_no_node() -> None:
    """A leaf holding two hashes does not collide with the node over them."""
    left, right = merkle.leaf_hash(b"a"), merkle.leaf_hash(b"b")
    assert merkle.leaf_hash(left + right) != merkle.node_hash(left, right)


def test_work_per_proof_is_logarithmic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Roots and proofs over many leaves cost a few dozen hashes, not one per leaf."""
    tree = tree_of(leaves(5000))
    hashed = 0
    original = merkle.node_hash

    def counting(left: bytes, right: bytes) -> bytes:
        nonlocal hashed
        hashed += 1
        return original(left, right)

    monkeypatch.setattr(merkle, "node_hash", counting)
    for index in (0, 2047, 4094, 4998):
        tree.root(index)
        tree.inclusion(index, 4999)
        tree.consistency(index, 4999)
    assert hashed <= 4 * 3 * 13
