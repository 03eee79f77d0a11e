"""A device's own line of a rollout's release: there as soon as the device can have heard of the rollout."""

import asyncio
import hashlib
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest
from tests.factories import device_id, store_path
from tests.server.harness import DEADLINE_S, Rig, rig

from nixfleet.client.api import Client
from nixfleet.client.faults import Unknown
from nixfleet.model.statements import Rollout
from nixfleet.model.wire import LineAnswer, Sync
from nixfleet.trust.lines import LineTree, verify_absence
from nixfleet.trust.statements import parse

ROLLOUTS = 25


def _rollouts(sync: Sync) -> list[str]:
    payloads = [entry.payload for entry in sync.entries if entry.payload is not None]
    return [hashlib.sha256(one).hexdigest() for one in payloads if isinstance(parse(one), Rollout)]


async def _listen(one: Rig, name: str, listening: asyncio.Event) -> dict[str, LineAnswer]:
    """Ask for the line of each rollout in the moment that it is pushed."""
    lines: dict[str, LineAnswer] = {}
    async with one.client(name) as device, aclosing(device.agent_events(one.sent)) as events:
        async for sync in events:
            listening.set()
            for rollout in _rollouts(sync):
                lines[rollout] = await device.line(rollout)
            if len(lines) == ROLLOUTS:
                break
    return lines


async def _keep_busy(one: Rig, client: Client) -> None:
    while True:
        await client.report(one.report("busy"))


async def test_every_pushed_rollout_has_its_line_at_once(tmp_path: Path) -> None:
    """While reports pour in, who is told of a rollout gets its line, and who has none the proof."""
    async with rig(tmp_path / "data", "web-01", "web-02", "busy") as one, one.client("admin") as admin:
        release, lines = one.fleet.release("a", {"web-01": "web-01-new"})
        assert lines is not None
        await one.send(admin, lines.texts)
        listening = [asyncio.Event() for _ in range(2)]
        tasks = [asyncio.create_task(_listen(one, f"web-0{n}", listening[n - 1])) for n in (1, 2)]
        async with one.client(None) as first, one.client(None) as second, asyncio.timeout(DEADLINE_S):
            busy = [asyncio.create_task(_keep_busy(one, client)) for client in (first, second)]
            await asyncio.gather(*(event.wait() for event in listening))
            made = []
            for _ in range(ROLLOUTS):
                made.append(one.fleet.rollout(release))
                await one.send(admin)
            having, lacking = await asyncio.gather(*tasks)
            for task in busy:
                task.cancel()
            await asyncio.gather(*busy, return_exceptions=True)
        found = [answer.line.line for answer in having.values() if answer.line is not None]
        assert [store_path("web-01-new") in line for line in found] == [True] * ROLLOUTS
        assert set(lacking) == set(made)
        for answer in lacking.values():
            assert answer.line is None
            assert answer.absence is not None
            verify_absence(answer.absence, lines.targets, device_id("web-02"))


async def test_what_is_not_known_or_has_no_device_lines_is_no_absence(tmp_path: Path) -> None:
    """An unknown rollout, and a release by selectors, are a plain 404: nothing that reads as "no line for you"."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin, one.client("web-01") as device:
        release, lines = one.fleet.release("a")
        assert lines is None
        rollout = one.fleet.rollout(release)
        await one.send(admin)
        for asked in (rollout, "0" * 64):
            with pytest.raises(Unknown):
                await device.line(asked)


async def test_lines_of_a_release_are_read_once_for_all_who_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many who ask at once for the lines of a release that is not in memory make one read of the database."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        digest, lines = one.fleet.release("a", {"web-01": "web-01-new"})
        assert lines is not None
        await one.send(admin, lines.texts)
        read: list[LineTree] = []
        whole = LineTree.from_texts

        def counted(texts: list[str]) -> LineTree:
            read.append(whole(texts))
            return read[-1]

        monkeypatch.setattr(LineTree, "from_texts", counted)
        answers = await asyncio.gather(*(admin.release(digest) for _ in range(8)))
        assert {msgspec.json.encode(answer) for answer in answers} == {msgspec.json.encode(answers[0])}
        assert answers[0].lines[0].device == device_id("web-01")
        assert len(read) == 1
