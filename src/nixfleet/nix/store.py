"""Run Nix: download, inspect, root and profile store paths, on a device and on an admin's machine.

Never evaluates or builds on a device: `build_flake` and the evaluations are for an admin's machine. Never decides
whether content is the intended one: Nix accepts other content for a path when the right cache key signed it, so a
caller compares `digest` with what a person signed.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import msgspec

from nixfleet.errors import UserError
from nixfleet.model.text import clean, clean_lines
from nixfleet.nix import commands, parse
from nixfleet.nix.faults import Fault, FaultKind, NixError
from nixfleet.nix.process import DEFAULT_TIMEOUT_S, Finished, LineReader, run, started
from nixfleet.nix.progress import Aggregator, Throttle
from nixfleet.nix.values import (
    SYSTEM_PROFILE,
    Cache,
    FetchLimits,
    Generation,
    MissingBytes,
    PathInfo,
    Progress,
)
from nixfleet.trust.narinfo import ClosureLine, check_store_path, closure_digest

PROGRESS_EVERY_S = 0.2
BUILD_TIMEOUT_S = 24 * 3600
VERIFY_TIMEOUT_S = 2 * 3600

# An argument vector may hold 2 MiB on Linux (execve(2)), a store path takes at most 255 bytes of it.
_PATHS_PER_COMMAND = 1000
_NAR_CHUNK_BYTES = 256 << 10

T = TypeVar("T")
Raw = TypeVar("Raw")


class Nix(msgspec.Struct, frozen=True):
    """A handle on one Nix store: this machine's own, or `store`; `options` are settings of every command."""

    store: str | None = None
    env: Mapping[str, str] | None = None
    options: tuple[tuple[str, str], ...] = ()

    async def version(self) -> tuple[int, int, int]:
        """Tell Nix's version. Raises: UserError when Nix is not installed."""
        finished = await self._run(commands.version())
        return _parsed(finished, parse.version, finished.checked().text())

    # Inspecting

    async def is_valid(self, path: str) -> bool:
        """Tell whether a path is in the store, with its whole closure. Raises: NixError when Nix cannot tell."""
        finished = await self._run(commands.check_validity(check_store_path(path), self._options()))
        if finished.exit_code == 1 and any("is not valid" in line for line in finished.lines):
            return False
        finished.checked()
        return True

    async def closure(self, path: str) -> list[PathInfo]:
        """Read what the Nix database holds on a path and all it needs. Raises: NixError."""
        listed = await self._run(commands.requisites(check_store_path(path), self._options()))
        paths = _parsed(listed, parse.paths, listed.checked().text())
        found: list[PathInfo] = []
        for some in _chunks(paths):
            dumped = await self._run(commands.dump_db(some, self._options()))
            found += _parsed(dumped, parse.registrations, dumped.checked().text())
        if {info.path for info in found} != set(paths):
            raise NixError(
                listed.argv, 0, (), Fault(FaultKind.other, f"the Nix store lost paths of {path} while they were read")
            )
        return found

    async def digest(self, path: str) -> tuple[str, int]:
        """Recompute the closure digest (lower-case hex) and the closure's size in NAR bytes from the Nix database."""
        infos = await self.closure(path)
        lines = [ClosureLine(path=info.path, nar_hash=info.nar_hash, nar_bytes=info.nar_bytes) for info in infos]
        return closure_digest(lines), sum(info.nar_bytes for info in infos)

    async def verify_contents(self, path: str) -> list[str]:
        """Name the paths of a closure whose content on disk is gone or is not what the database says."""
        paths = [info.path for info in await self.closure(path)]
        bad: list[str] = []
        for some in _chunks(paths):
            left = list(some)
            while left:
                finished = await self._run(commands.verify_paths(left, self._options()), timeout_s=VERIFY_TIMEOUT_S)
                if finished.exit_code == 0:
                    break
                found = [name for name in parse.bad_paths(list(finished.lines)) if name in left]
                if not found:
                    raise finished.error()
                bad += found
                # A path that is gone ends the command before it has looked at the rest: ask again without it.
                left = [name for name in left if name not in found]
        return bad

    async def missing_bytes(self, path: str, caches: Sequence[Cache]) -> MissingBytes:
        """Estimate what a download would fetch; paths that no cache has are not counted. Raises: NixError."""
        with TemporaryDirectory(prefix="nixfleet-nix-") as answers:
            options = (*self._options(), *commands.cache_options(caches, FetchLimits()))
            finished = await self._run(commands.dry_run(check_store_path(path), options), answers=answers)
        return _parsed(finished, parse.missing_bytes, "\n".join(finished.checked().lines))

    async def dump_nar(self, path: str) -> AsyncGenerator[bytes, None]:
        """Stream a path as a NAR. Raises: NixError at the end when the NAR is not whole."""
        argv = commands.dump(self._on_disk(check_store_path(path)))
        async with started(argv, self._env()) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            errors = asyncio.create_task(process.stderr.read(64 << 10))
            try:
                while chunk := await process.stdout.read(_NAR_CHUNK_BYTES):
                    yield chunk
                lines = clean_lines((await errors).decode("utf-8", "replace"))
                Finished(argv, await process.wait(), b"", lines).checked()
            finally:
                errors.cancel()
                await asyncio.wait([errors])

    # Downloading

    async def realise(
        self,
        path: str,
        *,
        caches: Sequence[Cache],
        root: Path,
        on_progress: Callable[[Progress], None],
        limits: FetchLimits | None = None,
    ) -> None:
        """Download what is missing of a closure from the named caches only, and root it at `root`.

        A cache that errs is left out, and the others are asked once more: Nix, which is not to build what it cannot
        fetch, ends with the first error of any (and 2.8 dies of an uncaught exception with `fallback`).

        Finished paths stay when it fails or is cancelled, so that the next try resumes. `on_progress` is called at
        most five times a second and once at the end. Raises: NixError, its `kind` telling trust from network.
        """
        left = list(caches)
        while True:
            try:
                await self._realise(path, left, root, on_progress, limits or FetchLimits())
            except NixError as error:
                errs = _at_fault(error, left)
                if errs is None or len(left) == 1:
                    raise
                left.remove(errs)
            else:
                return

    async def _realise(
        self,
        path: str,
        caches: Sequence[Cache],
        root: Path,
        on_progress: Callable[[Progress], None],
        limits: FetchLimits,
    ) -> None:
        if check_store_path(path).endswith(".drv"):
            raise UserError(f"{path} is a recipe, not a system; a device never builds")
        options = (*self._options(), *commands.cache_options(caches, limits))
        argv = commands.realise(path, str(root), options)
        meter, throttle = Aggregator(), Throttle(on_progress, PROGRESS_EVERY_S, time.monotonic)

        def read_line(line: str) -> str | None:
            text = meter.feed(line)
            if meter.unpacked_bytes() > limits.nar_bytes:
                reason = f"the download needs more than the {limits.nar_bytes} bytes that the release names"
                raise NixError(argv, -signal.SIGTERM, (), Fault(FaultKind.over_limit, reason))
            if throttle.due():
                throttle.tell(meter.snapshot())
            return text

        await asyncio.to_thread(root.parent.mkdir, parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="nixfleet-nix-") as answers:
            finished = await self._run(argv, timeout_s=limits.whole_s, read_line=read_line, answers=answers)
        finished.checked()
        throttle.tell(meter.final())

    async def repair(
        self,
        path: str,
        *,
        caches: Sequence[Cache],
        root: Path,
        on_progress: Callable[[Progress], None],
        limits: FetchLimits | None = None,
    ) -> None:
        """Try once to make a closure right: fetch damaged paths again; none damaged, fetch all that nothing else uses.

        The second is for content that is whole but not the intended one: the caches are then asked in the opposite
        order, since the first may be the one that lies. Raises: NixError.
        """
        limits = limits or FetchLimits()
        bad = await self.verify_contents(path)
        options = (*self._options(), *commands.cache_options(caches, limits))
        if bad:
            with TemporaryDirectory(prefix="nixfleet-nix-") as answers:
                argv = commands.repair_paths(bad, options)
                (await self._run(argv, timeout_s=limits.whole_s, answers=answers)).checked()
        else:
            paths = [info.path for info in await self.closure(path)]
            await self.remove_root(root)
            await self.delete(paths)
        await self.realise(path, caches=tuple(reversed(caches)), root=root, on_progress=on_progress, limits=limits)

    # Keeping and deleting

    async def add_root(self, path: str, root: Path) -> None:
        """Keep a path that is here already from the garbage collector, by the link `root`. Raises: NixError."""
        await asyncio.to_thread(root.parent.mkdir, parents=True, exist_ok=True)
        (await self._run(commands.add_root(check_store_path(path), str(root), self._options()))).checked()

    @staticmethod
    async def remove_root(root: Path) -> None:
        """Stop keeping what the link `root` keeps; no link, nothing to do."""
        await asyncio.to_thread(root.unlink, missing_ok=True)

    async def delete(self, paths: Sequence[str]) -> list[str]:
        """Delete those of the paths that nothing keeps, and name them. Raises: NixError."""
        printed = (await self._run(commands.print_dead(self._options()))).checked()
        dead = set(_parsed(printed, parse.paths, printed.text())) & {check_store_path(path) for path in paths}
        gone = [path for path in paths if path in dead]
        for some in _chunks(gone):
            (await self._run(commands.delete(some, self._options()))).checked()
        return gone

    async def collect_garbage(self, max_freed_bytes: int) -> None:
        """Delete paths that nothing keeps until that much is freed. Raises: NixError."""
        argv = commands.collect_garbage(max_freed_bytes, self._options())
        (await self._run(argv, timeout_s=VERIFY_TIMEOUT_S)).checked()

    async def set_profile(self, path: str, profile: Path = SYSTEM_PROFILE) -> None:
        """Make a path the profile's current generation; the same path as now makes no new one. Raises: NixError."""
        (await self._run(commands.set_profile(check_store_path(path), str(profile), self._options()))).checked()

    @staticmethod
    async def generations(profile: Path = SYSTEM_PROFILE) -> list[Generation]:
        """List a profile's generations, oldest first; no profile, none."""
        return await asyncio.to_thread(_read_generations, profile)

    async def delete_generations(self, numbers: Sequence[int], profile: Path = SYSTEM_PROFILE) -> None:
        """Delete generations by number; Nix refuses the current one. Raises: NixError."""
        if numbers:
            (await self._run(commands.delete_generations(numbers, str(profile), self._options()))).checked()

    # An admin's machine only

    async def build_flake(self, ref: str, attr: str, extra: Sequence[str], on_line: Callable[[str], None]) -> str:
        """Build one output of a flake; give its path, and Nix's output to `on_line` as it comes. Raises: NixError."""
        argv = commands.build_flake(_installable(ref, attr), extra, self._options())
        finished = (await self._run(argv, timeout_s=BUILD_TIMEOUT_S, read_line=_telling(on_line))).checked()
        return _parsed(finished, parse.built_path, finished.stdout)

    async def eval_names(self, ref: str, extra: Sequence[str] = ()) -> list[str]:
        """List the names of a flake's `nixosConfigurations`. Raises: NixError."""
        return await self.eval_json(ref, "nixosConfigurations", list[str], apply="builtins.attrNames", extra=extra)

    async def eval_json(
        self, ref: str, attr: str, into: type[T], *, apply: str | None = None, extra: Sequence[str] = ()
    ) -> T:
        """Evaluate an output of a flake, through the Nix function `apply`, into a type. Raises: NixError."""
        argv = commands.eval_flake(_installable(ref, attr), apply, extra, self._options())
        finished = (await self._run(argv, timeout_s=BUILD_TIMEOUT_S)).checked()
        return _parsed(finished, lambda raw: msgspec.json.decode(raw, type=into), finished.stdout)

    # Shared

    def _options(self) -> tuple[tuple[str, str], ...]:
        return self.options if self.store is None else (("store", self.store), *self.options)

    def _on_disk(self, path: str) -> str:
        """Say where a path's files are: `nix-store --dump` reads files, whatever the store."""
        return path if self.store is None else f"{self.store.removeprefix('local?root=')}{path}"

    def _env(self, answers: str | None = None) -> dict[str, str]:
        """Give the environment; `answers` is a fresh folder for cached answers of caches, so that none is stale."""
        env = dict(os.environ if self.env is None else self.env)
        if answers is not None:
            env["XDG_CACHE_HOME"] = answers
        return env

    async def _run(
        self,
        argv: tuple[str, ...],
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        read_line: LineReader = clean,
        answers: str | None = None,
    ) -> Finished:
        return await run(argv, self._env(answers), timeout_s=timeout_s, read_line=read_line)


