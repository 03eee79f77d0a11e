"""``nixfleet release`` and ``nixfleet cache``: publishing finished systems, and pushing their closures."""

import json
import re
from pathlib import Path
from typing import Final

import click

from nixfleet.cli import output
from nixfleet.cli.awaiting import awaited
from nixfleet.cli.closures import check_here, closures_of
from nixfleet.cli.diffs import diff
from nixfleet.cli.options import Globals, Group, command
from nixfleet.cli.session import Fleet, connected, now
from nixfleet.cli.words import parse_targets
from nixfleet.client.acts import find_release
from nixfleet.client.checks import check_lines
from nixfleet.client.push import PushResult, push
from nixfleet.config import read_bounded
from nixfleet.errors import UserError
from nixfleet.model.ids import STORE_PATH
from nixfleet.model.text import counted
from nixfleet.model.typed import check_name
from nixfleet.nix import Nix
from nixfleet.trust.words import select_words

MAX_FILE_BYTES: Final = 16 << 20


@click.group(cls=Group)
def release() -> None:
    """Publish which device gets which system, and look at what was published."""


def read_release_file(path: Path) -> dict[str, str]:
    """Read a release file, ``{"agents": {name: store path}}``. Raises: UserError."""
    data = read_bounded(path, MAX_FILE_BYTES)
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    agents = tree.get("agents") if isinstance(tree, dict) else None
    if not isinstance(agents, dict) or not all(isinstance(system, str) for system in agents.values()):
        raise UserError(f'{path}: no release file; it must look like {{"agents": {{"web-01": "/nix/store/…"}}}}')
    return parse_targets(f"{name}={system}" for name, system in agents.items())


async def push_all(given: Globals, fleet: Fleet, paths: list[str]) -> PushResult:
    """Push closures into the built-in cache, with progress. Raises: UserError, NixFailed, Unreachable."""
    root = fleet.state.root
    meter = output.Meter("push", quiet=given.quiet)
    result = await push(
        paths,
        Nix(),
        fleet.client,
        lambda state: meter.bytes(state.done_bytes, state.total_bytes),
        caches=root.caches if root is not None else (),
    )
    meter.end(
        f"{len(result.pushed)} of {result.paths} paths, {output.size(result.sent_bytes)} sent; "
        f"{result.present + result.upstream} were there"
    )
    return result


@release.command("create")
@click.argument("name")
@click.option("--device", "devices", multiple=True, metavar="NAME=PATH", help="A device and its system; repeatable.")
@click.option("-f", "file", type=click.Path(path_type=Path), metavar="FILE", help="A release file.")
@command
async def create(given: Globals, name: str, devices: tuple[str, ...], file: Path | None) -> None:
    """Publish a release: which device gets which system of this machine's Nix store."""
    check_name(name, "release")
    targets = {**(read_release_file(file) if file else {}), **parse_targets(devices)}
    if not targets:
        raise UserError("nothing to release; say --device NAME=PATH or -f FILE")
    closures = await closures_of(Nix(), targets.values())
    async with connected(given) as fleet:
        made = await fleet.admin.release(
            name, devices={device: closures[path] for device, path in targets.items()}, note=given.note
        )
    if given.json:
        output.as_json({"release": made.digest, "name": name, "waits": made.waits})
        return
    click.echo(made.digest)
    if made.waits:
        click.echo(f"the release is signed{awaited([made])}", err=True)


@release.command("list")
@command
async def list_releases(given: Globals) -> None:
    """List the releases, newest first."""
    async with connected(given) as fleet:
        releases = sorted(await fleet.client.releases(), key=lambda view: -view.index)
    if given.json:
        output.as_json({"releases": releases})
        return
    time = now()
    output.table(
        ("RELEASE", "NAME", "DEVICES", "BY", "WHEN"),
        [
            (view.id[:12], view.name, str(view.targets), view.principal or view.by, output.age(view.at, time))
            for view in releases
        ],
        "no release yet; 'nixfleet deploy' makes one",
    )


@release.command("show")
@click.argument("name")
@command
async def show(given: Globals, name: str) -> None:
    """Show one release, by name (the newest of it) or digest; its lines are checked against the signed release."""
    async with connected(given, catch_up=True) as fleet:
        view = await fleet.client.release(find_release(fleet.state, name))
        check_lines(view, fleet.state)
    if given.json:
        output.as_json(view)
        return
    shown = [("shown", f"{len(view.lines)} of {counted(view.targets, 'line')}: those that your grants cover")]
    output.fields(
        [
            ("release", view.id),
            ("name", view.name),
            ("by", view.principal or view.by),
            ("note", view.note or "none"),
            *(shown if view.partial else []),
        ]
    )
    output.table(
        ("DEVICE", "SYSTEM", "SIZE", "PATH"),
        [
            (
                line.name or line.device[:12] or select_words(line.select or {}),
                output.system_name(line.path),
                output.size(line.nar_size),
                line.path,
            )
            for line in view.lines
        ],
        "no lines",
    )


release.add_command(diff)


@click.group(cls=Group)
def cache() -> None:
    """Fill the coordinator's built-in binary cache."""


@cache.command("push")
@click.argument("paths", nargs=-1, required=True)
@command
async def push_paths(given: Globals, paths: tuple[str, ...]) -> None:
    """Push the closures of PATHS: only what the cache lacks, going on where a broken push ended."""
    for path in paths:
        if not re.fullmatch(STORE_PATH, path):
            raise UserError(f"{path!r} is no store path; it must be /nix/store/HASH-NAME itself, not a link to it")
        await check_here(Nix(), path)
    async with connected(given, catch_up=True) as fleet:
        result = await push_all(given, fleet, list(paths))
    if given.json:
        output.as_json(
            {
                "paths": result.paths,
                "pushed": result.pushed,
                "present": result.present,
                "upstream": result.upstream,
                "sent_bytes": result.sent_bytes,
            }
        )
