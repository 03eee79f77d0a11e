"""Memory that a long log took on its way in, given back to the system: devices are small.

It must never decide anything, nor be needed for anything but the size of the process.
"""

import gc

LONG_LOG = 1_000
"""Entries replayed at once from which it is worth it."""


def give_back(entries: int) -> None:
    """Give back what reading so many entries has left free (malloc_trim(3)); where the C library has none, nothing."""
    if entries < LONG_LOG:
        return
    import ctypes  # a quarter of a megabyte that agents with short logs do without

    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
