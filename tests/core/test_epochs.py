"""A log that was lost for good: taken up where the root says, by all who knew it, with what they knew beyond."""

import copy
from pathlib import Path

import pytest
from tests.factories import Fleet, device_id, fingerprint, key, principal
from tests.fakelog import FakeLog
from tests.httpd import httpd

from nixfleet.client.api import Client
from nixfleet.client.mirror import Mirror
from nixfleet.errors import Untrusted
from nixfleet.model.ids import DeviceId
from nixfleet.model.statements import LogKey
from nixfleet.model.wire import Entry
from nixfleet.trust.epochs import claims_later, epoch_at, lowest_index, succeed
from nixfleet.trust.replay import Valid, Void
from nixfleet.trust.view import Fork, LogView


def lost() -> Fleet:
    """Make a log that will be lost: a device, a grant, a release."""
    fleet = Fleet()
    fleet.device("web-01")
    fleet.grant("ops", "deploy", "release", "device", "enroll")
    fleet.release("a")
    return fleet


def taken_up(fleet: Fleet, by: str = "admin", *, epoch: int = 1, says: bool = True) -> Fleet:
    """Take a log up as it is, under the next epoch and a new log key."""
    other = copy.deepcopy(fleet)
    new = key(f"log-{epoch}")
    other.root(by, log=LogKey(key=new.public.text, epoch=epoch, from_=other.log if says else None))
    other.log_key, other.epoch = new, epoch
    return other


def view_of(fleet: Fleet, own: str | None = None) -> LogView:
    """Verify a made log."""
    view = LogView(fleet.fleet, own=own)
    view.extend(fleet.checkpoint, 0, fleet.entries)
    return view


def test_who_knows_no_more_than_was_saved_just_goes_on() -> None:
    """The root with the next epoch is an entry like others: the log extends, its new key signs."""
    fleet = lost()
    view, other = view_of(fleet), taken_up(fleet)
    view.extend(other.checkpoint, fleet.size, other.entries[fleet.size :])
    assert (other.log, key("log-1").public) == (view.log, view.log_key)
    assert [0, 0, 1, 1] == [epoch_at(view.state, index) for index in (0, 3, 4, 9)]


def test_what_was_revoked_in_the_lost_part_stays_revoked() -> None:
    """Who knew more follows the new log, and lets nothing be done there by a key or a grant that was ended."""
    fleet = lost()
    other = taken_up(fleet)
    grant = next(iter(fleet.state.grants))
    fleet.revoke(key_name="ops")
    fleet.revoke(grant=grant)
    fleet.device("web-02")
    old = view_of(fleet)
    other.release("b", by="ops")
    view, extended = succeed(old, other.checkpoint, other.entries)
    assert other.log == view.log
    assert fingerprint("ops") in view.state.revoked_keys
    assert grant in view.state.revoked_grants
    assert isinstance(extended.verdicts[-1], Void)
    assert not any(isinstance(verdict, Void) for verdict in extended.verdicts[:-1])
    assert DeviceId(device_id("web-02")) not in view.state.devices


@pytest.mark.parametrize("cosigner", ["", "second"])
def test_a_root_that_was_lost_is_given_up_by_its_own_threshold_alone(cosigner: str) -> None:
    """A root key that a newer root had put out takes no log up from before that; who was put in has to sign as well."""
    fleet = lost()
    other = taken_up(fleet)
    fleet.approve(fleet.root(principals=(principal("second"),)), "second")
    assert isinstance(fleet.verdicts[-1], Valid)
    old = view_of(fleet)
    if cosigner:
        other = copy.deepcopy(lost())
        new = key("log-1")
        log = LogKey(key=new.public.text, epoch=1, from_=other.log)
        other.approve(other.root(principals=(principal("admin"), principal("second")), log=log), cosigner)
        other.log_key, other.epoch = new, 1
        view, _ = succeed(old, other.checkpoint, other.entries)
        assert other.log == view.log
        return
    with pytest.raises(Fork, match="from before root 2 that is known here"):
        succeed(old, other.checkpoint, other.entries)
    assert fleet.log == old.log


def test_a_second_loss_keeps_what_the_first_one_knew() -> None:
    """Revocations are carried from epoch to epoch."""
    fleet = lost()
    second = taken_up(fleet)
    fleet.revoke(key_name="ops")
    view, _ = succeed(view_of(fleet), second.checkpoint, second.entries)
    third = taken_up(second, epoch=2)
    second.device("web-03")
    view.extend(second.checkpoint, second.size - 1, second.entries[-1:])
    view, _ = succeed(view, third.checkpoint, third.entries)
    assert (2, third.log) == (epoch_at(view.state, third.size), view.log)
    assert fingerprint("ops") in view.state.revoked_keys


