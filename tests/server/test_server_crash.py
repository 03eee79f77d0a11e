"""kill -9 at any moment loses nothing that was answered, and no checkpoint ever goes back."""

import asyncio
import random
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from tests.factories import Fleet
from tests.server.harness import DEADLINE_S, Rig, until

from nixfleet.client.api import Client
from nixfleet.errors import NixfleetError, Unreachable
from nixfleet.model.device import Report
from nixfleet.model.statements import LogState
from nixfleet.trust.merkle import EMPTY_ROOT, Tree
from nixfleet.trust.note import Checkpoint, open_checkpoint, origin

ROUNDS = 4
STOP_S = 4
"""Less than the five seconds that a request under way gets: open streams must not be waited for."""
PROGRAM = Path(__file__).with_name("serve_program.py")
BEGINNING = LogState(size=0, root=EMPTY_ROOT.hex())
"""A base that holds whatever log times the coordinator sets."""


@dataclass
class Answered:
    """What the coordinator has answered, over all its lives."""

    leaves: dict[int, bytes] = field(default_factory=dict)
    """Payload by index."""
    seqs: dict[str, int] = field(default_factory=dict)
    checkpoints: list[Checkpoint] = field(default_factory=list)


@asynccontextmanager
async def _coordinator(
    data_dir: Path, database_url: str | None = None, *, small: Path | None = None
) -> AsyncGenerator[tuple[str, asyncio.subprocess.Process], None]:
    """Run a coordinator; `small` is copied to a file system of 2 MiB at the data folder, which only it sees."""
    arguments = [sys.executable, str(PROGRAM), str(data_dir), *([database_url] if database_url else [])]
    if small is not None:
        mounts = f'mount -t tmpfs -o size=2m none {data_dir} && cp -r {small}/. {data_dir} && exec "$@"'
        arguments = ["unshare", "--mount", "sh", "-c", mounts, "sh", *arguments]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*arguments, stdout=pipe, stderr=pipe if small is None else None)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(DEADLINE_S):
            address = (await process.stdout.readline()).decode().strip()
        assert address.startswith("http://"), "the coordinator did not start"
        yield address, process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _open(one: Rig, note: bytes) -> Checkpoint:
    return open_checkpoint(note, one.fleet.log_key.public, origin(one.fleet.fleet, 0))


async def _append(one: Rig, url: str, answered: Answered) -> None:
    """Enrol one device after the other until the coordinator is gone."""
    async with one.client("admin", url) as admin:
        while True:
            index = one.fleet.size
            one.fleet.device(f"d{index}", base=BEGINNING)
            answer = await admin.append([one.submission(index)])
            answered.leaves[answer.indexes[0]] = one.fleet.entries[index][1]
            answered.checkpoints.append(_open(one, answer.checkpoint))


async def _report(one: Rig, url: str, answered: Answered) -> None:
    """Report one time after the other until the coordinator is gone."""
    async with one.client(None, url) as device:
        while True:
            await device.report(one.report("d1"))
            answered.seqs["d1"] = one.seq["d1"]


async def _until_killed(one: Rig, url: str, process: Process, answered: Answered, pause_s: float) -> None:
    tasks = [asyncio.create_task(_append(one, url, answered)), asyncio.create_task(_report(one, url, answered))]
    before = len(answered.leaves)

    async def done() -> bool:
        return len(answered.leaves) >= before + 3 or tasks[0].done()

    await until(done, bool)
    await asyncio.sleep(pause_s)  # the chance moment of the kill is what is tested
    process.send_signal(signal.SIGKILL)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [Unreachable, Unreachable], results


async def _check(one: Rig, url: str, answered: Answered) -> None:
    """Compare what the coordinator has now with all that it ever answered."""
    async with one.client("admin", url) as admin:
        entries = (await admin.entries(0)).entries
        tree = Tree()
        for entry in entries:
            tree.append(entry.leaf)
        now = _open(one, await admin.checkpoint())
        assert (now.size, now.root) == (len(entries), tree.root())
        for index, payload in answered.leaves.items():
            assert entries[index].payload == payload
        for seen in answered.checkpoints:
            assert seen.size <= now.size
            assert tree.root(seen.size) == seen.root
        if "d1" in answered.seqs:
            report = msgspec.json.decode((await admin.device_report("d1")).payload, type=Report)
            assert report.seq >= answered.seqs["d1"]


@pytest.mark.parametrize("seed", [1, 2])
async def test_killed_coordinator_keeps_what_it_answered(tmp_path: Path, seed: int) -> None:
    """Over several lives, each ended at a chance moment under load, every answered entry and report is kept."""
    chance = random.Random(seed)
    fleet = Fleet(at=int(time.time()) - 3_000)
    one = Rig(tmp_path / "data", fleet)
    one.create()
    answered = Answered()
    async with _coordinator(one.data_dir) as (url, _), one.client("admin", url) as admin:
        fleet.device("d1", base=BEGINNING)
        await admin.append([one.submission(1)])
        fleet.now = max(fleet.now, int(time.time()) - 2_000)
    for _ in range(ROUNDS):
        async with _coordinator(one.data_dir) as (url, process):
            await _check(one, url, answered)
            await _until_killed(one, url, process, answered, chance.random() * 0.1)
    async with _coordinator(one.data_dir) as (url, _):
        await _check(one, url, answered)
    assert len(answered.leaves) >= 3 * ROUNDS


