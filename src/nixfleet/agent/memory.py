"""Memory that a long log took on its way in, given back to the system: devices are small.

It must never decide anything, nor be needed for anything but the size of the process.
"""

import gc
import threading

LONG_LOG = 1_000
"""Entries replayed at once from which it is worth it."""

_SHARED = threading.Event()


def share() -> None:
    """Give nothing back from now on, for a process of many agents: each would look through the memory of all."""
    _SHARED.set()


def give_back(entries: int) -> None:
    """Give back what reading so many entries has left free (malloc_trim(3)); where the C library has none, nothing."""
    if entries < LONG_LOG or _SHARED.is_set():
        return
    import ctypes  # a quarter of a megabyte that agents with short logs do without

    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
