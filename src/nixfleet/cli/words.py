"""Reading what only the command line takes: ``NAME=PATH`` pairs; errors name the word that is wrong."""

import re
from collections.abc import Iterable

from nixfleet.errors import UserError
from nixfleet.model.ids import STORE_PATH


def parse_targets(texts: Iterable[str]) -> dict[str, str]:
    """Read ``NAME=PATH`` pairs of device name and store path. Raises: UserError."""
    targets: dict[str, str] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or not name:
            raise UserError(f"{text!r} is not NAME=PATH, for example web-01=/nix/store/…-nixos-system-web-01")
        if not re.fullmatch(STORE_PATH, path):
            raise UserError(
                f"{path!r} is no store path; it must be /nix/store/HASH-NAME itself, not a link or a part of one"
            )
        if name in targets:
            raise UserError(f"device {name!r} is given twice")
        targets[name] = path
    return targets
