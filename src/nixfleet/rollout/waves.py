"""Which device is in which wave, and the defaults nobody regrets; depends on ids and tags, never on order or time."""

from collections.abc import Sequence
from hashlib import sha256

from nixfleet.model.ids import Selector, matches
from nixfleet.model.statements import StopAt, Wave
from nixfleet.rollout.lineup import Lineup
from nixfleet.rollout.types import Course, Member

DEFAULT_SOAK_S = 300
"""How long a wave soaks unless somebody says otherwise (rollouts-and-agent.md, Defaults nobody regrets)."""
SMALL_FLEET = 20
"""Up to so many devices one canary is enough."""


def rank(rollout_id: str, device: str) -> bytes:
    """Place a device in a rollout's order: SHA-256 of both ids, so that no device is always the first to try."""
    return sha256(f"{rollout_id} {device}".encode()).digest()


def waves(rollout: Course, members: Sequence[Member]) -> Lineup:
    """Assign each member to exactly one wave, each wave in rank order; tags are those at the rollout's index.

    Waves claim in their order: a selector takes what matches, a count or percentage the next by rank that no
    earlier wave has. Percentages are of the whole set, rounded up, so never zero. Whoever is left, and late joiners,
    are in the last wave. Members that are no longer active keep their place here and leave the counts instead:
    else a retired canary would move others across gates.
    """
    return Lineup.of(assigned(rollout.id, rollout.body.waves, members), members)


def assigned(rollout_id: str, shape: Sequence[Wave], members: Sequence[Member]) -> tuple[tuple[str, ...], ...]:
    """Assign as `waves` does, for a rollout that is not in a log yet: by its digest-to-be and the waves it asks for."""
    place = {member.device: (rank(rollout_id, member.device), member.device) for member in members}
    left = sorted((member for member in members if not member.late), key=lambda member: place[member.device])
    whole = len(left)
    result: list[tuple[str, ...]] = []
    for wave in shape:
        if isinstance(wave.members, dict):
            taken, left = _split(left, wave.members)
        else:
            size = _size(wave.members, whole)
            taken, left = left[:size], left[size:]
        result.append(tuple(member.device for member in taken))
    last = sorted((*result[-1], *(member.device for member in left)), key=place.__getitem__)
    joined = sorted((member.device for member in members if member.late), key=place.__getitem__)
    result[-1] = (*last, *joined)
    return tuple(result)


def _size(members: int | str, whole: int) -> int:
    """Turn a count or a percentage into a number of devices, rounded up."""
    if isinstance(members, int):
        return members
    return -(-whole * int(members.removesuffix("%")) // 100)


def _split(left: list[Member], select: Selector) -> tuple[list[Member], list[Member]]:
    """Part those who match from those who do not, both in order."""
    taken = [member for member in left if matches(select, member.tags)]
    claimed = {member.device for member in taken}
    return taken, [member for member in left if member.device not in claimed]


def at_once() -> tuple[Wave, ...]:
    """Give the one wave of ``--all-at-once``."""
    return (Wave(members="100%"),)


def default_waves(devices: int) -> tuple[Wave, ...]:
    """Choose waves for a set of so many devices (rollouts-and-agent.md, Defaults nobody regrets)."""
    if devices <= 1:
        return at_once()
    if devices <= SMALL_FLEET:
        return (Wave(members=1), Wave(members="100%"))
    return (Wave(members=1), Wave(members="10%"), Wave(members="50%"), Wave(members="100%"))


def default_stop_at(devices: int) -> StopAt:
    """Stop at the first failure; in a large set at 5 % of it."""
    return StopAt(count=1) if devices <= SMALL_FLEET else StopAt(percent=5)


def default_in_flight(devices: int) -> int:
    """Let a fifth of the set be under way at a time, and always one."""
    return max(1, devices // 5)
