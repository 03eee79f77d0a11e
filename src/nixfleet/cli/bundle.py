"""``nixfleet bundle``: updates for devices without a network, in a file that somebody carries, and their answer."""

from collections.abc import Sequence
from pathlib import Path

import click

from nixfleet.cli import output
from nixfleet.cli.options import Globals, Group, command
from nixfleet.cli.session import Fleet, connected, now
from nixfleet.client import receipt as receipts
from nixfleet.client.acts import find_device, find_rollout
from nixfleet.client.bundle import BundleDevice, Head, LineOf
from nixfleet.client.bundling import Caches, LineBook, entries_for, open_caches, write_bundle
from nixfleet.client.watch import Ending
from nixfleet.errors import Untrusted, UserError
from nixfleet.model.device import Outcome, Report
from nixfleet.model.ids import Digest, store_name
from nixfleet.model.statements import CacheRef
from nixfleet.model.text import counted
from nixfleet.model.views import RolloutDetail, RolloutView
from nixfleet.trust.narinfo import NarInfo, check_store_path
from nixfleet.trust.replay import Follow, Hold, Idle, RolloutState, caches_for, choose, closure_for
from nixfleet.trust.reports import open_report
from nixfleet.trust.sshsig import parse_public_key

OPEN = ("waiting", "running")
CLOSED = ("paused", "cancelled", "superseded", "expired")


@click.group(cls=Group)
def bundle() -> None:
    """Carry an update to devices without a network, and what came of it back."""


@bundle.command("export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--device", "devices", multiple=True, metavar="NAME", help="A device it is for; by default all that lack it."
)
@click.option("--rollout", metavar="ID", help="The rollout to bring; by default the one that is under way.")
@click.option("--have", metavar="SYSTEM", default="", help="A system that the devices have: its paths are left out.")
@command
async def export(given: Globals, file: Path, devices: tuple[str, ...], rollout: str | None, have: str) -> int | None:
    """Write a rollout into FILE: the log, devices' lines and their systems, for 'nixfleet agent apply' on each.

    The devices verify it as they would over the network. A rollout that is halted or paused is not exported.
    """
    if have:
        check_store_path(have)
    async with connected(given, catch_up=True) as fleet:
        detail = await _wanted(fleet, rollout)
        if detail.rollout.state == "halted":
            why = detail.rollout.halted
            click.echo(
                f"nixfleet: the rollout is halted ({why}), and a device in the field cannot know; resume it first",
                err=True,
            )
            return Ending.HALTED.value
        one = _open(fleet, detail.rollout)
        chosen = _devices(fleet, detail, devices)
        book = LineBook(fleet.client, fleet.state)
        lines = [line for device in chosen for line in await book.lines_for(one, device)]
        for device in chosen:
            await _check_follows(fleet, book, one, device)
        async with open_caches(_caches(fleet, one), fleet.client.url) as caches:
            infos = await _contents(fleet, book, one, chosen, caches, have)
            head = Head(
                fleet=fleet.mirror.fleet,
                rollout=one.digest,
                entries=fleet.mirror.size,
                devices=tuple(BundleDevice(device=each, name=_name(fleet, each)) for each in chosen),
                paths=len(infos),
                have=have,
            )
            size = await _written(given, fleet, file, head, lines, caches, infos)
    _say_written(given, file, head, size)
    return None


async def _wanted(fleet: Fleet, rollout: str | None) -> RolloutDetail:
    """Find the rollout that is meant. Raises: UserError."""
    if rollout is not None:
        return await fleet.client.rollout(find_rollout(fleet.state, rollout))
    found = [one for one in await fleet.client.rollouts() if one.state in {*OPEN, "paused", "halted"}]
    if len(found) != 1:
        which = "no rollout is under way" if not found else f"{len(found)} rollouts are under way"
        raise UserError(f"{which}; say which with --rollout ('nixfleet rollout list' shows them)")
    return await fleet.client.rollout(found[0].id)


def _open(fleet: Fleet, shown: RolloutView) -> RolloutState:
    """Give the rollout as the verified log has it. Raises: UserError for one that nobody may begin now."""
    one = fleet.state.rollouts.get(Digest(shown.id))
    if one is None:
        raise Untrusted(f"the coordinator shows rollout {shown.id[:12]}, which is not in the log")
    # The log's own word, too: a coordinator that hides a pause would only make a file that no device takes.
    state = "cancelled" if one.cancelled else "paused" if one.paused else shown.state
    if state in CLOSED:
        raise UserError(f"the rollout is {state}, so no device would take it")
    return one


def _devices(fleet: Fleet, detail: RolloutDetail, named: Sequence[str]) -> list[str]:
    """Give the devices to export for. Raises: UserError."""
    members = {member.device: member for member in detail.members}
    if named:
        found = {find_device(fleet.state, name): name for name in named}
        strange = [name for device, name in found.items() if device not in members]
        if strange:
            raise UserError(f"{', '.join(strange)} is not in rollout {detail.rollout.id[:12]}")
        return list(found)
    left = [member.device for member in detail.members if member.outcome is not Outcome.CONFIRMED]
    if not left:
        raise UserError("every device of the rollout has confirmed it; name one with --device to export all the same")
    return left


