"""Follow a rollout until it has come to something. It must never change anything: leaving it cancels nothing."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from enum import Enum
from typing import Final, Literal, assert_never

from nixfleet.client.api import Client
from nixfleet.errors import Unreachable
from nixfleet.model.device import Outcome, Phase
from nixfleet.model.views import MemberView, RolloutDetail

EVERY_S: Final = 1.0
PATIENCE_S: Final = 120.0
"""How long a coordinator may be out of reach before a watch gives up."""
Wait = Literal["all", "online"]


class Ending(Enum):
    """What a watched rollout came to; the value is the command line's exit code (product.md)."""

    DONE = 0
    FAILED = 1
    HALTED = 6


def ending(detail: RolloutDetail, wait: Wait = "online") -> Ending | None:
    """Tell what a rollout has come to, None while devices that are waited for have no outcome. Pure."""
    match detail.rollout.state:
        case "halted":
            return Ending.HALTED
        case "cancelled" | "superseded" | "expired":
            return Ending.FAILED
        case "finished":
            return _sum(detail)
        case _:
            # Outcomes arrive before the plan that judges them: a failure may yet halt it.
            if (
                not detail.rollout.judged
                or not detail.members
                or any(_pending(member, wait) for member in detail.members)
            ):
                return None
            return _sum(detail)


def unreached(detail: RolloutDetail) -> tuple[MemberView, ...]:
    """List the devices that have no outcome: a watch that ended did not wait for them."""
    return tuple(member for member in detail.members if member.outcome is None)


def _stopped(member: MemberView) -> bool:
    """Tell whether the rollout has stopped for the device's kind: only a signed act starts it."""
    return member.why is not None and member.why.get("reason") == "kind-stopped"


def _held(member: MemberView) -> bool:
    """Tell whether a signed act keeps the device from starting: its rollout waits for it as little."""
    return member.why is not None and member.why.get("reason") == "held-until"


def _sum(detail: RolloutDetail) -> Ending:
    if any(map(_stopped, detail.members)):
        return Ending.HALTED
    failed = any(member.overdue or _failed(member.outcome) for member in detail.members)
    return Ending.FAILED if failed else Ending.DONE


def _failed(outcome: Outcome | None) -> bool:
    match outcome:
        case None | Outcome.CONFIRMED:
            return False
        case Outcome.REVERTED | Outcome.FAILED | Outcome.REFUSED:
            return True
        case _:
            assert_never(outcome)


def _pending(member: MemberView, wait: Wait) -> bool:
    """Tell whether a device is waited for; one in the middle of an update is away only while its agent restarts."""
    if member.outcome is not None or member.overdue or _stopped(member):
        return False
    if wait == "all":
        return True
    return (member.online and not _held(member)) or member.phase not in {Phase.IDLE, Phase.REBOOT_PENDING}


async def watch(
    client: Client,
    rollout: str,
    *,
    wait: Wait = "online",
    every_s: float = EVERY_S,
    patience_s: float = PATIENCE_S,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncGenerator[RolloutDetail, None]:
    """Give a rollout's detail whenever it has changed, and end when it has come to something (see `ending`).

    Raises: Unreachable once the coordinator was out of reach for `patience_s`; UserError for an unknown rollout.
    """
    last: RolloutDetail | None = None
    silent_s = 0.0
    while True:
        try:
            detail = await client.rollout(rollout)
        except Unreachable:
            silent_s += every_s
            if silent_s >= patience_s:
                raise
            await sleep(every_s)
            continue
        silent_s = 0.0
        if detail != last:
            yield detail
            last = detail
        if ending(detail, wait) is not None:
            return
        await sleep(every_s)
