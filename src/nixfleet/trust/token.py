"""Join tokens as one line of text: where a fleet is, which one, and the seed of a key that may enrol.

A token is a secret. It must never be logged, nor put into an error's text.
"""

import base64
import binascii
import re
from typing import Final

from nixfleet.errors import UserError
from nixfleet.model.device import JoinToken
from nixfleet.trust.statements import Malformed, strict_decode, strict_encode

PREFIX: Final = "nixfleet-join-1."
TOKEN_CHARS_MAX: Final = 8_192
_BODY: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


def make(token: JoinToken) -> str:
    """Write a token. Raises: UserError when an address or the seed is malformed."""
    return PREFIX + base64.urlsafe_b64encode(strict_encode(token)).decode().rstrip("=")


def read(text: str) -> JoinToken:
    """Read a token, white space around it aside. Raises: UserError, which never quotes the token."""
    body = text.strip()
    if len(body) > TOKEN_CHARS_MAX:
        raise UserError(f"the join token is longer than {TOKEN_CHARS_MAX} characters; copy the one line alone")
    if not body.startswith(PREFIX):
        raise UserError(f"not a join token: it does not start with {PREFIX!r}; make one with 'nixfleet enroll token'")
    body = body.removeprefix(PREFIX)
    try:
        if not _BODY.fullmatch(body):
            raise UserError("the join token is damaged; copy it again, as one line")
        token = strict_decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), JoinToken)
    except (binascii.Error, ValueError, Malformed) as error:
        raise UserError("the join token is damaged; copy it again, as one line") from error
    if token.v != 1:
        raise UserError("the join token is of a newer nixfleet; update this one first")
    return token
