"""What a fault of Nix is to the update machine. Pure."""

from typing import Final

from nixfleet.agent.update import Trouble
from nixfleet.model.device import Cause
from nixfleet.nix import FaultKind, NixError

_CAUSES: Final[dict[FaultKind, Cause]] = {
    FaultKind.untrusted: Cause.UNTRUSTED,
    FaultKind.hash_mismatch: Cause.UNTRUSTED,
    FaultKind.corrupt: Cause.UNTRUSTED,
    FaultKind.over_limit: Cause.UNTRUSTED,
    FaultKind.missing: Cause.NETWORK,
    FaultKind.unreachable: Cause.NETWORK,
    FaultKind.stalled: Cause.NETWORK,
    FaultKind.interrupted: Cause.NETWORK,
    FaultKind.no_space: Cause.SPACE,
    FaultKind.other: Cause.INTERNAL,
}


def nix_trouble(error: NixError) -> Trouble:
    """Translate a fault of Nix; what is missing, unreachable or full may mend itself, what lies does not."""
    cause = _CAUSES[error.kind]
    later = cause in {Cause.NETWORK, Cause.SPACE, Cause.INTERNAL}
    return Trouble(cause=cause, reason=error.reason, later=later, lines=error.lines[-20:])
