"""Who stands in which wave, and where each of them is among the members: kept, so that a tick need not look it up."""

from collections.abc import Iterable, Sequence
from operator import attrgetter

from nixfleet.rollout.types import Member

Places = tuple[tuple[int, ...], ...]
"""For each wave, in rank order, the positions of its devices among the members."""


class Lineup(tuple[tuple[str, ...], ...]):  # noqa: SLOT001 -- a tuple that knows more cannot have slots
    """The devices of each wave in rank order; it remembers the members that it was made of, and where they stood."""

    _devices: list[str]
    _places: Places

    @classmethod
    def of(cls, waves: Iterable[tuple[str, ...]], members: Sequence[Member]) -> "Lineup":
        """Make the line-up of these members."""
        made = cls(waves)
        made._devices = _devices(members)
        made._places = _looked_up(made, made._devices)
        return made

    def places_in(self, members: Sequence[Member]) -> Places:
        """Give where each wave's devices stand among these members, who may have changed in all but their order."""
        devices = _devices(members)
        return self._places if devices == self._devices else _looked_up(self, devices)


def places_in(lineup: Sequence[Sequence[str]], members: Sequence[Member]) -> Places:
    """Give where each wave's devices stand among members, from any line-up of theirs."""
    return lineup.places_in(members) if isinstance(lineup, Lineup) else _looked_up(lineup, _devices(members))


def _devices(members: Sequence[Member]) -> list[str]:
    return list(map(attrgetter("device"), members))


def _looked_up(lineup: Sequence[Sequence[str]], devices: Sequence[str]) -> Places:
    place = {device: at for at, device in enumerate(devices)}
    assert len(place) == len(devices), "a member stands twice"
    return tuple(tuple(map(place.__getitem__, wave)) for wave in lineup)
