"""The options that shape a rollout, the defaults nobody regrets, and whom it would not reach."""

import functools
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import click

from nixfleet.cli.options import Count, Globals
from nixfleet.cli.session import Fleet, now
from nixfleet.cli.words import parse_tags
from nixfleet.client.acts import RolloutWishes, rollout_of
from nixfleet.client.reaching import unreached, unreached_words
from nixfleet.errors import UserError
from nixfleet.model.statements import StopAt, Wave
from nixfleet.model.typed import parse_duration

MIN_TIMEOUT_S: Final = 10
_NOT_YET: Final = "0" * 64
"""Stands for a release that is about to be made."""

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
    click.option("--max-in-flight", type=Count(1, 1_000_000), metavar="N", help="How many update at once."),
    click.option("--stop-at", metavar="N|N%", help="How many failures halt it."),
    click.option(
        "--device-timeout", default="1h", metavar="1h", show_default=True, help="When a device counts as overdue."
    ),
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
        device_timeout_s=_timeout(device_timeout),
    )


def _timeout(text: str) -> int:
    seconds = parse_duration(text)
    if seconds < MIN_TIMEOUT_S:
        raise UserError(f"--device-timeout {text} is too short for any device; give it at least {MIN_TIMEOUT_S}s")
    return seconds


def _members(text: str) -> int | str:
    found = re.fullmatch(r"([0-9]{1,7})(%?)", text)
    if not found or not 0 < int(found[1]) <= (100 if found[2] else 1_000_000):
        raise UserError(f"{text!r} is no number of devices; write a count like 5 or a share like 10%")
    return f"{int(found[1])}%" if found[2] else int(found[1])


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


def check_reach(
    given: Globals, fleet: Fleet, plan: Plan, members: Collection[str] | None, release: str | None = None
) -> None:
    """Say, before anything is sent or signed, which of these devices it would not reach for lack of a right.

    None is every device that the plan selects. Without `release` the signer publishes one first.
    Raises: Refused when it would reach nobody.
    """
    made = rollout_of(fleet.admin.head(given.note), fleet.state, wishes(plan), release=release or _NOT_YET)
    told = unreached_words(fleet.state, unreached(fleet.state, made, now(), members))
    if told and not given.quiet:
        click.echo(f"! {told}", err=True)
