"""Group commit: one durable transaction for all that arrived meanwhile, each caller answered after it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from nixfleet.server.faults import Busy

T = TypeVar("T")


class GroupWriter(Generic[T]):
    """Collects items while a transaction is under way, and writes them all in the next one."""

    def __init__(self, write: Callable[[Sequence[T]], Awaitable[None]], most: int = 20_000) -> None:
        self._write = write
        self._most = most
        self._items: list[tuple[T, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def put(self, item: T) -> None:
        """Write an item; it is durable when this returns. Raises: what the write raises; Busy when too many wait."""
        if len(self._items) >= self._most:
            raise Busy("too many reports at once; try again in a moment")
        # A caller that gives up cancels what it waits for alone: the transaction is `_drain`'s.
        await self.add(item)

    def add(self, item: T) -> asyncio.Future[None]:
        """Queue an item behind all that came before, whatever waits; the future ends as `put` does."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._items.append((item, done))
        if self._task is None:
            self._task = asyncio.create_task(self._drain())
        return done

    async def close(self) -> None:
        """Wait until everything is written."""
        if self._task is not None:
            await self._task

    async def _drain(self) -> None:
        try:
            while self._items:
                group, self._items = self._items, []
                await self._commit(group)
        finally:
            self._task = None

    async def _commit(self, group: Sequence[tuple[T, asyncio.Future[None]]]) -> None:
        try:
            await self._write([item for item, _ in group])
        except Exception as error:  # noqa: BLE001 - each waiting caller gets it
            for _, done in group:
                if not done.done():
                    done.set_exception(error)
                    done.exception()  # a caller that has gone away must not be warned about
        else:
            for _, done in group:
                if not done.done():
                    done.set_result(None)
