"""``nixfleet release`` and ``nixfleet cache``: publishing finished systems, and pushing their closures."""

import json
from pathlib import Path

import click

from nixfleet.cli import output
from nixfleet.cli.closures import closures_of
from nixfleet.cli.options import Globals, command
from nixfleet.cli.session import Fleet, connected, now
from nixfleet.cli.words import parse_targets
from nixfleet.client.push import push
from nixfleet.errors import UserError
from nixfleet.nix import Nix

MAX_FILE_BYTES = 16 << 20


@click.group()
def release() -> None:
    """Publish which device gets which system, and look at what was published."""


def read_release_file(path: Path) -> dict[str, str]:
    """Read a release file, ``{"agents": {name: store path}}``. Raises: UserError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise UserError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    agents = tree.get("agents") if isinstance(tree, dict) else None
    if not isinstance(agents, dict) or not all(isinstance(system, str) for system in agents.values()):
        raise UserError(f'{path}: no release file; it must look like {{"agents": {{"web-01": "/nix/store/…"}}}}')
    return parse_targets(f"{name}={system}" for name, system in agents.items())


async def publish(given: Globals, fleet: Fleet, name: str, targets: dict[str, str]) -> str:
    """Sign and publish a release of systems in the local store to devices by name; give its digest.

    Raises: UserError for an unknown device, or a path that is no system of this machine's store.
    """
    closures = await closures_of(Nix(), targets.values())
    made = await fleet.admin.release(
        name, devices={device: closures[path] for device, path in targets.items()}, note=given.note
    )
    return made.digest


async def push_all(given: Globals, fleet: Fleet, paths: list[str]) -> None:
    """Push closures into the built-in cache, with progress. Raises: UserError, NixFailed, Unreachable."""
    await fleet.mirror.catch_up(fleet.client)
    root = fleet.mirror.state.root
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


@release.command("create")
@click.argument("name")
@click.option("--device", "devices", multiple=True, metavar="NAME=PATH", help="A device and its system; repeatable.")
@click.option("-f", "file", type=click.Path(path_type=Path), metavar="FILE", help="A release file.")
@command
async def create(given: Globals, name: str, devices: tuple[str, ...], file: Path | None) -> None:
    """Publish a release: which device gets which system of this machine's Nix store."""
    targets = {**(read_release_file(file) if file else {}), **parse_targets(devices)}
    if not targets:
        raise UserError("nothing to release; say --device NAME=PATH or -f FILE")
    async with connected(given) as fleet:
        digest = await publish(given, fleet, name, targets)
    if given.json:
        output.as_json({"release": digest, "name": name})
    else:
        click.echo(digest)


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
    """Show one release, by name (the newest of it) or digest."""
    async with connected(given) as fleet:
        view = await fleet.client.release(name)
    if given.json:
        output.as_json(view)
        return
    output.fields([("release", view.id), ("name", view.name), ("by", view.principal or view.by), ("note", view.note)])
    output.table(
        ("DEVICE", "SYSTEM", "SIZE", "PATH"),
        [
            (line.name or line.device[:12], output.system_name(line.path), output.size(line.nar_size), line.path)
            for line in view.lines
        ],
        "no lines",
    )


@click.group()
def cache() -> None:
    """Fill the coordinator's built-in binary cache."""


@cache.command("push")
@click.argument("paths", nargs=-1, required=True)
@command
async def push_paths(given: Globals, paths: tuple[str, ...]) -> None:
    """Push the closures of PATHS: only what the cache lacks, going on where a broken push ended."""
    async with connected(given) as fleet:
        await push_all(given, fleet, list(paths))
