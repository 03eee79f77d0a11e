"""What this device tells of itself; every text is read from this machine, bounded and stripped of control characters.

A fact that cannot be found is left at its default: facts never stop anything, and nothing is decided by them.
"""

import os
import platform
import socket
from pathlib import PurePosixPath

from nixfleet import __version__
from nixfleet.agent import bootmenu
from nixfleet.agent.host import Host
from nixfleet.model.device import SHORT_CHARS, Facts

_ADDRESSES = 16


def gather(host: Host, nix_version: str) -> Facts:
    """Read the facts of this machine; `nix_version` is the only one that needs a process."""
    free_bytes, store_bytes = host.free_bytes("/nix/store")
    return Facts(
        hostname=_short(host.hostname()),
        model=_short(_model(host)),
        architecture=_short(platform.machine()),
        cpus=os.cpu_count() or 0,
        memory_bytes=_memory_bytes(host),
        nixos_version=_short(host.read("/run/current-system/nixos-version", 200)),
        kernel=_short(host.read("/proc/sys/kernel/osrelease", 200)),
        nix_version=_short(nix_version),
        agent_version=_short(__version__),
        machine_id=_short(host.machine_id()),
        boot_fallback=bootmenu.kind_of(host),
        store_free_bytes=free_bytes,
        store_bytes=store_bytes,
        addresses=_local_addresses(host),
        timezone=_short(timezone(host)),
    )


def _model(host: Host) -> str:
    """Name the hardware: SMBIOS on PCs, the device tree on boards."""
    tree = host.read("/proc/device-tree/model", 200).strip()
    words = (host.read(f"/sys/class/dmi/id/{name}", 200).strip() for name in ("sys_vendor", "product_name"))
    return tree or " ".join(word for word in words if word)


def _memory_bytes(host: Host) -> int:
    for line in host.read("/proc/meminfo", 4_096).splitlines():
        name, _, value = line.partition(":")
        if name == "MemTotal" and value.split()[:1]:
            return int(value.split()[0]) * 1_024
    return 0


def timezone(host: Host) -> str:
    """Name the time zone by the link that localtime(5) describes."""
    zone = PurePosixPath(host.link("/etc/localtime"))
    parts = zone.parts
    return "/".join(parts[parts.index("zoneinfo") + 1 :]) if "zoneinfo" in parts else "UTC"


def _local_addresses(host: Host) -> tuple[str, ...]:
    """List the addresses of this machine but loopback and link-local: IPv4 by the routing table, IPv6 by if_inet6."""
    found: dict[str, None] = {}
    for line in host.read("/proc/net/fib_trie", 65_536).splitlines():
        word = line.strip()
        if word.startswith("|--"):
            last = word.removeprefix("|--").strip()
        elif word.startswith("/32 host LOCAL") and not last.startswith("127."):
            found[last] = None
    for line in host.read("/proc/net/if_inet6", 65_536).splitlines():
        words = line.split()
        # The fourth column is the scope: 00 is global (proc_net, if_inet6).
        if len(words) == 6 and words[3] == "00":
            found[socket.inet_ntop(socket.AF_INET6, bytes.fromhex(words[0]))] = None
    return tuple(found)[:_ADDRESSES]


def _short(text: str) -> str:
    return " ".join(text.split())[:SHORT_CHARS]
