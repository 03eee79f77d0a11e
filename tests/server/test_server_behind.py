"""An old backup: noticed by a checkpoint of its own, made whole by agents and mirrors, appending nothing till then."""

import asyncio
import random
import shutil
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from tests.factories import key
from tests.server.backups import (
    copy_database,
    copy_of_device,
    entries_of,
    fork_of,
    mirror_of,
    old_backup,
    put_back,
)
from tests.server.harness import Rig, rig, until

from nixfleet.client.api import Client
from nixfleet.client.offering import give_back
from nixfleet.errors import NixfleetError, Unreachable, Untrusted
from nixfleet.model.wire import HeldPayload, Offer, OfferAnswer
from nixfleet.server.coordinator import restoring
from nixfleet.trust.note import Checkpoint, origin, sign_checkpoint

PROGRAM = Path(__file__).with_name("serve_program.py")
ROUNDS = 5
START_S = 120
"""How long the program may take on a machine that does much else."""
HELD = 3
"""Entries of the backup: the root and two devices."""


@pytest.fixture
def url_of(request: pytest.FixtureRequest) -> str | None:
    """Give the database to use: None is SQLite."""
    if request.param == "sqlite":
        return None
    url: str = request.getfixturevalue("postgres_url")
    return url


both = pytest.mark.parametrize("url_of", ["sqlite", "postgres"], indirect=True)


async def leaves(client: Client) -> list[tuple[bytes, bytes | None]]:
    """Read the coordinator's whole log."""
    return [(entry.leaf, entry.payload) for entry in (await client.entries(0)).entries]


def pass_quiet(one: Rig) -> None:
    """Let the quiet time pass."""
    one.now = one.fleet.now = max(one.now, one.fleet.now) + restoring.QUIET_S


async def act(one: Rig, client: Client) -> None:
    """Enrol one more device."""
    one.fleet.device(f"new-{one.fleet.size}")
    await one.send(client)


@both
async def test_a_mirror_makes_an_old_backup_whole(tmp_path: Path, url_of: str | None) -> None:
    """A person's copy gives everything back by itself; the log is the one that was, and goes on after a quiet time."""
    async with old_backup(tmp_path, url_of) as one, one.client("admin") as admin:
        mirror = mirror_of(tmp_path / "mirror", one.fleet)
        assert (0, "ok") == (await mirror.catch_up(admin), mirror.verified)
        assert one.fleet.entries == await leaves(admin)
        rollouts = await admin.rollouts()
        assert (["paused"], 4) == ([one.state for one in rollouts], len(await admin.devices()))
        with pytest.raises(Unreachable, match=r"has its 11 entries back; for another \d+ s it asks"):
            await admin.append([one.submission(1)])
        pass_quiet(one)
        await act(one, admin)
        assert one.fleet.size == await mirror.catch_up(admin) + 11


@both
async def test_nothing_is_appended_before_everything_is_back(tmp_path: Path, url_of: str | None) -> None:
    """Once an agent has shown a larger checkpoint, an append is refused in words, after a restart and a day, too."""
    async with old_backup(tmp_path, url_of) as one:
        device = copy_of_device(tmp_path, one.fleet, "web-01")
        for _ in range(2):
            async with one.client("admin") as admin:
                lacks = await give_back(admin, device)
                assert (11, 11) == (lacks.size, lacks.goal)
                assert (await admin.fleet()).log_size == HELD
                with pytest.raises(Unreachable, match="runs an old backup: it has all 11 entries, but of 3 not the co"):
                    await admin.append([one.submission(HELD)])
            one.now += 86_400
            await asyncio.to_thread(one.restart)


async def test_devices_alone_make_it_whole_together(tmp_path: Path) -> None:
    """Each gives what it holds, its own enrolment above all; what only a person held keeps the log shut, by name."""
    async with old_backup(tmp_path) as one, one.client(None) as stranger:
        for name, lacking in (("web-02", 3), ("web-03", 2), ("web-04", 1), ("web-03", 1)):
            answer = await give_back(stranger, copy_of_device(tmp_path, one.fleet, name))
            assert (name, lacking) == (name, len(answer.lacks))
        [left] = answer.lacks
        payload = one.fleet.entries[left][1]
        held = (HeldPayload(index=left, payload=payload),)
        answer = await stranger.offer(Offer(checkpoint=one.fleet.checkpoint, start=0, payloads=held))
        assert OfferAnswer(size=11) == answer
        async with one.client("admin") as admin:
            assert one.fleet.entries == await leaves(admin)


