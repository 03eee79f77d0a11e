"""Real Nix inside devices: profiles and generations, and the harness itself, whose promises other tests build on."""

import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from tests.nix.fixtures import MakeDevice
from tests.nix.harness import Admin, CacheServer, Device, Faults, NatLab, Systems, wait_until

pytestmark = pytest.mark.nix

# Runs one expression of the handle `nix` and prints what it gives.
CALL = """
import asyncio, sys
from pathlib import Path
from nixfleet.nix import Nix, NixError
try:
    print(asyncio.run(eval(sys.argv[1], {"nix": Nix(), "Path": Path})))
except NixError as error:
    sys.exit(f"{error.kind.value}: {error.reason}")
"""


@pytest.fixture
def device(make_device: MakeDevice, systems: Systems) -> Device:
    """Give a device that runs A."""
    return make_device().boot(systems)


def call(device: Device, expression: str) -> str:
    """Await an expression of `nix` inside the device; give what it printed."""
    return device.run([sys.executable, "-c", CALL, expression]).stdout.strip()


def test_profile_and_generations(device: Device, systems: Systems) -> None:
    """Setting the profile makes generations; the same path makes none; deletion spares the current one."""
    systems.copy(systems.b, f"local?root={device.folder}")
    call(device, f"nix.set_profile({systems.b!r})")
    call(device, f"nix.set_profile({systems.b!r})")
    assert {1: systems.a, 2: systems.b} == device.generations
    first = f"Generation(number=1, path='{systems.a}', current=False)"
    second = f"Generation(number=2, path='{systems.b}', current=True)"
    assert f"[{first}, {second}]" == call(device, "nix.generations()")
    call(device, f"nix.set_profile({systems.a!r})")
    call(device, "nix.delete_generations([2])")
    assert {1: systems.a, 3: systems.a} == device.generations
    refused = device.run([sys.executable, "-c", CALL, "nix.delete_generations([3])"], check=False)
    assert 1 == refused.returncode
    assert {1: systems.a, 3: systems.a} == device.generations
    assert "[]" == call(device, "nix.generations(Path('/nix/var/nix/profiles/none'))")


def test_profile_of_a_path_that_is_not_here_is_refused_at_once(device: Device, systems: Systems) -> None:
    """Nothing is fetched or built to set a profile, and it stays as it was."""
    done = device.run([sys.executable, "-c", CALL, f"nix.set_profile({systems.b!r})"], check=False)
    assert done.stderr.startswith("missing: ")
    assert {1: systems.a} == device.generations


def test_the_running_system_outlives_the_garbage_collector(device: Device, systems: Systems) -> None:
    """What runs, was booted, or is a generation is not collected."""
    call(device, "nix.collect_garbage(1 << 40)")
    assert device.has(systems.a)


def test_a_device_is_a_machine_of_its_own(device: Device, systems: Systems) -> None:
    """Host name, boot id and folders are the device's; the host's are read-only."""
    script = (
        "hostname; cat /proc/sys/kernel/random/boot_id; touch /usr/x 2>/dev/null || echo read-only; echo hi > /etc/x"
    )
    lines = device.run(["sh", "-c", script]).stdout.split()
    assert ["web-01", device.boot_id, "read-only"] == lines
    assert "hi\n" == device.read("/etc/x")
    assert (systems.a, systems.a, systems.a) == (device.current_system, device.booted_system, device.profile)


def test_programs_of_the_checkout_run_inside(device: Device) -> None:
    """The interpreter and the package under test are visible, whatever folders are hidden."""
    done = device.run([sys.executable, "-c", "import nixfleet, sys; print(nixfleet.__file__)"])
    assert done.stdout.strip().endswith("nixfleet/__init__.py")


@pytest.mark.parametrize(
    ("args", "code", "switched"),
    [
        ({"version": 2}, 0, True),
        ({"version": 3, "broken": True}, 2, True),
        ({"version": 2, "brokenUnit": "app.service"}, 4, True),
        ({"version": 2, "initVersion": "3"}, 100, False),
    ],
)
def test_switching_ends_as_on_nixos(
    device: Device, systems: Systems, args: dict[str, str | int | bool], code: int, switched: bool
) -> None:
    """The stand-in has NixOS's exit codes, and its order: the boot loader first, then the units."""
    system = systems.build(**args)
    systems.copy(system, f"local?root={device.folder}")
    done = device.run([f"{system}/bin/switch-to-configuration", "switch"], check=False)
    assert (code, system) == (done.returncode, device.boot_default)
    assert switched == (system == device.current_system)
    assert [("switch", system)] == device.switches()


