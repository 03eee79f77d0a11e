"""Find out whether this machine can run tests with real Nix, and skip them with the reason where it cannot."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest


def wait_until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    """Wait until something holds that another process brings about; fail the test when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not so within {timeout_s} s"
        time.sleep(0.01)


def need_nix() -> None:
    """Skip without Nix's old commands or a static busybox to build systems from."""
    for program in ("nix-store", "nix-env", "busybox"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (Debian: nix-bin, busybox-static)")


def need_namespaces() -> None:
    """Skip where no mount namespace can be made: a machine of its own needs one."""
    if os.geteuid() != 0:
        pytest.skip("test machines need root")
    reason = _unshare_fails()
    if reason:
        pytest.skip(f"test machines need mount namespaces: {reason}")


def need_networks() -> None:
    """Skip where no network namespace with address translation can be made."""
    need_namespaces()
    for program in ("ip", "nft"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (Debian: iproute2, nftables)")
    reason = _netns_fails()
    if reason:
        pytest.skip(f"network namespaces cannot be made: {reason}")


@cache
def _unshare_fails() -> str:
    tried = subprocess.run(
        ["unshare", "--mount", "--uts", "true"], capture_output=True, text=True, check=False, timeout=10
    )
    return "" if tried.returncode == 0 else tried.stderr.strip() or "unshare failed"


@cache
def _netns_fails() -> str:
    name = f"nfprobe{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False, timeout=10)
    if tried.returncode == 0:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False, timeout=10)
    elif Path(f"/run/netns/{name}").exists():
        Path(f"/run/netns/{name}").unlink()
    return "" if tried.returncode == 0 else tried.stderr.strip() or "ip netns add failed"
