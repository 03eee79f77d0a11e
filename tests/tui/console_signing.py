"""The console on the made-up fleet, whose acts are signed by ssh-keygen with the key file that KEY names."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from tests.tui.console_fleet import NOW
from tests.tui.console_ports import FakeActs, FakeSource, connect

from nixfleet.model.statements import Verb
from nixfleet.trust.signers import KeygenSigner
from nixfleet.tui.app import run
from nixfleet.tui.desk import Options
from nixfleet.tui.foreground import Foreground, ForegroundSigner


class SigningActs(FakeActs):
    """Acts that sign the way `nixfleet.client.admin` does: in a thread."""

    def __init__(self, signer: ForegroundSigner) -> None:
        super().__init__()
        self._signer = signer

    async def control(self, rollout: str, verb: Verb, *, wave: int | None = None, devices: Sequence[str] = ()) -> str:
        """Sign, and note a control."""
        await asyncio.to_thread(self._signer.sign, "nixfleet-control-v1", b"{}")
        return await super().control(rollout, verb, wave=wave, devices=devices)


def main() -> int:
    """Open the console."""
    foreground = Foreground()
    signer = ForegroundSigner(KeygenSigner(Path(os.environ["KEY"])), foreground)
    options = Options(clock=lambda: NOW, foreground=foreground)
    return run(connect(FakeSource(), SigningActs(signer)), options=options)
