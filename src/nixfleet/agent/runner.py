"""Perform the effects of the update machine on this device.

Every effect is safe to repeat after a crash. It must never decide what comes next: it answers with an event, and
`agent.machine` decides. A failure of Nix or of the file system becomes a `Trouble`; nothing else is caught.
"""

import asyncio
import errno
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec

from nixfleet.agent import arrivals, health, preflight, units
from nixfleet.agent.guarding import Guarding, MakeGuarding
from nixfleet.agent.host import Host
from nixfleet.agent.jobs import Job
from nixfleet.agent.moves import BACK_TRIES
from nixfleet.agent.rebooting import Rebooting
from nixfleet.agent.settings import Settings
from nixfleet.agent.sources import Sources
from nixfleet.agent.switching import MakeSwitcher, Switcher
from nixfleet.agent.tools import run_beside
from nixfleet.agent.troubles import nix_trouble
from nixfleet.agent.units import Run
from nixfleet.agent.update import (
    Activate,
    Arm,
    Check,
    CheckDevice,
    Checked,
    Disarm,
    Effect,
    Event,
    Fetch,
    GoBack,
    Keep,
    Look,
    Looked,
    MakeDefault,
    Offer,
    Passed,
    Ready,
    Reboot,
    Result,
    Stage,
    Switched,
    Tidy,
    Trouble,
    Update,
    Verify,
)
from nixfleet.errors import UserError
from nixfleet.model.device import Cause
from nixfleet.nix import Cache, FaultKind, FetchLimits, Generation, MissingBytes, NixError, PathInfo, Progress

log = logging.getLogger("nixfleet.agent")

AHEAD = "ahead"
"""The GC root of what was downloaded before its wave or window."""
SPARE_BYTES = 64 << 20
FULL_BYTES = 1 << 20
"""With less than this left Nix cannot write to its own database, and says "disk I/O error"."""


class Store(Protocol):
    """What is needed of Nix: `nixfleet.nix.Nix`, or a made-up one in tests and in the simulation."""

    async def version(self) -> tuple[int, int, int]: ...  # noqa: D102 (as `nixfleet.nix.Nix`)
    async def is_valid(self, path: str) -> bool: ...  # noqa: D102 (as `nixfleet.nix.Nix`)
    async def closure(self, path: str) -> list[PathInfo]: ...  # noqa: D102 (as `nixfleet.nix.Nix`)
    async def digest(self, path: str) -> tuple[str, int]: ...  # noqa: D102 (as `nixfleet.nix.Nix`)
    async def missing_bytes(self, path: str, caches: Sequence[Cache]) -> MissingBytes: ...  # noqa: D102 (as above)
    async def realise(  # noqa: D102 (as `nixfleet.nix.Nix`)
        self,
        path: str,
        *,
        caches: Sequence[Cache],
        root: Path,
        on_progress: Callable[[Progress], None],
        limits: FetchLimits | None = None,
    ) -> None: ...
    async def repair(  # noqa: D102 (as `nixfleet.nix.Nix`)
        self,
        path: str,
        *,
        caches: Sequence[Cache],
        root: Path,
        on_progress: Callable[[Progress], None],
        limits: FetchLimits | None = None,
    ) -> None: ...
    async def add_root(self, path: str, root: Path) -> None: ...  # noqa: D102 (as `nixfleet.nix.Nix`)
    async def remove_root(self, root: Path) -> None: ...  # noqa: D102 (as `nixfleet.nix.Nix`)
    async def delete(self, paths: Sequence[str]) -> list[str]: ...  # noqa: D102 (as `nixfleet.nix.Nix`)
    async def collect_garbage(self, max_freed_bytes: int) -> None: ...  # noqa: D102 (as `nixfleet.nix.Nix`)
    async def set_profile(self, path: str, profile: Path) -> None: ...  # noqa: D102 (as `nixfleet.nix.Nix`)
    async def generations(self, profile: Path) -> list[Generation]: ...  # noqa: D102 (as `nixfleet.nix.Nix`)
    async def delete_generations(self, numbers: Sequence[int], profile: Path) -> None: ...  # noqa: D102 (as above)