async def _enrolled(one: Rig, url: str, *names: str) -> None:
    async with one.client("admin", url) as admin:
        for name in names:
            index = one.fleet.size
            one.fleet.device(name, base=BEGINNING)
            await admin.append([one.submission(index)])


@asynccontextmanager
async def _listening(one: Rig, url: str) -> AsyncGenerator[None, None]:
    """Hold streams of two agents and a console open, from after their first event to their end."""
    async with AsyncExitStack() as stack:
        for name in ("web-01", "web-02"):
            device = await stack.enter_async_context(one.client(name, url))
            events = await stack.enter_async_context(aclosing(device.agent_events(0)))
            await anext(events)
        admin = await stack.enter_async_context(one.client("admin", url))
        deltas = await stack.enter_async_context(aclosing(admin.console_events((await admin.snapshot()).seq)))
        waiting = asyncio.create_task(_end(deltas))
        yield
        await waiting


async def _end(deltas: AsyncGenerator[object, None]) -> None:
    with suppress(Unreachable):
        async for _ in deltas:
            pass


async def test_terminated_coordinator_ends_cleanly(tmp_path: Path) -> None:
    """SIGTERM with open streams ends the program without a grace and a word; the folder can be served again."""
    one = Rig(tmp_path / "data", Fleet(at=int(time.time()) - 100))
    one.create()
    took: list[float] = []
    for turn in range(2):
        async with _coordinator(one.data_dir) as (url, process):
            if not turn:
                await _enrolled(one, url, "web-01", "web-02")
            async with _listening(one, url), asyncio.timeout(DEADLINE_S):
                began = time.monotonic()
                process.send_signal(signal.SIGTERM)
                assert await process.wait() == 0
                took.append(time.monotonic() - began)
            assert process.stderr is not None
            assert await process.stderr.read() == b""
    assert min(took) < STOP_S, took


async def test_streams_come_back_after_a_kill(tmp_path: Path) -> None:
    """After SIGKILL the folder's lock is free, and the same devices are online again at the next coordinator."""
    one = Rig(tmp_path / "data", Fleet(at=int(time.time()) - 100))
    one.create()
    for turn in range(2):
        async with _coordinator(one.data_dir) as (url, process):
            if not turn:
                await _enrolled(one, url, "web-01", "web-02")
            async with _listening(one, url), one.client("admin", url) as admin:
                assert [view.online for view in await admin.devices()] == [True, True]
                process.kill()
                await process.wait()


async def test_full_disk_refuses_in_words_and_heals(tmp_path: Path) -> None:
    """On a full disk an append and a report get one sentence and leave nothing; with space again both work."""
    one = Rig(tmp_path / "data", Fleet(at=int(time.time()) - 100))
    one.create()
    small = tmp_path / "small"
    small.mkdir()
    async with _coordinator(small, small=one.data_dir) as (url, process), one.client("admin", url) as admin:
        await _enrolled(one, url, "web-01")
        filler = Path(f"/proc/{process.pid}/root{small}/filler")
        _fill(filler)
        index = one.fleet.size
        one.fleet.device("web-02", base=BEGINNING)
        with pytest.raises(Unreachable, match="database"):
            await _until_refused(one, admin)
        with pytest.raises(Unreachable, match="the database refuses: database or disk is full"):
            await admin.append([one.submission(index)])
        assert (await admin.fleet()).log_size == index
        await asyncio.to_thread(filler.unlink)
        assert (await admin.append([one.submission(index)])).indexes == (index,)
        await admin.report(one.report("web-01", system="/run/new"))
        assert [view.system for view in await admin.devices()] == ["/run/new", ""]


def _fill(place: Path) -> None:
    """Take all the space of a file system."""
    with place.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4_096))


async def _until_refused(one: Rig, client: Client) -> None:
    """Report until no page of the database's journal is left."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            await client.report(one.report("web-01"))


async def test_two_coordinators_on_one_database_agree(tmp_path: Path, postgres_url: str) -> None:
    """Both append at once without losing a statement; both serve the same log, and each sees the other's acts."""
    one = Rig(tmp_path / "data", Fleet(at=int(time.time()) - 3_000), postgres_url)
    one.create()
    twin = tmp_path / "twin"
    twin.mkdir()
    for name in ("log.key", "cache.key"):
        (twin / name).write_bytes((one.data_dir / name).read_bytes())
    async with (
        _coordinator(one.data_dir, postgres_url) as (left, _),
        _coordinator(twin, postgres_url) as (right, process),
    ):
        made = [one.fleet.device(f"d{number}", base=BEGINNING) for number in range(20)]
        assert len(set(made)) == 20
        async with one.client("admin", left) as a, one.client("admin", right) as b:
            clients = (a, b)
            answers = await asyncio.gather(
                *(clients[index % 2].append([one.submission(index)]) for index in range(1, 21))
            )
            assert sorted(answer.indexes[0] for answer in answers) == list(range(1, 21))
            await b.report(one.report("d0", system="/run/left"))

            async def same() -> bool:
                if (await a.entries(0)) != (await b.entries(0)):
                    return False
                return (await a.device("d0")).system == "/run/left"

            await until(same, bool)
            assert _open(one, await a.checkpoint()) == _open(one, await b.checkpoint())
            process.kill()
            index = one.fleet.size
            one.fleet.device("last", base=BEGINNING)
            assert (await a.append([one.submission(index)])).indexes == (index,)
            with pytest.raises(NixfleetError):
                await b.append([one.submission(index)])
