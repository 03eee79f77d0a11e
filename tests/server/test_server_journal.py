"""The journal of refusals: what stands in it, who reads it, and that nobody can fill it or push others out."""

import asyncio
from pathlib import Path

import pytest
from tests.factories import T0, device_id, fingerprint, key
from tests.server.harness import Rig, rig

from nixfleet.client.api import Client
from nixfleet.errors import Refused, Unreachable, Untrusted
from nixfleet.model.device import EnrollRequest, Session
from nixfleet.model.wire import Signed
from nixfleet.server.coordinator.journal import AGAIN_S, BURST, EACH_S, STRANGER, Journal
from nixfleet.server.store import Store
from nixfleet.trust.reports import NAMESPACE_SESSION, session_payload, sign_enroll


def _session(one: Rig, by: str) -> Signed:
    now = int(one.now)
    made = Session(
        v=1, fleet=one.fleet.fleet, by=fingerprint(by), key=key(f"{by} session").public.text, at=now,
        not_after=now + 3_600,
    )  # fmt: skip
    payload = session_payload(made)
    return Signed(payload=payload, signature=key(by).sign(NAMESPACE_SESSION, payload))


async def _told(client: Client) -> list[tuple[str, str, str]]:
    return [(one.by, one.what, one.reason) for one in await client.refusals()]


async def test_refused_requests_stand_in_the_journal_in_words(tmp_path: Path) -> None:
    """What was asked, by whom, and which right was missing: of requests as of statements, and none of it in the log."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin, one.client("ops") as ops:
        one.fleet.grant("ops", "deploy", select={"env": ["test"]})
        await one.send(admin)
        size = (await admin.fleet()).log_size
        with pytest.raises(Refused, match=r"ops lacks the right to read device web-01; it holds: deploy on env=test"):
            await ops.device("web-01")
        with pytest.raises(Refused, match="ops lacks the right to release; it holds"):
            await ops.cache_missing([])
        one.fleet.release("r1", by="ops")
        with pytest.raises(Refused):
            await one.send(ops)
        told = await _told(admin)
        assert [(fingerprint("ops"), what) for what in ("append a statement: release", "upload to the cache")] == [
            told[0][:2], told[1][:2],
        ]  # fmt: skip
        assert told[2][1] == "read device web-01"
        assert (await admin.refusals())[1].namespace == ""
        assert (await admin.fleet()).log_size == size


async def test_others_read_their_own_refusals(tmp_path: Path) -> None:
    """Who may read everything reads all of the journal; a restricted reader what its own keys tried."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        for name in ("one", "other"):
            one.fleet.grant(name, select={"env": ["test"]})
        one.fleet.grant("auditor")
        await one.send(admin)
        for name in ("one", "other"):
            async with one.client(name) as client:
                with pytest.raises(Refused):
                    await client.device("web-01")
        for name, sees in (("one", {"one"}), ("other", {"other"}), ("auditor", {"one", "other"})):
            async with one.client(name) as client:
                assert {by for by, _, _ in await _told(client)} == {fingerprint(each) for each in sees}


async def test_sessions_of_keys_without_rights_are_noted_when_truly_signed(tmp_path: Path) -> None:
    """A stranger's session, well signed, and one whose grant has ended leave a line; a forged one leaves none."""
    async with rig(tmp_path / "data") as one, one.client("admin") as admin, one.client(None) as anybody:
        one.fleet.grant("ended", "release", not_after=T0 + 5)
        await one.send(admin)
        one.now += 60
        with pytest.raises(Refused, match="neither root nor a grant names the key"):
            await anybody.open_session(_session(one, "stranger"))
        with pytest.raises(Refused, match=r"ended lacks the right to open a session; it holds: nothing since"):
            await anybody.open_session(_session(one, "ended"))
        forged = _session(one, "ended")
        with pytest.raises(Untrusted):
            await anybody.open_session(Signed(payload=forged.payload + b" ", signature=forged.signature))
        told = [(by, what) for by, what, _ in await _told(admin)]
        assert [
            (fingerprint("ended"), "open a session"),
            ("", f"open a session by the key {fingerprint('stranger')}"),
        ] == told


