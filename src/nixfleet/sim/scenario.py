"""What a made-up fleet is like: which devices, releases and rollouts, and what goes wrong; a TOML file.

Pure but for reading the file. An unknown key, and whatever does not fit together, is an error that names it.
"""

from collections import Counter
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from nixfleet.config import read_toml
from nixfleet.errors import UserError
from nixfleet.model.ids import NAME, Name, Selector, TagValue, matches

DEVICES_MOST = 5_000
BUILT_IN = Path(__file__).with_name("demo.toml")

Text = Annotated[str, msgspec.Meta(max_length=200)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Number = Annotated[int, msgspec.Meta(ge=0, le=DEVICES_MOST)]
Seconds = Annotated[int, msgspec.Meta(ge=0, le=31_536_000)]
Range = tuple[Annotated[float, msgspec.Meta(ge=0, le=1e6)], Annotated[float, msgspec.Meta(ge=0, le=1e6)]]
Speeds = tuple[Annotated[float, msgspec.Meta(ge=0.001, le=1e6)], Annotated[float, msgspec.Meta(ge=0.001, le=1e6)]]
"""Never zero: a download comes to an end."""
Spells = tuple[Annotated[float, msgspec.Meta(ge=1, le=1e6)], Annotated[float, msgspec.Meta(ge=1, le=1e6)]]
"""Never zero: a device that came and went all the time would leave the others none."""
Version = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z._-]{1,60}$(?!\n)")]
Packages = Annotated[
    dict[
        Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z][0-9A-Za-z+._-]{0,60}$(?!\n)")],
        Annotated[str, msgspec.Meta(pattern=r"^([0-9][0-9A-Za-z+._-]{0,40})?$(?!\n)")],
    ],
    msgspec.Meta(max_length=100),
]
"""Versions by name; an empty one takes a package away again."""
Members = (
    Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    | Annotated[str, msgspec.Meta(pattern=r"^(100|[1-9][0-9]?)%$(?!\n)")]
    | Selector
)


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file: an unknown key is an error."""


class Group(_Table, frozen=True, kw_only=True):
    """Devices of one kind; of a list, each device takes the next value in turn."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=60)]
    """Their names: ``{n}`` is the number within the group, and ``{TAG}`` the value of a tag."""
    count: Annotated[int, msgspec.Meta(ge=1, le=DEVICES_MOST)]
    tags: Annotated[dict[Name, Annotated[tuple[TagValue, ...], msgspec.Meta(min_length=1)]], msgspec.Meta()] = {}
    models: tuple[Text, ...] = ("Generic PC",)
    runs: Version = "25.05.20250804"
    """The NixOS version that they run at the beginning."""
    packages: Packages = {}
    """What there is in it, beside what every system has."""
    mbyte_s: Speeds = (2.0, 12.0)
    """How fast they download."""
    fails: Share = 0.0
    """How often an update fails of itself: its switch ends with an error."""
    away: Number = 0
    """How many are offline at the beginning."""
    away_s: Range = (600.0, 3_600.0)
    """How long a device that is offline stays so."""
    leaves_every_s: Spells | None = None
    """How long a device stays online before it goes offline again; not set: for ever."""
    reboots_after_s: Range | None = None
    """When a device reboots that has to; not set: when a person does it."""
    asks: Number = 0
    """How many are not enrolled yet, and ask to be."""
    held: Number = 0
    """How many are held for a week."""
    fixed: bool = False
    """Whether the count stays when the fleet is made larger or smaller."""


class Bad(_Table, frozen=True, kw_only=True):
    """What a release breaks, on the devices with these tags: a unit fails after the switch."""

    on: Selector = {}
    unit: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    lines: Annotated[tuple[Text, ...], msgspec.Meta(max_length=10)] = ()
    share: Share = 1.0
    """On what share of them."""


class Release(_Table, frozen=True, kw_only=True):
    """A release that is published at the beginning."""

    name: Annotated[str, msgspec.Meta(pattern=NAME)]
    version: Version
    on: Selector = {}
    mib: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 180
    """What a device has to download."""
    kernel: Version = "6.12.41"
    packages: Packages = {}
    """What it brings in another version than the device's group had, or anew, or takes away."""
    reboot: bool = False
    note: Annotated[str, msgspec.Meta(max_length=200)] = ""
    bad: tuple[Bad, ...] = ()


class Rollout(_Table, frozen=True, kw_only=True):
    """A rollout that is started `at_s` after the beginning; what is not set is left to the defaults."""

    release: Annotated[str, msgspec.Meta(pattern=NAME)]
    on: Selector = {}
    at_s: Seconds = 0
    waves: Annotated[tuple[Members, ...], msgspec.Meta(max_length=64)] = ()
    """Each a count, a share like ``10%``, or a table of tags."""
    soak_s: Seconds | None = None
    stop_at: Annotated[int, msgspec.Meta(ge=1, le=DEVICES_MOST)] | None = None
    max_in_flight: Annotated[int, msgspec.Meta(ge=1, le=DEVICES_MOST)] | None = None
    all_at_once: bool = False
    note: Annotated[str, msgspec.Meta(max_length=200)] = ""


