"""Which payloads an agent needs, for the coordinator that serves them and the agent that misses some.

An agent needs every root, grant, revoke and rollout, its own device's statements, the controls of rollouts that
cover it, and the releases that those name (trust.md, Replay). It must never decide a verdict.
"""

from dataclasses import dataclass

from nixfleet.errors import Untrusted
from nixfleet.model.ids import Digest, matches
from nixfleet.trust import sshsig
from nixfleet.trust.leaf import Leaf, subject_of
from nixfleet.trust.replay import rights
from nixfleet.trust.replay.judge import ESSENTIAL
from nixfleet.trust.replay.state import RolloutState, State


class Needs:
    """What one device needs of a log, as seen from a state at the log's end."""

    def __init__(self, state: State, device: str) -> None:
        self._device = device
        self._release_of = state.release_of
        covering = _selecting(state, device)
        self._rollouts = frozenset(one.digest[:32] for one in covering)
        self._releases = frozenset(_named(state, device, covering))

    def __call__(self, leaf: Leaf | bytes) -> bool:
        """Tell whether a leaf's payload is needed; a leaf that is malformed has none that anybody needs."""
        try:
            opened = leaf if isinstance(leaf, Leaf) else Leaf.unpack(leaf)
            subject = subject_of(sshsig.parse(opened.sshsig).namespace)
        except Untrusted:
            return False
        if subject is None:
            return False
        match subject.type:
            case "device":
                return subject.id == self._device
            case "control":
                return subject.id in self._rollouts
            case "release":
                digest = self._release_of.get(opened.sha512)
                return digest is not None and digest in self._releases
            case _:
                return subject.type in ESSENTIAL


def needed(state: State, leaf: Leaf | bytes, device: str) -> bool:
    """Tell whether one leaf's payload is needed by a device; for many leaves make one `Needs`."""
    return Needs(state, device)(leaf)


@dataclass(frozen=True, slots=True)
class Missing:
    """What an agent must ask for: releases by digest, controls by index; `supply` takes the payloads."""

    releases: tuple[Digest, ...]
    controls: tuple[int, ...]

    def __bool__(self) -> bool:
        return bool(self.releases or self.controls)


def missing(state: State, device: str) -> Missing:
    """List the payloads that a device needs and does not hold."""
    covering = _selecting(state, device)
    unknown = [digest for digest in _named(state, device, covering) if digest not in state.releases]
    controls = {record.place.index for one in covering for record in one.unread if record.statement is None}
    rollouts = {one.digest[:32] for one in covering}
    controls |= {
        one.place.index
        for waiting in state.pending.values()
        for one in waiting
        if one.type == "control" and one.statement is None and one.subject in rollouts
    }
    return Missing(tuple(sorted(unknown)), tuple(sorted(controls)))


def _selecting(state: State, device: str) -> list[RolloutState]:
    record = state.devices.get(device)
    if record is None:
        return []
    return [one for one in state.rollouts.values() if matches(one.statement.select, record.statement.tags)]


def _named(state: State, device: str, covering: list[RolloutState]) -> set[Digest]:
    """Name the releases of the rollouts whose signer has, had or will have a right over the device.

    Else a key that may deploy anywhere could make every device ask at each sync for a release that is in no log.
    """
    found = set()
    for one in covering:
        named = one.names(state.rollouts)
        if named is not None and rights.may_over(
            state, one.place.signer, one.statement.kind, state.devices[device].statement.tags
        ):
            found.add(named)
    return found
