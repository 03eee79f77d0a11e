"""What a reader is told who may read of a part of a rollout's devices: the same reasons, without the others' numbers.

It must say nothing that counts devices; what waits, for which wave and until when is everybody's to know.
"""

from typing import Any

from nixfleet.rollout.kinds import kind_words
from nixfleet.rollout.reasons import (
    Behind,
    Halted,
    KindsStopped,
    KindStopped,
    NobodyConfirmed,
    NoPlace,
    Reason,
    Soaking,
    Subject,
    TooManyFailed,
    Unfinished,
    clause,
    record,
    spoken,
    time_left,
)

HALTED = "too many of its devices failed"
"""Said in place of the stored sentence, which has counts in it."""


def partial_sentence(subject: Subject, reason: Reason, name: str, waves: int) -> str:
    """Say what waits and why, as `sentence` does, without a count of devices; `name` is that of a device."""
    return spoken(subject, partial_clause(reason), {subject: name} if isinstance(subject, str) else {}, waves)


def partial_clause(reason: Reason) -> str:
    """Say why, without a count of devices."""
    match reason:
        case Halted() | TooManyFailed():
            return f"halted: {HALTED}" if isinstance(reason, Halted) else HALTED
        case NobodyConfirmed():
            return f"in wave {reason.wave} nobody confirmed"
        case Unfinished():
            return "its devices are not done"
        case Behind(counts=Unfinished()):
            return f"wave {reason.wave} is not done"
        case Soaking():
            return time_left(reason)
        case KindStopped():
            return f"stopped for {kind_words(reason.kind)}, for the system failed on several"
        case KindsStopped():
            return partial_clause(reason.first)
        case NoPlace():
            return f"no free place, all {reason.allowed} in flight"
        case _:
            return clause(reason)


def partial_record(reason: Reason) -> dict[str, Any]:
    """Give a typed reason's name alone: its fields may count devices."""
    return {"reason": record(reason)["reason"]}