class Scenario(_Table, frozen=True, kw_only=True):
    """The whole file."""

    name: Annotated[str, msgspec.Meta(pattern=NAME)]
    group: Annotated[tuple[Group, ...], msgspec.Meta(min_length=1, max_length=64)]
    release: Annotated[tuple[Release, ...], msgspec.Meta(max_length=64)] = ()
    rollout: Annotated[tuple[Rollout, ...], msgspec.Meta(max_length=64)] = ()

    @property
    def count(self) -> int:
        """How many devices there are."""
        return sum(group.count for group in self.group)


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One device as the scenario describes it."""

    name: str
    tags: dict[str, str]
    model: str
    group: Group
    number: int
    """Its place in its group, from 0 on."""

    @property
    def asks(self) -> bool:
        """Whether it is not enrolled yet: the last ones of a group."""
        return self.number >= self.group.count - self.group.asks

    @property
    def away(self) -> bool:
        """Whether it is offline at the beginning."""
        end = self.group.count - self.group.asks
        return end - self.group.away <= self.number < end

    @property
    def held(self) -> bool:
        """Whether it is held."""
        end = self.group.count - self.group.asks - self.group.away
        return end - self.group.held <= self.number < end


def load(path: Path) -> Scenario:
    """Read a scenario's file. Raises: UserError, which names the file and the key."""
    return checked(read_toml(path, Scenario), str(path))


def checked(scenario: Scenario, where: str) -> Scenario:
    """Check what fits together. Raises: UserError."""
    if scenario.count > DEVICES_MOST:
        raise UserError(f"{where}: {scenario.count} devices are more than {DEVICES_MOST}, the most of a simulation")
    for group in scenario.group:
        _check_group(group, where)
    devices = list(kinds(scenario, where))
    if name := _twice(kind.name for kind in devices):
        raise UserError(f"{where}: two devices are called {name!r}; let {{n}} or a tag tell them apart")
    if name := _twice(release.name for release in scenario.release):
        raise UserError(f"{where}: two releases are called {name!r}")
    for release in scenario.release:
        if not any(matches(release.on, kind.tags) for kind in devices if not kind.asks):
            raise UserError(f"{where}: release {release.name!r} is for no device")
    known = {release.name for release in scenario.release}
    for rollout in scenario.rollout:
        _check_rollout(rollout, known, where)
    return scenario


def _check_group(group: Group, where: str) -> None:
    if group.asks + group.away + group.held > group.count:
        raise UserError(f"{where}: group {group.name!r} has {group.count} devices, fewer than ask, are away or held")
    for name in ("mbyte_s", "away_s", "leaves_every_s", "reboots_after_s"):
        least, most = getattr(group, name) or (0, 0)
        if least > most:
            raise UserError(f"{where}: group {group.name!r}: {name} is [{least:g}, {most:g}]; the lowest comes first")


def _check_rollout(rollout: Rollout, known: Container[str], where: str) -> None:
    if rollout.release not in known:
        raise UserError(f"{where}: a rollout names the release {rollout.release!r}, which is not in the file")
    if rollout.all_at_once and rollout.waves:
        raise UserError(f"{where}: rollout of {rollout.release!r}: all_at_once and waves exclude each other")


def _twice(names: Iterable[str]) -> str:
    """Give a name that comes twice, or nothing."""
    return next((name for name, count in Counter(names).items() if count > 1), "")


def kinds(scenario: Scenario, where: str = "scenario") -> Iterator[Kind]:
    """Describe each device. Raises: UserError for a name that is none."""
    for group in scenario.group:
        for number in range(group.count):
            tags = {tag: values[number % len(values)] for tag, values in group.tags.items()}
            model = group.models[number % len(group.models)] if group.models else ""
            yield Kind(name=_name(group, number, tags, where), tags=tags, model=model, group=group, number=number)


def _name(group: Group, number: int, tags: dict[str, str], where: str) -> str:
    text = group.name.replace("{n}", f"{number + 1:02}")
    for tag, value in tags.items():
        text = text.replace(f"{{{tag}}}", value.lower())
    try:
        return msgspec.convert(text, Name)
    except msgspec.ValidationError:
        raise UserError(f"{where}: group {group.name!r} makes the device name {text[:80]!r}, which is none") from None


def scaled(scenario: Scenario, count: int) -> Scenario:
    """Give the scenario for another number of devices: each group but the fixed ones in proportion, none without any.

    Raises: UserError when there are too few for what the groups need.
    """
    fixed = sum(group.count for group in scenario.group if group.fixed)
    least = sum(_least(group) for group in scenario.group)
    if count < least:
        raise UserError(f"this scenario needs at least {least} devices")
    share = (count - fixed) / max(1, scenario.count - fixed)
    groups = [
        group if group.fixed else msgspec.structs.replace(group, count=max(_least(group), round(group.count * share)))
        for group in scenario.group
    ]
    # What rounding adds or takes is the largest groups'.
    while rest := count - sum(group.count for group in groups):
        free = [at for at, group in enumerate(groups) if not group.fixed and (rest > 0 or group.count > _least(group))]
        if not free:
            raise UserError(f"this scenario has {count - rest} devices, all in fixed groups")
        largest = max(free, key=lambda at: groups[at].count)
        size = groups[largest].count + (rest if rest > 0 else -1)
        groups[largest] = msgspec.structs.replace(groups[largest], count=size)
    return msgspec.structs.replace(scenario, group=tuple(groups))


def _least(group: Group) -> int:
    """Give how few devices a group may have."""
    return group.count if group.fixed else max(1, group.asks + group.away + group.held)