async def _check_follows(fleet: Fleet, book: LineBook, one: RolloutState, device: str) -> None:
    """Check that the log lets a device follow this rollout, as it will judge itself. Raises: UserError."""
    known = {line.rollout: line.answer.line is not None for line in await book.lines_for(one, device)}

    def covers(other: RolloutState) -> bool | None:
        if other.statement.kind == "rollback":
            return True if other.digest == one.digest else None  # only its journal tells what it confirmed
        return known.get(other.digest)

    choice = choose(fleet.state, device, now(), covers=covers)
    name = _name(fleet, device)
    match choice:
        case Follow() if choice.rollout.digest == one.digest:
            return
        case Follow():
            raise UserError(
                f"{name} follows rollout {choice.rollout.digest[:12]}, which is newer; export that one, or leave it out"
            )
        case Hold(kind="line"):
            return  # a rollback of others' is the device's own to know
        case Hold():
            raise UserError(f"{name} would not take it: {choice.text}")
        case Idle():
            why = next((skip.text for skip in choice.skipped if skip.rollout.digest == one.digest), "it is not for it")
            raise UserError(f"{name} would not take it: {why}")


def _caches(fleet: Fleet, one: RolloutState) -> tuple[CacheRef, ...]:
    release = fleet.state.releases.get(Digest(one.statement.release or ""))
    return caches_for(fleet.state, release.statement) if release is not None else ()


async def _contents(
    fleet: Fleet, book: LineBook, one: RolloutState, devices: Sequence[str], caches: Caches, have: str
) -> list[NarInfo]:
    """List the paths that the devices need, and check each closure against its signed digest."""
    if one.statement.release is None:
        return []  # a rollback: each device returns to a system that it kept
    release = fleet.state.releases[Digest(one.statement.release)].statement
    found: dict[str, NarInfo] = {}
    for device in devices:
        line = closure_for(release, fleet.state.devices[device].statement.tags) or await book.own_line(one, device)
        if line is None:
            raise UserError(f"the release has nothing for {_name(fleet, device)}; leave it out with --device")
        if line.path not in found:
            await caches.walk(line.path)
            caches.walked.check(line.path, line.digest)
            found |= {info.store_path: info for info in caches.walked.closure(line.path)}
    if have:
        await caches.walk(have)
        for info in caches.walked.closure(have):
            found.pop(info.store_path, None)
    return list(found.values())


async def _written(
    given: Globals,
    fleet: Fleet,
    file: Path,
    head: Head,
    lines: Sequence[LineOf],
    caches: Caches,
    infos: Sequence[NarInfo],
) -> int:
    meter = output.Meter("export", quiet=given.quiet)
    mirror, chosen = fleet.mirror, [one.device for one in head.devices]
    return await write_bundle(
        file, head, mirror.checkpoint, entries_for(mirror, chosen), lines, caches, infos, meter.bytes
    )


def _say_written(given: Globals, file: Path, head: Head, size: int) -> None:
    names = [one.name for one in head.devices]
    if given.json:
        output.as_json(
            {"file": str(file), "rollout": head.rollout, "devices": names, "paths": head.paths, "bytes": size}
        )
    elif not given.quiet:
        whom = names[0] if len(names) == 1 else counted(len(names), "device")
        click.echo(
            f"{file} brings rollout {head.rollout[:12]} to {whom}: {counted(head.paths, 'path')}, {output.size(size)};"
            f" 'nixfleet agent apply {file.name}' there, then 'nixfleet bundle import' the receipt here"
        )


@bundle.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="RECEIPT…")
@command
async def import_(given: Globals, files: tuple[Path, ...]) -> None:
    """Bring receipts of 'nixfleet agent apply' to the coordinator: what devices signed, as they signed it."""
    held = [(file, receipts.read(file)) for file in files]
    told = []
    async with connected(given, catch_up=True) as fleet:
        for file, receipt in held:
            opened = _opened(fleet, file, receipt)
            new = 0
            for signed in receipt.reports:
                new += await fleet.client.report(signed) is None
            told.append(_told(fleet, receipt, opened, new))
    if given.json:
        output.as_json({"receipts": told})
    elif not given.quiet:
        for one in told:
            click.echo(_sentence(one))


def _opened(fleet: Fleet, file: Path, receipt: receipts.Receipt) -> list[Report]:
    """Open a receipt's reports by the key that the log has of its device. Raises: Untrusted, UserError."""
    device = receipt.head.device
    if receipt.head.fleet != fleet.mirror.fleet:
        raise UserError(
            f"{file} is of fleet {receipt.head.fleet[:12]}, and this is {fleet.mirror.fleet[:12]}; see --context"
        )
    record = fleet.state.devices.get(device)
    if record is None:
        raise Untrusted(f"{file} is of device {device}, which is not in the log")
    key = parse_public_key(record.statement.key)
    return [open_report(one, key, fleet=receipt.head.fleet, device=device) for one in receipt.reports]


def _told(fleet: Fleet, receipt: receipts.Receipt, opened: Sequence[Report], new: int) -> dict[str, object]:
    last = opened[-1] if opened else None
    attempt = last.attempt if last is not None else None
    ended = attempt is not None and attempt.outcome is not None
    return {
        "device": _name(fleet, receipt.head.device),
        "reports": len(opened),
        "new": new,
        "rollout": attempt.rollout if attempt is not None else "",
        "outcome": attempt.outcome.value if attempt is not None and attempt.outcome is not None else "",
        "reason": attempt.reason if ended and attempt is not None else "",
        "system": last.system if last is not None else "",
    }


def _sentence(told: dict[str, object]) -> str:
    """Say what a receipt told."""
    known = "" if told["new"] else ", as was known already"
    if not told["system"]:
        return f"{told['device']}: the receipt has no report; apply again on the device for one"
    runs = f"runs {store_name(str(told['system']))}"
    if not told["rollout"]:
        return f"{told['device']} {runs}{known}"
    why = f": {told['reason']}" if told["reason"] else ""
    return (
        f"{told['device']} {runs}; rollout {str(told['rollout'])[:12]} {told['outcome'] or 'is under way'}{why}{known}"
    )


def _name(fleet: Fleet, device: str) -> str:
    return fleet.state.devices[device].statement.name
