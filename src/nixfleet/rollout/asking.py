"""What a person may say of a rollout, read from what they typed: command line and console share these rules.

It must know neither of them: a reader gives each option's text by its name in `UNSAID`, and a `Word` that says what the
option is called there, so that an error names it as the person knows it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from nixfleet.errors import UserError
from nixfleet.model.ids import Selector
from nixfleet.model.statements import Activation, StopAt, Wave, Window
from nixfleet.model.text import counted
from nixfleet.model.typed import parse_date, parse_duration, parse_select
from nixfleet.rollout.waves import DEFAULT_SOAK_S, at_once, default_in_flight, default_stop_at, default_waves
from nixfleet.rollout.windows import zone_of

MOST_IN_FLIGHT: Final = 1_000_000
WAVES_MAX: Final = 64
MIN_TIMEOUT_S: Final = 10
DEVICE_TIMEOUT_S: Final = 3_600
_CONFIRM_S: Final = range(5, 86_401)
_FOR_S: Final = range(60, 604_801)
_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIMES: Final = re.compile(r"(([01]?[0-9]|2[0-3]):[0-5][0-9])-(([01]?[0-9]|2[0-3]):[0-5][0-9])")
_SIGNED: Final = ":signed"
_ACTIVATION: Final = Activation()
_SHOWN: Final = 5
"""So many devices are named in an error."""

Contact = Literal["coordinator", "any", "none"]
Mode = Literal["auto", "boot", "test"]
Reboot = Literal["never", "in_window", "now"]
Word = Callable[[str], str]
"""An option's name in `UNSAID` → what it is called where it was typed."""