class Watcher(Protocol):
    """Who is told how an effect gets on; must return at once."""

    def on_bytes(self, offer: Offer, progress: Progress, *, ahead: bool = False) -> None:
        """Take the state of a download; `ahead` of the update itself."""

    def on_lines(self, offer: Offer, lines: tuple[str, ...]) -> None:
        """Take new lines of an activation's output."""


class Runner:
    """Performs effects on one host with one Nix store."""

    def __init__(
        self,
        *,
        host: Host,
        store: Store,
        settings: Settings,
        watcher: Watcher,
        cache_base: Callable[[], str],
        names: Callable[[], set[str]],
        by_hand: str = "",
        run: Run = run_beside,
        make_switcher: MakeSwitcher = Switcher,
        make_guarding: MakeGuarding = Guarding,
    ) -> None:
        """Prepare; `cache_base` and `by_hand` are as `Sources` takes them, `names` gives what this device is called.

        `run` runs small commands, what `make_switcher` gives runs switches, and what `make_guarding` gives guards them:
        those of a made-up machine are made up, too.
        """
        self.run_tool = run
        self._host = host
        self._store = store
        self._settings = settings
        self._watcher = watcher
        self.sources = Sources(settings, cache_base, by_hand)
        self._names = names
        self._jobs = Path(settings.state_dir) / "jobs"
        self._guarding = make_guarding(host, settings)
        self._switcher = make_switcher(host, watcher.on_lines, self._told)
        self._rebooting = Rebooting(host, run, self._switcher, lambda path: store.set_profile(path, host.profile()))

    async def perform(self, effect: Effect) -> Event | None:
        """Do what an effect says and answer; `Contact`, and the second half of `Stage`, are the link's."""
        try:
            return await self._perform(effect)
        except NixError as error:
            trouble = nix_trouble(error)
            if trouble.cause is Cause.INTERNAL and self._store_is_full():
                return msgspec.structs.replace(trouble, cause=Cause.SPACE, reason=f"/nix/store is full: {error.reason}")
            return trouble
        except UserError as error:
            return Trouble(cause=Cause.INTERNAL, reason=str(error))
        except OSError as error:
            cause = Cause.SPACE if error.errno in {errno.ENOSPC, errno.EDQUOT} else Cause.INTERNAL
            return Trouble(cause=cause, reason=str(error), later=True)

    async def _perform(self, effect: Effect) -> Event | None:  # noqa: C901 - one branch per effect
        match effect:
            case Look():
                return Looked(current=self._host.current_system())
            case CheckDevice():
                return await self._check_device(effect)
            case Fetch():
                return await self._fetch(effect.offer)
            case Verify():
                return await self._verify(effect)
            case Stage():
                return await self._stage(effect)
            case Arm():
                return await self._guarding.arm(
                    self._forward(effect.offer, effect.number), effect.offer, effect.previous
                )
            case Activate():
                return await self._activate(effect)
            case Reboot():
                return await self._rebooting.reboot()
            case MakeDefault():
                return await self._rebooting.make_default(self._job(effect.offer, f"default-{effect.number}"), effect)
            case Disarm():
                return await self._guarding.disarm(self._forward(effect.offer, effect.number))
            case Check():
                self._guarding.note_back()
                found, lines = await health.problems(self._host, self._settings.checks, effect.baseline, self.run_tool)
                return Checked(problems=found, lines=self._told(lines))
            case GoBack():
                return await self._go_back(effect)
            case Keep():
                await self._keep(effect)
                return None
            case Tidy():
                await self._tidy(effect)
                return None
            case _:
                raise AssertionError(f"{type(effect).__name__} is not done here")

    def undone(self, update: Update) -> tuple[str, tuple[str, ...]]:
        """Say why the guard takes an update back, or has, and how its switch ended; empty when it does not."""
        job = self._forward(update.offer, update.number)
        why = self._guarding.acted(job)
        return why, self._told(job.lines()) if why else ()

    async def _check_device(self, effect: CheckDevice) -> Event:
        trouble = preflight.device_trouble(self._host, self._settings, effect.offer, effect.previous)
        if trouble is not None:
            return trouble
        if self._store_is_full():
            # Nothing can be rooted; a collection can begin all the same (nix.conf(5), gc-reserved-space).
            await self._store.collect_garbage(SPARE_BYTES)
        await self._store.add_root(effect.previous, self._host.gc_root("previous"))
        # The running system cannot have been collected: what Nix knows of it now is what ran.
        digest, _ = await self._store.digest(effect.previous)
        return await self._make_room(effect.offer) or Passed(previous_digest=digest)

    async def _make_room(self, offer: Offer) -> Trouble | None:
        """Compare what is missing with what is free; short of it, delete older generations and their garbage."""
        try:
            missing = await self._store.missing_bytes(offer.path, self.sources.of(offer))
        except NixError:
            return None  # a cache that does not answer now is the download's business
        need_bytes = missing.unpacked_bytes + SPARE_BYTES if missing.unpacked_bytes else 0
        if self._host.free_bytes("/nix/store")[0] >= need_bytes:
            return None
        await self._delete_old_generations()
        await self._store.collect_garbage(need_bytes - self._host.free_bytes("/nix/store")[0])
        short_bytes = need_bytes - self._host.free_bytes("/nix/store")[0]
        if short_bytes <= 0:
            return None
        reason = f"/nix/store is short of {-(-short_bytes >> 20)} MiB for this update"
        return Trouble(cause=Cause.SPACE, reason=reason, later=True)

    def _store_is_full(self) -> bool:
        free_bytes, all_bytes = self._host.free_bytes("/nix/store")
        return free_bytes < FULL_BYTES and all_bytes > 0

    async def _delete_old_generations(self) -> None:
        """Delete generations that nothing here may still need: never running, booted, current or rooted ones."""
        host = self._host
        roots = host.gc_root(".").iterdir() if host.gc_root(".").is_dir() else iter(())
        needed = {host.current_system(), host.booted_system(), *(str(root.readlink()) for root in roots)}
        generations = await self._store.generations(host.profile())
        old = [one.number for one in generations if not one.current and one.path not in needed]
        await self._store.delete_generations(old, host.profile())

    async def _fetch(self, offer: Offer) -> Event:
        root = self._host.gc_root("incoming")
        if not offer.caches:
            # A rollback: the system was kept here, there is nothing to download.
            if not await self._store.is_valid(offer.path):
                return Trouble(cause=Cause.PREFLIGHT, reason="the system to go back to is no longer on this device")
            await self._store.add_root(offer.path, root)
            return Passed()
        arrivals.begin(Path(self._settings.state_dir))
        try:
            await self._store.realise(
                offer.path,
                caches=self.sources.of(offer),
                root=root,
                on_progress=lambda progress: self._watcher.on_bytes(offer, progress),
                limits=self._limits(offer),
            )
        except NixError as error:
            if error.kind is FaultKind.no_space or self._store_is_full():
                await self._give_space_back()
            raise
        return Passed()

    async def _give_space_back(self) -> None:
        """Delete what this download brought, and no more: until the next try the device needs its disk itself.

        Nix cannot write to its database on a full disk; a collection can begin all the same, and takes the rest of
        the path that did not fit.
        """
        came = await asyncio.to_thread(arrivals.foreign, self._host, Path(self._settings.state_dir))
        with suppress(NixError):
            await self._store.delete(came)

    async def fetch_ahead(self, offer: Offer) -> Trouble | None:
        """Download, root and verify what an update will need, and touch nothing else; makes no room for it."""
        try:
            return await self._fetch_ahead(offer)
        except NixError as error:
            return nix_trouble(error)
        except OSError as error:
            return Trouble(cause=Cause.INTERNAL, reason=str(error), later=True)

    async def _fetch_ahead(self, offer: Offer) -> Trouble | None:
        folder, root = Path(self._settings.state_dir), self._host.gc_root(AHEAD)
        missing = await self._store.missing_bytes(offer.path, self.sources.of(offer))
        short_bytes = missing.unpacked_bytes + SPARE_BYTES - self._host.free_bytes("/nix/store")[0]
        if missing.unpacked_bytes and short_bytes > 0:
            reason = f"/nix/store is short of {-(-short_bytes >> 20)} MiB for it; its turn makes room"
            return Trouble(cause=Cause.SPACE, reason=reason)
        first = arrivals.begin(folder)
        await self._store.realise(
            offer.path,
            caches=self.sources.of(offer),
            root=root,
            on_progress=lambda progress: self._watcher.on_bytes(offer, progress, ahead=True),
            limits=self._limits(offer),
        )
        if not await self._is(offer.path, offer.digest):
            await self._store.remove_root(root)
            await self._delete_foreign(offer.path)
            return Trouble(cause=Cause.UNTRUSTED, reason="what the caches serve is not what was signed")
        if first:
            arrivals.end(folder)
        return None

    async def drop_ahead(self) -> None:
        """Let go of what was downloaded ahead and is wanted no more."""
        await self._store.remove_root(self._host.gc_root(AHEAD))

    async def _verify(self, effect: Verify) -> Event:
        offer = effect.offer
        if not offer.digest:
            reason = "what the system to go back to must contain was never noted on this device; deploy its release"
            return Trouble(cause=Cause.PREFLIGHT, reason=reason, refused=True)
        # trust.md, What a device does, 5: a cache signature does not bind content to intent, the digest does.
        if not await self._is(offer.path, offer.digest):
            await self._repair(offer, offer.path, "incoming", self._limits(offer))
            if not await self._is(offer.path, offer.digest):
                came = "that the caches serve is not the one that was signed"
                kept = "that is kept under this path is not the one that ran here"
                reason = f"the closure {came if offer.caches else kept}: its digest differs"
                return Trouble(cause=Cause.UNTRUSTED, reason=reason)
        trouble = preflight.system_trouble(self._host, self._settings, offer, effect.previous, self._names())
        return trouble or Passed()

    async def _is(self, path: str, digest: str) -> bool:
        """Tell whether a path is here with the closure of this digest (one query of the local database)."""
        try:
            return (await self._store.digest(path))[0] == digest
        except NixError:
            if await self._store.is_valid(path):
                raise
            return False

    async def _repair(self, offer: Offer, path: str, root: str, limits: FetchLimits) -> None:
        """Fetch a closure that is not the right one again, once; without a cache to ask, nothing is done."""
        caches = self.sources.of(offer) or self.sources.own()
        fetch = self._store.repair if await self._store.is_valid(path) else self._store.realise
        if caches:
            await fetch(
                path,
                caches=caches,
                root=self._host.gc_root(root),
                on_progress=lambda progress: self._watcher.on_bytes(offer, progress),
                limits=limits,
            )

    async def _stage(self, effect: Stage) -> Event:
        host, path = self._host, effect.offer.path
        await self._store.add_root(path, host.gc_root("incoming"))
        await self._store.add_root(effect.previous, host.gc_root("previous"))
        wanted = (
            {host.current_system()} if effect.offer.verb == "test" else {host.current_system(), host.profile_system()}
        )
        in_place = wanted == {path}
        baseline = await units.failed(host, self.run_tool)
        if baseline is None:
            # Without it every unit that was broken before would count as broken by the update.
            return Trouble(cause=Cause.INTERNAL, reason=units.NO_ANSWER, later=True)
        await units.note_active(host, Path(self._settings.state_dir), self.run_tool)
        ready = Ready(baseline=baseline, in_place=in_place)
        return ready if in_place else await self._rebooting.ready(effect.offer, effect.previous, ready)

    async def _activate(self, effect: Activate) -> Event:
        offer = effect.offer
        job = self._forward(offer, effect.number)
        if effect.once:
            return await self._rebooting.set_once(job, effect)
        if not job.started and offer.verb != "test":
            await self._store.set_profile(offer.path, self._host.profile())
        return await self._switcher.run(job, offer, offer.path, "boot" if effect.boots else offer.verb)

    async def _lost(self, effect: GoBack) -> str:
        """Say why the way back is not what ran, after one repair; an older agent's journal tells no digest."""
        path, digest = effect.previous, effect.digest
        if not digest or await self._is(path, digest):
            return ""
        log.error("%s is not the system that ran here: its digest differs; it is fetched again", path)
        fetch = self._settings.fetch
        try:
            await self._repair(
                effect.offer, path, "previous", FetchLimits(whole_s=fetch.total_s, stall_s=fetch.stall_s)
            )
        except NixError as error:
            return f"the system to go back to is not the one that ran here, and cannot be repaired: {error.reason}"
        return "" if await self._is(path, digest) else "the system to go back to is not the one that ran here"

    async def _go_back(self, effect: GoBack) -> Event:
        async with self._guarding.alone():
            event = await self._go_back_alone(effect)
            back = isinstance(event, Switched) and event.result in {Result.DONE, Result.UNITS}
            if back:
                self._guarding.take_off()
        if back:
            folder = Path(self._settings.state_dir)
            left = await units.start_again(self._host, folder, effect.baseline, self.run_tool)
            if left:
                log.error("back on the old system, and these units do not start again: %s", ", ".join(left))
        return event

    async def _go_back_alone(self, effect: GoBack) -> Event:
        offer, previous = effect.offer, effect.previous
        job = self._job(offer, f"back-{effect.number}")
        if not job.started and (lost := await self._lost(effect)):
            log.error("not going back to %s: %s", previous, lost)
            return Trouble(cause=Cause.UNTRUSTED, reason=lost)
        trial = offer.verb == "test"  # profile and boot default were never touched
        if not trial:
            await self._store.set_profile(previous, self._host.profile())
        forward = self._forward(offer, effect.number // BACK_TRIES)
        undone = self._guarding.went_back(forward) and self._host.current_system() == previous
        if undone or forward.forbidden:
            # The guard has switched back; or what was never called has changed nothing but the profile.
            switched = Switched(result=Result.DONE)
        else:
            switched = await self._rebooting.back(job, effect)
        if switched.result in {Result.DONE, Result.UNITS, Result.REBOOT}:
            await self._rebooting.release(effect)
        if switched.result in {Result.DONE, Result.UNITS} and offer.path != previous and not trial:
            generations = await self._store.generations(self._host.profile())
            bad = [one.number for one in generations if one.path == offer.path and not one.current]
            await self._store.delete_generations(bad, self._host.profile())
        return switched

    async def _keep(self, effect: Keep) -> None:
        """Root the confirmed systems; done before the incoming root goes, so that none is ever without."""
        await self._guarding.release()
        for number, path in enumerate(effect.paths, 1):
            if await self._store.is_valid(path):
                await self._store.add_root(path, self._host.gc_root(f"confirmed-{number}"))
        await self._store.remove_root(self._host.gc_root("incoming"))
        await self.drop_ahead()
        arrivals.end(Path(self._settings.state_dir))
        units.forget_active(Path(self._settings.state_dir))

    async def _tidy(self, effect: Tidy) -> None:
        await self._guarding.release()
        await self._store.remove_root(self._host.gc_root("incoming"))
        await self.drop_ahead()
        if effect.delete:
            await self._delete_foreign(effect.offer.path)

    async def _delete_foreign(self, path: str) -> None:
        """Delete a closure that nothing vouches for, with all that came since its download began."""
        folder = Path(self._settings.state_dir)
        came = set(await asyncio.to_thread(arrivals.foreign, self._host, folder))
        if await self._store.is_valid(path):
            came |= {info.path for info in await self._store.closure(path)}
        if came:
            await self._store.delete(sorted(came))
        arrivals.end(folder)

    def _limits(self, offer: Offer) -> FetchLimits:
        fetch = self._settings.fetch
        return FetchLimits(whole_s=fetch.total_s, nar_bytes=max(offer.nar_bytes, 1), stall_s=fetch.stall_s)

    def _job(self, offer: Offer, kind: str) -> Job:
        return Job(self._jobs / f"{offer.rollout[:16]}-{offer.run}-{kind}", self._host)

    def _forward(self, offer: Offer, number: int) -> Job:
        """Give the switch of an update."""
        return self._job(offer, f"{offer.verb}-{number}")

    def _told(self, lines: tuple[str, ...]) -> tuple[str, ...]:
        return lines if self._settings.report_lines else ()
