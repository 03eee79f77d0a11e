"""The words: every reason, as console, command line and log show it."""

from typing import get_args

import pytest

from nixfleet.model.device import Facts
from nixfleet.rollout import Kind, Reason, Stop, clause, kind_of, sentence, stop_sentence
from nixfleet.rollout import reasons as r

_PI = Kind(model="Raspberry Pi 4", nixos_version="24.11", kernel="6.6.31")
_GOLDEN: list[tuple[str | int | None, Reason, str]] = [
    (None, r.Cancelled(), "the rollout waits: cancelled by a signed act"),
    (None, r.Superseded(), "the rollout waits: superseded by a newer rollout"),
    (None, r.Expired(not_after_wall_s=1_764_072_000), "the rollout waits: expired since 2025-11-25 12:00 UTC"),
    (None, r.NotBefore(not_before_wall_s=1_764_072_000), "the rollout waits: not before 2025-11-25 12:00 UTC"),
    (None, r.NotBefore(not_before_wall_s=2**53 - 1), "the rollout waits: not before the far future"),
    ("d", r.Unready(why="1 more approval is needed"), "kiosk-7 waits: 1 more approval is needed"),
    (None, r.Unready(why="1 more approval is needed"), "the rollout waits: 1 more approval is needed"),
    (None, r.Unplanned(), "the rollout waits: the coordinator is about to plan it"),
    (None, r.Paused(), "the rollout waits: paused by a signed act"),
    (None, r.Halted(why="1 of 5 failed, it stops at 1"), "the rollout waits: halted: 1 of 5 failed, it stops at 1"),
    (3, r.NeedsAdvance(), "wave 3 of 3 waits: its gate needs a signed advance"),
    (
        1,
        r.Unfinished(total=9, confirmed=3, failed=1, in_flight=2, rebooting=1, pending=2),
        "wave 1 of 3 waits: 3 of 9 confirmed, 1 failed, 2 in flight, 1 to reboot, 2 to start",
    ),
    (
        2,
        r.Behind(wave=1, counts=r.Unfinished(total=5, confirmed=4, in_flight=1)),
        "wave 2 of 3 waits: wave 1 is not done, 4 of 5 confirmed, 1 in flight",
    ),
    (3, r.Behind(wave=2), "wave 3 of 3 waits: wave 2 is not open yet"),
    (
        2,
        r.Soaking(wave=1, left_s=341, healthy=4, confirmed=5),
        "wave 2 of 3 waits: wave 1 soaks for 6 more minutes, 4 of 5 healthy",
    ),
    (
        2,
        r.Soaking(wave=1, left_s=60, healthy=5, confirmed=5),
        "wave 2 of 3 waits: wave 1 soaks for 1 more minute, 5 of 5 healthy",
    ),
    (2, r.Soaking(wave=1, left_s=0, healthy=4, confirmed=5), "wave 2 of 3 waits: wave 1 has soaked, 4 of 5 healthy"),
    ("d", r.NoPlace(used=2, allowed=2), "kiosk-7 waits: no free place, 2 of 2 in flight"),
    ("d", r.Offline(ago_s=3 * 3_600 + 59), "kiosk-7 waits: offline for 3 hours"),
    ("d", r.Offline(ago_s=1), "kiosk-7 waits: offline for 1 second"),
    ("d", r.Offline(ago_s=200_000), "kiosk-7 waits: offline for 2 days"),
    ("unnamed", r.Offline(), "unnamed waits: offline, never seen"),
    ("d", r.HeldUntil(until_wall_s=1_764_072_000), "kiosk-7 waits: held until 2025-11-25 12:00 UTC"),
    (
        "d",
        r.PausedThere(until_wall_s=1_764_072_000, why="moving the rack"),
        "kiosk-7 waits: paused on the device itself until 2025-11-25 12:00 UTC: moving the rack",
    ),
    (
        "d",
        r.PausedThere(until_wall_s=1_764_072_000),
        "kiosk-7 waits: paused on the device itself until 2025-11-25 12:00 UTC",
    ),
    (
        "d",
        r.OutsideWindow(opens_wall_s=1_764_104_400, zone="Europe/Berlin"),
        "kiosk-7 waits: outside its window until 22:00 Europe/Berlin",
    ),
    (
        "d",
        r.OutsideWindow(opens_wall_s=1_764_104_400, zone="Europe/Berlin", today=False),
        "kiosk-7 waits: outside its window until Tue 22:00 Europe/Berlin",
    ),
    (
        "d",
        r.KindStopped(kind=_PI, path="/nix/store/x", failed=2, tried=3),
        "kiosk-7 waits: stopped for Raspberry Pi 4 (NixOS 24.11, kernel 6.6.31): 2 of 3 failed with the same system",
    ),
    ("d", r.UnknownZone(zone="Mars/\x1b[0m"), "kiosk-7 waits: its time zone 'Mars/\\x1b[0m' is not known here"),
]


