"""The log in red: what every screen says when it is not to be trusted, what devices saw of it, what was refused."""

from functools import partial

import msgspec
import pytest
from tests.tui.console_fleet import device, digest, fleet_access, fleet_entries
from tests.tui.console_pilot import Driven, console
from tests.tui.console_ports import FakeSource, FakeVerifier

from nixfleet.errors import Refused
from nixfleet.model.views import Delta
from nixfleet.tui.intents import refusal
from nixfleet.tui.keys import KEYS
from nixfleet.tui.ports import LogCheck, RefusedView
from nixfleet.tui.store import Store
from nixfleet.tui.view import log, records
from nixfleet.tui.view.text import plain

WHY = "the log has another root at 40 entries than the one known"


def shows(driven: Driven, *words: str) -> bool:
    """Tell whether the screen shows all of these."""
    return all(word in driven.text for word in words)


def bad(state: str) -> FakeVerifier:
    """Make a replay that finds the log not to be trusted."""
    return FakeVerifier(msgspec.convert({"state": state, "size": 42, "root": digest("root"), "detail": WHY}, LogCheck))


@pytest.mark.parametrize(
    ("state", "word", "then"),
    [
        ("fork", "another history", "it is the evidence"),
        ("behind", "an old backup", "nixfleet log restore"),
        ("invalid", "does not verify", "names the first entry"),
    ],
)
async def test_every_screen_says_that_the_log_is_not_to_be_trusted(state: str, word: str, then: str) -> None:
    """Under the header stand what is wrong, the mirror's own sentence, and what to do; on each view."""
    async with console(size=(80, 24), verifier=bad(state)) as driven:
        for view in "123456":
            await driven.press(view)
            assert shows(driven, word, WHY, then), (view, driven.text)


async def test_a_good_log_takes_no_room() -> None:
    """While all is well nothing stands between header and table."""
    async with console() as driven:
        assert 0 == driven.app.screen.query_one("#alarm").size.height
        assert "‼" not in driven.text


async def test_a_fork_that_shows_later_comes_and_goes_by_itself() -> None:
    """The banner follows the mirror while the console is open."""
    verifier = FakeVerifier()
    async with console(verifier=verifier) as driven:
        good = verifier.check
        verifier.check = msgspec.structs.replace(good, state="fork", detail=WHY)
        driven.app._chrome()
        await driven.until(partial(shows, driven, "FORK: the coordinator shows another history"))
        verifier.check = good
        driven.app._chrome()
        await driven.until(lambda: "FORK" not in driven.text)


async def test_devices_on_another_log_are_named() -> None:
    """A device that signed for another log is named on every screen, and stands first among the witnesses."""
    source = FakeSource()
    other = next(one for one in source.devices.values() if one.name == "web-oslo-02")
    async with console(source=source) as driven:
        source.put(msgspec.structs.replace(other, log_state="fork", log_root="cd" * 32))
        await driven.until(partial(shows, driven, "1 device has seen another log", "web-oslo-02", "Audit, d"))
        await driven.press("4", "d")
        rows = [line for line in driven.text.splitlines() if "another log" in line and "web-oslo-02" in line]
        assert any(row.startswith("▌ ‼ another log") for row in rows)
        await driven.press("enter")
        assert "web-oslo-02" in driven.text
        source.put(other)
        await driven.until(lambda: "has seen another log" not in driven.text)


async def test_nothing_is_signed_on_a_log_that_does_not_hold() -> None:
    """Every act is grey, with that reason, whatever the person's rights."""
    async with console(verifier=bad("fork")) as driven:
        scene = driven.app.shown.scene()
        reasons = {refusal(key.id, scene) for key in KEYS if key.mutates}
        assert {"the coordinator shows another log: nothing is signed on it"} == reasons
        await driven.press("2", "P")
        assert [] == driven.acts.done


def test_an_entry_names_who_signed_it_as_well_and_what_it_waits_for() -> None:
    """Approvals are entries of their own over the same payload; those without effect say so."""
    entries = fleet_entries()
    (rollout,) = [entry for entry in entries if entry.index == 38]
    approval = msgspec.structs.replace(rollout, index=42, type="approve", principal="audit", what="approve: it")
    void = msgspec.structs.replace(approval, index=43, principal="ci", verdict="void", why="it may not approve")
    other = msgspec.structs.replace(approval, index=44, digest=digest("other"))
    found = records.approvals_of(rollout, [*entries, approval, void, other])
    shown = plain(records.entry_head(rollout, 160, found, fleet_access().pending[0]))
    assert "signed   audit (entry 42), ci (entry 43, void: it may not approve)" in shown
    assert "waits    1 more approval is needed" in shown
    assert [] == records.approvals_of(approval, [*entries, approval, void])


async def test_an_entry_that_waits_says_for_whom() -> None:
    """The page of a statement that waits says so under its verdict."""
    async with console() as driven:
        await driven.press("6", "enter")
        assert shows(driven, "entry 38", "waits    1 more approval is needed")


def test_an_old_backup_is_not_called_a_fork() -> None:
    """Behind and fork are told apart in what they say and in what to do."""
    said = {state: plain(log.alarm(bad(state).after, [], 120)) for state in ("behind", "fork")}
    assert ("FORK" in said["fork"], "FORK" in said["behind"]) == (True, False)
    assert ("old backup" in said["behind"], "restore" in said["fork"]) == (True, False)


@pytest.mark.parametrize(
    ("size", "root", "word", "sight"),
    [
        (0, "", "", "unknown"),
        (42, "aa", "ok", "agrees"),
        (30, "aa", "ok", "agrees"),
        (30, "aa", "behind", "behind"),
        (50, "aa", "ahead", "ahead"),
        (30, "bb", "ok", "fork"),
        (50, "bb", "fork", "fork"),
    ],
)
def test_what_a_device_saw_is_held_against_our_own_log(size: int, root: str, word: str, sight: str) -> None:
    """The coordinator may call a device's log good: our own root at that size says otherwise."""
    seen = msgspec.structs.replace(device("a", "web", "oslo"), log_size=size, log_root=root, log_state=word)
    check = LogCheck(state="valid", size=42, root="aa")
    assert sight == log.sight_of(seen, check, lambda at: "aa" if at <= 42 else "")


async def test_what_was_refused_is_listed_as_the_coordinators_word() -> None:
    """Each refusal has who, what and the whole reason, and the page says that none of it is in the log."""
    async with console() as driven:
        await driven.press("4", "f")
        assert shows(driven, "none of this is in the log", "oncall lacks the right to deploy to web-oslo-01", "15m ago")
        await driven.press("at")
        assert "$ nixfleet audit list --refused" in driven.text


async def test_refusals_that_cannot_be_read_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may not read them sees the coordinator's sentence instead."""

    async def denied(_: FakeSource) -> list[RefusedView]:
        raise Refused("release-ci may read its own refusals alone")

    monkeypatch.setattr(FakeSource, "refused", denied)
    async with console() as driven:
        await driven.press("4", "f")
        assert "release-ci may read its own refusals alone" in driven.text


async def test_forks_are_counted_as_records_come_and_go() -> None:
    """The store knows the forked devices through snapshot, delta and removal; the retired do not count."""
    store, source = Store(), FakeSource()
    first, second, *_ = source.devices.values()
    source.devices[first.id] = msgspec.structs.replace(first, log_state="fork")
    source.devices[second.id] = msgspec.structs.replace(second, log_state="fork", state="retired")
    store.load(await source.snapshot())
    assert [first.name] == list(store.forked)
    store.apply(Delta(seq=store.seq + 1, removed=f"device:{first.id}"))
    assert [] == list(store.forked)
