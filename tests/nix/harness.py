"""What other tests use of the real-Nix harness; its fixtures are in `tests.nix.fixtures`."""

from tests.nix.builder import Systems, nix_env, write_conf
from tests.nix.cacheserver import CacheServer, Faults
from tests.nix.machines import Admin, Device, Machine, closing
from tests.nix.natlab import NatLab
from tests.nix.probes import need_namespaces, need_networks, need_nix, wait_until

__all__ = [
    "Admin",
    "CacheServer",
    "Device",
    "Faults",
    "Machine",
    "NatLab",
    "Systems",
    "closing",
    "need_namespaces",
    "need_networks",
    "need_nix",
    "nix_env",
    "wait_until",
    "write_conf",
]
