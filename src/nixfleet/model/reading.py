"""Reading JSON that others wrote: what the library raises for bytes that are not what was asked for."""

from typing import Final

import msgspec

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""msgspec has errors of its own for shape and syntax, and Python's for bytes that are no UTF-8 or nest too deep."""
