"""A whole update on a NixOS-shaped device with real Nix, against a script of the bare commands on another one.

What is counted for the agent runs from the moment it decides, having got its gate, to its journalled confirmation.
"""

import asyncio
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.factories import key
from tests.nix.harness import CacheServer, Device, Systems, closing

from bench.rows import Row, ratio
from bench.site import Site, now, serving
from nixfleet.client.admin import Admin
from nixfleet.client.api import Client
from nixfleet.client.mirror import Mirror
from nixfleet.model.statements import CacheRef, Closure
from nixfleet.nix import Nix
from nixfleet.rollout.asking import RolloutWishes
from nixfleet.trust.narinfo import CacheKey
from nixfleet.trust.signers import MemorySigner

RUNS = 5
SLOW_RUNS = 3
SWITCH_S = 5
"""What the stand-in for `switch-to-configuration` sleeps in the slow runs; it does almost nothing itself."""
PACKAGE_KIB = 16_384
"""The size of what each version changes; a NixOS update fetches more."""
DEADLINE_S = 60
DECIDED, CONFIRMED = b"decided: Proceed", b" confirmed"
SCRIPT = """
set -e
nix-store --realise "$1" --option substituters "$2" --option trusted-public-keys "$3" >/dev/null
nix-env --profile /nix/var/nix/profiles/system --set "$1"
"$1/bin/switch-to-configuration" switch
"""


class Said:
    """What an agent says on standard error, each line with the time at which it came."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.lines: list[tuple[float, bytes]] = []
        self._process = process
        self._news = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._news:
                self.lines.append((time.perf_counter(), line))
                self._news.notify_all()

    def wait(self, text: bytes, after: float) -> float:
        """Wait for a line with this text that came after a time; gives when it came."""
        found: list[float] = []

        def said() -> bool:
            found[:] = [at for at, line in self.lines if at > after and text in line]
            return bool(found)

        with self._news:
            assert self._news.wait_for(said, DEADLINE_S), b"".join(line for _, line in self.lines[-30:])
        return found[0]


def measure() -> Iterator[Row]:
    """Measure with a device for the agent, and one for the script; both go through the same systems."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        systems, cache_key = Systems(folder / "builder"), CacheKey.generate("fleet-1")
        paths = [systems.build(version=number, kib=PACKAGE_KIB) for number in range(1, RUNS + SLOW_RUNS + 3)]
        with CacheServer(folder / "cache") as cache, ExitStack() as stack:
            for path in paths:
                systems.push(path, folder / "cache", cache_key)
            keep = [Path(os.environ["PYTHONPYCACHEPREFIX"])]
            devices = [Device(folder / one, one, keep=keep).boot(systems, paths[0]) for one in ("web-01", "web-02")]
            for device in devices:
                stack.enter_context(closing(device))
            yield from asyncio.run(_measure(folder, systems, devices, cache, cache_key, paths[1:]))


async def _measure(
    folder: Path, systems: Systems, devices: list[Device], cache: CacheServer, cache_key: CacheKey, paths: list[str]
) -> list[Row]:
    caches = (CacheRef(url=cache.url, key=cache_key.public),)
    agent_s, script_s = [], []
    async with serving(folder / "site", caches=caches) as (site, api):
        admin = Admin(api, Mirror.open(folder / "mirror", site.fleet.fleet), MemorySigner(key("admin")), now)
        said = await _agent(site, admin, devices[0], api)
        nix = Nix(store=str(systems.store), env=systems.env)
        for number, path in enumerate(paths):
            if number == RUNS + 1:
                for device in devices:
                    device.steer("sleep", str(SWITCH_S))
            script_s.append(await asyncio.to_thread(_script, devices[1], path, cache.url, cache_key.public))
            digest, nar_bytes = await nix.digest(path)
            closure = Closure(path=path, system="x86_64-linux", digest=digest, nar_size=nar_bytes)
            release = await admin.release("r", devices={"web-01": closure})
            begun = time.perf_counter()
            await admin.rollout(release.digest, RolloutWishes(all_at_once=True))
            decided = await asyncio.to_thread(said.wait, DECIDED, begun)
            agent_s.append(await asyncio.to_thread(said.wait, CONFIRMED, begun) - decided)
            assert path == devices[0].current_system == devices[1].current_system
    # Then with a switch that takes as long as one of NixOS does.
    slow_agent_s, slow_script_s = agent_s[-SLOW_RUNS:], script_s[-SLOW_RUNS:]
    agent_s, script_s = agent_s[1:-SLOW_RUNS], script_s[1:-SLOW_RUNS]
    rest_s = [ours - bare for ours, bare in zip(agent_s, script_s, strict=True)]
    fetched_mib = PACKAGE_KIB / 1024
    return [
        Row(
            what=f"update of a device, gate → confirmed: about {fetched_mib:.0f} MiB, an instant switch",
            unit="s",
            samples=agent_s,
            yardstick="a script of the bare commands, s",
            yard_samples=script_s,
        ),
        Row(
            what=f"update of a device, gate → confirmed: the same, a switch of {SWITCH_S} s",
            unit="s",
            samples=slow_agent_s,
            budget="≤ 1.10 of the yardstick",
            holds=ratio(slow_agent_s, slow_script_s) <= 1.10,
            yardstick="a script of the bare commands, s",
            yard_samples=slow_script_s,
        ),
        Row(
            what="update of a device: what is not Nix or the switch",
            unit="s",
            samples=rest_s,
            budget="≤ 0.5 s",
            holds=statistics.median(rest_s) <= 0.5,
        ),
    ]


async def _agent(site: Site, admin: Admin, device: Device, api: Client) -> Said:
    """Let a device join by token; the pause after the switch that lets units fail is taken out."""
    device.write("/etc/nixfleet/token", await admin.make_token({"env": "prod"}, 1, 1), 0o600)
    toml = f'name = "web-01"\ntoken_file = "/etc/nixfleet/token"\nurls = ["{site.url}"]\n[checks]\nsettle_s = 0\n'
    device.write("/etc/nixfleet/agent.toml", toml)
    env = {"NIXFLEET_AGENT_VOLATILE_STATE": "true", "PYTHONPYCACHEPREFIX": os.environ["PYTHONPYCACHEPREFIX"]}
    said = Said(device.popen(["nixfleet", "agent", "run", "--verbose"], env=env, stderr=subprocess.PIPE))
    async with asyncio.timeout(DEADLINE_S):
        while not any(one.reported_at for one in await api.devices()):  # noqa: ASYNC110 - asked of another process
            await asyncio.sleep(0.05)
    return said


def _script(device: Device, path: str, url: str, public: str) -> float:
    begun = time.perf_counter()
    device.run(["bash", "-c", SCRIPT, "_", path, url, public])
    return time.perf_counter() - begun
