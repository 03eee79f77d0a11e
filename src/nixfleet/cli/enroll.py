"""``nixfleet enroll``: bring devices into the fleet, by token or by comparing a fingerprint."""

import click

from nixfleet.cli import output
from nixfleet.cli.addresses import is_loopback
from nixfleet.cli.options import Globals, command, confirm
from nixfleet.cli.session import connected, now
from nixfleet.cli.words import parse_tags
from nixfleet.errors import UserError
from nixfleet.model.views import EnrollView

COMMANDS = ("list", "token")


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
        rows = [(name, self.commands[name].get_short_help_str()) for name in (*COMMANDS, "NAME")]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


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
        "no device asks; one does when its agent.toml names this fleet",
    )


@enroll.command("token")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="A tag that joining devices get; repeatable.")
@click.option("--uses", type=click.IntRange(1, 1_000_000), default=1, show_default=True, help="How many may join.")
@click.option("--days", type=click.IntRange(1, 366), default=7, show_default=True, help="How long it is good for.")
@command
async def token(given: Globals, tags: tuple[str, ...], uses: int, days: int) -> None:
    """Make a join token, on standard output alone: a secret that enrols devices under these tags."""
    chosen = parse_tags(tags)
    async with connected(given) as fleet:
        made = await fleet.admin.make_token(chosen, uses, days, note=given.note)
        root = fleet.mirror.state.root
    urls = root.urls if root is not None else ()
    if given.json:
        output.as_json({"token": made})
        return
    click.echo(made)
    if all(is_loopback(url) for url in urls) and not given.quiet:
        click.echo(f"only this machine can join: the fleet's address is {' '.join(urls)}", err=True)


@enroll.command("NAME", hidden=True)
@click.argument("name")
@click.option("--key", "shown", metavar="KEY|SHA256:…", help="The device's key or fingerprint, which you compared.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="A tag for it; repeatable.")
@click.option("--replace", is_flag=True, help="Move the name from the device that has it to this one.")
@command
async def one(given: Globals, name: str, shown: str | None, tags: tuple[str, ...], replace: bool) -> None:
    """Enrol the device that asks under NAME."""
    chosen = parse_tags(tags)
    async with connected(given) as fleet:
        request = _pick(await fleet.client.enroll_requests(), name, shown)
        if shown is None:
            click.echo(f"{request.name} shows the key {request.fingerprint}", err=True)
            confirm(given, "Is this what the device itself shows (nixfleet agent status)?")
        await fleet.admin.enroll(request, tags={**request.tags, **chosen}, replace=replace, note=given.note)
    if not given.quiet:
        click.echo(f"{request.name} is enrolled", err=True)


def _pick(requests: tuple[EnrollView, ...], name: str, key: str | None) -> EnrollView:
    """Choose the request of this name, and of this key when one is given. Raises: UserError."""
    named = [request for request in requests if request.name == name]
    if key is not None:
        wanted = " ".join(key.split()[:2])
        named = [request for request in named if wanted in {request.fingerprint, request.key}]
    if not named:
        with_key = " with that key" if key else ""
        raise UserError(f"no device asks under the name {name!r}{with_key}; see 'nixfleet enroll list'")
    if len(named) > 1:
        raise UserError(f"{len(named)} devices ask under the name {name!r}; say which with --key SHA256:…")
    return named[0]
