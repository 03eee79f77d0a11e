"""SSH wire encoding (RFC 4251 section 5): the few forms that keys, signatures and the agent protocol use.

It must never read past its input, nor accept a length that the input does not hold.
"""

from typing import Self

from nixfleet.errors import Untrusted


def string(data: bytes) -> bytes:
    """Encode a `string`: u32 big-endian length, then the bytes."""
    return len(data).to_bytes(4, "big") + data


def u32(value: int) -> bytes:
    """Encode a `uint32`, big-endian."""
    return value.to_bytes(4, "big")


class Reader:
    """A cursor over encoded bytes; every read is bounded by them. Raises: Untrusted when they end early."""

    __slots__ = ("_at", "_data", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self._at = 0

    def take(self, count: int) -> bytes:
        """Read exactly `count` bytes."""
        end = self._at + count
        if end > len(self._data):
            raise Untrusted(f"{self._what} is cut short")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def u32(self) -> int:
        """Read a `uint32`."""
        return int.from_bytes(self.take(4), "big")

    def byte(self) -> int:
        """Read one byte as a number."""
        return self.take(1)[0]

    def string(self) -> bytes:
        """Read a `string`."""
        begin = self._at + 4
        end = begin + int.from_bytes(self._data[self._at : begin], "big")
        if end > len(self._data):
            raise Untrusted(f"{self._what} is cut short")
        self._at = end
        return self._data[begin:end]

    def expect(self, constant: bytes, name: str) -> Self:
        """Read `constant`, or refuse, naming the field."""
        if not self._data.startswith(constant, self._at):
            self.take(len(constant))  # too little is another fault than something else
            raise Untrusted(f"{self._what} has a wrong {name}")
        self._at += len(constant)
        return self

    def rest(self) -> bytes:
        """Read all that is left."""
        return self.take(len(self._data) - self._at)

    def end(self) -> None:
        """Refuse trailing bytes."""
        if self._at != len(self._data):
            raise Untrusted(f"{self._what} has trailing bytes")
