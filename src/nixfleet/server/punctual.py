"""uvicorn's HTTP/1.1 with bounds on what a peer may keep waiting for: a head, and each second of a body.

It must never end a connection that owes nothing: an answer under way, a stream, a peer that rests between requests.
"""

import asyncio
import contextlib
from typing import Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from nixfleet.server.faults import error_body

HEAD_BYTES: Final = 32_768
HEAD_S: Final = 20.0
"""From the connection, or from a head's first byte, to its end."""
BODY_S: Final = 30.0
"""What every body has, however short it is ..."""
BODY_BYTES_S: Final = 1_000
"""... and beyond it a second for each so many bytes."""
_PIECE_BYTES: Final = 4_096


class Punctual(H11Protocol):
    """Hangs up on who is late: strangers must not hold connections for ever."""

    _due_at: float | None = None
    _timer: asyncio.TimerHandle | None = None
    _in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn types it
        """Expect a head from now on."""
        super().connection_made(transport)
        self._expect(HEAD_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing any more."""
        self._settled()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has come, a head in small pieces: the parser compares a head with its bound only between them."""
        at = 0
        while at < len(data) and not self.transport.is_closing():
            size = _PIECE_BYTES if self.conn.their_state is h11.IDLE else len(data)
            super().data_received(data[at : at + size])
            at += size
        self._judge(len(data))

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP in the shape of every refusal, unless an answer is under way."""
        body = error_body("user", msg.lower().rstrip("."), 0)
        head = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        with contextlib.suppress(h11.LocalProtocolError):
            for event in (h11.Response(status_code=400, headers=head), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None:
            # Whatever the application answers now goes nowhere.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _judge(self, received_bytes: int) -> None:
        """Say what the peer owes by now."""
        state = self.conn.their_state
        if state is h11.SEND_BODY:
            if not self._in_body:
                self._in_body = True
                self._expect(BODY_S)
            elif self._due_at is not None:
                self._due_at += received_bytes / BODY_BYTES_S
            return
        if self._in_body or state is not h11.IDLE:
            self._settled()
        if state is h11.IDLE and self._due_at is None:
            self._expect(HEAD_S)

    def _expect(self, seconds: float) -> None:
        self._due_at = self.loop.time() + seconds
        if self._timer is None:
            self._timer = self.loop.call_at(self._due_at, self._look)

    def _settled(self) -> None:
        self._due_at, self._in_body = None, False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """Hang up if it is time; what this side has not read yet is not the peer's debt."""
        self._timer = None
        if self._due_at is None or self.transport.is_closing():
            return
        now = self.loop.time()
        if self.flow.read_paused:
            self._due_at = max(self._due_at, now + 1.0)
        if now < self._due_at:
            self._timer = self.loop.call_at(self._due_at, self._look)
        else:
            self.transport.abort()