@pytest.mark.parametrize("lie", ["a stranger", "another history", "no epoch", "an epoch too far", "no beginning"])
def test_nobody_else_can_take_a_log_up(lie: str) -> None:
    """Without the root's threshold, from another history, or without a word of where: a fork, or not even verified."""
    fleet = lost()
    longer = copy.deepcopy(fleet)
    longer.device("web-02")
    longer.device("web-03")
    old = view_of(longer)
    match lie:
        case "a stranger":
            other = taken_up(fleet, "mallory")
        case "another history":
            fork = Fleet()
            fork.device("web-09")
            other = taken_up(fork)
        case "no epoch":
            other = copy.deepcopy(fleet)
            other.device("web-04")
        case "an epoch too far":
            other = taken_up(fleet, epoch=2)
        case _:
            other = taken_up(fleet, says=False)
    with pytest.raises(Untrusted) as told:
        succeed(old, other.checkpoint, other.entries)
    assert longer.log == old.log
    if lie in {"another history", "no epoch"}:
        assert isinstance(told.value, Fork)


def test_a_claim_of_a_later_epoch_is_read_before_it_is_believed() -> None:
    """Only the first line counts: the same fleet, a higher number."""
    fleet = lost()
    view = view_of(fleet)
    claims = {
        f"nixfleet/{fleet.fleet}/1\n": True,
        f"nixfleet/{fleet.fleet}/0\n": False,
        f"nixfleet/{'ab' * 32}/1\n": False,
        f"nixfleet/{fleet.fleet}/{'9' * 40}\n": False,
        "": False,
    }
    assert claims == {note: claims_later(note.encode(), view) for note in claims}
    assert not claims_later(f"nixfleet/{fleet.fleet}/1\n".encode(), LogView(fleet.fleet))


def test_rollouts_are_ordered_by_epoch_and_then_by_index() -> None:
    """What was attempted in the lost part, at a higher index than the new log has, is below all of the new log."""
    fleet = lost()
    state = view_of(taken_up(fleet)).state
    assert 4 == fleet.size
    expected = {(-1, -1): -1, (0, 2): 2, (0, 3): 3, (0, 77): 4, (1, 9): 9}
    assert expected == {attempted: lowest_index(state, attempted) for attempted in expected}


@pytest.mark.parametrize("own", [None, device_id("web-01")])
async def test_a_copy_on_disk_is_replaced_whole_and_stays_so(tmp_path: Path, own: str | None) -> None:
    """The copy of the lost log is kept beside the new one; reopened, also after a crash between, it is the new one."""
    fleet = lost()
    other = taken_up(fleet)
    fleet.revoke(key_name="ops")
    fleet.device("web-02")
    pin = fleet.log
    folder = tmp_path / "log"
    made = Mirror.open(folder, fleet.fleet, device=own)
    made.extend(fleet.checkpoint, 0, [Entry(leaf=leaf, payload=payload) for leaf, payload in fleet.entries])
    async with httpd(FakeLog(other)) as server:
        urls = [server.url]
        async with Client(urls, fleet=fleet.fleet, key=None, clock=lambda: fleet.now) as client:
            assert 0 == await made.catch_up(client)
            other.device("web-05", by="ops")
            assert 1 == await made.catch_up(client)
    folder.rename(tmp_path / "log.next")
    for _ in range(2):
        again = Mirror.open(folder, fleet.fleet, pin=pin, device=own)
        assert (other.log, made.log_state) == (again.log_state, other.log)
        assert fingerprint("ops") in again.state.revoked_keys
        assert isinstance(again.verdict(again.size - 1), Void)
    old = Mirror.open(tmp_path / "log.lost-0", fleet.fleet, device=own)
    assert fleet.log == old.log_state


async def test_a_lying_coordinator_that_names_an_epoch_changes_nothing(tmp_path: Path) -> None:
    """A later epoch that the root never signed is not taken; the copy stays, and says fork."""
    fleet = lost()
    other = copy.deepcopy(fleet)
    other.epoch, other.log_key = 1, key("mallory")
    fleet.device("web-02")
    made = Mirror.open(tmp_path / "log", fleet.fleet)
    made.extend(fleet.checkpoint, 0, [Entry(leaf=leaf, payload=payload) for leaf, payload in fleet.entries])
    async with (
        httpd(FakeLog(other)) as server,
        Client([server.url], fleet=fleet.fleet, key=None, clock=lambda: fleet.now) as client,
    ):
        with pytest.raises(Fork, match="it was rewritten"):
            await made.catch_up(client)
    assert (fleet.log, "fork") == (Mirror.open(tmp_path / "log", fleet.fleet).log_state, made.verified)
