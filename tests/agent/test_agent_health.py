"""Checks after a switch, and the facts a device tells: bounded, printable, and only newly failed units count."""
# ruff: noqa: ARG002 - the signatures are those of what is made up

import asyncio
import http.server
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.agent.made_up import Machine

from nixfleet.agent import facts, health
from nixfleet.agent.health import Ran
from nixfleet.agent.settings import Checks, HttpCheck, TcpCheck, UnitCheck
from nixfleet.model.device import Facts


class Systemd:
    """A made-up systemctl and journalctl: which units are failed and active, and what they said."""

    def __init__(self, *failed: str, active: Sequence[str] = (), said: Sequence[str] = ()) -> None:
        self.failed = failed
        self.active = list(active)
        self.said = tuple(said)
        self.asked: list[str] = []

    async def __call__(self, argv: Sequence[str], timeout_s: float) -> Ran:
        """Answer one command."""
        self.asked.append(" ".join(argv))
        match tuple(argv[:2]):
            case ("systemctl", "list-units"):
                return Ran(0, tuple(f"{unit} loaded failed failed A unit" for unit in self.failed))
            case ("systemctl", "is-active"):
                return Ran(0 if argv[-1] in self.active else 3, ())
            case ("journalctl", _):
                return Ran(0, self.said)
            case _:
                return Ran(None, ())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Give a machine that systemd runs."""
    machine = Machine(tmp_path)
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    return machine


def found(machine: Machine, run: Systemd, checks: Checks, *baseline: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Run the checks, without the wait for units to settle."""
    return asyncio.run(health.problems(machine.host, checks, baseline, run))


def test_only_newly_failed_units_count_and_tell_their_last_lines(machine: Machine) -> None:
    """A unit that was broken before makes no update go back."""
    run = Systemd("old.service", "new.service", said=[f"line {number}" for number in range(20)])
    problems, lines = found(machine, run, Checks(settle_s=0), "old.service")
    assert ("new.service failed",) == problems
    assert lines == tuple(f"new.service: line {number}" for number in range(10, 20))
    assert found(machine, run, Checks(settle_s=0), "old.service", "new.service") == ((), ())


def test_without_systemd_no_unit_is_asked_for(tmp_path: Path) -> None:
    """In a container only the device's own checks count."""
    run = Systemd("a.service")
    assert found(Machine(tmp_path), run, Checks()) == ((), ())
    assert run.asked == []


def test_a_unit_must_be_active(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked again as often as settings say, then named."""
    monkeypatch.setattr(health, "RETRY_PAUSE_S", 0)
    run = Systemd(active=["up.service"])
    checks = Checks(units=(UnitCheck(unit="up.service"), UnitCheck(unit="down.service", retries=2)), settle_s=0)
    assert found(machine, run, checks) == (("down.service is not active",), ())
    assert sum("down.service" in asked for asked in run.asked) == 3


class _Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(204 if self.path == "/ok?deep=1" else 500)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        return


@pytest.fixture
def port() -> Iterator[int]:
    """Serve 204 at /ok and 500 elsewhere."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def test_addresses_and_ports_must_answer(tmp_path: Path, port: int) -> None:
    """Any status below 400, or the one that is named; a refused connection is nothing."""
    base = f"http://127.0.0.1:{port}"
    checks = Checks(
        http=(
            HttpCheck(url=f"{base}/ok?deep=1", retries=0),
            HttpCheck(url=f"{base}/ok?deep=1", status=200, retries=0),
            HttpCheck(url=f"{base}/bad", retries=0),
            HttpCheck(url="http://127.0.0.1:1/", retries=0),
        ),
        tcp=(TcpCheck(host="127.0.0.1", port=port, retries=0),),
    )
    expected = (f"{base}/ok?deep=1 answers 204", f"{base}/bad answers 500", "http://127.0.0.1:1/ answers nothing")
    assert found(Machine(tmp_path), Systemd(), checks) == (expected, ())


def test_facts_are_read_bounded_and_printable(tmp_path: Path) -> None:
    """What this machine says of itself, with control bytes gone and every text cut."""
    machine = Machine(tmp_path)
    machine.boot(machine.system("old"))
    machine.write(f"{machine.host.current_system()}/nixos-version", "24.05.\x1b[31m1\n")
    machine.write("/proc/meminfo", "MemTotal:  2048 kB\nMemFree: 1 kB\n")
    machine.write("/proc/sys/kernel/osrelease", "6.1.9\n")
    machine.write("/sys/class/dmi/id/sys_vendor", "ACME\n")
    machine.write("/sys/class/dmi/id/product_name", "B" * 1_000)
    machine.write("/proc/net/fib_trie", "  |-- 10.0.0.2\n     /32 host LOCAL\n  |-- 127.0.0.1\n     /32 host LOCAL\n")
    machine.write("/proc/net/if_inet6", f"fd{'0' * 29}1 02 40 00 80 eth0\nfe80{'0' * 27}1 02 40 20 80 eth0\n")
    (tmp_path / "etc/localtime").symlink_to("/etc/zoneinfo/Europe/Berlin")
    told = facts.gather(machine.host, "2.8.0")
    assert ("24.05.1", "6.1.9", 2_097_152, "web-01", "machine-1") == (
        told.nixos_version,
        told.kernel,
        told.memory_bytes,
        told.hostname,
        told.machine_id,
    )
    assert told.model.startswith("ACME BBB")
    assert len(told.model) <= 300
    assert (("10.0.0.2", "fd00::1"), "Europe/Berlin", "2.8.0") == (told.addresses, told.timezone, told.nix_version)
    assert told.store_bytes >= told.store_free_bytes > 0


def test_a_machine_that_tells_nothing_has_default_facts(tmp_path: Path) -> None:
    """Facts never stop anything."""
    told = facts.gather(Machine(tmp_path).host, "")
    assert isinstance(told, Facts)
    assert (told.nixos_version, told.addresses, told.timezone) == ("", (), "UTC")
