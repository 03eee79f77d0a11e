"""Gates: the log key's word that a rollout's wave is open for one device, at one log size and time.

A gate paces, it grants nothing: the right comes from the log (trust.md, What a device does). It must never be
used without `fresh`.
"""

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from nixfleet.errors import Untrusted
from nixfleet.model.ids import MAX_INT
from nixfleet.trust.note import open_note, sign_note
from nixfleet.trust.sshsig import PublicKey, SecretKey

GATE_AGE_MAX_S: Final = 600
_TEXT: Final = re.compile(
    r"nixfleet-gate-v1\n([0-9a-f]{64})\n([0-9a-f]{64})\n([0-9a-f]{32})\n"
    r"([0-9]{1,16}) ([0-9]{1,16})\n([0-9]{1,16}) ([0-9]{1,16})\n",
    re.ASCII,
)


class Gate(NamedTuple):
    """An open gate; `run` counts tries from 1, `wave` is the coordinator's word (from 1), times are unix seconds."""

    fleet: str
    rollout: str
    device: str
    run: int
    log_size: int
    time: int
    wave: int = 1


def sign_gate(gate: Gate, log_key: SecretKey) -> bytes:
    """Write and sign a gate as a C2SP signed note."""
    text = (
        f"nixfleet-gate-v1\n{gate.fleet}\n{gate.rollout}\n{gate.device}\n"
        f"{gate.run} {gate.wave}\n{gate.log_size} {gate.time}\n"
    )
    assert _TEXT.fullmatch(text)
    return sign_note(text, log_key, _name(gate.fleet))


def open_gate(data: bytes, log_key: PublicKey, fleet: str) -> Gate:
    """Verify a gate of this fleet by the log key in force. Raises: Untrusted."""
    match = _TEXT.fullmatch(open_note(data, log_key, _name(fleet)))
    if match is None:
        raise Untrusted("a gate is malformed")
    run, wave, log_size, time = (int(group) for group in match.groups()[3:])
    if match[1] != fleet:
        raise Untrusted("a gate is for another fleet")
    if max(run, wave, log_size, time) > MAX_INT or not run or not wave:
        raise Untrusted("a gate has a number out of range")
    return Gate(fleet, match[2], match[3], run, log_size, time, wave)


def fresh(gate: Gate, now: int, beside: Iterable[Gate] = ()) -> bool:
    """Tell whether a gate is at most 10 minutes old; `now` is max(device clock, last log time), `beside` came with it.

    A gate ahead of `now` is fresh: a device whose clock starts in 1970 could otherwise never update. So that an old
    one does not pass there for ever, verified gates lift the clock too, for gates alone: the log key says how late it
    was, and can lie thereby about nothing but pacing, which is its to break.
    """
    return max(now, *(each.time for each in (gate, *beside))) - gate.time <= GATE_AGE_MAX_S


def _name(fleet: str) -> str:
    return f"nixfleet/{fleet}/gate"
