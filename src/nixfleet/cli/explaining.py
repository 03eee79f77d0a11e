"""``nixfleet rollout explain``: a sentence each for what a rollout, its waves and its devices wait for."""

from collections.abc import Sequence
from typing import Any, Final

import click

from nixfleet.cli import output
from nixfleet.cli.options import Globals, command
from nixfleet.cli.session import Fleet, connected
from nixfleet.client.acts import find_device, find_rollout
from nixfleet.errors import UserError
from nixfleet.model.text import clean
from nixfleet.model.views import MemberView, RolloutDetail
from nixfleet.rollout.explaining import Said, explain, lines, member_said

OPEN: Final = frozenset({"waiting", "running", "paused", "halted"})


@click.command("explain")
@click.argument("words", nargs=-1, metavar="[ROLLOUT] [DEVICE]")
@command
async def explain_rollout(given: Globals, words: tuple[str, ...]) -> None:
    """Say in a sentence each what a rollout, its waves and its devices, or one DEVICE in it, wait for.

    Without ROLLOUT: what is under way, or the newest one; with DEVICE alone: in the rollout that is meant for it now.
    """
    async with connected(given, catch_up=True) as fleet:
        details, device = await _asked(fleet, words)
    told = [(detail, _chosen(detail, device)) for detail in details]
    if given.json:
        records = [_record(detail, members, alone=device is not None) for detail, members in told]
        output.as_json(records[0] if words else {"rollouts": records})
        return
    for detail, members in told:
        if len(told) > 1:
            click.echo(clean(f"{detail.rollout.release_name} ({detail.rollout.id[:12]})"))
        for line in lines(_sentences(detail, members, alone=device is not None)):
            click.echo(line)


async def _asked(fleet: Fleet, words: Sequence[str]) -> tuple[list[RolloutDetail], str | None]:
    """Read the rollouts that are meant, and find the device among the words. Raises: UserError."""
    if len(words) > 2:
        raise UserError("say a rollout, a device, or both: nixfleet rollout explain [ROLLOUT] [DEVICE]")
    if len(words) == 2:
        return [await fleet.client.rollout(find_rollout(fleet.state, words[0]))], words[1]
    if not words:
        return [await fleet.client.rollout(one) for one in await _under_way(fleet)], None
    (word,) = words
    if len(word) >= 6 and any(digest.startswith(word) for digest in fleet.state.rollouts):
        return [await fleet.client.rollout(find_rollout(fleet.state, word))], None
    return await _of_device(fleet, word)


async def _under_way(fleet: Fleet) -> list[str]:
    """Name what is under way, newest first, or else the newest rollout. Raises: UserError when there is none."""
    rollouts = sorted(await fleet.client.rollouts(), key=lambda view: -view.index)
    if not rollouts:
        raise UserError("there is no rollout yet; 'nixfleet deploy' makes one")
    return [view.id for view in rollouts if view.state in OPEN] or [rollouts[0].id]


async def _of_device(fleet: Fleet, word: str) -> tuple[list[RolloutDetail], str]:
    """Read the rollout that is meant for a device now. Raises: UserError."""
    try:
        device = find_device(fleet.state, word)
    except UserError as error:
        if any(record.statement.name == word for record in fleet.state.releases.values()):
            find_rollout(fleet.state, word)  # which says what the release's rollouts are
        raise UserError(f"there is no rollout and no device {word!r}; 'nixfleet rollout list' shows them") from error
    view = await fleet.client.device(device)
    if not view.rollout:
        raise UserError(f"{view.name} is in no rollout's set{f'; it waits: {view.waits}' if view.waits else ''}")
    return [await fleet.client.rollout(view.rollout)], device


def _chosen(detail: RolloutDetail, device: str | None) -> list[MemberView]:
    """Give the members that are asked about. Raises: UserError when the device is none of them."""
    chosen = [member for member in detail.members if device in {None, member.name, member.device}]
    if device is not None and not chosen:
        short = detail.rollout.id[:12]
        raise UserError(f"{device} is not in this rollout's set; 'nixfleet rollout show {short}' lists it")
    return chosen


def _sentences(detail: RolloutDetail, members: Sequence[MemberView], *, alone: bool) -> list[Said]:
    return [member_said(member) for member in members] if alone else list(explain(detail, members))


def _record(detail: RolloutDetail, members: Sequence[MemberView], *, alone: bool) -> dict[str, Any]:
    """Give the sentences as a record: the rollout's, those by device, and all of them with their typed reasons."""
    said = list(explain(detail, members))
    return {
        "id": detail.rollout.id,
        "state": detail.rollout.state,
        "rollout": said[0].said,
        "devices": {member.name: member_said(member).said for member in members},
        "reasons": _sentences(detail, members, alone=alone),
    }
