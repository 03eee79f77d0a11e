"""``nixfleet deploy``: build, push, release, preview, start and watch, in one command."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from nixfleet.cli import output
from nixfleet.cli.options import Globals, command, confirm
from nixfleet.cli.plan import Plan, plan_options, preview, wishes
from nixfleet.cli.releases import publish, push_all, read_release_file
from nixfleet.cli.session import connected, now
from nixfleet.cli.watching import follow
from nixfleet.cli.words import parse_targets
from nixfleet.errors import UserError
from nixfleet.nix import Nix, toplevel_attr


@click.command()
@click.argument("flake", required=False)
@click.argument("nix_args", nargs=-1, type=click.UNPROCESSED, metavar="[-- NIX-ARGS]")
@click.option("-f", "file", type=click.Path(path_type=Path), metavar="FILE", help="A release file instead of a flake.")
@click.option("--device", "devices", multiple=True, metavar="NAME=PATH", help="A finished system; repeatable.")
@click.option("--no-build", is_flag=True, help="Fail rather than build what is not in the store.")
@click.option("--name", help="The release's name; by default made from the time.")
@click.option("--dry-run", is_flag=True, help="Build and show what it would do; push and sign nothing.")
@click.option("--watch/--no-watch", default=True, help="Stay until every online device has an outcome.")
@plan_options
@command
async def deploy(
    given: Globals,
    flake: str | None,
    nix_args: tuple[str, ...],
    file: Path | None,
    devices: tuple[str, ...],
    no_build: bool,
    name: str | None,
    dry_run: bool,
    watch: bool,
    plan: Plan,
) -> int | None:
    """Bring systems to their devices: those of FLAKE[#NAME,…] (default '.'), of a file, or the given ones."""
    targets = await _targets(given, flake, nix_args, file, devices, no_build)
    targets = {device: path for device, path in targets.items() if not plan.names or device in plan.names}
    if not targets:
        raise UserError("nothing to deploy: --on names no device that has a system here")
    async with connected(given) as fleet:
        if dry_run:
            await preview(fleet, targets, plan)
            return None
        if sys.stdin.isatty() and not given.yes:
            await preview(fleet, targets, plan)
            confirm(given, f"Deploy to {len(targets)} device{'s' if len(targets) > 1 else ''}?")
        await push_all(given, fleet, sorted(set(targets.values())))
        chosen = name or datetime.fromtimestamp(now(), UTC).strftime("deploy-%Y%m%d-%H%M%S")
        release = await publish(given, fleet, chosen, targets)
        digest = (await fleet.admin.rollout(release, wishes(plan), note=given.note)).digest
        if not watch:
            if given.json:
                output.as_json({"release": release, "rollout": digest})
            else:
                click.echo(digest)
            return None
        return await follow(given, fleet, digest, wait="online")


async def _targets(
    given: Globals,
    flake: str | None,
    nix_args: tuple[str, ...],
    file: Path | None,
    devices: tuple[str, ...],
    no_build: bool,
) -> dict[str, str]:
    """Give the system of each device, from finished paths, a release file or a flake (built when needed)."""
    if devices or file:
        if flake:
            raise UserError("say a flake, or --device and -f, not both")
        return {**(read_release_file(file) if file else {}), **parse_targets(devices)}
    ref, _, wanted = (flake or ".").partition("#")
    ref = _absolute(ref)
    nix = Nix()
    extra = (*nix_args, "--offline", "--max-jobs", "0") if no_build else nix_args
    names = [part for part in wanted.split(",") if part] or await nix.eval_names(ref, nix_args)
    if not names:
        raise UserError(f"{ref} has no nixosConfigurations")
    built = {}
    for each in names:
        meter = output.Meter(f"build {each}", quiet=given.quiet)
        built[each] = await nix.build_flake(ref, toplevel_attr(each), extra, meter.show)
        meter.end(output.system_name(built[each]))
    return built


def _absolute(ref: str) -> str:
    """Give a flake in a folder by its whole path: Nix runs elsewhere."""
    return str(Path(ref).absolute()) if Path(ref).exists() else ref
