"""What waits for a checkpoint: in a file, bounded, and taken up again by the next run of an agent."""

from pathlib import Path

import pytest
from tests.core.test_mirror import entries, opened, sync
from tests.factories import Fleet, device_id

from nixfleet.client.staging import Staging
from nixfleet.errors import Untrusted, UserError
from nixfleet.model.wire import Entry

ROOMY = 1 << 20
MADE = [Entry(leaf=bytes([number]) * 10, payload=None if number % 2 else b"payload") for number in range(6)]


@pytest.fixture
def fleet() -> Fleet:
    """Make a log of several entries."""
    made = Fleet()
    for name in ("web-01", "web-02", "web-03", "web-04"):
        made.device(name)
    return made


def staging(folder: Path, *, named: bool = True, max_bytes: int = ROOMY) -> Staging:
    """Prepare to hold entries in a folder."""
    return Staging(folder, max_bytes, named=named)


@pytest.mark.parametrize("named", [True, False])
def test_what_is_put_is_read_in_order_and_may_be_replaced(tmp_path: Path, *, named: bool) -> None:
    """Entries come back as they were, an absent payload too; what is put behind fewer takes the place of the rest."""
    held = staging(tmp_path, named=named)
    held.put(0, 0, MADE[:4])
    held.put(0, 2, MADE[3:])
    assert [*MADE[:2], *MADE[3:]] == list(held)
    assert MADE[0] in held
    assert MADE[2] not in held
    held.clear()
    assert [] == list(held)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cut", range(0, 40, 3))
def test_the_next_run_takes_up_whole_entries(tmp_path: Path, cut: int) -> None:
    """A crash may tear the last entry off; those before it are held again, and more can come behind them."""
    staging(tmp_path).put(7, 0, MADE)
    path = tmp_path / "staged"
    path.write_bytes(path.read_bytes()[: path.stat().st_size - cut])
    again = staging(tmp_path)
    again.resume(7)
    kept = list(again)
    assert MADE[: len(kept)] == kept
    assert len(kept) >= len(MADE) - 1 - cut // 16
    again.put(7, len(kept), MADE[len(kept) :])
    assert MADE == list(again)


def test_what_goes_on_from_another_size_is_dropped(tmp_path: Path) -> None:
    """A file that an earlier run left behind a log that has grown since is of no use."""
    staging(tmp_path).put(7, 0, MADE)
    again = staging(tmp_path)
    again.resume(8)
    assert 0 == len(again)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("junk", [b"", b"\0" * 7, b"\0" * 7 + b"\7" + b"\xff" * 90])
def test_a_file_of_junk_holds_nothing(tmp_path: Path, junk: bytes) -> None:
    """What is no file of ours is not read as entries."""
    (tmp_path / "staged").write_bytes(junk)
    held = staging(tmp_path)
    held.resume(7)
    assert [] == list(held)
    held.put(7, 0, MADE)
    assert MADE == list(held)


def test_a_file_beyond_the_bound_is_dropped(tmp_path: Path) -> None:
    """A bound that has become smaller holds for what an earlier run has left, too."""
    staging(tmp_path).put(0, 0, MADE)
    held = staging(tmp_path, max_bytes=300)
    held.resume(0)
    assert 0 == len(held)
    with pytest.raises(Untrusted, match="no checkpoint has proven"):
        held.put(0, 0, MADE)


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    """When nothing can be written the person is told which folder."""
    with pytest.raises(UserError, match="gone cannot be written"):
        staging(tmp_path / "gone").put(0, 0, MADE)


def test_an_agent_that_is_killed_goes_on_where_it_was(tmp_path: Path, fleet: Fleet) -> None:
    """What has come is not asked for again, counts for nothing until it is proven, and is gone once it counts."""
    device = device_id("web-01")
    opened(tmp_path, fleet, device=device).take(sync(fleet, 0, 3, more=True))
    again = opened(tmp_path, fleet, device=device)
    assert (0, 3) == (again.size, again.next_index)
    again.take(sync(fleet, 3, fleet.size, more=False))
    assert fleet.log == again.log_state
    assert not (tmp_path / "mirror" / "staged").exists()
    assert fleet.log == opened(tmp_path, fleet, device=device).log_state


def test_what_was_forged_before_a_kill_is_never_taken(tmp_path: Path, fleet: Fleet) -> None:
    """Entries that a stranger has sent, and that the next run meets on disk, fail with the true checkpoint, and go."""
    device, other = device_id("web-01"), Fleet(at=fleet.now)
    other.device("mallory")
    other.device("mallet")
    opened(tmp_path, fleet, device=device).take(sync(other, 0, 3, more=True))
    again = opened(tmp_path, fleet, device=device)
    with pytest.raises(Untrusted):
        again.take(sync(fleet, 3, fleet.size, more=False))
    assert (0, 0) == (again.size, again.next_index)
    again.take(sync(fleet, 0, fleet.size, more=False))
    assert fleet.log == again.log_state


def test_peoples_programs_share_no_unproven_entries(tmp_path: Path, fleet: Fleet) -> None:
    """Two programs with one folder each hold what came to them alone."""
    first = opened(tmp_path, fleet)
    first.take(sync(fleet, 0, 3, more=True))
    second = opened(tmp_path, fleet)
    assert 0 == second.next_index
    second.extend(fleet.checkpoint, 0, entries(fleet))
    first.take(sync(fleet, 3, fleet.size, more=False))
    assert fleet.log == first.log_state
