"""The options that shape a rollout; what they mean is `nixfleet.rollout.asking`'s, which the console reads by, too."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar, cast

import click

from nixfleet.cli.clock import now
from nixfleet.cli.options import Count
from nixfleet.rollout.asking import CHOICES, MOST_IN_FLIGHT, UNSAID, read_order

C = TypeVar("C", bound=Callable[..., Any])
Option = Callable[[Any], Any]
OPTIONS: Final[dict[str, tuple[Option, ...]]] = {
    "Whom": (
        click.option("--on", "on", multiple=True, metavar="NAME|KEY=VALUE[,…]", help="Only these devices; repeatable."),
    ),
    "Pace": (
        click.option(
            "--wave",
            "wave",
            multiple=True,
            metavar="N|N%|KEY=VALUE",
            help="The waves in order: a count, a share, or tags ('env=test site=oslo,rome'); with ':signed' behind it"
            " the wave opens by 'rollout advance'.",
        ),
        click.option("--all-at-once", is_flag=True, help="One wave, no soak, no limit in flight."),
        click.option("--soak", metavar="10m", help="How long a wave must stay healthy before the next."),
        click.option("--max-in-flight", type=Count(1, MOST_IN_FLIGHT), metavar="N", help="How many update at once."),
        click.option("--stop-at", metavar="N|N%", help="How many failures halt it."),
        click.option(
            "--stop-at-least",
            type=Count(1, MOST_IN_FLIGHT),
            metavar="N",
            help="With a share in --stop-at: never fewer.",
        ),
    ),
    "When": (
        click.option(
            "--window",
            metavar="'[DAYS] FROM-TO [ZONE]'",
            help="When devices may switch: 'mon-fri 22:00-05:00 Europe/Berlin'; each device's own zone unless said.",
        ),
        click.option("--not-before", metavar="DATE|2h", help="Start nobody before a date, or so long from now."),
        click.option("--not-after", metavar="DATE|7d", help="Start nobody after it; a year from now unless said."),
        click.option("--prefetch", is_flag=True, help="Let devices download before their wave and window."),
    ),
    "On the device": (
        click.option(
            "--mode",
            type=click.Choice(CHOICES["mode"]),
            default=UNSAID["mode"],
            show_default=True,
            help="Switch at once, with the next boot, or try it and go back.",
        ),
        click.option(
            "--for", "test_for", metavar="30m", help="With --mode test: how long it is tried; 30m unless said."
        ),
        click.option(
            "--reboot",
            type=click.Choice(CHOICES["reboot"]),
            default=UNSAID["reboot"],
            show_default=True,
            help="Whether devices that need a reboot may make one.",
        ),
        click.option(
            "--accept-no-fallback",
            is_flag=True,
            help="Also where a boot that fails cannot fall back by itself.",
        ),
        click.option(
            "--confirm",
            "confirm_within",
            default=UNSAID["confirm_within"],
            metavar="2m",
            show_default=True,
            help="Go back after so long.",
        ),
        click.option(
            "--contact",
            type=click.Choice(CHOICES["contact"]),
            default=UNSAID["contact"],
            show_default=True,
            help="Whom the new system must reach to be kept.",
        ),
        click.option(
            "--device-timeout",
            default=UNSAID["device_timeout"],
            metavar="1h",
            show_default=True,
            help="When a device counts as overdue.",
        ),
    ),
}
"""By what they are about, as ``--help`` shows them."""


class Shaped(click.Command):
    """A command whose help shows a rollout's options by what they are about."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options, then a section for each subject."""
        options = [one for one in self.get_params(ctx) if isinstance(one, click.Option)]
        records = {one.name or "": record for one in options if (record := one.get_help_record(ctx))}
        groups = {subject: _subject(options) for subject, options in OPTIONS.items()}
        shaped = {name for names in groups.values() for name in names}
        with formatter.section("Options"):
            formatter.write_dl([record for name, record in records.items() if name not in shaped])
        for subject, names in groups.items():
            with formatter.section(subject):
                formatter.write_dl([records[name] for name in names if name in records])


def _subject(options: Sequence[Option]) -> list[str]:
    """Name the parameters of some options."""

    def nothing() -> None:
        """Carry options."""

    for option in reversed(options):
        option(nothing)
    made: list[click.Option] = getattr(nothing, "__click_params__", [])
    return [one.name or "" for one in reversed(made)]


def plan_options(function: C) -> C:
    """Give a command the options of a rollout, read into its argument `plan`."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        plan = read_order({name: kwargs.pop(name) for name in UNSAID}, now())
        return function(*args, **kwargs, plan=plan)

    decorated: Any = run
    for option in reversed([option for options in OPTIONS.values() for option in options]):
        decorated = option(decorated)
    return cast("C", decorated)
