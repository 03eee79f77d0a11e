"""Kinds of devices, and the systems that fail on one: what one release cannot get right shows by the second failure.

A failing system says nothing of other kinds, so the rollout stops for its kind alone; `stop_at` counts all the same.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from nixfleet.model.device import Facts, Phase
from nixfleet.model.text import clean
from nixfleet.rollout.types import Kind, Member, Stop

SEVERAL: Final = 2
"""So many failures of one system on one kind are no accident of one machine, if they are half of what it came to."""
_CHARS: Final = 64
_NOT_BEGUN: Final = frozenset({Phase.IDLE, Phase.OFFERED})
"""A device is there until it tells of a try: its gate was too old for it, its log damaged, or it does not speak."""


def kind_of(facts: Facts | None) -> Kind | None:
    """Give a device's kind by what it tells of itself; None while it has told nothing."""
    if facts is None or not (facts.model or facts.nixos_version or facts.kernel):
        return None
    return Kind(model=facts.model[:_CHARS], nixos_version=facts.nixos_version[:_CHARS], kernel=facts.kernel[:_CHARS])


def kind_words(kind: Kind) -> str:
    """Name a kind: ``Raspberry Pi 4 (NixOS 24.11, kernel 6.6.31)``; a device's own words, so no control bytes."""
    parts = [f"{word} {clean(text)}" for word, text in (("NixOS", kind.nixos_version), ("kernel", kind.kernel)) if text]
    told = ", ".join(parts)
    if not kind.model:
        return f"devices with {told}"
    return f"{clean(kind.model)} ({told})" if told else clean(kind.model)


def failing(failed: Sequence[Member], confirmed: Iterable[Member]) -> list[Stop]:
    """Find the systems that fail on a kind: at least two failures, and at least half of what it has come to there.

    `failed` are those that count against `stop_at`, in an order that does not change; who confirmed is only looked
    at when somebody has failed twice. A device that ran out of time before it began has not tried the system.
    """
    tried = (member for member in failed if member.outcome is not None or member.phase not in _NOT_BEGUN)
    failures = Counter((member.path, member.kind) for member in tried if member.path and member.kind is not None)
    several = {what: number for what, number in failures.items() if number >= SEVERAL}
    if not several:
        return []
    held = Counter(what for member in confirmed if (what := (member.path, member.kind)) in several)
    return [
        Stop(path=path, kind=kind, failed=number, tried=number + held[path, kind])
        for (path, kind), number in several.items()
        if kind is not None and number >= held[path, kind]
    ]
