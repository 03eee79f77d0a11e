"""``nixfleet enroll NAME…``: let in devices that ask, once their keys are known to be theirs; or give one another key.

A key is compared by a person, with what `ssh` knows, or with a list. Many devices cost one touch (`client.bulk`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from nixfleet.cli import output
from nixfleet.cli.asking import KnownHosts, Wanted, key_of, pick, read_list
from nixfleet.cli.awaiting import awaited
from nixfleet.cli.options import Globals, command_without_key, confirm
from nixfleet.cli.session import Fleet, connected
from nixfleet.client.admin import Acted
from nixfleet.client.enrolling import Kind, Wish, enroll_many, judged, plan_of, rekey, sort_out
from nixfleet.errors import Refused, Untrusted, UserError
from nixfleet.model.ids import Tags
from nixfleet.model.text import clean, counted, one_line
from nixfleet.model.typed import check_name, parse_tags
from nixfleet.model.views import EnrollView
from nixfleet.trust.words import tag_words

COMPARE: Final = (
    "Is this the key that 'nixfleet agent status' shows on the device, or 'ssh-keygen -lf' of its host key?"
)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the options say of the devices to let in."""

    wanted: tuple[Wanted, ...]
    hosts: KnownHosts | None
    host: str | None
    tags: Tags
    called: str | None
    replace: bool
    listed: bool
    """Whether there may be several: then one that cannot be let in does not keep the others out."""

    @property
    def compares(self) -> bool:
        """Tell whether a person has to compare a key."""
        return self.hosts is None and any(one.keys is None for one in self.wanted)


class _One(click.Command):
    """The command for devices, whose names stand where other commands have theirs."""

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Say the first NAME once: it is the command's own word."""
        return ["[NAME…]", *super().collect_usage_pieces(ctx)[:-1]]


@click.command("NAME", cls=_One, hidden=True)
@click.argument("names", nargs=-1, metavar="NAME…")
@click.option(
    "--key", "shown", metavar="KEY|FILE.pub|SHA256:…", help="The device's key or fingerprint, which you compared."
)
@click.option(
    "--from-known-hosts",
    "known_hosts",
    is_flag=False,
    flag_value="",
    metavar="[FILE]",
    help="Let it in if it shows the key that ssh knows of the host NAME; FILE is by default ssh's own.",
)
@click.option("--host", metavar="HOST[:PORT]", help="What ssh knows the device as, where that is not NAME.")
@click.option(
    "--all-from",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Let in the devices of a list, one a line: NAME SHA256:… [KEY=VALUE…].",
)
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="A tag for it; repeatable.")
@click.option("--as", "called", metavar="NAME", help="Enrol it under another name than it asks for.")
@click.option("--replace", is_flag=True, help="Move the name from the device that has it to this one.")
@command_without_key
async def admit(given: Globals, /, tags: tuple[str, ...], **options: Any) -> int | None:
    """Let in devices that ask under NAME; a key to sign with is said before: nixfleet --key FILE enroll NAME."""
    choice = _choice(parse_tags(tags), **options)
    async with connected(given, catch_up=True) as fleet:
        requests = await fleet.client.enroll_requests()
        if choice.listed:
            return await _many(given, fleet, choice, requests)
        request = _picked(choice, requests, choice.wanted[0], fleet)
        if judged(request, fleet.state).kind is Kind.KEY:
            await _rekey(given, fleet, choice, request)
        else:
            await _one(given, fleet, choice, request)
    return None


def _choice(
    tags: Tags,
    *,
    names: Sequence[str],
    shown: str | None,
    known_hosts: str | None,
    host: str | None,
    all_from: Path | None,
    called: str | None,
    replace: bool,
) -> Choice:
    """Read what was asked for. Raises: UserError for options that contradict each other."""
    wanted = tuple(Wanted(name) for name in dict.fromkeys(names))
    if all_from is not None:
        if wanted:
            raise UserError("say names, or a list with --all-from, not both")
        wanted = tuple(read_list(all_from))
    if not wanted:
        raise UserError("no device is named; say NAME before the options, or --all-from FILE")
    listed = all_from is not None or len(wanted) > 1
    if listed and (shown or host or called):
        raise UserError("--key, --host and --as are for one device; a list has a key on each line (--all-from)")
    if host and known_hosts is None:
        raise UserError("--host says what ssh knows the device as: it goes with --from-known-hosts")
    if shown and known_hosts is not None:
        raise UserError("say --key, which you compared, or --from-known-hosts, not both")
    if called:
        check_name(called, "device")
    if shown:
        wanted = (Wanted(wanted[0].name, frozenset({key_of(shown)})),)
    return Choice(
        wanted=wanted,
        hosts=KnownHosts(known_hosts) if known_hosts is not None else None,
        host=host,
        tags=tags,
        called=called,
        replace=replace,
        listed=listed,
    )


def _picked(choice: Choice, requests: Sequence[EnrollView], wanted: Wanted, fleet: Fleet) -> EnrollView:
    """Find the request of a wanted device that shows a known key. Raises: UserError, Untrusted."""
    if choice.hosts is None or wanted.keys is not None:
        return pick(requests, wanted, fleet.context.fleet)
    # The host is who the admin says, never what the device says of itself.
    keys = choice.hosts.keys_of(choice.host or wanted.name)
    source = f"ssh, for {choice.host or wanted.name},"
    return pick(requests, Wanted(wanted.name, keys), fleet.context.fleet, source)


