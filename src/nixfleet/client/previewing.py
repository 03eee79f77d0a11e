"""Preview a rollout before it is signed: from the verified log, what devices report, and what caches say.

The shell around `nixfleet.preview`, for command line and console alike. It signs nothing and waits for no cache: the
first preview comes at once, better ones follow as narinfos arrive.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from nixfleet.client.acts import shape_of
from nixfleet.client.admin import Admin
from nixfleet.client.api import Client
from nixfleet.client.narinfos import WALK_S, Walk
from nixfleet.client.reports import newest_reports
from nixfleet.errors import NixfleetError, Untrusted
from nixfleet.model.device import Outcome
from nixfleet.model.ids import Digest, Fingerprint, Selector, matches, store_name
from nixfleet.model.statements import CacheRef, Rollout
from nixfleet.model.views import DeviceView, ReleaseLineView
from nixfleet.model.wire import Signed
from nixfleet.preview.closures import Shelf, StoreObject
from nixfleet.preview.groups import ChangePreview, changes_of
from nixfleet.preview.plan import Asked, Preview, Reading, Target, preview, roots_of
from nixfleet.rollout.asking import RolloutWishes
from nixfleet.trust.fields import fingerprint
from nixfleet.trust.replay import Allowed, Over, State, authorise_over, is_left
from nixfleet.trust.replay.rights import principal_of
from nixfleet.trust.reports import open_report
from nixfleet.trust.sshsig import parse_public_key
from nixfleet.trust.statements import digest, encode

AT_ONCE: Final = 16
HISTORIES_MAX: Final = 500
"""Of so many devices it is asked whether they have left what they would get."""
SYSTEMS_MAX: Final = 1_000
"""So many systems are followed through the caches; the rest of a larger fleet is sized by its signed lines."""
EVERY_S: Final = 0.4
"""How often a preview is worked out anew while narinfos arrive."""


def release_targets(state: State, lines: Mapping[str, ReleaseLineView]) -> tuple[Target, ...]:
    """Give what each device gets of a release, by the log's names and tags; `lines` by device id, checked before."""
    return tuple(_target(state, device, line.path, line.nar_size) for device, line in lines.items())


def _target(state: State, device: str, path: str, nar_bytes: int) -> Target:
    statement = state.devices[device].statement
    return Target(device=device, name=statement.name, tags=statement.tags, path=path, nar_bytes=nar_bytes)


async def going_back(client: Client, state: State, of: Digest, select: Selector) -> list[str]:
    """List the devices that a rollback of rollout `of` starts on: those that confirmed it. Raises: Unreachable."""
    return [
        one.device
        for one in (await client.rollout(of)).members
        if one.outcome is Outcome.CONFIRMED
        and one.device in state.devices
        and matches(select, state.devices[one.device].statement.tags)
    ]


async def rollback_wishes(client: Client, state: State, of: Digest, wishes: RolloutWishes) -> RolloutWishes:
    """Make the defaults of a rollback for the devices that go back, not for all that it covers. Raises: Unreachable.

    How many they are, the coordinator says; it opens the waves anyway, and the preview names the devices.
    """
    return replace(wishes, count=len(await going_back(client, state, of, wishes.select or {})))


async def rollback_targets(client: Client, state: State, of: Digest, draft: Rollout) -> tuple[Target, ...]:
    """Give where each device that confirmed a rollout returns to, in the words that the device itself has signed.

    The path is empty where its newest report is of another update by now: only the device knows then. Raises:
    Unreachable.
    """
    ids = await going_back(client, state, of, draft.select)
    told = await newest_reports(client, state)
    return tuple(_target(state, one, _previous(state, of, one, told.get(one)), 0) for one in ids)


def _previous(state: State, of: Digest, device: str, signed: Signed | None) -> str:
    """Read what a device says that it ran before; what it has not signed is not believed."""
    if signed is None:
        return ""
    key = parse_public_key(state.devices[device].statement.key)
    try:
        report = open_report(signed, key, fleet=state.fleet, device=device)
    except Untrusted:
        return ""
    attempt = report.attempt
    return attempt.previous if attempt is not None and attempt.rollout == of else ""


async def rights_missing(
    client: Client, state: State, signer: Fingerprint, targets: Sequence[Target], now: int
) -> Mapping[str, str]:
    """Say which devices will refuse, for they have left what they would get, and who may bring it (trust.md, Back).

    What a device confirmed is read from its history; the device itself judges by its own journal.
    """
    lacking = [one for one in targets if one.path and not _may(state, signer, one, now)]
    slots = asyncio.Semaphore(AT_ONCE)

    async def left(target: Target) -> bool:
        async with slots:
            try:
                history = await client.device_history(target.device)
            except NixfleetError:
                return False
        confirmed = [one for one in history if one.outcome == Outcome.CONFIRMED.value]
        # A device never follows a lower rollout than it has attempted (trust.md, Order): that order is the log's.
        confirmed.sort(key=lambda one: _index(state, one.rollout))
        return is_left([one.path for one in confirmed], target.path)

    some = lacking[:HISTORIES_MAX]
    answers = await asyncio.gather(*map(left, some))
    return {
        target.device: f"it has left {store_name(target.path)}; only {_holders(state, target, now)} may bring it back"
        for target, has_left in zip(some, answers, strict=True)
        if has_left
    }


def _index(state: State, rollout: str) -> int:
    known = state.rollouts.get(Digest(rollout))
    return -1 if known is None else known.index


def _may(state: State, signer: Fingerprint, target: Target, now: int) -> bool:
    over = Over(tags=(target.tags,), name=target.name)
    right = authorise_over(state, signer, "rollback", over, max(now, state.last_time))
    return isinstance(right, Allowed) or right.waits


