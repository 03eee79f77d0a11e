"""The command log: every API call the console makes and the command line that does the same; bounded, in memory."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, Literal, TypeVar

import msgspec

from nixfleet.errors import NixfleetError
from nixfleet.model.text import clean
from nixfleet.tui.view.text import Line, Role, Span

T = TypeVar("T")
CallState = Literal["under way", "done", "failed", "cancelled"]
MAX_CALLS = 500
_STATES: Final[dict[CallState, tuple[str, Role]]] = {
    "under way": ("◐", "busy"),
    "done": ("✓", "ok"),
    "failed": ("✗", "bad"),
    "cancelled": ("□", "dim"),
}


class Call(msgspec.Struct, kw_only=True):
    """One call; `said` is its result, or the error's sentence."""

    at: int
    what: str
    cli: str = ""
    state: CallState = "under way"
    said: str = ""


class Calls:
    """The newest calls, in order."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._calls: deque[Call] = deque(maxlen=MAX_CALLS)

    def __iter__(self) -> Iterator[Call]:
        return iter(self._calls)

    def __len__(self) -> int:
        return len(self._calls)

    def note(self, what: str, said: str, *, failed: bool = False) -> None:
        """Write down something that is no call, such as an error of the console itself."""
        self._calls.append(Call(at=self._clock(), what=what, state="failed" if failed else "done", said=said))

    async def run(self, what: str, cli: str, work: Awaitable[T]) -> T:
        """Await a call and write down how it ended. Raises what the call raises."""
        call = Call(at=self._clock(), what=what, cli=cli)
        self._calls.append(call)
        try:
            result = await work
        except NixfleetError as error:
            call.state, call.said = "failed", str(error)
            raise
        except asyncio.CancelledError:
            call.state, call.said = "cancelled", "cancelled: no longer wanted"
            raise
        call.state = "done"
        call.said = result if isinstance(result, str) else ""
        return result

    def lines(self, time_of_day: Callable[[int], str]) -> list[Line]:
        """Draw the log, newest last."""
        drawn: list[Line] = []
        for call in self._calls:
            glyph, role = _STATES[call.state]
            drawn.append(
                (
                    Span(f"{time_of_day(call.at)}  ", "dim"),
                    Span(f"{glyph} ", role),
                    Span(clean(call.what)),
                    Span(f"  {clean(call.said)}", "bad" if role == "bad" else "dim"),
                )
            )
            if call.cli:
                drawn.append((Span(f"            $ {clean(call.cli)}", "dim"),))
        return drawn
