"""Store paths by number, and what is known of them, for tests of previews."""

from collections.abc import Mapping, Sequence

import msgspec

from nixfleet.preview.closures import StoreObject


def path(number: int, name: str) -> str:
    """Give the store path with this number and name."""
    return f"/nix/store/{number:032d}-{name}"


def obj(
    number: int, name: str, nar_bytes: int, *, file_bytes: int | None = None, refs: Sequence[int] = ()
) -> StoreObject:
    """Describe a path; references are numbers, for `known_of` to name."""
    return StoreObject(
        path=path(number, name),
        nar_bytes=nar_bytes,
        file_bytes=file_bytes,
        references=tuple(f"{number:032d}" for number in refs),
    )


def known_of(*objects: StoreObject, beside: Mapping[str, StoreObject] | None = None) -> dict[str, StoreObject]:
    """Give facts by path, with references by number resolved; what was known `beside` may be replaced."""
    known = {**(beside or {}), **{one.path: one for one in objects}}
    named = {place.removeprefix("/nix/store/")[:32]: place for place in known}
    return {
        place: msgspec.structs.replace(one, references=tuple(named.get(ref, ref) for ref in one.references))
        for place, one in known.items()
    }
