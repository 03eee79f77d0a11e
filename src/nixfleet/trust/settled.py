"""What became of an entry that waited for signatures, by the replay's state of now, in words.

Pure. An entry's verdict is the one at its own place, and what waits there takes effect at the leaf that completes it
(trust.md, Approvals); who reads it later wants to know whether it did. It must never judge.
"""

from typing import Final

from nixfleet.trust.replay.state import State, Waiting

NO_LONGER: Final = "it waits no longer"


def settled(state: State, index: int, sha512: bytes, verdict: Waiting) -> tuple[str, str]:
    """Give a word and a reason for an entry that waited: still does, took effect since, or will not any more."""
    waits = next((one.waits for one in state.pending.get(sha512, ()) if one.place.index == index), "")
    if waits:
        return "waiting", waits
    since = state.completed.get(index)
    return ("waiting", f"{verdict.reason}; {NO_LONGER}") if since is None else ("valid", f"since entry {since}")
