"""Reasons without counts: what a reader of a part of a rollout's devices is told."""

import re
from typing import Any, get_args

import msgspec
import pytest

from nixfleet.rollout import Kind
from nixfleet.rollout.partly import HALTED, partial_clause, partial_record, partial_sentence
from nixfleet.rollout.reasons import Behind, Halted, KindStopped, Reason, Soaking, TooManyFailed, Unfinished, clause

COUNTS = {"total", "confirmed", "failed", "in_flight", "rebooting", "pending", "healthy", "used", "tried", "devices"}
"""Fields that count devices; every other number is of the rollout itself, or a time."""
MARK = 7_717


def _made(kind: type[Reason]) -> Reason:
    """Make a reason whose counts of devices are all the same, recognisable number."""
    given: dict[str, Any] = {}
    for one in msgspec.structs.fields(kind):
        if one.name in COUNTS:
            given[one.name] = MARK
        elif one.name == "counts":
            given[one.name] = _made(Unfinished)
        elif one.name == "first":
            given[one.name] = _made(KindStopped)
        elif one.name == "kind":
            given[one.name] = Kind(model="NUC")
        elif one.type is str:
            given[one.name] = f"{MARK} of them" if kind is Halted else "UTC"
        elif one.type is bool:
            given[one.name] = True
        else:
            given[one.name] = 3
    return kind(**given)


@pytest.mark.parametrize("kind", get_args(Reason), ids=lambda kind: kind.__name__)
def test_no_reason_counts_devices(kind: type[Reason]) -> None:
    """Whatever kind there is, or will be: what it counts is in the whole sentence alone, which it is a part of else."""
    reason = _made(kind)
    whole, part = clause(reason), partial_clause(reason)
    assert str(MARK) not in part
    assert (str(MARK) in whole) == (whole != part)
    assert ["reason"] == list(partial_record(reason))


def test_what_waits_and_until_when_stays() -> None:
    """The sentence is about the same thing, and tells the wave and the time."""
    soaks = Soaking(wave=1, left_s=360, healthy=4, confirmed=5)
    assert "wave 2 of 3 waits: wave 1 soaks for 6 more minutes" == partial_sentence(2, soaks, "", 3)
    behind = Behind(wave=1, counts=Unfinished(total=5, confirmed=3))
    assert "web-01 waits: wave 1 is not done" == partial_sentence("id", behind, "web-01", 3)
    halted = Halted(why=clause(TooManyFailed(failed=2, allowed=1, total=9)))
    assert f"the rollout waits: halted: {HALTED}" == partial_sentence(None, halted, "", 3)
    assert re.search(r"\d", HALTED) is None
