"""Why an entry is void, in words that fit what its own payload shows: replay's verdict stays what it is.

Pure. It must never judge: who has read these words knows more of why, and nothing else has changed.
"""

from nixfleet.model.text import counted
from nixfleet.trust.replay import Void
from nixfleet.trust.statements import Malformed, parse


def why_void(index: int, verdict: Void, payload: bytes | None) -> str:
    """Give a verdict's reason; of a statement over more entries than stand before it, say that some are missing here.

    Its signer had replayed them, and no log that held them has the statement at this place.
    """
    try:
        base = None if payload is None else parse(payload).base.size
    except Malformed:
        base = None
    if base is None or base <= index:
        return verdict.reason
    return f"{verdict.reason} (it was signed over {counted(base, 'entry')}: some are left out here, or moved behind it)"
