"""An update carried to a device without a network, with real Nix: exported, applied, its receipt imported."""

import asyncio
import io
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest
from tests.factories import key
from tests.nix.test_agent_update import Site, site

from nixfleet.client.bundle import Bundle, LineOf, Writer, unpack
from nixfleet.trust.narinfo import NarInfo, parse_narinfo

__all__ = ["site"]

pytestmark = pytest.mark.nix


class Desk:
    """The admin's command line, with a context of its own."""

    def __init__(self, site: Site) -> None:
        self._home = site.folder / "home"
        self._home.mkdir()
        own = self._home / "admin"
        own.touch(0o600)
        own.write_text(key("admin").to_openssh())
        self("context", "add", f"http://{site.listen}", "--fleet", site.fleet.fleet, "--key", str(own))

    def __call__(self, *argv: str) -> str:
        """Run a command; gives what it said."""
        command = [sys.executable, "-m", "nixfleet", *argv]
        env = {"NIXFLEET_HOME": str(self._home), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout


async def _exported(site: Site) -> tuple[Desk, str]:
    """Let the device join once, take its network, and export B for it; gives the rollout, too."""
    agent = site.agent()
    await site.joined()
    agent.send_signal(signal.SIGTERM)
    agent.wait(30)
    rollout = await site.deploy(site.systems.b)
    desk = await asyncio.to_thread(Desk, site)
    have = ("--have", site.systems.a)
    path = str(site.device.path("/etc/october.bundle"))
    await asyncio.to_thread(desk, "bundle", "export", path, "--device", "web-01", "--rollout", rollout, *have)
    return desk, rollout


async def _apply(site: Site) -> "subprocess.CompletedProcess[str]":
    """Apply it as root, in a network of its own that has not even a loopback that is up."""
    argv = ["unshare", "--net", "nixfleet", "agent", "apply", "/etc/october.bundle", "--receipt", "/etc/receipt"]
    env = {"NIXFLEET_AGENT_VOLATILE_STATE": "true"}
    return await asyncio.to_thread(site.device.run, argv, env=env, check=False)


async def test_a_device_without_a_network_is_updated_by_a_file(site: Site) -> None:
    """Real Nix takes from the file what A has not; B runs, and the coordinator learns it by the receipt."""
    desk, rollout = await _exported(site)
    b, asked = site.systems.b, site.cache.nar_bytes
    done = await _apply(site)
    assert (0, f"{b[44:]} is confirmed\n") == (done.returncode, done.stdout), done.stderr
    assert ((b, b, b), [("switch", b)]) == (site.state(), site.device.switches())
    assert site.cache.nar_bytes == asked
    assert not site.device.path("/var/lib/nixfleet/bundle").exists()
    said = await asyncio.to_thread(desk, "bundle", "import", str(site.device.path("/etc/receipt")))
    assert said == f"web-01 runs {b[44:]}; rollout {rollout[:12]} confirmed\n"
    assert (await site.outcome(rollout)).outcome == "confirmed"


async def test_content_that_nobody_signed_reaches_no_store(site: Site) -> None:
    """Two files of the bundle in each other's place, all its own sums being right: Nix finds it out, and A runs on."""
    await _exported(site)
    path = site.device.path("/etc/october.bundle")
    held = unpack(path, site.folder / "unpacked", lambda _: None)
    infos = [parse_narinfo(one.read_text()) for one in sorted((held.folder / "cache").glob("*.narinfo"))]
    first, second = sorted(infos, key=lambda info: info.file_bytes)[-2:]
    path.write_bytes(_written(held, [_as(first, second), _as(second, first)], infos))
    done = await _apply(site)
    assert 4 == done.returncode, f"{done.stdout}{done.stderr}"
    a = site.systems.a
    assert ((a, a, a), []) == (site.state(), site.device.switches())
    assert not site.device.has(site.systems.b)


def _as(info: NarInfo, other: NarInfo) -> NarInfo:
    """Let a path's narinfo lead to another path's file; that is no part of what a cache signs."""
    return replace(info, url=other.url, file_hash=other.file_hash, file_bytes=other.file_bytes)


def _written(held: Bundle, changed: Sequence[NarInfo], infos: Sequence[NarInfo]) -> bytes:
    """Write a bundle anew, some of its narinfos being changed."""
    by_path = {info.store_path: info for info in (*infos, *changed)}
    lines = [msgspec.json.decode(line, type=LineOf) for line in (held.folder / "lines.jsonl").read_bytes().splitlines()]
    file = io.BytesIO()
    writer = Writer(file)
    writer.log(held.head, held.checkpoint, held.entries(0, len(held.offsets)), lines)
    writer.infos(by_path.values())
    for info in {info.url: info for info in by_path.values()}.values():
        writer.begin_nar(info)((held.folder / "cache" / info.url).read_bytes())
        writer.end_nar(info)
    writer.close()
    return file.getvalue()
