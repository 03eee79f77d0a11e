"""Closures over what is known of store paths: what belongs to a system, how large it is, what a device would fetch.

A path that is named but not known makes a closure `partial`: its sizes are then no more than a lower bound.
"""

from collections.abc import Iterable, Mapping

import msgspec


class StoreObject(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a cache, or this machine's own store, says of a path; `file_bytes` None: no cache says how much to load."""

    path: str
    nar_bytes: int
    file_bytes: int | None = None
    references: tuple[str, ...] = ()


Known = Mapping[str, StoreObject]


class Closure(msgspec.Struct, frozen=True, kw_only=True):
    """A path and all that it needs; `unknown` are those of `paths` of which nothing is known."""

    paths: frozenset[str]
    unknown: frozenset[str]
    nar_bytes: int

    @property
    def partial(self) -> bool:
        """Whether something of it is not known."""
        return bool(self.unknown)


def closure_of(root: str, known: Known) -> Closure:
    """Follow the references from a path; a cycle, and a path that names itself, come to an end."""
    seen, waiting, unknown, nar_bytes = {root}, [root], set[str](), 0
    while waiting:
        path = waiting.pop()
        found = known.get(path)
        if found is None:
            unknown.add(path)
            continue
        nar_bytes += found.nar_bytes
        fresh = set(found.references) - seen
        seen |= fresh
        waiting += fresh
    return Closure(paths=frozenset(seen), unknown=frozenset(unknown), nar_bytes=nar_bytes)


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """What a device lacks of a system: bytes to load (compressed) and to store, and how far that holds.

    `at_most`: it may have more than is known of it, or a file may be smaller than its unpacked size, which is counted
    where no cache says. `at_least`: something of the new system is unknown.
    """

    download_bytes: int
    disk_bytes: int
    paths: int
    at_most: bool = False
    at_least: bool = False


def need_of(new: Closure, have: Iterable[Closure], known: Known) -> Need:
    """Subtract what a device has from what it needs; of an unknown system it has that path alone for certain."""
    held = list(have)
    lacks = new.paths.difference(*(one.paths - one.unknown for one in held)) - new.unknown
    objects = [known[path] for path in lacks]
    return Need(
        download_bytes=sum(one.nar_bytes if one.file_bytes is None else one.file_bytes for one in objects),
        disk_bytes=sum(one.nar_bytes for one in objects),
        paths=len(lacks),
        at_most=any(one.partial for one in held) or any(one.file_bytes is None for one in objects),
        at_least=new.partial,
    )


class Shelf:
    """Closures of one set of facts, each worked out once."""

    def __init__(self, known: Known) -> None:
        """Read from `known`, which must not change meanwhile."""
        self.known = known
        self._closures: dict[str, Closure] = {}
        self._needs: dict[tuple[str, frozenset[str]], Need] = {}

    def closure(self, root: str) -> Closure:
        """Give the closure of a system."""
        found = self._closures.get(root)
        if found is None:
            found = self._closures[root] = closure_of(root, self.known)
        return found

    def need(self, new: str, have: Iterable[str]) -> Need:
        """Tell what a device with these systems lacks of a new one."""
        key = new, frozenset(have)
        found = self._needs.get(key)
        if found is None:
            held = [self.closure(path) for path in sorted(key[1])]
            found = self._needs[key] = need_of(self.closure(new), held, self.known)
        return found
