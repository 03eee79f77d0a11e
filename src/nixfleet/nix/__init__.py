"""All that touches Nix: the one place that starts its commands and reads their output.

Must never decide whether an update is wanted, and never trust what a cache serves beyond what Nix itself checks.
"""

from nixfleet.nix.faults import Fault, FaultKind, NixError, classify
from nixfleet.nix.store import Nix, toplevel_attr
from nixfleet.nix.values import (
    SYSTEM_PROFILE,
    Cache,
    FetchLimits,
    Generation,
    MissingBytes,
    PathInfo,
    Progress,
)

__all__ = [
    "SYSTEM_PROFILE",
    "Cache",
    "Fault",
    "FaultKind",
    "FetchLimits",
    "Generation",
    "MissingBytes",
    "Nix",
    "NixError",
    "PathInfo",
    "Progress",
    "classify",
    "toplevel_attr",
]