async def test_a_larger_checkpoint_of_another_key_changes_nothing(tmp_path: Path) -> None:
    """What another key signed, and a stranger's leaves under the true checkpoint, are refused; the log goes on."""
    async with old_backup(tmp_path) as one, one.client("admin") as client:
        fleet = one.fleet
        forged = sign_checkpoint(Checkpoint(origin(fleet.fleet, 0), 11, fleet.tree.root()), key("stranger"))
        entries = tuple(entries_of(fleet, HELD))
        with pytest.raises(Untrusted, match="not signed by the key"):
            await client.offer(Offer(checkpoint=forged, start=HELD, entries=entries))
        proof = tuple(fleet.tree.consistency(4, 11))
        other = (entries[1],)
        for start, some, hashes in ((HELD, other, proof), (HELD, entries[:1], proof[1:]), (HELD, (), ())):
            with pytest.raises(Untrusted, match="the one shown to it part, or entries were changed on the way"):
                await client.offer(Offer(checkpoint=fleet.checkpoint, start=start, entries=some, proof=hashes))
        false = (msgspec.structs.replace(entries[0], payload=b"{}"),)
        with pytest.raises(Untrusted, match="the payload of entry 3 is not the one that was signed"):
            await client.offer(Offer(checkpoint=fleet.checkpoint, start=HELD, entries=false, proof=proof))
        answer = await client.offer(Offer(checkpoint=fleet.checkpoint, start=500, entries=entries))
        assert OfferAnswer(size=HELD, goal=0) == msgspec.structs.replace(answer, goal=0)
        index = fleet.size
        fleet.entries[HELD:] = []
        fleet.tree, fleet.state = fork_of(fleet)
        fleet.device("web-09")
        assert ((HELD,), index) == ((await client.append([one.submission(HELD)])).indexes, 11)


async def test_a_payload_that_nobody_signed_is_refused(tmp_path: Path) -> None:
    """A payload for an entry that lacks its own is compared with what the leaf names."""
    async with old_backup(tmp_path) as one, one.client(None) as stranger:
        answer = await give_back(stranger, copy_of_device(tmp_path, one.fleet, "web-01"))
        held = (HeldPayload(index=answer.lacks[0], payload=b"{}"),)
        with pytest.raises(Untrusted, match=f"the payload of entry {answer.lacks[0]} is not the one that was signed"):
            await stranger.offer(Offer(checkpoint=one.fleet.checkpoint, start=0, payloads=held))


async def test_a_later_checkpoint_raises_the_goal(tmp_path: Path) -> None:
    """What an early witness brought is not the end: who comes in the quiet time with more is heard, and needed."""
    async with old_backup(tmp_path) as one, one.client("admin") as admin:
        assert OfferAnswer(size=6) == await give_back(admin, mirror_of(tmp_path / "early", one.fleet, size=6))
        with pytest.raises(Unreachable, match="has its 6 entries back"):
            await admin.append([one.submission(6)])
        assert OfferAnswer(size=11) == await give_back(admin, mirror_of(tmp_path / "late", one.fleet))
        pass_quiet(one)
        await act(one, admin)


async def test_what_was_appended_to_an_old_backup_is_a_fork(tmp_path: Path) -> None:
    """A backup that went on by itself before anybody noticed tells who knows the other history, and keeps its own."""
    async with old_backup(tmp_path) as one, one.client("admin") as admin:
        mirror, fleet = mirror_of(tmp_path / "mirror", one.fleet), one.fleet
        fleet.entries[HELD:] = []
        fleet.tree, fleet.state = fork_of(fleet)
        fleet.now = one.now
        fleet.device("web-09")
        one.now = fleet.now
        await admin.append([one.submission(HELD)])
        with pytest.raises(Untrusted, match="another root at 4 entries"):
            await mirror.catch_up(admin)
        assert "fork" == mirror.verified
        with pytest.raises(Untrusted, match="part"):
            await give_back(admin, mirror)
        assert fleet.entries == await leaves(admin)


@asynccontextmanager
async def program(data_dir: Path) -> AsyncGenerator[tuple[str, asyncio.subprocess.Process], None]:
    """Run a coordinator as a program that can be killed."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, str(PROGRAM), str(data_dir), stdout=pipe)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_S):
            address = (await process.stdout.readline()).decode().strip()
        yield address, process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_kill_while_entries_come_back_loses_none(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill -9 at chance moments, over and over: each life goes on where the last one ended, up to the whole log."""
    monkeypatch.setattr("nixfleet.client.offering._PAGE", 1)
    chance = random.Random(seed)
    async with old_backup(tmp_path) as one:
        await asyncio.to_thread(one.server.stop)
        mirror, sizes = mirror_of(tmp_path / "mirror", one.fleet), [0]
        for _ in range(ROUNDS):
            async with program(one.data_dir) as (url, process), one.client(None, url) as stranger:
                giving = asyncio.create_task(give_back(stranger, mirror))
                await asyncio.wait({giving}, timeout=chance.random() * 0.05)  # the chance moment is what is tested
                process.send_signal(signal.SIGKILL)
                try:
                    sizes.append((await giving).size)
                except NixfleetError:
                    continue
                if sizes[-1] == one.fleet.size:
                    break
        async with program(one.data_dir) as (url, _), one.client("admin", url) as admin:
            assert OfferAnswer(size=11) == await give_back(admin, mirror)
            assert one.fleet.entries == await leaves(admin)


