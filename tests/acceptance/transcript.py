"""What devices signed on their way through a rollout, in the order of its coming: the evidence for who went when."""

from dataclasses import dataclass

import msgspec
from tests.acceptance.bench import Bench
from tests.acceptance.front import Front
from tests.acceptance.hostile import replayed

from nixfleet.model.device import Attempt, Outcome, Phase, Report
from nixfleet.model.ids import DeviceId
from nixfleet.model.wire import Signed
from nixfleet.trust.reports import open_report
from nixfleet.trust.sshsig import parse_public_key

AT_WORK = frozenset(Phase) - {Phase.IDLE, Phase.OFFERED}


@dataclass(frozen=True)
class Told:
    """One report: its place in the order of coming, whose it is, when it was signed, and what was tried."""

    place: int
    name: str
    at: int
    attempt: Attempt


def transcript(bench: Bench, front: Front, rollout: str) -> list[Told]:
    """Open every report of a rollout with the key that the log has for its device; one that does not open fails."""
    state, _ = replayed(bench)
    found = []
    for place, body in enumerate(tuple(front.reports)):
        signed = msgspec.json.decode(body, type=Signed)
        claimed = msgspec.json.decode(signed.payload, type=Report)
        device = state.devices[DeviceId(claimed.device)].statement
        report = open_report(signed, parse_public_key(device.key), fleet=state.fleet, device=device.device)
        if report.attempt is not None and report.attempt.rollout == rollout:
            found.append(Told(place, device.name, report.at, report.attempt))
    return found


def began_in(told: list[Told], name: str) -> Told:
    """Give the first report in which a device was at work."""
    return next(one for one in told if one.name == name and one.attempt.phase in AT_WORK)


def ended(told: list[Told], name: str, outcome: Outcome) -> Told:
    """Give the first report in which a device had come to this outcome."""
    return next(one for one in told if one.name == name and one.attempt.outcome is outcome)
