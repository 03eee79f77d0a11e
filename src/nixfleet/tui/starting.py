"""The form of a rollout: its fields in sections, what they come to, and the words of a section folded away; pure.

What may be said, and how it is written, is `nixfleet.rollout.asking`'s, as on the command line.
"""

import shlex
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from nixfleet.errors import UserError
from nixfleet.model.statements import StopAt, Wave, Window
from nixfleet.model.text import utc
from nixfleet.model.typed import duration
from nixfleet.rollout.asking import CHOICES, MOST_IN_FLIGHT, UNSAID, Order, RolloutWishes, Shape, flags, read_order
from nixfleet.tui.ports import Deployment


class Field(NamedTuple):
    """A field: its option's name, its label, what stands in it while it is empty or beside it, what it chooses from."""

    name: str
    label: str
    hint: str
    options: tuple[str, ...] = ()


class Section(NamedTuple):
    """Fields that are folded away behind a line of words."""

    name: str
    label: str
    fields: tuple[Field, ...]


NO_YES: Final = ("no", "yes")
HEAD: Final = (
    Field("release", "Release", "a name, or a digest"),
    Field("on", "Devices", "names, or tag=value; empty: all it has a line for"),
)
SECTIONS: Final = (
    Section(
        "pace",
        "Pace",
        (
            Field("wave", "Waves", "1 10% 100%, or env=test 'env=prod site=oslo':signed"),
            Field("all_at_once", "All at once", "one wave, no soak, no limit in flight", NO_YES),
            Field("soak", "Soak", "how long a wave stays healthy; empty: 5m"),
            Field("max_in_flight", "In flight", "how many update at once; empty: a fifth"),
            Field("stop_at", "Halt at", "failures: 3 or 5%; empty: 1, or 5% of more than 20"),
            Field("stop_at_least", "At least", "never at fewer failures than this, with a share"),
        ),
    ),
    Section(
        "when",
        "When",
        (
            Field("window", "Window", "mon-fri 22:00-05:00 Europe/Berlin; empty: any time"),
            Field("not_before", "Not before", "2027-01-31T18:00, or 2h from now; empty: now"),
            Field("not_after", "Not after", "a date, or 7d from now; empty: in a year"),
            Field("prefetch", "Prefetch", "download before wave and window", NO_YES),
        ),
    ),
    Section(
        "device",
        "On devices",
        (
            Field("mode", "Mode", "at once, next boot, or tried", CHOICES["mode"]),
            Field("test_for", "Try for", "with test: then it goes back; empty: 30m"),
            Field("reboot", "Reboot", "where one is needed", CHOICES["reboot"]),
            Field("accept_no_fallback", "No fallback", "also where a failed boot stays down", NO_YES),
            Field("confirm_within", "Confirm", "go back after so long; empty: 2m"),
            Field("contact", "Contact", "whom the new system must reach", CHOICES["contact"]),
            Field("device_timeout", "Overdue", "after so long; empty: 1h"),
        ),
    ),
)
NOTE: Final = Field("note", "Note", "ticket or reason")
FIELDS: Final = {
    field.name: field for field in (*HEAD, *(field for section in SECTIONS for field in section.fields), NOTE)
}
UNTOUCHED: Final[Mapping[str, str]] = {
    name: UNSAID.get(name, "") if name in CHOICES else "no" if field.options else "" for name, field in FIELDS.items()
}
"""What each field holds in a form that nobody has touched."""


def label(option: str) -> str:
    """Give what an option is called in the form."""
    return FIELDS[option].label


def read_start(release: str, texts: Mapping[str, str], ids: Mapping[str, str], now: int) -> Deployment:
    """Read the form for a release (its digest); `ids` gives device ids by name, `now` is unix seconds.

    Raises: UserError, in the words of the form.
    """
    said = {**UNSAID, **_options({**UNTOUCHED, **texts})}
    names = [word for word in said["on"] if "=" not in word]
    unknown = next((name for name in names if name not in ids), None)
    if unknown is not None:
        raise UserError(f"no device is called {unknown!r}; tags are written tag=value")
    if names and len(names) < len(said["on"]):
        raise UserError("name devices or tags, not both")
    return Deployment(
        release=release,
        devices=tuple(dict.fromkeys(ids[name] for name in names)),
        order=read_order(said, now, label),
        flags=tuple(flags(said)),
        note=texts.get("note", "").strip(),
    )


