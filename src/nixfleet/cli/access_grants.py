"""``nixfleet access grant|revoke|list|explain``: hand out rights, end them, see who has which and why."""

from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click

from nixfleet.cli import access_tables, output
from nixfleet.cli.awaiting import awaited
from nixfleet.cli.keys import read_key
from nixfleet.cli.options import Count, Globals, command, command_without_key, confirm
from nixfleet.cli.session import Fleet, connected, now
from nixfleet.client import grants
from nixfleet.client.acts import DAY_S, find_device
from nixfleet.client.admin import Unread
from nixfleet.client.grants import Granted
from nixfleet.client.handing import GrantWishes, name_warning
from nixfleet.errors import Refused, UserError
from nixfleet.model.ids import Fingerprint
from nixfleet.model.statements import ACTIONS, GRANT_DAYS, Action
from nixfleet.model.text import utc
from nixfleet.model.typed import checked_fingerprint, parse_date, parse_select
from nixfleet.trust import fields
from nixfleet.trust.access import access_view
from nixfleet.trust.replay import Explanation, State, principal_of
from nixfleet.trust.replay import explain as explain_right
from nixfleet.trust.replay.links import SHOWN, action_words, select_words

F = TypeVar("F", bound=Callable[..., Any])
_MAX = 1_000_000


def _limits(function: F) -> F:
    """Give a command the options that bound a grant."""
    for option in (
        click.option("--parent", metavar="GRANT", help="The grant to hand on from, by its first digits."),
        click.option("--max-uses", type=Count(1, _MAX), help="How many devices each key may enroll; for enroll alone."),
        click.option("--max-devices", type=Count(1, _MAX), help="How many device lines one release may have."),
        click.option("--depth", type=Count(0, 8), default=0, help="How often it may be handed on; with action grant."),
        click.option("--from", "begin", metavar="DATE", help="When it begins; by default now."),
        click.option("--until", metavar="DATE", help="When it ends, for example 2027-01-31."),
        click.option("--days", type=Count(1, 36_500), help=f"How long it lasts; by default {GRANT_DAYS}."),
    ):
        function = option(function)
    return function


@click.command("grant")
@click.argument("name")
@click.option("--to", "keys", multiple=True, required=True, metavar="KEY|FILE.pub", help="Their key; repeatable.")
@click.option("--action", "actions", multiple=True, type=click.Choice(ACTIONS), help="What they may do; repeatable.")
@click.option("--read", is_flag=True, help="They may read, and do nothing.")
@click.option("--on", "tags", multiple=True, metavar="KEY=VALUE[,VALUE…]", help="Only devices with these tags.")
@_limits
@command
async def grant(
    given: Globals,
    name: str,
    keys: tuple[str, ...],
    actions: tuple[Action, ...],
    read: bool,
    tags: tuple[str, ...],
    days: int | None,
    until: str | None,
    begin: str | None,
    depth: int,
    max_devices: int | None,
    max_uses: int | None,
    parent: str | None,
) -> None:
    """Give NAME, a person or a CI, a right; who is not at the root hands on from a grant of their own."""
    if read == bool(actions):
        raise UserError("say --action for each thing they may do, or --read for one who may only read")
    if ("grant" in actions) != (depth > 0):
        raise UserError("--action grant and a --depth of 1 or more belong together: how often it may be handed on")
    wishes = GrantWishes(
        name=name,
        keys=tuple(dict.fromkeys(read_key(key).text for key in keys)),
        actions=tuple(dict.fromkeys(actions)),
        select=parse_select(tags),
        not_before=None if begin is None else parse_date(begin),
        not_after=_end(days, until, begin),
        depth=depth,
        max_devices=max_devices,
        max_uses=max_uses,
        parent=parent,
    )
    async with connected(given) as fleet:
        made = await grants.grant(fleet.admin, wishes, note=given.note)
        record = fleet.state.grants.get(made.grant.id)
        warning = name_warning(fleet.state, made.grant)
    _tell(given, made, name if record is None else record.principal)
    if warning:
        click.echo(f"! {warning}", err=True)


def _tell(given: Globals, made: Granted, holder: str) -> None:
    """Say what is granted, and what it still waits for."""
    one, waits = made.grant, made.acted.waits
    text = f"grant {one.id[:SHOWN]}: {holder} may {action_words(one.actions)} on {select_words(one.select)}"
    text = f"{text} until {utc(one.not_after)}"
    text = f"{text}{awaited([made.acted])}"
    output.done(
        {
            "id": one.id,
            "name": holder,
            "parent": one.parent or "",
            "keys": [fields.fingerprint(key) for key in one.to.keys],
            "not_before": one.not_before,
            "not_after": one.not_after,
            "max_devices": one.max_devices,
            "index": made.acted.index,
            "digest": made.acted.digest,
            "waits": waits,
        },
        text,
        json=given.json,
        quiet=given.quiet,
    )


