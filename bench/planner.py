"""One planning tick: `plan` on a rollout under way, and its growth with the number of devices."""

import statistics
import time
from collections.abc import Iterator, Sequence

import msgspec
from tests.core.rollout_factories import Fleet, at, members, rollout

from bench.rows import Row, ratio
from nixfleet.model.statements import Wave
from nixfleet.rollout import plan, waves

WAVES = 20
COUNTS = (1_000, 10_000, 100_000)
RUNS = 15
MS = 1_000
US = 1_000_000


def measure() -> Iterator[Row]:
    """Measure ticks of rollouts of several sizes; a yardstick is the same loop over the members that does nothing."""
    ticks = {count: _ticks(count) for count in COUNTS}
    largest, smallest = COUNTS[-1], COUNTS[0]
    took, loop = ticks[largest]
    first, first_loop = ticks[smallest]
    yield Row(
        what=f"planner: one tick of {largest:,} devices in {WAVES} waves, processor time",
        unit="ms",
        samples=[one * MS for one in took],
        budget="≤ 100 ms",
        holds=statistics.median(took) * MS <= 100,
        yardstick="reading three fields of every member, ms",
        yard_samples=[one * MS for one in loop],
    )
    # A large rollout no longer fits the processor's caches, which the yardstick feels just as well.
    yield Row(
        what=f"planner: tick over yardstick at {largest:,} devices, against {smallest:,}",
        unit="times",
        samples=[one / other for one, other in zip(took, loop, strict=True)],
        budget="cost grows linearly (ratio ≤ 1.5)",
        holds=ratio(took, loop) <= 1.5 * ratio(first, first_loop),
        yardstick=f"at {smallest:,}, times",
        yard_samples=[one / other for one, other in zip(first, first_loop, strict=True)],
    )
    for count in COUNTS:
        samples = [one / count * US for one in ticks[count][0]]
        yield Row(what=f"planner: a tick's cost of a device, of {count:,}", unit="µs", samples=samples)


def _ticks(count: int) -> tuple[Sequence[float], Sequence[float]]:
    """Time ticks in the middle of a rollout: a wave confirmed, one in flight, the rest to come."""
    stages = tuple(Wave(members=f"{min(100, 5 * number)}%") for number in range(1, WAVES + 1))
    fleet = Fleet(rollout(stages, soak_s=0, max_in_flight=10_000), members(count))
    lineup = waves(fleet.state, fleet.members)
    first = set(lineup[0])
    fleet.tick()
    done = [member.device for member in fleet.members if member.offered_s is not None]
    _confirm(fleet, set(done) & first)
    fleet.tick(5)
    took, loop = [], []
    for number in range(RUNS + 1):
        begun = time.process_time()
        plan(fleet.state, fleet.members, at(10 + number), lineup)
        middle = time.process_time()
        for member in fleet.members:
            _ = member.device, member.outcome, member.offered_s
        took.append(middle - begun)
        loop.append(time.process_time() - middle)
    return took[1:], loop[1:]


def _confirm(fleet: Fleet, devices: set[str]) -> None:
    """Let many devices confirm at once."""
    one = next(iter(devices))
    fleet.confirm(one)
    outcome = next(member for member in fleet.members if member.device == one)
    said = {name: getattr(outcome, name) for name in ("phase", "outcome", "cause", "healthy_s")}
    fleet.members = tuple(
        msgspec.structs.replace(member, **said) if member.device in devices else member for member in fleet.members
    )