def culprit(texts: Mapping[str, str], ids: Mapping[str, str], now: int) -> str:
    """Name the field without which the form could be read; empty where no single one is to blame."""
    for name in texts:
        try:
            read_start("", {**texts, name: UNTOUCHED[name]}, ids, now)
        except UserError:
            continue
        return name
    return ""


def _options(texts: Mapping[str, str]) -> dict[str, Any]:
    """Take the fields as options by their names; what is empty is not said."""
    said: dict[str, Any] = {"on": tuple(texts["on"].split()), "wave": _waves(texts["wave"])}
    for name, field in FIELDS.items():
        text = texts[name].strip()
        if name in said or name not in UNSAID or not text:
            continue
        if field.options == NO_YES:
            said[name] = text == "yes"
        else:
            said[name] = _count(field.label, text) if name in {"max_in_flight", "stop_at_least"} else text
    return said


def _waves(text: str) -> tuple[str, ...]:
    """Part waves as a shell parts words, so that one by several tags stands in quotes; counts may have commas."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"{label('wave')}: a quote in {text!r} has no end") from error
    parts = (part for word in words for part in ([word.rstrip(",")] if "=" in word else word.split(",")))
    return tuple(part for part in parts if part)


def _count(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MOST_IN_FLIGHT:
        raise UserError(f"{name}: a number from 1 to {MOST_IN_FLIGHT:,}, not {text!r}")
    return int(text)


# Sections in words


def section_words(section: str, order: Order, shape: Shape, now: int) -> str:
    """Sum up a section that is folded away, with what the defaults come to."""
    return " · ".join({"pace": _pace(shape), "when": _when(order, now), "device": _device(order)}[section])


def _pace(shape: Shape) -> list[str]:
    waves = ", ".join(map(_wave, shape.waves))
    soak = [f"soak {duration(shape.soak_s)}"] if len(shape.waves) > 1 else []
    return [waves, *soak, f"{shape.max_in_flight:,} at once", f"halts at {_stop(shape.stop_at)}"]


def _wave(wave: Wave) -> str:
    members = wave.members
    said = (
        " ".join(f"{tag}={','.join(values)}" for tag, values in sorted(members.items()))
        if isinstance(members, dict)
        else str(members)
    )
    return f"{said} by hand" if wave.gate == "signed" else said


def _stop(stop: StopAt) -> str:
    if stop.percent is None:
        return f"{stop.count} failed"
    return f"{stop.percent}% failed" + (f", at least {stop.at_least}" if stop.at_least > 1 else "")


def _when(order: Order, now: int) -> list[str]:
    wishes = order.wishes
    parts = [window_words(wishes.window) if wishes.window is not None else "at any time"]
    parts += [f"from {utc(wishes.not_before)}"] if wishes.not_before > now else []
    parts += [f"until {utc(wishes.not_after)}"] if wishes.not_after is not None else []
    return [*parts, *(["downloads before it"] if wishes.prefetch else [])]


def window_words(window: Window) -> str:
    """Print a window as it is typed."""
    days = "daily" if len(window.days) == 7 else ",".join(window.days)
    zone = "each device's zone" if window.tz == "device" else window.tz
    return f"{days} {window.from_}-{window.to} {zone}"


def _mode(wishes: RolloutWishes) -> str:
    if wishes.mode == "test":
        return f"tried for {duration(wishes.activation.for_s)}, then goes back"
    return "with the next boot" if wishes.mode == "boot" else "switches at once"


def _device(order: Order) -> list[str]:
    wishes = order.wishes
    reboots = {"never": "no reboot", "in_window": "reboots in the window", "now": "reboots at once"}
    whom = {"coordinator": "the coordinator", "any": "anybody", "none": "nobody"}[wishes.activation.contact]
    return [
        _mode(wishes),
        reboots[wishes.reboot],
        *(["also without fallback"] if order.accept_no_fallback else []),
        f"{duration(wishes.activation.confirm_s)} to reach {whom}",
        f"overdue after {duration(wishes.device_timeout_s)}",
    ]
