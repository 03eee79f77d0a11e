"""A network in which a device sits behind address translation: device side, router, coordinator side.

The coordinator side is a network namespace, or this host by a virtual link that only the test knows. Nothing reaches
a real network. Faults: `cut` (packets vanish), `mend`.
"""

import itertools
import os
import subprocess
from collections.abc import Sequence
from typing import Any, Self

from tests.nix.probes import need_networks

_COUNT = itertools.count()
_NAT_RULES = """
add table ip nat
add chain ip nat post {{ type nat hook postrouting priority 100; }}
add rule ip nat post oifname "{outside}" masquerade
add table ip filter
add chain ip filter forwarded {{ type filter hook forward priority 0; policy drop; }}
"""
# Connections begin on the device's side only.
_PASS_RULES = """
flush chain ip filter forwarded
add rule ip filter forwarded ct state established,related accept
add rule ip filter forwarded iifname "{inside}" accept
"""


class NatLab:
    """Three networks while the block lasts; run things in `device_netns` and, unless `host`, in `coordinator_netns`."""

    def __init__(self, *, host: bool = False) -> None:
        # Links on the host share one name space and one address plan with other tests that run now.
        number = (os.getpid() * 4 + next(_COUNT)) % 4000
        name = f"nf{os.getpid()}x{number % 100}"
        self.device_netns = f"{name}d"
        self._router = f"{name}r"
        self.coordinator_netns = None if host else f"{name}c"
        subnet, offset = divmod(number, 16)
        self._inside = "10.77.254"
        self._outside = f"10.77.{subnet % 250}"
        self._low = offset * 16
        self.device_address = f"{self._inside}.2"
        self.router_address = f"{self._outside}.{self._low + 1}"
        self.coordinator_address = f"{self._outside}.{self._low + 2}"
        self._links = tuple(f"nf{os.getpid() % 1000000}{number % 100}{side}" for side in "abcd")

    def __enter__(self) -> Self:
        need_networks()
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make(self) -> None:
        device, to_device, to_coordinator, coordinator = self._links
        for name in self._namespaces():
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("link", "add", device, "netns", self.device_netns, "type", "veth", "peer", to_device, "netns", self._router)
        place = [] if self.coordinator_netns is None else ["netns", self.coordinator_netns]
        _ip("link", "add", coordinator, *place, "type", "veth", "peer", to_coordinator, "netns", self._router)
        self._up(self.device_netns, device, f"{self.device_address}/24")
        self._up(self._router, to_device, f"{self._inside}.1/24")
        self._up(self._router, to_coordinator, f"{self.router_address}/28")
        self._up(self.coordinator_netns, coordinator, f"{self.coordinator_address}/28")
        _ip("-n", self.device_netns, "route", "add", "default", "via", f"{self._inside}.1")
        self._in_router("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        self._in_router("nft", "-f", "-", stdin=_NAT_RULES.format(outside=to_coordinator))
        self.mend()

    def _up(self, namespace: str | None, link: str, address: str) -> None:
        where = [] if namespace is None else ["-n", namespace]
        _ip(*where, "addr", "add", address, "dev", link)
        _ip(*where, "link", "set", link, "up")

    def _namespaces(self) -> list[str]:
        return [name for name in (self.device_netns, self._router, self.coordinator_netns) if name is not None]

    def _in_router(self, *argv: str, stdin: str = "") -> None:
        _check(["ip", "netns", "exec", self._router, *argv], stdin)

    def argv(self, netns: str, argv: Sequence[str]) -> list[str]:
        """Give the command that runs `argv` in one of the namespaces; it keeps its process id."""
        return ["nsenter", f"--net=/run/netns/{netns}", *argv]

    def popen(self, netns: str, argv: Sequence[str], **settings: Any) -> "subprocess.Popen[bytes]":
        """Start a program in one of the namespaces; the caller ends it before the lab ends."""
        return subprocess.Popen(self.argv(netns, argv), **settings)

    def cut(self) -> None:
        """Let every packet between device and coordinator vanish, without a word to either."""
        self._in_router("nft", "flush chain ip filter forwarded")

    def mend(self) -> None:
        """Let packets pass again."""
        self._in_router("nft", "-f", "-", stdin=_PASS_RULES.format(inside=self._links[1]))

    def swallow_ends(self) -> None:
        """Let what ends a connection from the coordinator's side vanish: the device holds half of one, in silence."""
        rule = f'insert rule ip filter forwarded iifname "{self._links[2]}" tcp flags & (fin | rst) != 0 drop'
        self._in_router("nft", "-f", "-", stdin=rule)

    def close(self) -> None:
        """Take the networks down; links go with their namespaces."""
        for name in self._namespaces():
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False, timeout=10)


def _ip(*words: str) -> None:
    _check(["ip", *words])


def _check(argv: list[str], stdin: str = "") -> None:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False, timeout=10)
    assert done.returncode == 0, f"{' '.join(argv)} failed: {done.stderr}"
