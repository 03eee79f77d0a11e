"""Read server-sent events incrementally, as the WHATWG HTML standard (section 9.2) parses them. Pure.

It must never hold more than its bound: an event that does not end is an error, not memory.
"""

import re
from dataclasses import dataclass

from nixfleet.errors import Unreachable

_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class Event:
    """A dispatched event: its type (``message`` when unnamed), its data, and the last event id seen so far."""

    type: str
    data: str
    id: str = ""


class Parser:
    """Turns chunks of a stream, cut anywhere, into events; what comes after the last blank line waits for more."""

    def __init__(self, *, max_event_bytes: int) -> None:
        """Hold at most `max_event_bytes` of an unfinished event, its unfinished line included."""
        self._max_bytes = max_event_bytes
        self._line: list[bytes] = []
        self._line_bytes = 0
        self._after_cr = False
        self._first_line = True
        self._data: list[str] = []
        self._data_bytes = 0
        self._type = ""
        self._id = ""

    def feed(self, chunk: bytes) -> list[Event]:
        """Take the next bytes and give the events they complete. Raises: Unreachable over the bound."""
        if self._after_cr and chunk:
            # A CR ended the last chunk's line; an LF here is the second half of the same end.
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if not chunk:
            return []
        self._after_cr = chunk.endswith(b"\r")
        *whole, rest = _LINE_END.split(chunk)
        events: list[Event] = []
        for line in whole:
            self._hold(line)
            if event := self._end_line():
                events.append(event)
        self._hold(rest)
        return events

    def _hold(self, part: bytes) -> None:
        self._line.append(part)
        self._line_bytes += len(part)
        if self._line_bytes + self._data_bytes > self._max_bytes:
            raise Unreachable(f"the event stream sent an event larger than {self._max_bytes} bytes")

    def _end_line(self) -> Event | None:
        line = b"".join(self._line)
        self._line, self._line_bytes = [], 0
        if self._first_line:
            line = line.removeprefix(_BOM)
            self._first_line = False
        if not line:
            return self._dispatch()
        # No line end is part of a multi-byte character, so a line decodes as it would within the whole stream.
        name, _, value = line.decode("utf-8", "replace").partition(":")
        self._field(name, value.removeprefix(" "), len(line))
        return None

    def _field(self, name: str, value: str, line_bytes: int) -> None:
        """Apply one field; a comment has an empty name and, like any unknown field and ``retry``, no effect."""
        if name == "data":
            self._data.append(value)
            self._data_bytes += line_bytes
        elif name == "event":
            self._type = value
        elif name == "id" and "\0" not in value:
            self._id = value

    def _dispatch(self) -> Event | None:
        data, kind = self._data, self._type
        self._data, self._data_bytes, self._type = [], 0, ""
        if not data:
            return None
        return Event(kind or "message", "\n".join(data), self._id)