async def test_forged_requests_leave_no_trace(tmp_path: Path) -> None:
    """Requests that nobody known has truly signed are refused, and the journal stays empty."""
    async with rig(tmp_path / "data") as one, one.client("admin") as admin:
        for name in (None, "stranger"):
            async with one.client(name) as client:
                with pytest.raises(Untrusted):
                    await client.devices()
        assert await admin.refusals() == ()


class Clock:
    """A clock of the test's."""

    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> int:
        """Give the time."""
        return self.now


async def test_who_asks_in_a_loop_is_written_once_a_minute(store: Store) -> None:
    """The same refusal again is not written again within a minute; another one, or another key's, is."""
    clock = Clock()
    journal = Journal(store, clock)
    for by, what in (("a", "x"), ("a", "x"), ("a", "y"), ("b", "x")):
        assert str(await journal.refused(by, what, "no")) == "no"
    clock.now += AGAIN_S
    await journal.refused("a", "x", "no")
    assert [("a", "x"), ("b", "x"), ("a", "y"), ("a", "x")] == [
        (row.by, row.namespace) for row in await store.log.refused(10)
    ]


async def test_who_asks_for_ever_other_things_is_written_now_and_then(store: Store) -> None:
    """A key that asks for something else each time fills neither disk nor journal, and keeps nobody else out of it."""
    clock = Clock()
    journal = Journal(store, clock)
    for number in range(BURST + 50):
        await journal.refused("a", f"x{number}", "no")
    await journal.refused("b", "x", "no")
    written = [row.by for row in await store.log.refused(1_000)]
    assert (BURST, 1) == (written.count("a"), written.count("b"))
    clock.now += EACH_S
    for number in range(9):
        await journal.refused("a", f"y{number}", "no")
    assert (await store.log.refused(1))[0].namespace == "y0"


async def test_strangers_share_one_place(store: Store) -> None:
    """However many keys strangers make, they write a row in five seconds, and keep two hundred in all."""
    clock = Clock()
    journal = Journal(store, clock)
    await journal.refused("known", "x", "no")
    for number in range(300):
        clock.now += 5 * (number % 3)
        await journal.refused(STRANGER, f"open a session for the key {number}", "no")
    rows = await store.log.refused(1_000)
    assert (len(rows), rows[-1].by) == (201, "known")


async def test_journal_that_cannot_be_written_refuses_all_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the database is gone the refusal stands, and the next one is written once it is back."""
    journal = Journal(store, Clock())

    async def broken(_row: object) -> None:
        raise Unreachable("the database does not answer")

    with monkeypatch.context() as gone:
        gone.setattr(store.log, "refuse", broken)
        assert isinstance(await journal.refused("a", "x", "no"), Refused)
    await asyncio.gather(*(journal.refused("a", "x", "no") for _ in range(5)))
    assert len(await store.log.refused(10)) == 1


async def test_second_key_under_a_device_id_that_asks_is_noted(tmp_path: Path) -> None:
    """Who tries to come in under another's device id is refused, and an admin can see it."""
    async with rig(tmp_path / "data") as one, one.client("admin") as admin, one.client(None) as anybody:
        for name in ("first", "thief"):
            made = EnrollRequest(
                v=1, fleet=one.fleet.fleet, device=device_id("web-01"), name="web-01", key=key(name).public.text,
                at=int(one.now),
            )  # fmt: skip
            signed = sign_enroll(made, key(name))
            if name == "first":
                await anybody.enroll_request(signed)
                continue
            with pytest.raises(Refused, match="another key asks"):
                await anybody.enroll_request(signed)
        ((by, what, why),) = await _told(admin)
        asked = f"ask to be enrolled as web-01 ({device_id('web-01')[:12]}) by the key {fingerprint('thief')}"
        assert (by, what) == ("", asked)
        assert why.startswith("another key asks to be enrolled under this device id")
