"""A real coordinator, a program of its own on loopback, with a made-up fleet whose statements are really signed."""

import asyncio
import base64
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.factories import Fleet, device_id, key

from nixfleet.client.api import Client
from nixfleet.model.statements import Device, LogState, Statement
from nixfleet.model.wire import AppendResponse, Submission
from nixfleet.server.setup import create_fleet
from nixfleet.trust.leaf import Leaf
from nixfleet.trust.narinfo import CacheKey
from nixfleet.trust.statements import encode, namespace_of

START_S = 60
BATCH = 500
"""Statements in one append: more than a mebibyte would need a session."""


def now() -> int:
    """Give unix seconds: real programs look at the same clock."""
    return int(time.time())


def names(count: int) -> list[str]:
    """Name so many devices."""
    return [f"dev-{number:05d}" for number in range(count)]


class Site:
    """A fleet with one admin; `url` once it is served. Statements are based on the coordinator's own checkpoint."""

    def __init__(self, folder: Path, **root: Any) -> None:
        self.folder = folder
        folder.mkdir()
        self.fleet = Fleet(at=now(), **root)
        leaf, payload = self.fleet.entries[0]
        signature, cache_key = Leaf.unpack(leaf).sshsig, CacheKey.generate("acme-1").text
        create_fleet(folder / "data", payload, signature, self.fleet.log_key, cache_key, now=self.fleet.now)
        self.url = ""
        self.process: subprocess.Popen[bytes] | None = None

    def client(self, name: str) -> Client:
        """Make a client that signs with a named key."""
        return Client([self.url], fleet=self.fleet.fleet, key=key(name), clock=now)

    async def header(self, api: Client) -> dict[str, Any]:
        """Give a statement's header by the admin, based on the log as it is."""
        _, size, root, *_ = (await api.checkpoint()).split(b"\n")
        base = LogState(size=int(size), root=base64.b64decode(root).hex())
        return {**self.fleet.header("admin"), "at": now(), "base": base}

    async def append(self, api: Client, statements: Sequence[Statement]) -> AppendResponse:
        """Sign statements by the admin and append them, all or none."""
        return await api.append([self.signed(one) for one in statements])

    def signed(self, statement: Statement) -> Submission:
        """Sign a statement by the admin."""
        payload = encode(statement)
        return Submission(payload=payload, signature=key("admin").sign(namespace_of(statement), payload))

    async def enroll(self, api: Client, devices: Sequence[str]) -> None:
        """Enrol named devices, whose keys are named like them."""
        for start in range(0, len(devices), BATCH):
            header = await self.header(api)
            await self.append(api, [enrolment(header, name) for name in devices[start : start + BATCH]])

    def start(self, listen: str = "127.0.0.1:0") -> None:
        """Start the coordinator and wait until it answers."""
        said = self.folder / "coordinator.log"
        env = {**os.environ, "NIXFLEET_DATA_DIR": str(self.folder / "data")}
        command = [sys.executable, "-m", "nixfleet", "coordinator", "--listen", listen]
        with said.open("wb") as log:
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        end = time.monotonic() + START_S
        while " at http://" not in said.read_text():
            assert self.process.poll() is None, said.read_text()
            assert time.monotonic() < end, f"the coordinator did not start: {said.read_text()}"
            time.sleep(0.02)
        self.url = said.read_text().partition(" at ")[2].split()[0]

    def stop(self) -> None:
        """Stop the coordinator."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)


@asynccontextmanager
async def serving(folder: Path, devices: int = 0, **root: Any) -> AsyncIterator[tuple[Site, Client]]:
    """Serve a new fleet with so many devices; gives the site and the admin's client."""
    site = Site(folder, **root)
    try:
        await asyncio.to_thread(site.start)
        async with site.client("admin") as api:
            await site.enroll(api, names(devices))
            yield site, api
    finally:
        await asyncio.to_thread(site.stop)


def enrolment(header: dict[str, Any], name: str) -> Device:
    """Make the statement that enrols a named device with its own key."""
    return Device(
        **header,
        device=device_id(name),
        version=1,
        name=name,
        key=key(name).public.text,
        tags={"env": "prod"},
        state="active",
    )
