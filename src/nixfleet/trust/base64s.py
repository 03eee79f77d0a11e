"""Strict standard base64 (RFC 4648 section 4): one content has one encoding, so that nothing signed has two forms."""

import base64
import binascii

from nixfleet.errors import Untrusted


def decode(text: str, what: str) -> bytes:
    """Decode `what` in the one form that it has: padded, no stray bits, nothing between. Raises: Untrusted."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Untrusted(f"{what} is not base64") from error
    if base64.b64encode(data).decode() != text:
        raise Untrusted(f"{what} is not in the one form base64 has")
    return data
