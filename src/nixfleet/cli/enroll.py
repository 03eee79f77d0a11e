"""``nixfleet enroll``: bring devices into the fleet, by token or by comparing a fingerprint."""

from dataclasses import asdict
from typing import Final

import click
import msgspec

from nixfleet.cli import output
from nixfleet.cli.addresses import is_loopback
from nixfleet.cli.admit import admit
from nixfleet.cli.asking import Wanted, key_of, pick
from nixfleet.cli.options import Count, Globals, command, command_without_key, write_commands
from nixfleet.cli.session import connected, now
from nixfleet.client.enrolling import judged, live_tokens
from nixfleet.model.statements import Grant
from nixfleet.model.text import utc
from nixfleet.model.typed import parse_tags
from nixfleet.trust import token as tokens
from nixfleet.trust.replay import State
from nixfleet.trust.replay.state import Pending
from nixfleet.trust.sshsig import SecretKey
from nixfleet.trust.words import select_words

COMMANDS: Final = ("list", "token", "drop")


class _ByName(click.Group):
    """``enroll list`` and its like are commands; any other word is the NAME of a device that asks, or its option."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Take a word that is no command as the beginning of what the hidden command takes that lets devices in."""
        if args and args[0] not in COMMANDS:
            return "NAME", self.commands["NAME"], args
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 (click's signature)
        """Show the command that lets devices in as it is typed."""
        write_commands(formatter, [(name, self.commands[name]) for name in (*COMMANDS, "NAME")])


@click.group(cls=_ByName, context_settings={"ignore_unknown_options": True})
def enroll() -> None:
    """Bring devices into the fleet."""


@enroll.command("list")
@command
async def list_requests(given: Globals) -> None:
    """List the devices that ask to be enrolled and why, and the join tokens that still let some in."""
    async with connected(given, catch_up=True) as fleet:
        requests = sorted(await fleet.client.enroll_requests(), key=lambda request: request.name)
        asked = [judged(request, fleet.state) for request in requests]
        tokens = live_tokens(fleet.state, now())
    if given.json:
        shown = [
            {**msgspec.to_builtins(request), "asks": str(one.kind), "words": one.words, "command": one.command}
            for request, one in zip(requests, asked, strict=True)
        ]
        output.as_json({"requests": shown, "tokens": [asdict(one) for one in tokens]})
        return
    time = now()
    output.table(
        ("NAME", "FINGERPRINT", "ASKED", "HARDWARE", "WHY"),
        [
            (
                request.name,
                request.fingerprint,
                output.age(request.asked_at, time),
                (request.facts.model or request.facts.architecture) if request.facts else "",
                f"{one.words}: {one.command}" if one.command else one.words,
            )
            for request, one in zip(requests, asked, strict=True)
        ],
        "no device asks; one does when its agent.toml has the lines that 'nixfleet context show' gives",
    )
    if tokens:
        click.echo()
        output.table(
            ("TOKEN", "TAGS", "LEFT", "ENDS", "NOTE"),
            [
                (
                    one.id,
                    select_words(one.tags) if one.tags else "no tags",
                    f"{one.left} of {one.uses}",
                    utc(one.ends_at),
                    one.note,
                )
                for one in tokens
            ],
            "",
        )


@enroll.command("token")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="A tag that joining devices get; repeatable.")
@click.option("--uses", type=Count(1, 1_000_000), default=1, show_default=True, help="How many may join.")
@click.option("--days", type=Count(1, 366), default=7, show_default=True, help="How long it is good for.")
@command
async def token(given: Globals, tags: tuple[str, ...], uses: int, days: int) -> None:
    """Make a join token, on standard output alone: a secret that enrols devices under these tags."""
    chosen = parse_tags(tags)
    async with connected(given) as fleet:
        made = await fleet.admin.make_token(chosen, uses, days, note=given.note)
        root, held = fleet.state.root, _held(fleet.state, made)
    urls = root.urls if root is not None else ()
    if given.json:
        output.as_json({"token": made, "waits": "" if held is None else held.waits})
    else:
        click.echo(made)
    if held is not None and held.digest is not None and not given.quiet:
        click.echo(f"it lets nobody join yet: {held.waits}; they run: nixfleet approve {held.digest[:12]}", err=True)
    if all(is_loopback(url) for url in urls) and not given.quiet:
        click.echo(f"only this machine can join: the fleet's address is {' '.join(urls)}", err=True)


def _held(state: State, made: str) -> Pending | None:
    """Find the token's grant among what waits for signatures, None when it is in force."""
    public = SecretKey.from_seed(bytes.fromhex(tokens.read(made).seed)).public.text
    return next(
        (
            one
            for waiting in state.pending.values()
            for one in waiting
            if isinstance(one.statement, Grant) and public in one.statement.to.keys
        ),
        None,
    )


@enroll.command("drop")
@click.argument("name")
@click.option(
    "--key", "shown", metavar="KEY|FILE.pub|SHA256:…", help="Of several that ask under NAME, the one with this key."
)
@command_without_key
async def drop(given: Globals, name: str, shown: str | None) -> None:
    """Drop the request of the device that asks under NAME; it may ask again."""
    wanted = Wanted(name, frozenset({key_of(shown)}) if shown else None)
    async with connected(given) as fleet:
        request = pick(await fleet.client.enroll_requests(), wanted, fleet.context.fleet)
        await fleet.client.forget_request(request.device)
    output.done(
        {"name": request.name, "device": request.device, "key": request.fingerprint},
        f"the request of {request.name} is dropped",
        json=given.json,
        quiet=given.quiet,
    )


enroll.add_command(admit, "NAME")
