"""Who may do what, asked of the verified log: the port behind the Access screen and every grey key.

It judges nothing: the replay does. It must never ask the coordinator.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from nixfleet.client.enrolling import Wish, plan_for
from nixfleet.client.grants import stopped_by
from nixfleet.client.mirror import Mirror
from nixfleet.errors import UserError
from nixfleet.model.ids import Fingerprint
from nixfleet.model.statements import Action, RevokeSubject
from nixfleet.model.views import AccessView, DeviceView, EnrollView, PendingView, RolloutView
from nixfleet.trust.access import access_view
from nixfleet.trust.approving import why_not
from nixfleet.trust.replay import Explanation, explain
from nixfleet.trust.sshsig import parse_public_key
from nixfleet.tui.ports import Stop, Subject

ASKED_MAX: Final = 2_000
"""Rights over sets of tags that are worked out before an act; what is beyond is left to the log to refuse."""
_AGES_S: Final = 60
_KEY_BYTES_MAX: Final = 16 << 10


class LogAuthority:
    """Answers out of a mirror of the log, for the holder of one key."""

    def __init__(self, mirror: Mirror, *, signer: Fingerprint, clock: Callable[[], int]) -> None:
        """Speak for `signer` where the question is what the person here may; `clock` gives unix seconds."""
        self._mirror = mirror
        self._signer = signer
        self._clock = clock
        self._held: tuple[tuple[int, int], AccessView] | None = None
        self._signable: dict[int, str] = {}
        self._reaches: dict[tuple[object, ...], bool] = {}
        """Whether this key may do an action to devices with these tags."""

    def access(self) -> AccessView:
        """Give everything, worked out anew when the log has grown, or a minute has passed."""
        now = self._clock()
        at = (self._mirror.size, now // _AGES_S)
        if self._held is None or self._held[0] != at:
            self._held = (at, access_view(self._mirror.state, now))
            self._signable.clear()
            self._reaches.clear()
        return self._held[1]

    def explain(self, key: str, action: Action, device: str) -> Explanation:
        """Say whether a key may act on a device, and by which chain."""
        return explain(self._mirror.state, Fingerprint(key), action, device, self._clock())

    def stops(self, subject: Subject, rollouts: Sequence[RolloutView]) -> Sequence[Stop]:
        """List what a revocation would stop."""
        asked = RevokeSubject(grant=subject.grant or None, key=subject.key or None)
        found = stopped_by(self._mirror.state, asked, rollouts, self._clock())
        return [Stop(kind=one.kind, name=one.name or one.id[:12], why=one.why) for one in found]

    def why_not_sign(self, pending: PendingView) -> str:
        """Say why this key's signature would not help; the replay judges, so its answer is kept while it can be."""
        self.access()  # whose age is that of the answers
        if pending.index not in self._signable:
            payload = self._mirror.payload(pending.index)
            self._signable[pending.index] = (
                "its payload is not held here"
                if payload is None
                else why_not(self._mirror.state, payload, self._signer, self._clock())
            )
        return self._signable[pending.index]

    def why_not(self, action: Action, devices: Sequence[DeviceView]) -> str:
        """Give the sentence about the first device over which this key has not the right."""
        self.access()  # whose age is that of the answers
        for device in devices:
            tags = (action, *sorted(device.tags.items()))
            if tags not in self._reaches:
                if len(self._reaches) >= ASKED_MAX:
                    break
                told = self.explain(self._signer, action, device.id)
                self._reaches[tags] = told.allowed or told.waits
            if not self._reaches[tags]:
                return self.explain(self._signer, action, device.id).sentence
        return ""

    def touches(self, requests: Sequence[EnrollView]) -> tuple[int, str]:
        """Say how often this key signs to enrol several, and why each where there are many."""
        now = max(self._clock(), self._mirror.state.last_time)
        bulk = plan_for(self._mirror.state, self._signer, [Wish(request) for request in requests], now)
        return bulk.touches, bulk.why_alone

    def public_key(self, text: str) -> tuple[str, str]:
        """Read a public key from its line, or from the file that `text` names."""
        line = text.strip()
        if not line.startswith(("ssh-", "sk-ssh-", "ecdsa-")):
            try:
                with Path(line).expanduser().open(encoding="utf-8") as file:
                    line = file.read(_KEY_BYTES_MAX)
            except (OSError, UnicodeDecodeError) as error:
                raise UserError("give a public key: its line 'ssh-ed25519 AAAA…', or a .pub file") from error
        key = parse_public_key(line)
        return key.text, key.fingerprint
