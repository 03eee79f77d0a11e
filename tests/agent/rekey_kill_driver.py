"""Change a device's key and die by SIGKILL at a chosen point of it (for test_agent_rekey_kill).

A point is just before or after anything that lasts or leaves the device: a write, the removal of the old key, a sync,
the append. Usage: rekey_kill_driver.py NUMBER ARGV…; writes the point's name to standard output before it dies, and
runs ``nixfleet agent ARGV`` to its end when there is no such point.
"""

import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nixfleet.agent import identity, main
from nixfleet.client.api import Client

chosen = int(sys.argv[1])
reached = itertools.count(1)


def reach(name: str) -> None:
    """Die here, if this is the chosen point."""
    if next(reached) == chosen:
        os.write(1, name.encode())
        os.kill(os.getpid(), signal.SIGKILL)


def around(name: str, act: Callable[..., Any]) -> Callable[..., Any]:
    """Put a point before and one after a call."""

    def call(*args: Any, **rest: Any) -> Any:
        reach(f"before {name}")
        answer = act(*args, **rest)
        reach(f"after {name}")
        return answer

    return call


def awaited(name: str, act: Callable[..., Any]) -> Callable[..., Any]:
    """Put a point before and one after something that is awaited."""

    async def call(*args: Any, **rest: Any) -> Any:
        reach(f"before {name}")
        answer = await act(*args, **rest)
        reach(f"after {name}")
        return answer

    return call


if __name__ == "__main__":
    identity.write_atomic = around("a write", identity.write_atomic)  # type: ignore[attr-defined]  # a name it imports
    Path.unlink = around("the removal of the old key", Path.unlink)  # type: ignore[method-assign]
    Client.append = awaited("the append", Client.append)  # type: ignore[method-assign]
    Client.sync = awaited("a sync", Client.sync)  # type: ignore[method-assign]
    sys.exit(main.main(sys.argv[2:]))
