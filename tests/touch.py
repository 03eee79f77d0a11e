"""A key whose every signature costs a touch, and who counts them."""

from nixfleet.trust.signers import MemorySigner
from nixfleet.trust.sshsig import PublicKey, SecretKey


class Touched:
    """A signer like a key with a touch: it is no key in memory, and it counts."""

    def __init__(self, secret: SecretKey) -> None:
        self.touches = 0
        self._own = MemorySigner(secret)

    @property
    def key(self) -> PublicKey:
        """The public key."""
        return self._own.key

    def sign(self, namespace: str, payload: bytes) -> bytes:
        """Sign, and count."""
        self.touches += 1
        return self._own.sign(namespace, payload)