@pytest.mark.parametrize(("subject", "reason", "expected"), _GOLDEN)
def test_a_reason_reads_like_this(subject: str | int | None, reason: Reason, expected: str) -> None:
    """Nothing waits without a sentence, and the sentence is part of the contract."""
    assert expected == sentence(subject, reason, {"d": "kiosk-7"}, 3)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (r.TooManyFailed(failed=2, allowed=2, total=40), "2 of 40 failed, it stops at 2"),
        (r.NobodyConfirmed(wave=1, failed=1), "in wave 1 nobody confirmed and 1 failed"),
        (
            r.KindsStopped(devices=9, first=r.KindStopped(kind=Kind(model="x86 box"), path="p", failed=2, tried=2)),
            "9 devices left, and it stopped for x86 box: 2 of 2 failed with the same system",
        ),
    ],
)
def test_a_halt_reads_like_this(reason: Reason, expected: str) -> None:
    """A halt says what it counted."""
    assert expected == clause(reason)


def test_every_reason_is_among_the_goldens() -> None:
    """A new reason needs its sentence here."""
    shown = {type(reason) for _, reason, _ in _GOLDEN} | {r.TooManyFailed, r.NobodyConfirmed, r.KindsStopped}
    assert set(get_args(Reason)) == shown


def test_a_stop_for_a_kind_reads_like_this() -> None:
    """It names the kind, counts what failed with the same system, and says what becomes of the others."""
    stop = Stop(path="/nix/store/x", kind=_PI, failed=2, tried=2)
    text = "stops for Raspberry Pi 4 (NixOS 24.11, kernel 6.6.31): 2 of 2 failed with the same system"
    assert f"{text}; others go on" == stop_sentence(stop, going_on=True)
    assert text == stop_sentence(stop, going_on=False)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (Facts(model="Pi\x1b[31m 4", kernel="6.6"), "stops for Pi 4 (kernel 6.6): 2 of 2"),
        (Facts(nixos_version="24.11", kernel="6.6"), "stops for devices with NixOS 24.11, kernel 6.6: 2 of 2"),
        (Facts(model="m" * 300), f"stops for {'m' * 64}: 2 of 2"),
    ],
)
def test_a_kind_is_named_by_what_the_facts_have(facts: Facts, expected: str) -> None:
    """A device's words are bounded, and steer no terminal; what it does not tell is left out."""
    kind = kind_of(facts)
    assert kind is not None
    said = stop_sentence(Stop(path="p", kind=kind, failed=2, tried=2), going_on=True)
    assert f"{expected} failed with the same system; others go on" == said


def test_a_device_that_tells_nothing_is_of_no_kind() -> None:
    """Machines that nothing is known of have nothing in common."""
    assert [None, None] == [kind_of(None), kind_of(Facts(architecture="x86_64-linux"))]
