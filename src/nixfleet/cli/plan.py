"""The options that shape a rollout, the defaults nobody regrets, and the preview before anything is signed."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from nixfleet.cli import output
from nixfleet.cli.session import Fleet, now
from nixfleet.cli.words import duration, parse_duration, parse_tags
from nixfleet.client.acts import SOAK_S, RolloutWishes
from nixfleet.errors import UserError
from nixfleet.model.statements import StopAt, Wave
from nixfleet.rollout import at_once, default_in_flight, default_waves

C = TypeVar("C", bound=Callable[..., Any])


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


OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--on", "on", multiple=True, metavar="NAME|KEY=VALUE", help="Only these devices; repeatable."),
    click.option("--wave", "wave", multiple=True, metavar="N|N%", help="The waves in order: a count or a share."),
    click.option("--all-at-once", is_flag=True, help="One wave, no soak, no limit in flight."),
    click.option("--soak", metavar="10m", help="How long a wave must stay healthy before the next."),
    click.option("--max-in-flight", type=click.IntRange(1), metavar="N", help="How many devices update at once."),
    click.option("--stop-at", metavar="N|N%", help="How many failures halt it."),
    click.option("--device-timeout", default="1h", show_default=True, help="When a device counts as overdue."),
)


def plan_options(function: C) -> C:
    """Give a command the options of a rollout, read into its argument `plan`."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        take = kwargs.pop
        plan = read_plan(
            take("on"), take("wave"), take("all_at_once"), take("soak"), take("max_in_flight"), take("stop_at"),
            take("device_timeout"),
        )  # fmt: skip
        return function(*args, **kwargs, plan=plan)

    decorated: Any = run
    for option in reversed(OPTIONS):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]  # click's decorators give back what they got


def read_plan(
    on: tuple[str, ...],
    wave: tuple[str, ...],
    all_at_once: bool,
    soak: str | None,
    max_in_flight: int | None,
    stop_at: str | None,
    device_timeout: str,
) -> Plan:
    """Read the options of a rollout. Raises: UserError that names the option's value."""
    if all_at_once and wave:
        raise UserError("--all-at-once and --wave exclude each other")
    return Plan(
        names=frozenset(text for text in on if "=" not in text),
        tags=parse_tags(text for text in on if "=" in text),
        waves=tuple(Wave(members=_members(text)) for text in wave) or None,
        all_at_once=all_at_once,
        soak_s=None if soak is None else parse_duration(soak),
        max_in_flight=max_in_flight,
        stop_at=None if stop_at is None else _stop_at(stop_at),
        device_timeout_s=max(10, parse_duration(device_timeout)),
    )


def _members(text: str) -> int | str:
    if text.removesuffix("%").isdecimal() and 0 < int(text.removesuffix("%")) <= (100 if text.endswith("%") else 10**6):
        return f"{int(text[:-1])}%" if text.endswith("%") else int(text)
    raise UserError(f"{text!r} is no wave; write a count like 5 or a share like 10%")


def _stop_at(text: str) -> StopAt:
    members = _members(text)
    return StopAt(count=members) if isinstance(members, int) else StopAt(percent=int(members[:-1]))


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
    )


async def preview(fleet: Fleet, targets: dict[str, str], plan: Plan) -> None:
    """Show what a rollout would do: each device with its change, who is offline, and the waves. Signs nothing."""
    views = {view.name: view for view in await fleet.client.devices()}
    time = now()
    rows = []
    for name, path in sorted(targets.items()):
        view = views.get(name)
        if view is None:
            raise UserError(f"no device is named {name!r}; see 'nixfleet device list'")
        change = (
            "up to date" if view.system == path else f"{output.system_name(view.system)} → {output.system_name(path)}"
        )
        rows.append((name, change, "online" if view.online else f"offline, seen {output.age(view.seen_at, time)}"))
    output.table(("DEVICE", "CHANGE", "LINK"), rows, "no device")
    count = len(targets)
    waves = plan.waves or (at_once() if plan.all_at_once else default_waves(count))
    in_flight = plan.max_in_flight or (count if plan.all_at_once else default_in_flight(count))
    soak_s = plan.soak_s if plan.soak_s is not None else 0 if plan.all_at_once else SOAK_S
    click.echo(
        f"{count} device{'s' if count > 1 else ''}; waves {', '.join(str(wave.members) for wave in waves)}; "
        f"at most {in_flight} in flight; soak {duration(soak_s)}"
    )
