"""Work beside the event loop that is never left running: who gives up on it ends when it has ended.

It must never let go of what the work uses, as a lock, while the work goes on.
"""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def beside(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do work in a thread and give its result; a thread cannot be ended, so a cancellation waits for it."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait((task,))
            except asyncio.CancelledError:  # once more: it takes no less time
                continue
        if not task.cancelled():
            task.exception()  # nobody waits for it any more
        raise
