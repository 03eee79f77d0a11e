"""The simulation's made-up machine and Nix, as the agent's tests use them: `nixfleet.sim` is the one place of both."""
# ruff: noqa: ARG002 - the signatures are those of a real watcher

import json
import os
from pathlib import Path

from nixfleet.agent.update import Offer
from nixfleet.nix import Progress
from nixfleet.sim.machine import CACHE, Machine, digest_of, set_profile, store_path
from nixfleet.sim.store import MadeUpStore

__all__ = ["CACHE", "Machine", "MadeUpStore", "Silent", "append_line", "digest_of", "set_profile", "store_path"]


class Silent:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.done_bytes: list[int] = []

    def on_bytes(self, offer: Offer, progress: Progress, *, ahead: bool = False) -> None:
        """Keep the bytes."""
        self.done_bytes.append(progress.done_bytes)

    def on_lines(self, offer: Offer, lines: tuple[str, ...]) -> None:
        """Keep the lines."""
        self.lines += lines


def append_line(path: Path, value: object) -> None:
    """Append a JSON line durably enough for a killed writer (O_APPEND, one write)."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, json.dumps(value).encode() + b"\n")
    os.close(handle)
