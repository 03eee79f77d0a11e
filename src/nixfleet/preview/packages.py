"""Package names, versions and outputs out of store paths ``HASH-NAME-VERSION[-OUTPUT]``; pure, total, and a guess.

Nix keeps no such fields: the version begins at the first dash before a digit, as `builtins.parseDrvName` and nvd read
it, and in a system, which is called after its host, at NixOS's release: hosts end in numbers, too. It must never decide
anything; it only makes differences readable.
"""

import re
from typing import Final, NamedTuple

from nixfleet.model.ids import store_name

OUTPUTS: Final = (
    "bin", "debug", "dev", "devdoc", "doc", "data", "dist", "getent", "info", "lib", "libgcc", "locale", "man",
    "modules", "modules-shrunk", "nc", "out", "py", "scripts", "share", "static", "terminfo", "tools", "xz",
)  # fmt: skip
"""Outputs of packages in nixpkgs, and the parts of a kernel; any other ending belongs to the version."""
_VERSION: Final = re.compile(r"-(?=[0-9])")
_SYSTEM: Final = re.compile(r"(nixos-system-.+)-([0-9]{2}\.[0-9]{2}.*)", re.ASCII)
_OUTPUT: Final = re.compile(rf"-({'|'.join(sorted(OUTPUTS, key=len, reverse=True))})\Z")


class Package(NamedTuple):
    """What a store path's name says; version and output are empty where it says none."""

    name: str
    version: str = ""
    output: str = ""


def package_of(path: str) -> Package:
    """Read a store path's name, with or without its folder and hash; what has no version is all name."""
    base = store_name(path).removesuffix(".drv")
    system = _SYSTEM.fullmatch(base)
    if system is not None:
        return Package(system[1], system[2])
    found = _VERSION.search(base, 1)
    if found is None:
        return Package(base)
    name, version = base[: found.start()], base[found.end() :]
    ending = _OUTPUT.search(version)
    if ending is None:
        return Package(name, version)
    return Package(name, version[: ending.start()], ending[1])


def named(package: Package) -> str:
    """Write a package as its store path does, without the hash."""
    return "-".join(part for part in package if part)
