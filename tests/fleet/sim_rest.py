"""Judge a made-up fleet: what must never come about, and that it comes to rest or says why it does not."""

from collections.abc import Sequence

from tests.fleet.sim_world import LIMIT_S, Step, World

from nixfleet.agent.machine import ENDED
from nixfleet.errors import NixfleetError
from nixfleet.model.device import Phase, mends_itself
from nixfleet.model.views import DeviceView


def breaches(world: World, *, at_end: bool = False) -> list[str]:
    """List what must not have come about; who began past a gate is told by the times, and so at the end."""
    found = [*world.watch.breaches, *world.watch.too_many_failures(), *world.watch.systems(world.fleet)]
    if at_end:
        for one in world.rollouts:
            detail = world.ask(lambda client, one=one: client.rollout(one))  # type: ignore[misc]  # bound here
            waves = {member.name: member.wave for member in detail.members}
            found += world.watch.past_gates(one, waves, stopped=bool(detail.rollout.stops))
    return [*found, *map(repr, world.fleet.faults)]


def settle(world: World) -> None:
    """Put machines, lines and clocks right, and wait until nothing moves but by somebody's act.

    Raises: Unreachable when that does not come about.
    """
    world.fleet.coordinator_off_s = 0.0
    world.watch.deaths.clear()
    for name, device in world.fleet.devices.items():
        device.clock_off_s = 0
        world.fleet.connect(name)
    world.let_pass(240)
    left: list[str] = []

    def settled() -> bool:
        left[:] = unsettled(world)
        return not left

    try:
        world.fleet.until(settled, LIMIT_S)
    except NixfleetError as error:
        error.add_note("\n".join(left))
        raise
    size = world.fleet.mirror.size
    for name, device in world.fleet.devices.items():
        if device.agent is not None and name not in world.retired and name in _views(world):
            world.reach(lambda _, agent=device.agent: agent.link.sync())  # type: ignore[misc]  # bound here
            assert device.agent.link.mirror.size >= size, f"{name} has an agent that does not sync"


def _views(world: World) -> dict[str, DeviceView]:
    return {one.name: one for one in world.ask(lambda client: client.devices())}


def unsettled(world: World) -> list[str]:
    """List devices and rollouts that have neither come to an end nor say why they wait."""
    found = []
    for name, view in _views(world).items():
        agent = world.fleet.devices[name].agent
        if name in world.retired or agent is None:
            continue
        state = agent.service.state
        if not view.online:
            found.append(f"{name} is not online")
        if state.outbox:
            found.append(f"{name} has not told {len(state.outbox)} outcomes")
        update = state.update
        if update and update.phase not in {*ENDED, Phase.REBOOT_PENDING} and not update.held:
            found.append(f"{name} is {update.phase}: {update.reason}")
    for one in world.rollouts:
        found += _unexplained(world, one)
    return found


def _unexplained(world: World, digest: str) -> list[str]:
    detail = world.ask(lambda client: client.rollout(digest))
    rollout, found = detail.rollout, []
    if rollout.state in {"cancelled", "superseded", "expired"}:
        return []
    waves = {wave.number: wave.waits for wave in rollout.waves}
    for member in detail.members:
        why = rollout.waits or waves.get(member.wave) or member.waits
        if member.outcome is None and not why and member.phase is not Phase.REBOOT_PENDING and not member.overdue:
            found.append(f"{member.name} in {digest[:8]} ({rollout.state}) is {member.phase}, for no reason")
        told = [one for one in world.watch.tries if (one.device, one.rollout) == (member.name, digest)]
        was = told[-1] if told and not mends_itself(told[-1].outcome, told[-1].cause) else None
        if was is not None and member.outcome and was.outcome not in {None, member.outcome}:
            found.append(f"{member.name} is shown as {member.outcome}, and was {was.outcome}")
    return found


def play(steps: Sequence[Step], seed: int = 1) -> World:
    """Let all of that happen to a new fleet; whatever must hold is judged after each step, and at the end."""
    with World(seed) as world:
        for number, step in enumerate(steps):
            world.step(*step)
            found = breaches(world)
            assert found == [], f"after step {number + 1}, {step}: {found}"
        settle(world)
        found = breaches(world, at_end=True)
        assert found == [], f"at the end: {found}"
    return world