def _holders(state: State, target: Target, now: int) -> str:
    """Name who holds `rollback` over a device."""
    granted = [fingerprint(key) for record in state.grants.values() for key in record.statement.to.keys]
    keys = dict.fromkeys((*state.root_keys, *granted))
    names = dict.fromkeys(principal_of(state, key) for key in keys if _may(state, key, target, now))
    return " or ".join(list(names)[:4]) if names else "a key that nobody holds yet (a grant of rollback)"


async def previews(
    client: Client,
    asked: Asked,
    views: Mapping[str, DeviceView],
    caches: Sequence[CacheRef],
    *,
    memory: Path | None = None,
    local: Mapping[str, StoreObject] | None = None,
    every_s: float = EVERY_S,
) -> AsyncGenerator[Preview, None]:
    """Give the preview of a rollout, first without, then with what caches say; the last one is as exact as can be."""
    roots = roots_of(asked, views)
    walk = Walk(client, caches, memory, local=local)
    yield await asyncio.to_thread(
        preview, asked, views, dict(walk.known), Reading(state="reading", paths=len(walk.known))
    )
    task = asyncio.ensure_future(walk.run(roots[:SYSTEMS_MAX]))
    try:
        told = len(walk.known)
        while not task.done():
            await asyncio.wait((task,), timeout=every_s)
            if not task.done() and len(walk.known) > told:
                told = len(walk.known)
                yield await asyncio.to_thread(
                    preview, asked, views, dict(walk.known), Reading(state="reading", paths=told)
                )
        await task
    finally:
        task.cancel()
    cut = len(roots) - SYSTEMS_MAX
    more = (f"{cut:,} further systems are sized by what their release says",) if cut > 0 else ()
    reading = Reading(state="done", paths=len(walk.known), notes=(*walk.notes, *more))
    yield await asyncio.to_thread(preview, asked, views, dict(walk.known), reading)


async def changes_between(
    client: Client,
    named: Sequence[tuple[str, str, str]],
    caches: Sequence[CacheRef],
    *,
    memory: Path | None = None,
    walk_s: float = WALK_S,
) -> tuple[tuple[ChangePreview, ...], tuple[str, ...]]:
    """Compare (name, system before, system after) by what caches say, grouped; gives what could not be read, too."""
    walk = Walk(client, caches, memory, walk_s=walk_s)
    roots = dict.fromkeys(path for _, *pair in named if pair[0] != pair[1] for path in pair)
    await walk.run(list(roots)[:SYSTEMS_MAX])
    return await asyncio.to_thread(changes_of, named, Shelf(walk.known)), walk.notes


class Previewer:
    """Previews what a person is about to sign; each preview is given at once, and again as caches answer."""

    def __init__(self, client: Client, admin: Admin, clock: Callable[[], int], memory: Path | None) -> None:
        """Read through `client`, judge by the log of `admin`; narinfos are remembered in the file `memory`."""
        self._client, self._admin, self._clock, self._memory = client, admin, clock, memory

    async def deployment(
        self,
        release: str,
        targets: Sequence[Target],
        wishes: RolloutWishes,
        caches: Sequence[CacheRef],
        *,
        draft: Rollout | None = None,
        local: Mapping[str, StoreObject] | None = None,
    ) -> AsyncGenerator[Preview, None]:
        """Preview a deployment; with the `draft` that will be signed the waves are drawn, without it only counted.

        `local` is what this machine's own store knows of what is not pushed yet.
        """
        state, signer, now = self._admin.state, self._admin.key, self._clock()
        needs = await rights_missing(self._client, state, signer, targets, now)
        shape = shape_of(state, wishes, "deploy", len(targets))
        asked = Asked(
            release=release,
            targets=tuple(targets),
            waves=shape.waves,
            max_in_flight=shape.max_in_flight,
            soak_s=shape.soak_s,
            needs=needs,
        )
        async for one in self._previews(_as_drafted(asked, draft), caches, local):
            yield one

    async def rollback(
        self, release: str, of: Digest, draft: Rollout, *, drawn: bool = True
    ) -> AsyncGenerator[Preview, None]:
        """Preview the way back from rollout `of`; `drawn`: it is this draft that will be signed."""
        state = self._admin.state
        root = state.root
        asked = Asked(
            kind="rollback",
            release=release,
            targets=await rollback_targets(self._client, state, of, draft),
            waves=draft.waves,
            max_in_flight=draft.max_in_flight,
            soak_s=draft.soak_s,
        )
        caches = root.caches if root is not None else ()
        async for one in self._previews(_as_drafted(asked, draft if drawn else None), caches, None):
            yield one

    async def _previews(
        self, asked: Asked, caches: Sequence[CacheRef], local: Mapping[str, StoreObject] | None
    ) -> AsyncGenerator[Preview, None]:
        views = {view.id: view for view in await self._client.devices()}
        async with aclosing(previews(self._client, asked, views, caches, memory=self._memory, local=local)) as all_:
            async for one in all_:
                yield one


def _as_drafted(asked: Asked, draft: Rollout | None) -> Asked:
    """Draw the waves by the digest of what will be signed."""
    if draft is None:
        return asked
    return msgspec.structs.replace(
        asked,
        # A draft selects no more than its signer's right reaches: the rest is in none of its waves.
        targets=tuple(target for target in asked.targets if matches(draft.select, target.tags)),
        waves=draft.waves,
        max_in_flight=draft.max_in_flight,
        soak_s=draft.soak_s,
        rollout=digest(encode(draft)),
    )