UNSAID: Final[Mapping[str, Any]] = {
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
    "test_for": None,
    "reboot": "never",
    "accept_no_fallback": False,
    "confirm_within": "2m",
    "contact": "coordinator",
    "device_timeout": "1h",
}
"""What each option is when nothing is said of it."""
CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "mode": ("auto", "boot", "test"),
    "reboot": ("never", "in-window", "now"),
    "contact": ("coordinator", "any", "none"),
}
"""Options that are one word of a few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutWishes:
    """What a person says of a rollout; None leaves it to the design's defaults and the root's rules."""

    select: Selector | None = None
    waves: Sequence[Wave] | None = None
    all_at_once: bool = False
    max_in_flight: int | None = None
    stop_at: StopAt | None = None
    soak_s: int | None = None
    device_timeout_s: int = DEVICE_TIMEOUT_S
    window: Window | None = None
    mode: Mode = "auto"
    reboot: Reboot = "never"
    activation: Activation = _ACTIVATION
    prefetch: bool = False
    not_before: int = 0
    not_after: int | None = None
    count: int | None = None
    """For how many devices the defaults are made; None counts those that the log tells of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Options that were read: the devices they name, what they wish, and whether a boot without a way back is fine."""

    names: frozenset[str] = frozenset()
    wishes: RolloutWishes = RolloutWishes()
    accept_no_fallback: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """How a rollout goes: its waves, how many devices at once, when it halts, how long a wave soaks (seconds)."""

    waves: tuple[Wave, ...]
    max_in_flight: int
    stop_at: StopAt
    soak_s: int


def filled_up(wishes: RolloutWishes, count: int, most_in_flight: int = MOST_IN_FLIGHT, least_soak_s: int = 0) -> Shape:
    """Fill up what a person wishes for `count` devices: the root's rules bind, the design's defaults do the rest."""
    in_flight = wishes.max_in_flight
    if in_flight is None:
        in_flight = min(most_in_flight, max(1, count) if wishes.all_at_once else default_in_flight(count))
    soak_s = wishes.soak_s
    if soak_s is None:
        soak_s = least_soak_s if wishes.all_at_once else max(least_soak_s, DEFAULT_SOAK_S)
    return Shape(
        waves=tuple(wishes.waves or (at_once() if wishes.all_at_once else default_waves(count))),
        max_in_flight=in_flight,
        stop_at=wishes.stop_at or default_stop_at(count),
        soak_s=soak_s,
    )


def flag(option: str) -> str:
    """Give what an option is called on the command line."""
    return "--" + {"confirm_within": "confirm", "test_for": "for"}.get(option, option).replace("_", "-")


def flags(said: Mapping[str, Any]) -> list[str]:
    """Write options as words of a command line that says the same; what is as `UNSAID` has it is left out."""
    words: list[str] = []
    for option, unsaid in UNSAID.items():
        value = said.get(option, unsaid)
        if value == unsaid:
            continue
        if value is True:
            words.append(flag(option))
        else:
            texts = value if isinstance(value, tuple) else (value,)
            words += [word for text in texts for word in (flag(option), str(text))]
    return words


def read_order(said: Mapping[str, Any], now: int, word: Word = flag) -> Order:
    """Read the options of a rollout by their names; `now` is unix seconds. Raises: UserError that names what is wrong.

    Counts are numbers, flags are booleans, what is repeatable is a tuple; everything else is text, or None.
    """
    if said["all_at_once"] and said["wave"]:
        raise UserError(f"{word('all_at_once')} and {word('wave')} exclude each other")
    if len(said["wave"]) > WAVES_MAX:
        raise UserError(f"{word('wave')}: a rollout has at most {WAVES_MAX} waves")
    window = None if said["window"] is None else parse_window(said["window"])
    reboot = cast("Reboot", said["reboot"].replace("-", "_"))
    if reboot == "in_window" and window is None:
        raise UserError(f"{word('reboot')} in-window needs a {word('window')}")
    for_s = _for(said, word)
    not_before = 0 if said["not_before"] is None else parse_when(said["not_before"], now)
    not_after = None if said["not_after"] is None else parse_when(said["not_after"], now)
    if not_after is not None and not_after <= max(now, not_before):
        raise UserError(f"{word('not_after')} {said['not_after']} is over before it could begin")
    return Order(
        names=frozenset(text for text in said["on"] if "=" not in text),
        wishes=RolloutWishes(
            select=parse_select(text for text in said["on"] if "=" in text),
            waves=tuple(map(parse_wave, said["wave"])) or None,
            all_at_once=said["all_at_once"],
            soak_s=None if said["soak"] is None else parse_duration(said["soak"]),
            max_in_flight=said["max_in_flight"],
            stop_at=parse_stop(said["stop_at"], said["stop_at_least"], word),
            device_timeout_s=_timeout(said["device_timeout"], word),
            window=window,
            mode=said["mode"],
            reboot=reboot,
            activation=Activation(
                confirm_s=_confirm(said["confirm_within"], word),
                contact=said["contact"],
                no_fallback=said["accept_no_fallback"],
                for_s=for_s,
            ),
            prefetch=said["prefetch"],
            not_before=not_before,
            not_after=not_after,
        ),
        accept_no_fallback=said["accept_no_fallback"],
    )


def _timeout(text: str, word: Word) -> int:
    seconds = parse_duration(text)
    if seconds < MIN_TIMEOUT_S:
        raise UserError(
            f"{word('device_timeout')} {text} is too short for any device; give it at least {MIN_TIMEOUT_S}s"
        )
    return seconds


def _confirm(text: str, word: Word) -> int:
    seconds = parse_duration(text)
    if seconds not in _CONFIRM_S:
        raise UserError(f"{word('confirm_within')} {text} is out of bounds; give it between 5s and 1d")
    return seconds


def _for(said: Mapping[str, Any], word: Word) -> int:
    """Read how long a system is tried, and check what a trial cannot be together with."""
    text = said["test_for"]
    if said["mode"] != "test":
        if text is not None:
            raise UserError(f"{word('test_for')} goes with {word('mode')} test, which tries a system and goes back")
        return _ACTIVATION.for_s
    if said["reboot"] != "never":
        raise UserError(f"{word('mode')} test reboots nothing; leave {word('reboot')} out, or use {word('mode')} boot")
    seconds = _ACTIVATION.for_s if text is None else parse_duration(text)
    if seconds not in _FOR_S:
        raise UserError(f"{word('test_for')} {text} is out of bounds; give it between 1m and 7d")
    if seconds >= _timeout(said["device_timeout"], word):
        raise UserError(f"{word('device_timeout')} {said['device_timeout']} is over before the trial; make it longer")
    return seconds


def parse_wave(text: str) -> Wave:
    """Read a wave: ``5``, ``10%`` or ``env=test site=oslo,rome``, with ``:signed`` behind it or not."""
    members = text.removesuffix(_SIGNED)
    return Wave(
        members=parse_select(members.split()) if "=" in members else parse_members(members),
        gate="auto" if members == text else "signed",
    )


def parse_members(text: str) -> int | str:
    """Read a number of devices: a count like ``5``, or a share like ``10%``. Raises: UserError."""
    found = re.fullmatch(r"([0-9]{1,7})(%?)", text)
    if not found or not 1 <= int(found[1]) <= (100 if found[2] else MOST_IN_FLIGHT):
        raise UserError(f"{text!r} is no number of devices; write a count like 5 or a share like 10%")
    return f"{int(found[1])}%" if found[2] else int(found[1])


def parse_stop(text: str | None, at_least: int | None, word: Word = flag) -> StopAt | None:
    """Read at how many failures a rollout halts, and with a share never fewer than how many. Raises: UserError."""
    if text is None:
        if at_least is not None:
            raise UserError(f"{word('stop_at_least')} goes with a share, as in {word('stop_at')} 5%")
        return None
    members = parse_members(text)
    if isinstance(members, int):
        if at_least is not None:
            raise UserError(
                f"{word('stop_at')} {text} is a number already; {word('stop_at_least')} goes with a share like 5%"
            )
        return StopAt(count=members)
    return StopAt(percent=int(members.removesuffix("%")), at_least=at_least or 1)


def parse_when(text: str, now: int) -> int:
    """Read a date, or a duration from now, as unix seconds. Raises: UserError."""
    if re.fullmatch(r"[0-9]{1,8}[smhd]", text, re.ASCII):
        return now + parse_duration(text)
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


def check_fallback(order: Order, stuck: Sequence[str], word: Word = flag) -> None:
    """Check that nobody is rebooted who could not come back by itself, unless that is accepted.

    `stuck` names the devices of the rollout whose own facts say so. Raises: UserError.
    """
    if order.wishes.reboot == "never" or order.accept_no_fallback or not stuck:
        return
    names = sorted(stuck)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    raise UserError(
        f"{counted(len(names), 'device')} cannot fall back when a boot fails ({', '.join(names[:_SHOWN])}{more});"
        f" leave them out, or add {word('accept_no_fallback')}"
    )
