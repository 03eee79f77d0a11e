"""The state that new statements are judged on: it follows the log, and is gone as soon as anything failed on it."""

from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest
from tests.factories import Fleet
from tests.server.harness import Rig

from nixfleet.errors import Refused, Unreachable
from nixfleet.model.statements import LogState
from nixfleet.model.wire import AppendRequest
from nixfleet.server.coordinator import spare
from nixfleet.server.coordinator.log import LogKeeper
from nixfleet.server.coordinator.logkeys import LogKeys
from nixfleet.server.settings import ServerSettings
from nixfleet.server.store import Store
from nixfleet.trust.merkle import EMPTY_ROOT
from nixfleet.trust.replay import State

BEGINNING = LogState(size=0, root=EMPTY_ROOT.hex())
COPIED_A_LEAF = 10
LONG = 2 * COPIED_A_LEAF + 2
"""A log so long that two entries are sooner followed than all of it copied."""


class Copies:
    """Counts how often a state is copied, and what of."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        copy = State.copy

        def counted(state: State) -> State:
            self.sizes.append(state.size)
            return copy(state)

        monkeypatch.setattr(State, "copy", counted)

    def since(self) -> int:
        """Give how many there were since it was last asked."""
        made, self.sizes = len(self.sizes), []
        return made


class Keeping:
    """A keeper of a log on disk, with the fleet that speaks to it."""

    def __init__(self, one: Rig, store: Store) -> None:
        self.one, self.fleet, self.store = one, one.fleet, store
        self.log = LogKeeper(store, LogKeys(one.fleet.log_key), lambda: int(one.fleet.now))
        self._sent = one.fleet.size

    async def send(self) -> None:
        """Append what the fleet has said since."""
        new = range(self._sent, self.fleet.size)
        await self.log.append(AppendRequest(statements=tuple(self.one.submission(index) for index in new)))
        self._sent = self.fleet.size

    async def replayed(self) -> State:
        """Replay what is stored from zero."""
        fresh = LogKeeper(self.store, LogKeys(self.fleet.log_key), lambda: int(self.fleet.now))
        await fresh.load()
        return fresh.state


@pytest.fixture
async def keeping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Keeping, None]:
    """Give the keeper of a log that begins; copying is said to be so slow that some twenty entries are many."""
    monkeypatch.setattr(spare, "COPIED_A_LEAF", COPIED_A_LEAF)
    one = Rig(tmp_path / "data", Fleet())
    one.create()
    store = Store(ServerSettings(data_dir=one.data_dir).url())
    made = Keeping(one, store)
    try:
        await made.log.load()
        yield made
    finally:
        await store.close()


async def _grow(keeping: Keeping, size: int) -> None:
    """Let the log reach a size, at most five hundred entries at a time."""
    while keeping.fleet.size < size:
        for _ in range(min(500, size - keeping.fleet.size)):
            keeping.fleet.device(f"web-{keeping.fleet.size}", base=BEGINNING)
        await keeping.send()


def _same(one: State, other: State) -> bool:
    """Tell whether two states say the very same of the same log."""
    names = [name for name in State.__slots__ if name != "tree"]
    return one.tree.root() == other.tree.root() and all(getattr(one, name) == getattr(other, name) for name in names)


async def test_appends_to_a_long_log_copy_nothing(keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one copies; those after it change two states in turn, which are what a replay from zero gives."""
    await _grow(keeping, LONG)
    await _grow(keeping, LONG + 2)  # few, so that the spare is worth following
    copies = Copies(monkeypatch)
    for number in range(6):
        keeping.fleet.device(f"late-{number}", base=BEGINNING)
        keeping.fleet.device(f"later-{number}", base=BEGINNING)
        await keeping.send()
    assert 0 == copies.since()
    assert _same(await keeping.replayed(), keeping.log.state)


async def test_a_short_log_is_copied(keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copying a short log costs less than one signature."""
    copies = Copies(monkeypatch)
    await _grow(keeping, 5)
    await _grow(keeping, 6)
    assert [1, 5] == copies.sizes


async def test_a_refusal_leaves_no_trace(keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch whose second statement is refused has moved the spare on by its first one: it is copied anew."""
    await _grow(keeping, LONG)
    await _grow(keeping, LONG + 1)
    copies = Copies(monkeypatch)
    keeping.fleet.device("good", base=BEGINNING)
    good = keeping.one.submission(keeping.fleet.size - 1)
    forged = msgspec.structs.replace(good, payload=good.payload.replace(b"good", b"evil"))
    with pytest.raises(Refused):
        await keeping.log.append(AppendRequest(statements=(good, forged)))
    assert (0, LONG + 1) == (copies.since(), keeping.log.size)
    await keeping.send()
    assert (1, LONG + 2) == (copies.since(), keeping.log.size)
    assert _same(await keeping.replayed(), keeping.log.state)


async def test_what_the_database_did_not_take_is_not_said(keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the store raises, the log stays as it was, and the next append makes the next entry of it."""
    await _grow(keeping, LONG)
    await _grow(keeping, LONG + 1)
    before = keeping.log.checkpoint()
    with monkeypatch.context() as broken:

        async def fails(*_: object) -> None:
            raise Unreachable("the database does not answer")

        broken.setattr(keeping.store.log, "append", fails)
        keeping.fleet.device("late", base=BEGINNING)
        late = AppendRequest(statements=(keeping.one.submission(keeping.fleet.size - 1),))
        with pytest.raises(Unreachable):
            await keeping.log.append(late)
    assert before == keeping.log.checkpoint()
    await keeping.send()
    assert _same(await keeping.replayed(), keeping.log.state)


async def test_a_repeat_is_answered_without_a_state(keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends again what is in the log is told where it is, however long the log; nothing is copied or judged."""
    await _grow(keeping, 4)
    copies = Copies(monkeypatch)
    again = AppendRequest(statements=tuple(map(keeping.one.submission, (3, 1))))
    assert (3, 1) == (await keeping.log.append(again)).indexes
    assert 0 == copies.since()