async def test_a_backup_that_is_whole_says_so_after_a_kill(tmp_path: Path) -> None:
    """The quiet time outlives a restart; a coordinator that was never behind has none."""
    async with old_backup(tmp_path) as one:
        async with one.client("admin") as admin:
            await give_back(admin, mirror_of(tmp_path / "mirror", one.fleet))
        await asyncio.to_thread(one.restart)
        async with one.client("admin") as admin:
            with pytest.raises(Unreachable, match="11 entries back"):
                await admin.append([one.submission(1)])
            pass_quiet(one)
            await act(one, admin)
        await asyncio.to_thread(one.restart)
        async with one.client("admin") as admin:
            await act(one, admin)


async def test_device_lines_come_back_from_who_published_them(tmp_path: Path) -> None:
    """A release's device lines are in no log: its rollout waits for them, and goes on once their keeper gives them."""
    async with old_backup(tmp_path) as one, one.client("admin") as admin:
        mirror = mirror_of(tmp_path / "mirror", one.fleet)
        release, tree = one.fleet.release("b", {"web-01": "b"})
        assert tree is not None
        rollout = one.fleet.rollout(release)
        mirror.extend(one.fleet.checkpoint, 11, entries_of(one.fleet, 11))
        assert (release,) == (await give_back(admin, mirror)).lines
        pass_quiet(one)
        with pytest.raises(Unreachable, match=f"lacks the device lines of release {release[:12]}: 'nixfleet log rest"):
            await admin.release("b")
        mirror.keep_lines(release, ("{}",))
        with pytest.raises(NixfleetError):
            await give_back(admin, mirror)
        mirror.keep_lines(release, tree.texts)
        assert OfferAnswer(size=13) == await give_back(admin, mirror)
        one.sent = one.fleet.size
        await act(one, admin)
        found = await until(admin.rollouts, lambda rollouts: len(rollouts) == 2)
        assert {rollout, "running"} <= {found[0].id, found[0].state, found[1].id, found[1].state}
        assert ["web-01"] == [line.name for line in (await admin.release("b")).lines]


async def test_all_coordinators_of_a_database_wait_for_what_lacks(tmp_path: Path, postgres_url: str) -> None:
    """What one was given the other has, too; neither appends, whoever was told, until all is back."""
    async with old_backup(tmp_path, postgres_url) as one:
        twin = Rig(tmp_path / "twin", one.fleet, one.database_url)
        shutil.copytree(one.data_dir, twin.data_dir, ignore=shutil.ignore_patterns("*.lock"))
        twin.now = one.now
        twin.server = twin.make_server()
        await asyncio.to_thread(twin.server.start)
        try:
            async with one.client("admin") as left, twin.client("admin") as right:
                answer = await give_back(left, copy_of_device(tmp_path, one.fleet, "web-01"))
                assert 3 == len(answer.lacks)

                def why(client: Client) -> Callable[[], Awaitable[str]]:
                    async def said() -> str:
                        try:
                            await client.append([one.submission(1)])
                        except Unreachable as error:
                            return str(error)
                        return ""

                    return said

                lacking = "runs an old backup: it has all 11 entries, but of 3"
                await until(why(right), lambda said: lacking in said)
                assert OfferAnswer(size=11) == await give_back(right, mirror_of(tmp_path / "mirror", one.fleet))
                await until(why(left), lambda said: "11 entries back" in said)
                pass_quiet(one)
                twin.now = one.now
                await until(why(left), lambda said: not said)
                await act(one, left)
                await until(right.fleet, lambda fleet: fleet.log_size == one.fleet.size)
                twin.sent = one.fleet.size
                await act(twin, right)
        finally:
            await asyncio.to_thread(twin.server.stop)


async def test_approvals_come_back_with_what_they_approve(tmp_path: Path) -> None:
    """Agents hold an approval's leaf alone: its payload is that of the approved, which the backup or the offer has."""
    async with rig(tmp_path / "data", "web-01") as one:
        fleet = one.fleet
        fleet.grant("carol", "approve")
        before = fleet.rollout(fleet.release("a")[0])
        async with one.client("admin") as admin:
            await one.send(admin)
        await asyncio.to_thread(one.server.stop)
        taken = await asyncio.to_thread(copy_database, one)
        one.server = one.make_server()
        await asyncio.to_thread(one.server.start)
        fleet.approve(before, "carol")
        fleet.approve(fleet.rollout(fleet.release("b")[0]), "carol")
        async with one.client("admin") as admin:
            await one.send(admin)
        await asyncio.to_thread(one.server.stop)
        await asyncio.to_thread(put_back, one, taken)
        one.server = one.make_server()
        await asyncio.to_thread(one.server.start)
        async with one.client("admin") as admin:
            answer = await give_back(admin, copy_of_device(tmp_path, fleet, "web-01"))
            assert OfferAnswer(size=fleet.size) == answer
            assert fleet.entries == await leaves(admin)
