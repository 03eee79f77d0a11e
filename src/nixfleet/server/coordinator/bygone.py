"""Keys that were something once: a device's before it got another or was retired, and a join token's that has ended.

They may do nothing; who shows one is told why, in place of a stranger's answer. A key that a device has given up is
not taken from anybody who asks to be enrolled: it may be in other hands.
"""

from dataclasses import dataclass
from typing import Final

from nixfleet.model.ids import Fingerprint
from nixfleet.model.text import utc
from nixfleet.trust.replay import State
from nixfleet.trust.replay.rights import grants
from nixfleet.trust.sshsig import PublicKey, parse_public_key

COMES_BACK: Final = "'nixfleet agent join --replace' on the device makes it a new one"


@dataclass(frozen=True, slots=True)
class FormerKey:
    """A key that a device had; `given_up`: it got another one, and may be in use itself."""

    key: PublicKey
    device: str
    given_up: bool

    def words(self, state: State) -> str:
        """Say what became of the key."""
        name = state.devices[self.device].statement.name
        if self.given_up:
            return f"this key is worth nothing: {name} has got another one; {COMES_BACK}"
        return f"{name} is retired: {COMES_BACK}"


def ended_token(state: State, signer: Fingerprint, now: int) -> tuple[PublicKey, str] | None:
    """Give the key of a join token that admits nobody any more, and why; None for any other."""
    held = grants(state, signer)
    if not held or any(record.statement.max_uses is None for record in held):
        return None
    newest = held[-1].statement
    text = next(text for text in newest.to.keys if parse_public_key(text).fingerprint == signer)
    when = f"has ended ({utc(newest.not_after)})" if now > newest.not_after else "was revoked"
    return parse_public_key(text), f"the join token {when}: ask for another one"
