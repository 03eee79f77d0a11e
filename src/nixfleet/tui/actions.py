"""Performs what was confirmed: the one place that calls the acts of the API, a step at a time, each in the log."""

from collections.abc import Callable, Mapping

import msgspec

from nixfleet.errors import NixfleetError
from nixfleet.tui.calls import Calls
from nixfleet.tui.intents import Plan, Scene, refusal
from nixfleet.tui.keys import KEYS, Key, Scope, shown
from nixfleet.tui.ports import Acts, Secret


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a plan: the sentences of what was done, and of what failed."""

    done: tuple[str, ...]
    secrets: tuple[Secret, ...] = ()
    """What is to be shown once."""
    failed: str = ""
    left: int = 0


async def perform(plan: Plan, acts: Acts, calls: Calls, tell: Callable[[str], None]) -> Result:
    """Do the steps in order, stopping at the first that fails; `tell` hears of each."""
    done: list[str] = []
    secrets: list[Secret] = []
    for number, step in enumerate(plan.steps):
        try:
            said = await calls.run(step.call, step.cli, step.run(acts))
        except NixfleetError as error:
            return Result(done=tuple(done), secrets=tuple(secrets), failed=str(error), left=len(plan.steps) - number)
        if isinstance(said, Secret):
            secrets.append(said)
            said = said.said
        done.append(said)
        tell(said)
    return Result(done=tuple(done), secrets=tuple(secrets))


def mutating(scope: Scope) -> list[Key]:
    """Give the actions of a scope that change the fleet."""
    return [key for key in KEYS if key.scope == scope and key.mutates]


def menu(scope: Scope, scene: Scene, remapped: Mapping[str, str]) -> list[tuple[str, str, str, str]]:
    """Give (id, key, label, why not) of what can be done in a scope."""
    return [(key.id, shown(key, remapped), key.label, refusal(key.id, scene)) for key in mutating(scope)]
