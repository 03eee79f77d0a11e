"""Read what Nix commands print. Pure; raises `ValueError` on text that is not theirs and never guesses."""

import re

import msgspec

from nixfleet.nix.values import MissingBytes, PathInfo
from nixfleet.trust.narinfo import check_store_path, to_base32_hash

_VERSION = re.compile(r"\([^()\n]*\bNix\b[^()\n]*\) (\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?")
_STORE_BASE = re.compile(r"/nix/store/([0-9a-z]{32}-[0-9a-zA-Z+._?=-]{1,211})", re.ASCII)
_FETCHED = re.compile(r"will be fetched \(([0-9.]+) ([KMGT]iB) download, ([0-9.]+) ([KMGT]iB) unpacked\)")
_UNIT_BYTES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
# Changed; then gone, in the words of 2.8 and of 2.26.
_BAD = ("was modified!", "No such file or directory", "does not exist")
_LINK = re.compile(r"-(\d{1,9})-link\Z", re.ASCII)


class _Built(msgspec.Struct):
    outputs: dict[str, str]


def version(text: str) -> tuple[int, int, int]:
    """Read `nix-store (Nix) 2.8.0`, and the same of Nix's relatives, with their number of Nix's version."""
    found = _VERSION.search(text)
    if found is None:
        raise ValueError(f"no Nix version in {text[:80]!r}")
    major, minor, patch = found.groups(default="0")
    return int(major), int(minor), int(patch)


def paths(text: str) -> list[str]:
    """Read one store path a line, checking each."""
    return [check_store_path(line) for line in text.splitlines() if line]


def registrations(text: str) -> list[PathInfo]:
    """Read `nix-store --dump-db`: per path its name, NAR hash in hex, NAR size, deriver or empty, count, references."""
    lines = iter(text.split("\n"))
    found: list[PathInfo] = []
    for path in lines:
        if path == "":  # the piece after the last newline
            break
        try:
            nar_hash, nar_bytes, deriver = next(lines), int(next(lines)), next(lines)
            references = tuple(check_store_path(next(lines)) for _ in range(int(next(lines))))
        except StopIteration:
            raise ValueError(f"the registration of {path[:300]!r} is cut short") from None
        found.append(
            PathInfo(
                path=check_store_path(path),
                nar_hash=to_base32_hash(nar_hash if ":" in nar_hash else f"sha256:{nar_hash}"),
                nar_bytes=nar_bytes,
                references=references,
                deriver=deriver or None,
            )
        )
    return found


def missing_bytes(text: str) -> MissingBytes:
    """Read the summary of a dry run; nothing to fetch, no summary."""
    found = _FETCHED.search(text)
    if found is None:
        return MissingBytes(0, 0)
    download, download_unit, unpacked, unpacked_unit = found.groups()
    return MissingBytes(
        round(float(download) * _UNIT_BYTES[download_unit]),
        round(float(unpacked) * _UNIT_BYTES[unpacked_unit]),
    )


def bad_paths(lines: list[str]) -> list[str]:
    """Find the paths that a verification names as changed or gone, in the order it named them."""
    named = (_STORE_BASE.search(line) for line in lines if any(words in line for words in _BAD))
    return list(dict.fromkeys(f"/nix/store/{found.group(1)}" for found in named if found))


def generation_number(profile_name: str, link_name: str) -> int | None:
    """Read the number out of `system-42-link`, the name of a generation of the profile `system`."""
    found = _LINK.search(link_name)
    if found is None or link_name[: found.start()] != profile_name:
        return None
    return int(found.group(1))


def built_path(raw: bytes) -> str:
    """Read the one output path of `nix build --json`; several outputs: `out`."""
    try:
        built = msgspec.json.decode(raw, type=list[_Built])
    except msgspec.MsgspecError as error:
        raise ValueError(f"nix build printed no list of results: {error}") from None
    if len(built) != 1 or "out" not in built[0].outputs:
        raise ValueError(f"nix build made {len(built)} results where one with an output 'out' was asked for")
    return check_store_path(built[0].outputs["out"])