def _end(days: int | None, until: str | None, begin: str | None) -> int | None:
    """Give the end that was said, in unix seconds; days count from its beginning. Raises: UserError."""
    if days is not None and until is not None:
        raise UserError("say --days or --until, not both")
    if until is not None:
        return parse_date(until)
    if days is None:
        return None
    return (now() if begin is None else parse_date(begin)) + days * DAY_S


@click.command("list")
@command
async def list_grants(given: Globals) -> None:
    """List who may do what: the grants as a tree, with their limits and what became of them."""
    async with connected(given, catch_up=True) as fleet:
        view = access_view(fleet.state, now())
    if given.json:
        output.as_json(view)
        return
    access_tables.tree(view)


@click.command("revoke")
@click.argument("subject", metavar="GRANT|SHA256:…")
@click.option("--dry-run", is_flag=True, help="Show what it would stop, and sign nothing.")
@command
async def revoke(given: Globals, subject: str, dry_run: bool) -> None:
    """End a grant (by its first digits, or the name that has only one), or a key everywhere and for good."""
    async with connected(given, catch_up=True) as fleet:
        ended = grants.find_subject(fleet.state, subject)
        what = grants.subject_words(fleet.state, ended)
        stops = grants.stopped_by(fleet.state, ended, await fleet.client.rollouts(), now())
        value = {"grant": ended.grant or "", "key": ended.key or "", "stops": stops}
        if dry_run and given.json:
            output.as_json(value)
            return
        if not given.quiet:
            access_tables.stopped(what, stops)
        if dry_run:
            return
        confirm(given, f"Revoke {what}, for good?")
        try:
            acted = await fleet.admin.revoke(grant=ended.grant, key=ended.key, note=given.note)
        except Unread as error:
            # What one asked for oneself: done, as far as the coordinator says.
            output.done(value, f"{what} is revoked; {error}", json=given.json, quiet=given.quiet)
            return
    output.done(
        {**value, "index": acted.index, "digest": acted.digest, "waits": acted.waits},
        f"{what} is revoked{awaited([acted])}",
        json=given.json,
        quiet=given.quiet,
    )


@click.command("explain")
@click.option("--key", "who", required=True, metavar="SHA256:…|FILE|NAME", help="Whose right: a key, or a principal.")
@click.option("--action", type=click.Choice(get_args(Action)), required=True, help="To do what.")
@click.option("--device", "name", required=True, metavar="DEVICE", help="To which device.")
@command_without_key
async def explain(given: Globals, who: str, action: Action, name: str) -> int | None:
    """Say whether a key may do this to this device, by which chain, or which link fails; exit code 3 when not."""
    async with connected(given, catch_up=True) as fleet:
        device = find_device(fleet.state, name)
        key, said = _best(fleet, who, action, device)
    if given.json:
        output.as_json(
            {
                "key": key,
                "principal": principal_of(fleet.state, key),
                "action": action,
                "device": name,
                "allowed": said.allowed,
                "waits": said.waits,
                "sentence": said.sentence,
                "chains": said.chains,
            }
        )
    else:
        click.echo(f"{'yes' if said.allowed else 'with others' if said.waits else 'no'}: {said.sentence}")
        access_tables.chains(said.chains)
    return None if said.allowed or said.waits else Refused.exit_code


def _best(fleet: Fleet, who: str, action: Action, device: str) -> tuple[Fingerprint, Explanation]:
    """Explain the key that is named, or of a principal's keys the one that may most. Raises: UserError."""
    judged = [(key, explain_right(fleet.state, key, action, device, now())) for key in _keys_of(fleet.state, who)]
    return max(judged, key=lambda one: (one[1].allowed, one[1].waits))


def _keys_of(state: State, who: str) -> tuple[Fingerprint, ...]:
    """Read whose right is asked for. Raises: UserError when that is nobody."""
    if who.startswith("SHA256:"):
        return (checked_fingerprint(who),)
    named = [key for key, name in state.root_keys.items() if name == who]
    named += [
        fields.fingerprint(text)
        for record in state.grants.values()
        if record.principal == who
        for text in record.statement.to.keys
    ]
    if named:
        return tuple(dict.fromkeys(named))
    try:
        return (Fingerprint(read_key(who).fingerprint),)
    except UserError as error:
        raise UserError(f"{who!r} is no principal of 'nixfleet access list', and no key: {error}") from error