def toplevel_attr(name: str) -> str:
    """Name the flake output of a machine's system."""
    if not name or any(character in name for character in '"\\$\n'):
        raise UserError(f"{name!r} is no name of a NixOS configuration")
    return f'nixosConfigurations."{name}".config.system.build.toplevel'


def _installable(ref: str, attr: str) -> str:
    if ref.startswith("-") or "#" in ref:
        raise UserError(f"{ref!r} is no flake; it needs to look like '.', '/path' or 'github:owner/repo'")
    return f"{ref}#{attr}"


def _telling(on_line: Callable[[str], None]) -> LineReader:
    def read_line(line: str) -> str:
        text = clean(line)
        on_line(text)
        return text

    return read_line


def _parsed(finished: Finished, parser: Callable[[Raw], T], raw: Raw) -> T:
    """Read what a command printed; text that is not Nix's is Nix's failure, not the caller's."""
    try:
        return parser(raw)
    except (ValueError, UserError, msgspec.MsgspecError) as error:
        fault = Fault(FaultKind.other, f"{finished.argv[0]} printed something unexpected: {error}")
        raise NixError(finished.argv, finished.exit_code, finished.lines, fault) from None


def _at_fault(error: NixError, caches: Sequence[Cache]) -> Cache | None:
    """Name the cache that kept a download from going on; none when it is not one cache's fault, or it lied."""
    if error.kind not in {FaultKind.unreachable, FaultKind.stalled, FaultKind.missing}:
        return None
    for line in reversed(error.lines):
        for cache in caches:
            if f"{cache.url.rstrip('/')}/" in line and ("error" in line or "unable to download" in line):
                return cache
    return None


def _chunks(paths: Sequence[str]) -> list[Sequence[str]]:
    return [paths[start : start + _PATHS_PER_COMMAND] for start in range(0, len(paths), _PATHS_PER_COMMAND)]


def _read_generations(profile: Path) -> list[Generation]:
    """Read the links beside the profile: `nix-env` lists the same ones, but not where they point to."""
    try:
        current = profile.readlink().name
        links = [(parse.generation_number(profile.name, link.name), link) for link in profile.parent.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(
        (
            Generation(number=number, path=str(link.readlink()), current=link.name == current)
            for number, link in links
            if number is not None
        ),
        key=lambda generation: generation.number,
    )
