"""Keys that tests of signers use, and the question that they ask."""

from collections.abc import Callable
from pathlib import Path

from nixfleet.trust import signers, sshsig
from nixfleet.trust.sshsig import SecretKey

NAMESPACE = "nixfleet-rollout-v1"
PAYLOAD = b'{"v":1}'
KEY = SecretKey.from_seed(b"\x05" * 32)
OTHER = SecretKey.from_seed(b"\x06" * 32)


def find(
    key: sshsig.PublicKey | None = None,
    *,
    key_file: Path | None = None,
    ssh_auth_sock: str | None = None,
    passphrase: Callable[[], str] | None = None,
) -> signers.Signer:
    """Call find_signer with nothing but what is given."""
    return signers.find_signer(key, key_file=key_file, ssh_auth_sock=ssh_auth_sock, passphrase=passphrase)
