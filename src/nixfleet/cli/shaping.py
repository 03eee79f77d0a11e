"""The options that shape a rollout, read into a `Plan`; each error names the option's value and how to write it."""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar, cast

import click

from nixfleet.cli.clock import now
from nixfleet.cli.options import Count
from nixfleet.cli.words import parse_date, parse_select, parse_tags
from nixfleet.client.acts import RolloutWishes
from nixfleet.errors import UserError
from nixfleet.model.statements import Activation, StopAt, Wave, Window
from nixfleet.model.typed import parse_duration
from nixfleet.rollout.windows import zone_of

MIN_TIMEOUT_S: Final = 10
_CONFIRM_S: Final = range(5, 86_401)
_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIMES: Final = re.compile(r"(([01]?[0-9]|2[0-3]):[0-5][0-9])-(([01]?[0-9]|2[0-3]):[0-5][0-9])")
_SIGNED: Final = ":signed"

_ACTIVATION: Final = Activation()

C = TypeVar("C", bound=Callable[..., Any])
Contact = Literal["coordinator", "any", "none"]
Mode = Literal["auto", "boot"]
Reboot = Literal["never", "in_window", "now"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the options say; None is the default for the number of devices (rollouts-and-agent.md)."""

    names: frozenset[str]
    tags: dict[str, str]
    waves: tuple[Wave, ...] | None
    all_at_once: bool
    soak_s: int | None
    max_in_flight: int | None
    stop_at: StopAt | None
    device_timeout_s: int
    window: Window | None = None
    mode: Mode = "auto"
    reboot: Reboot = "never"
    activation: Activation = _ACTIVATION
    prefetch: bool = False
    not_before_s: int = 0
    not_after_s: int | None = None
    accept_no_fallback: bool = False


Option = Callable[[Any], Any]
OPTIONS: Final[dict[str, tuple[Option, ...]]] = {
    "Whom": (
        click.option("--on", "on", multiple=True, metavar="NAME|KEY=VALUE", help="Only these devices; repeatable."),
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
        click.option("--max-in-flight", type=Count(1, 1_000_000), metavar="N", help="How many update at once."),
        click.option("--stop-at", metavar="N|N%", help="How many failures halt it."),
        click.option(
            "--stop-at-least", type=Count(1, 1_000_000), metavar="N", help="With a share in --stop-at: never fewer."
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
            type=click.Choice(["auto", "boot"]),
            default="auto",
            show_default=True,
            help="Switch at once, or with the next boot.",
        ),
        click.option(
            "--reboot",
            type=click.Choice(["never", "in-window", "now"]),
            default="never",
            show_default=True,
            help="Whether devices that need a reboot may make one.",
        ),
        click.option(
            "--accept-no-fallback",
            is_flag=True,
            help="Also where a boot that fails cannot fall back by itself.",
        ),
        click.option(
            "--confirm", "confirm_within", default="2m", metavar="2m", show_default=True, help="Go back after so long."
        ),
        click.option(
            "--contact",
            type=click.Choice(["coordinator", "any", "none"]),
            default="coordinator",
            show_default=True,
            help="Whom the new system must reach to be kept.",
        ),
        click.option(
            "--device-timeout", default="1h", metavar="1h", show_default=True, help="When a device counts as overdue."
        ),
    ),
}
"""By what they are about, as ``--help`` shows them."""
UNSAID: Final[dict[str, Any]] = {
    "on": (),
    "wave": (),
    "all_at_once": False,
    "soak": None,
    "max_in_flight": None,
    "stop_at": None,
    "stop_at_least": None,
    "window": None,
    "not_before": None,
    "not_after": None,
    "prefetch": False,
    "mode": "auto",
    "reboot": "never",
    "accept_no_fallback": False,
    "confirm_within": "2m",
    "contact": "coordinator",
    "device_timeout": "1h",
}
"""What each option is when nothing is said of it."""


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
        plan = read_plan({name: kwargs.pop(name) for name in UNSAID})
        return function(*args, **kwargs, plan=plan)

    decorated: Any = run
    for option in reversed([option for options in OPTIONS.values() for option in options]):
        decorated = option(decorated)
    return cast("C", decorated)


def read_plan(said: dict[str, Any]) -> Plan:
    """Read the options of a rollout, by their names. Raises: UserError that names the option's value."""
    if said["all_at_once"] and said["wave"]:
        raise UserError("--all-at-once and --wave exclude each other")
    window = None if said["window"] is None else parse_window(said["window"])
    reboot = cast("Reboot", said["reboot"].replace("-", "_"))
    if reboot == "in_window" and window is None:
        raise UserError("--reboot in-window needs a --window")
    not_before_s = 0 if said["not_before"] is None else parse_when(said["not_before"])
    not_after_s = None if said["not_after"] is None else parse_when(said["not_after"])
    if not_after_s is not None and not_after_s <= max(now(), not_before_s):
        raise UserError(f"--not-after {said['not_after']} is over before it could begin")
    return Plan(
        names=frozenset(text for text in said["on"] if "=" not in text),
        tags=parse_tags(text for text in said["on"] if "=" in text),
        waves=tuple(map(parse_wave, said["wave"])) or None,
        all_at_once=said["all_at_once"],
        soak_s=None if said["soak"] is None else parse_duration(said["soak"]),
        max_in_flight=said["max_in_flight"],
        stop_at=parse_stop(said["stop_at"], said["stop_at_least"]),
        device_timeout_s=_at_least(said["device_timeout"]),
        window=window,
        mode=said["mode"],
        reboot=reboot,
        activation=Activation(confirm_s=parse_confirm(said["confirm_within"]), contact=said["contact"]),
        prefetch=said["prefetch"],
        not_before_s=not_before_s,
        not_after_s=not_after_s,
        accept_no_fallback=said["accept_no_fallback"],
    )


def _at_least(text: str) -> int:
    seconds = parse_duration(text)
    if seconds < MIN_TIMEOUT_S:
        raise UserError(f"--device-timeout {text} is too short for any device; give it at least {MIN_TIMEOUT_S}s")
    return seconds


def parse_confirm(text: str) -> int:
    """Read how long a device may take to confirm. Raises: UserError."""
    seconds = parse_duration(text)
    if seconds not in _CONFIRM_S:
        raise UserError(f"--confirm {text} is out of bounds; give it between 5s and 1d")
    return seconds


def parse_wave(text: str) -> Wave:
    """Read a wave: ``5``, ``10%`` or ``env=test site=oslo,rome``, with ``:signed`` behind it or not."""
    members = text.removesuffix(_SIGNED)
    return Wave(
        members=parse_select(members.split()) if "=" in members else parse_members(members),
        gate="auto" if members == text else "signed",
    )


def parse_members(text: str) -> int | str:
    """Read a count like ``5`` or a share like ``10%``. Raises: UserError."""
    found = re.fullmatch(r"([0-9]{1,7})(%?)", text, re.ASCII)
    if not found or not 0 < int(found[1]) <= (100 if found[2] else 1_000_000):
        raise UserError(f"{text!r} is no number of devices; write a count like 5 or a share like 10%")
    return f"{int(found[1])}%" if found[2] else int(found[1])


def parse_stop(text: str | None, at_least: int | None) -> StopAt | None:
    """Read ``--stop-at`` and ``--stop-at-least``. Raises: UserError."""
    if text is None:
        if at_least is not None:
            raise UserError("--stop-at-least goes with a share, as in --stop-at 5% --stop-at-least 3")
        return None
    members = parse_members(text)
    if isinstance(members, int):
        if at_least is not None:
            raise UserError(f"--stop-at {text} is a number already; --stop-at-least goes with a share like 5%")
        return StopAt(count=members)
    return StopAt(percent=int(members.removesuffix("%")), at_least=at_least or 1)


def parse_when(text: str) -> int:
    """Read a date, or a duration from now, as unix seconds. Raises: UserError."""
    if re.fullmatch(r"[0-9]{1,8}[smhd]", text, re.ASCII):
        return now() + parse_duration(text)
    return parse_date(text)


def parse_window(text: str) -> Window:
    """Read ``[DAYS] FROM-TO [ZONE]``, as in ``mon-fri,sun 22:00-05:00 Europe/Berlin``. Raises: UserError."""
    words = text.split()
    times = next((place for place, word in enumerate(words) if _TIMES.fullmatch(word)), None)
    if times is None or times > 1 or len(words) > times + 2:
        raise UserError(f"{text!r} is no window; write it like 'mon-fri 22:00-05:00 Europe/Berlin' or '02:00-04:00'")
    found = _TIMES.fullmatch(words[times])
    assert found is not None
    zone = words[times + 1] if len(words) > times + 1 else "device"
    if zone != "device" and zone_of(zone) is None:
        raise UserError(f"{zone!r} is no time zone that is known here; write it like Europe/Berlin, UTC or device")
    days = parse_days(words[0]) if times else _DAYS
    return Window(days=cast("Any", days), from_=found[1].zfill(5), to=found[3].zfill(5), tz=zone)


def parse_days(text: str) -> tuple[str, ...]:
    """Read days of the week: ``mon-fri``, ``sat,sun``, ``fri-mon`` or ``daily``; in the week's order."""
    if text.lower() == "daily":
        return _DAYS
    chosen: set[str] = set()
    for part in text.lower().split(","):
        first, _, last = part.partition("-")
        if first not in _DAYS or (last or first) not in _DAYS:
            raise UserError(f"{text!r} are no days; write them like mon-fri, sat,sun or daily")
        begin, end = _DAYS.index(first), _DAYS.index(last or first)
        chosen.update(_DAYS[(begin + step) % 7] for step in range((end - begin) % 7 + 1))
    return tuple(day for day in _DAYS if day in chosen)


def wishes(plan: Plan) -> RolloutWishes:
    """Give what the options say; the rest is left to the defaults and the root's rules."""
    return RolloutWishes(
        select={tag: (value,) for tag, value in plan.tags.items()},
        waves=plan.waves,
        all_at_once=plan.all_at_once,
        max_in_flight=plan.max_in_flight,
        stop_at=plan.stop_at,
        soak_s=plan.soak_s,
        device_timeout_s=plan.device_timeout_s,
        window=plan.window,
        mode=plan.mode,
        reboot=plan.reboot,
        activation=plan.activation,
        prefetch=plan.prefetch,
        not_before=plan.not_before_s,
        not_after=plan.not_after_s,
    )
