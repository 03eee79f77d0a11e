"""The file of a next epoch's root: what is no such file, what does not go together, and signatures that do not hold."""

import msgspec
import pytest
from msgspec.structs import replace
from tests.factories import Fleet, fingerprint, key

from nixfleet.errors import Untrusted, UserError
from nixfleet.model.statements import LogKey, Root
from nixfleet.trust import nextepoch
from nixfleet.trust.nextepoch import EpochProposal, Judged
from nixfleet.trust.statements import NAMESPACE_APPROVE, digest, encode, namespace_of


def _fleet() -> Fleet:
    """Begin a fleet of three root principals, two of whom sign."""
    fleet = Fleet("admin", "bob", "carol", threshold=2)
    fleet.approve(digest(fleet.entries[0][1]), "bob")
    return fleet


def _root(fleet: Fleet, **fields: object) -> Root:
    old = fleet.state.root
    assert old is not None
    head = fleet.header("admin")
    log = LogKey(key=key("new log").public.text, epoch=1, from_=fleet.log)
    return replace(old, **{**head, "version": 2, "log": log, **fields})


def _proposal(root: Root, *others: str, by: str = "admin") -> EpochProposal:
    payload = encode(root)
    first = key(by).sign(namespace_of(root), payload)
    return EpochProposal(
        payload=payload, signatures=(first, *(key(one).sign(NAMESPACE_APPROVE, payload) for one in others))
    )


def _judged(fleet: Fleet, proposal: EpochProposal) -> Judged:
    root, _ = nextepoch.root_of(proposal, fleet.fleet)
    return nextepoch.judge(fleet.state, proposal, root)


def test_it_waits_for_whom_it_needs_and_leaves_the_log_as_it_is() -> None:
    """One of two has signed: the others are named, and who has signed already is told so."""
    fleet = _fleet()
    size = fleet.state.size
    judged = _judged(fleet, _proposal(_root(fleet)))
    assert (("admin",), True) == (judged.signed, "bob, carol" in judged.waits)
    assert "" == judged.why_not(fingerprint("bob"))
    assert "admin has signed it already" in judged.why_not(fingerprint("admin"))
    assert "is a key of neither" in judged.why_not(fingerprint("eve"))
    whole = _judged(fleet, _proposal(_root(fleet), "carol"))
    assert (("admin", "carol"), "") == (whole.signed, whole.waits)
    assert "it has all signatures" == whole.why_not(fingerprint("bob"))
    assert (size, 1) == (fleet.state.size, fleet.state.root.version if fleet.state.root else 0)


def test_days_may_pass_between_signatures() -> None:
    """Its log time is when it was written: it does not go stale on its way, nor below the log's own time."""
    fleet = _fleet()
    root = _root(fleet)
    fleet.now += 30 * 86_400
    assert "" == _judged(fleet, _proposal(root, "bob")).waits
    assert nextepoch.log_time(fleet.state, root) == max(root.at, fleet.state.last_time)


def test_one_that_is_dated_in_the_future_is_not_signed() -> None:
    """Its time becomes the log's, for every device and for good: a wrong clock, or a hostile proposer, is noticed."""
    fleet = _fleet()
    root = _root(fleet)
    nextepoch.check_time(root, root.at - 300)
    nextepoch.check_time(root, root.at + 30 * 86_400)
    with pytest.raises(Untrusted, match=r"it is dated 2\d{3}-.* UTC, which is yet to come"):
        nextepoch.check_time(root, root.at - 301)


def test_apart_is_put_together_and_apart_stays_what_is_another() -> None:
    """Two who signed copies of one file complete it; a signature counts once; of another proposal it counts nothing."""
    fleet = _fleet()
    root = _root(fleet)
    first, second = _proposal(root, "bob"), _proposal(root, "carol")
    both = nextepoch.merged([("a", first), ("b", second), ("c", first)])
    assert (first.signatures[0], first.signatures[1], second.signatures[1]) == both.signatures
    other = _proposal(_root(fleet, note="another"), "bob")
    with pytest.raises(UserError, match=r"b is another proposal \(.*\) than a .*: signatures of one count nothing"):
        nextepoch.merged([("a", first), ("b", other)])
    mixed = replace(first, signatures=(first.signatures[0], other.signatures[1]))
    with pytest.raises(Untrusted, match="signature 2 of 2 does not hold"):
        _judged(fleet, mixed)


def test_a_strangers_signature_and_another_log_do_not_hold() -> None:
    """A proposal by nobody, one on another history, and one that skips a version are refused with the reason."""
    fleet = _fleet()
    with pytest.raises(Untrusted, match="signature 1 of 1 does not hold: neither root nor grant names its key"):
        _judged(fleet, _proposal(_root(fleet, by=fingerprint("eve")), by="eve"))
    with pytest.raises(Untrusted, match="does not hold: root 5 does not follow root 1"):
        _judged(fleet, _proposal(_root(fleet, version=5)))
    other = replace(fleet.log, root="0" * 64)
    log = LogKey(key=key("new log").public.text, epoch=1, from_=other)
    with pytest.raises(Untrusted, match="its base is not a state of this log"):
        _judged(fleet, _proposal(_root(fleet, base=other, log=log)))


def test_what_begins_no_epoch_of_this_fleet_is_not_signed_by_file() -> None:
    """Any other act has its place in the log; another fleet's root, and what is no statement, are named so."""
    fleet = _fleet()
    plain = _proposal(_root(fleet, log=LogKey(key=key("log").public.text, epoch=0)))
    with pytest.raises(UserError, match="it proposes no new epoch; any other act is signed in the log"):
        nextepoch.root_of(plain, fleet.fleet)
    with pytest.raises(UserError, match="it is of another fleet"):
        nextepoch.root_of(_proposal(_root(fleet)), "f" * 64)
    with pytest.raises(Untrusted):
        nextepoch.root_of(EpochProposal(payload=b"{}", signatures=(b"x",)), fleet.fleet)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"\xff",
        b"[1]",
        b'{"format":"nixfleet-epoch-v2","payload":"","signatures":["eA=="]}',
        b'{"format":"nixfleet-epoch-v1","payload":"","signatures":[]}',
        b'{"format":"nixfleet-epoch-v1","payload":"","signatures":["eA=="],"more":1}',
        b" " * (nextepoch.FILE_BYTES + 1),
        msgspec.json.encode({"format": "nixfleet-epoch-v1", "payload": "", "signatures": ["eA=="] * 65}),
        msgspec.json.encode({"format": "nixfleet-epoch-v1", "payload": b"x" * 65_537, "signatures": ["eA=="]}),
    ],
)
def test_what_is_no_proposal_is_said(data: bytes) -> None:
    """Each bound, each missing part and each unknown one is an error that names the file."""
    with pytest.raises(UserError, match=r"f\.json is .*no proposal of a root|f\.json is larger"):
        nextepoch.read(data, "f.json")


def test_what_is_written_is_read_again_and_has_a_bound() -> None:
    """The file is one line of JSON; the sixty-fifth signature is refused."""
    fleet = _fleet()
    proposal = _proposal(_root(fleet), "bob")
    assert proposal == nextepoch.read(nextepoch.write(proposal), "f")
    with pytest.raises(UserError, match="at most 64 signatures"):
        nextepoch.signed_too(proposal, [b"x"] * 63)
