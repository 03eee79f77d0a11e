"""The made-up clock: loops live in its time, it can be moved on, and it waits for who falls behind."""

import asyncio
import threading
import time

from nixfleet.sim.clock import STALL_S, SimClock, loop_thread

BEGUN_S = 1_764_000_000.0


def test_a_loop_lives_in_the_clocks_time() -> None:
    """An hour's sleep is over once an hour has passed on the clock, and not earlier."""
    clock = SimClock.begin(BEGUN_S, 1_000)

    async def sleeps() -> float:
        begun = clock.wall()
        await asyncio.sleep(60)
        return clock.wall() - begun

    with loop_thread(clock, "test") as loop:
        slept_s = asyncio.run_coroutine_threadsafe(sleeps(), loop).result(30)
    assert slept_s >= 60


def test_time_is_moved_on_at_once() -> None:
    """Moved on by a day, what slept for a day wakes, though hardly any real time has passed."""
    clock, asleep = SimClock.begin(BEGUN_S), threading.Event()

    async def sleeps() -> str:
        asyncio.get_running_loop().call_soon(asleep.set)
        return await asyncio.sleep(86_400, "awake")

    with loop_thread(clock, "test") as loop:
        sleeping = asyncio.run_coroutine_threadsafe(sleeps(), loop)
        assert asleep.wait(30)
        clock.leap(86_401)
        assert sleeping.result(30) == "awake"
    assert 86_401 <= clock.wall() - BEGUN_S < 86_401 + 60


def test_whoever_looks_sees_time_pass_in_steps() -> None:
    """Advanced by a minute, a loop that looks every ten seconds has looked about six times, not once."""
    clock, looks, watching_now = SimClock.begin(BEGUN_S), list[float](), threading.Event()

    async def watches() -> None:
        asyncio.get_running_loop().call_soon(watching_now.set)
        while True:
            await asyncio.sleep(10)
            looks.append(clock.passed_s())

    with loop_thread(clock, "test") as loop:
        watching = asyncio.run_coroutine_threadsafe(watches(), loop)
        assert watching_now.wait(30)
        clock.advance(5)
        clock.advance(60)
        watching.cancel()
    assert 5 <= len(looks) <= 7


def test_the_clock_waits_for_a_loop_that_does_not_come_round() -> None:
    """While a loop is busy time stands still for all: nobody runs into a timeout that the machine's load made."""
    clock = SimClock.begin(BEGUN_S, 100)
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        go_on.wait(30)

    with loop_thread(clock, "test") as loop:
        loop.call_soon_threadsafe(hold)
        assert held.wait(30)
        begun, begun_real = clock.passed_s(), time.monotonic()
        while time.monotonic() - begun_real < 5 * STALL_S:
            clock.passed_s()
        passed_s = clock.passed_s() - begun
        go_on.set()
    assert passed_s <= 100 * STALL_S * 1.01
    assert clock.lost_s >= 3 * STALL_S


def test_others_are_told_how_far_it_is_off() -> None:
    """With origin, speed and what it publishes, another process computes the same time."""
    clock, told = SimClock.begin(BEGUN_S, 10), list[float]()
    clock.publish(told.append)
    clock.leap(1_000)
    origin = clock.origin
    there = origin.wall_s + (time.monotonic() - origin.monotonic_s) * origin.speed + told[-1]
    assert abs(there - clock.wall()) < 1.0