def test_steering_and_rebooting(device: Device, systems: Systems) -> None:
    """A held switch waits, holds the lock, and goes on; a reboot starts what the boot loader names."""
    systems.copy(systems.b, f"local?root={device.folder}")
    switch = [f"{systems.b}/bin/switch-to-configuration"]
    device.steer("hook", "#!/bin/sh\necho hooked $1 >> /var/lib/stc/hooked\n")
    device.steer("hold")
    held = device.popen([*switch, "boot"], stderr=subprocess.PIPE)
    wait_until(device.switches)
    refused = device.run([*switch, "boot"], check=False)
    assert (1, "Could not acquire lock\n") == (refused.returncode, refused.stderr)
    device.unsteer("hold")
    assert 0 == held.wait(10)
    assert "hooked boot\n" == device.read("/var/lib/stc/hooked")
    assert systems.a == device.current_system
    before = device.boot_id
    device.reboot()
    assert (systems.b, systems.b) == (device.current_system, device.booted_system)
    assert before != device.boot_id


def test_closing_ends_what_left_its_parent(device: Device) -> None:
    """A daemon inside is found and ended by its id."""
    device.run(["sh", "-c", "setsid sleep 600 >/dev/null 2>&1 </dev/null & exit 0"])
    # In the middle of its exec a process has no environment to be known by.
    wait_until(lambda: 1 == len(device.processes()))
    device.close()
    assert [] == device.processes()


def test_an_admins_store_is_the_builders(systems: Systems, admin: Admin) -> None:
    """What the builder built is in the admin's local store, in this host's other folders."""
    system = systems.a
    listed = admin.run(["nix-store", "--query", "--requisites", system]).stdout.split()
    assert sorted(systems.closure(system)) == sorted(listed)
    assert str(admin.home) == admin.run(["sh", "-c", "echo $HOME"]).stdout.strip()


def test_a_device_behind_nat_reaches_out_and_is_not_reached(
    make_device: MakeDevice, nat_lab: NatLab, systems: Systems
) -> None:
    """The coordinator sees the router's address only, cannot call in, and a cut link is silent."""
    assert nat_lab.coordinator_netns is not None
    device = make_device("web-02", netns=nat_lab.device_netns).boot(systems)
    serve = (
        "import http.server as h, sys\nh.HTTPServer((sys.argv[1], 7070), h.SimpleHTTPRequestHandler).serve_forever()"
    )
    server = nat_lab.popen(
        nat_lab.coordinator_netns,
        [sys.executable, "-u", "-c", serve, nat_lab.coordinator_address],
        stderr=subprocess.PIPE,
        cwd=systems.folder,
    )
    get = (
        "import sys, time, urllib.request as u\n"
        "for left in range(50, -1, -1):\n"
        "    try: print(u.urlopen(sys.argv[1], timeout=2).status); break\n"
        "    except u.URLError as e:\n"
        "        if not isinstance(e.reason, ConnectionRefusedError) or not left: sys.exit(str(e))\n"
        "        time.sleep(0.1)\n"
    )
    url = f"http://{nat_lab.coordinator_address}:7070/"
    with server:
        try:
            assert "200\n" == device.run([sys.executable, "-c", get, url]).stdout
            assert server.stderr is not None
            assert server.stderr.readline().decode().startswith(f"{nat_lab.router_address} ")
            nat_lab.cut()
            assert "timed out" in device.run([sys.executable, "-c", get, url], check=False).stderr
            nat_lab.mend()
            assert "200\n" == device.run([sys.executable, "-c", get, url]).stdout
        finally:
            server.kill()


def test_a_coordinator_on_this_host_is_reached_through_nat(make_device: MakeDevice, tmp_path: Path) -> None:
    """A server in the test's own process can listen on the host's side of the link."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "nix-cache-info").write_text("StoreDir: /nix/store\n")
    with NatLab(host=True) as lab, CacheServer(tmp_path / "served", lab.coordinator_address) as server:
        device = make_device("web-03", netns=lab.device_netns)
        get = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=5).read().decode())"
        said = device.run([sys.executable, "-c", get, f"{server.url}/nix-cache-info"]).stdout
        assert "StoreDir: /nix/store" == said.strip()


def test_the_cache_server_serves_ranges_and_its_faults(tmp_path: Path) -> None:
    """Ranges, a status and a cut connection are what they say, and a dead server comes back on its port."""
    (tmp_path / "nar").mkdir()
    (tmp_path / "nar" / "x").write_bytes(bytes(range(256)) * 400)
    with CacheServer(tmp_path) as server:
        url = f"{server.url}/nar/x"
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Range": "bytes=100-"})) as answer:
            assert (206, bytes(range(100, 256))) == (answer.status, answer.read()[:156])
        server.faults = Faults(status=("/nar/", 503))
        with pytest.raises(urllib.error.HTTPError, match="503") as refused, urllib.request.urlopen(url):
            pass
        refused.value.close()
        server.die()
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(url)
        server.faults = Faults()
        server.revive()
        with urllib.request.urlopen(url) as answer:
            assert 102400 == len(answer.read())