async def _one(given: Globals, fleet: Fleet, choice: Choice, request: EnrollView) -> None:
    signed = {**request.tags, **choice.tags}
    told, name = tag_words(signed) or "no tags", choice.called or request.name
    if choice.compares:
        shows = f"{request.name} {_seen(request)}shows the key {request.fingerprint}; it gets {told}"
        click.echo(clean(shows), err=True)
        confirm(given, COMPARE)
    acted = await fleet.admin.enroll(request, name=name, tags=signed, replace=choice.replace, note=given.note)
    output.done(
        {**_record(request, name, acted), "tags": signed, "rekeyed": False},
        f"{name} is enrolled with {told}{awaited([acted])}",
        json=given.json,
        quiet=given.quiet,
    )


async def _rekey(given: Globals, fleet: Fleet, choice: Choice, request: EnrollView) -> None:
    """Give an enrolled device the key that it now shows, in so many words."""
    known = fleet.state.devices[request.device]
    name = known.statement.name
    if name != request.name:
        # Its key is that of the machine that was asked for, and its id another one's: it would take that one's place.
        raise Refused(
            f"who asks as {request.name} says that it is {name}, which it would replace: if {name} is to have the key"
            f" {request.fingerprint}, 'nixfleet device rekey {name} --key KEY'; else 'nixfleet enroll drop"
            f" {request.name}'"
        )
    if choice.tags or choice.called or choice.replace:
        raise UserError(
            f"{name} is enrolled already, and asks for another key; --tag, --as and --replace are for new devices:"
            f" leave them out, or 'nixfleet device tag {name} …'"
        )
    if choice.compares:
        click.echo(
            clean(
                f"who asks as {request.name} says that it is {name}, which is enrolled with the key {known.key},"
                f" and shows the key {request.fingerprint}: with that key it gets what {name} gets, and the old one"
                " is worth nothing"
            ),
            err=True,
        )
        confirm(given, COMPARE)
    acted = await rekey(fleet.admin, request.device, request.key, note=given.note)
    output.done(
        {**_record(request, name, acted), "tags": known.statement.tags, "rekeyed": True},
        f"{name} has the key {request.fingerprint}{awaited([acted]) or '; the old one is worth nothing'}",
        json=given.json,
        quiet=given.quiet,
    )


def _seen(request: EnrollView) -> str:
    """Say in brackets what a device tells of itself, for a person who compares: its word, not a proof."""
    facts = request.facts
    told = [facts.model, facts.architecture, *facts.addresses[:2]] if facts is not None else []
    return one_line(f"({', '.join(word for word in told if word)}) ", 200) + " " if any(told) else ""


def _record(request: EnrollView, name: str, acted: Acted) -> dict[str, object]:
    return {
        "name": name,
        "device": request.device,
        "key": request.fingerprint,
        "index": acted.index,
        "waits": acted.waits,
    }


async def _many(given: Globals, fleet: Fleet, choice: Choice, requests: Sequence[EnrollView]) -> int:
    """Let in all that can be, with one touch where that may be; say of the others why not."""
    wishes, left = [], []
    for wanted in choice.wanted:
        try:
            request = _picked(choice, requests, wanted, fleet)
        except (UserError, Untrusted) as error:
            left.append((wanted.name, _already(fleet, wanted) or str(error)))
        else:
            tags = {**request.tags, **choice.tags, **wanted.tags}
            wishes.append(Wish(request, tags=tags, replace=choice.replace))
    found = sort_out(fleet.state, wishes)
    left += [(wish.called, fault) for wish, fault in found.bad]
    acted: Sequence[Acted] = ()
    if found.good:
        _ask(given, fleet, choice, found.good)
        meter = output.Meter("enroll", quiet=given.quiet or given.json)
        acted = await enroll_many(
            fleet.admin,
            found.good,
            note=given.note,
            told=lambda count: meter.show(f"{counted(count, 'act')} in the log"),
        )
        meter.clear()
    _tell(given, found.good, acted, left)
    return 1 if left else 0


def _already(fleet: Fleet, wanted: Wanted) -> str:
    """Say that a device of a list was let in before: a list that was cut short can be given again."""
    for device in fleet.state.named(wanted.name):
        if wanted.keys is None or fleet.state.devices[device].key in wanted.keys:
            return f"{wanted.name} is enrolled already"
    return ""


def _ask(given: Globals, fleet: Fleet, choice: Choice, wishes: Sequence[Wish]) -> None:
    """Show whom it is about and how often the key is asked for; ask where nobody has compared keys yet."""
    plan = plan_of(fleet.admin, wishes)
    if plan.why_alone:
        click.echo(f"your key signs {plan.touches} times: {plan.why_alone}", err=True)
    unseen = [wish for wish in wishes if choice.hosts is None and _wanted(choice, wish).keys is None]
    if unseen:
        for wish in unseen:
            click.echo(clean(f"{wish.called}  {wish.request.fingerprint}  {_seen(wish.request)}"), err=True)
        confirm(given, f"Are these {len(unseen)} the keys that the devices themselves show?")


def _wanted(choice: Choice, wish: Wish) -> Wanted:
    return next(one for one in choice.wanted if one.name == wish.request.name)


def _tell(given: Globals, wishes: Sequence[Wish], acted: Sequence[Acted], left: Sequence[tuple[str, str]]) -> None:
    if given.json:
        made = [
            {**_record(wish.request, wish.called, one), "tags": wish.tagged}
            for wish, one in zip(wishes, acted, strict=True)
        ]
        output.as_json({"devices": made, "left": [{"name": name, "why": why} for name, why in left]})
        return
    if wishes and not given.quiet:
        click.echo(f"{counted(len(wishes), 'device')} enrolled{awaited(acted)}", err=True)
    for name, why in left:
        click.echo(one_line(f"not {name}: {why}"), err=True)
