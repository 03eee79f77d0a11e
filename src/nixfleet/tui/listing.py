"""Which records a table shows and in what order, kept up to date by ids that changed; no Textual, no clock."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

T = TypeVar("T")

SortKey = Callable[[T], Any]
"""Anything that compares; ties are broken by name."""


class Listing(Generic[T]):
    """A filtered and sorted list of ids over `records`.

    Only changed records are judged again; sorting an almost sorted list is cheap (timsort), and waits for `settle`.
    """

    def __init__(self, records: Callable[[], Mapping[str, T]], name: Callable[[T], Any]) -> None:
        self._records = records
        self._name = name
        self._keep: Callable[[T], bool] | None = None
        self._keys: tuple[tuple[SortKey[T], bool], ...] = ()
        self._ranks: dict[str, tuple[Any, ...]] = {}
        self.ids: list[str] = []
        self._settled = True

    @property
    def settled(self) -> bool:
        """Whether the order is the one the keys ask for."""
        return self._settled

    def filter(self, keep: Callable[[T], bool] | None) -> None:
        """Show only what `keep` holds for, from the next `rebuild` on."""
        self._keep = keep

    def sort(self, *keys: tuple[SortKey[T], bool]) -> None:
        """Order by these keys, each with whether it is reversed, from the next `rebuild` on."""
        self._keys = keys

    def rebuild(self) -> None:
        """Judge every record again."""
        self._ranks = {key: self._rank(record) for key, record in self._records().items() if self._shown(record)}
        self.ids = sorted(self._ranks, key=self._ranks.__getitem__)
        self._settled = True

    def update(self, changed: Iterable[str]) -> bool:
        """Judge the changed records again; tells whether rows came or went. New ones stand last until settled."""
        records = self._records()
        gone: set[str] = set()
        came: list[str] = []
        for key in changed:
            record = records.get(key)
            if record is None or not self._shown(record):
                if self._ranks.pop(key, None) is not None:
                    gone.add(key)
                continue
            rank = self._rank(record)
            old = self._ranks.get(key)
            if old is None:
                came.append(key)
            if old != rank:
                self._ranks[key] = rank
                self._settled = False
        if gone:
            self.ids = [key for key in self.ids if key not in gone]
        self.ids += came
        return bool(gone or came)

    def settle(self) -> None:
        """Put the rows in order."""
        self.ids = sorted(self.ids, key=self._ranks.__getitem__)
        self._settled = True

    def _shown(self, record: T) -> bool:
        return self._keep is None or self._keep(record)

    def _rank(self, record: T) -> tuple[Any, ...]:
        keys = tuple(_Reversed(key(record)) if down else key(record) for key, down in self._keys)
        return (*keys, self._name(record))


class _Reversed:
    """A value that sorts the other way round."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __lt__(self, other: "_Reversed") -> bool:
        return bool(other.value < self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Reversed) and bool(other.value == self.value)

    def __hash__(self) -> int:
        return hash(self.value)
