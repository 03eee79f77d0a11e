"""The made-up clock: loops live in its time, it can be moved on, and it waits for who falls behind."""

import asyncio
import selectors
import socket
import threading
import time
from collections import Counter

from nixfleet.sim.clock import SERVED_AT_ONCE, STALL_S, Selector, SimClock, loop_thread

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


def test_a_crowd_of_sockets_does_not_keep_timers_from_their_turn() -> None:
    """Of many sockets that are ready at once a few are served in a turn; all are in the end, in the order they came."""
    clock = SimClock.begin(0.0)
    loop = clock.new_loop()
    turns, served = [0], list[tuple[int, int]]()
    pairs = [socket.socketpair() for _ in range(3 * SERVED_AT_ONCE)]

    def turn() -> None:
        turns[0] += 1
        loop.call_soon(turn)

    def serve(number: int) -> None:
        pairs[number][0].recv(1)
        served.append((turns[0], number))
        if len(served) == len(pairs):
            loop.stop()

    try:
        for number, (here, there) in enumerate(pairs):
            loop.add_reader(here, serve, number)
            there.send(b"x")
        loop.call_soon(turn)
        loop.run_forever()
    finally:
        loop.close()
        for pair in pairs:
            for one in pair:
                one.close()
    assert sorted(number for _, number in served) == list(range(len(pairs)))
    assert max(Counter(at for at, _ in served).values()) <= SERVED_AT_ONCE


def test_a_backlog_of_sockets_makes_the_clock_wait() -> None:
    """While sockets are left over, a loop that comes round counts as one that is still away."""
    clock = SimClock.begin(0.0, speed=1_000)
    selector = Selector(clock)
    pairs = [socket.socketpair() for _ in range(SERVED_AT_ONCE + 1)]
    try:
        for here, there in pairs:
            selector.register(here, selectors.EVENT_READ)
            there.send(b"x")
        begun_s = clock.passed_s()
        ends = time.monotonic() + 8 * STALL_S
        while time.monotonic() < ends:
            assert len(selector.select(0)) == SERVED_AT_ONCE
        assert clock.passed_s() - begun_s < 4 * STALL_S * 1_000
    finally:
        selector.close()
        for pair in pairs:
            for one in pair:
                one.close()
