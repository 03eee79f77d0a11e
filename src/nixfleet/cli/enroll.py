"""``nixfleet enroll``: bring devices into the fleet, by token or by comparing a fingerprint."""

from typing import Final

import click

from nixfleet.cli import output
from nixfleet.cli.addresses import is_loopback
from nixfleet.cli.options import Count, Globals, command, command_without_key, confirm, write_commands
from nixfleet.cli.session import connected, now
from nixfleet.cli.words import parse_tags
from nixfleet.client.checks import check_request
from nixfleet.errors import UserError
from nixfleet.model.text import clean
from nixfleet.model.views import EnrollView
from nixfleet.trust.words import tag_words

COMMANDS: Final = ("list", "token")


class _ByName(click.Group):
    """``enroll list`` and ``enroll token`` are commands; any other word is the NAME of a device that asks."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Take a word that is no command as the argument of the hidden command that enrols one device."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            return "NAME", self.commands["NAME"], args
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 (click's signature)
        """Show the command for one device as it is typed."""
        write_commands(formatter, [(name, self.commands[name]) for name in (*COMMANDS, "NAME")])


class _One(click.Command):
    """The command for one device, whose name stands where other commands have theirs."""

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Say NAME once: it is the command's own word."""
        return super().collect_usage_pieces(ctx)[:-1]


@click.group(cls=_ByName)
def enroll() -> None:
    """Bring devices into the fleet."""


@enroll.command("list")
@command
async def list_requests(given: Globals) -> None:
    """List the devices that ask to be enrolled."""
    async with connected(given) as fleet:
        requests = sorted(await fleet.client.enroll_requests(), key=lambda request: request.name)
    if given.json:
        output.as_json({"requests": requests})
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
                request.reason,
            )
            for request in requests
        ],
        "no device asks; one does when its agent.toml has the lines that 'nixfleet context show' gives",
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
        root = fleet.state.root
    urls = root.urls if root is not None else ()
    if given.json:
        output.as_json({"token": made})
    else:
        click.echo(made)
    if all(is_loopback(url) for url in urls) and not given.quiet:
        click.echo(f"only this machine can join: the fleet's address is {' '.join(urls)}", err=True)


@enroll.command("NAME", cls=_One, hidden=True)
@click.argument("name")
@click.option("--key", "shown", metavar="KEY|SHA256:…", help="The device's key or fingerprint, which you compared.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="A tag for it; repeatable.")
@click.option("--replace", is_flag=True, help="Move the name from the device that has it to this one.")
@command_without_key
async def one(given: Globals, name: str, shown: str | None, tags: tuple[str, ...], replace: bool) -> None:
    """Enrol the device that asks under NAME; a key to sign with is said before: nixfleet --key FILE enroll NAME."""
    chosen = parse_tags(tags)
    async with connected(given) as fleet:
        request = _pick(await fleet.client.enroll_requests(), name, shown)
        signed = {**request.tags, **chosen}
        told = tag_words(signed) or "no tags"
        if shown is None:
            click.echo(clean(f"{request.name} shows the key {request.fingerprint}; it gets {told}"), err=True)
            confirm(given, "Is this the key that the device itself logs, or 'ssh-keygen -lf' shows of its host key?")
        acted = await fleet.admin.enroll(request, tags=signed, replace=replace, note=given.note)
    output.done(
        {
            "name": request.name,
            "device": request.device,
            "key": request.fingerprint,
            "tags": signed,
            "index": acted.index,
            "waits": acted.waits,
        },
        f"{request.name} is enrolled with {told}" + (f", once {acted.waits}" if acted.waits else ""),
        json=given.json,
        quiet=given.quiet,
    )


def _pick(requests: tuple[EnrollView, ...], name: str, key: str | None) -> EnrollView:
    """Choose the request of this name, and of this key when one is given. Raises: UserError."""
    named = [request for request in requests if request.name == name]
    for request in named:
        check_request(request)
    if key is not None:
        wanted = " ".join(key.split()[:2])
        named = [request for request in named if wanted in {request.fingerprint, request.key}]
    if not named:
        with_key = " with that key" if key else ""
        raise UserError(f"no device asks under the name {name!r}{with_key}; see 'nixfleet enroll list'")
    if len(named) > 1:
        raise UserError(f"{len(named)} devices ask under the name {name!r}; say which with --key SHA256:…")
    return named[0]
