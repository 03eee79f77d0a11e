"""Checks after a switch, and the facts a device tells: bounded, printable, and only newly failed units count."""
# ruff: noqa: ARG002 - the signatures are those of what is made up

import asyncio
import http.server
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from tests.agent.made_up import Machine
from tests.answering import answering

from nixfleet.agent import facts, health, probing, units
from nixfleet.agent.settings import Checks, CommandCheck, HttpCheck, TcpCheck, UnitCheck
from nixfleet.agent.tools import OUTPUT_BYTES, run_beside
from nixfleet.agent.units import Ran
from nixfleet.model.device import Facts


class Systemd:
    """A made-up systemctl and journalctl: which units are failed and active, and what they said."""

    def __init__(self, *failed: str, active: Sequence[str] = (), said: Sequence[str] = ()) -> None:
        self.failed = failed
        self.active = list(active)
        self.said = tuple(said)
        self.loops: tuple[str, ...] = ()
        self.stuck: tuple[str, ...] = ()
        self.told: dict[str, tuple[str, ...]] = {}
        self.silent = False
        self.asked: list[str] = []

    async def __call__(self, argv: Sequence[str], timeout_s: float) -> Ran:
        """Answer one command."""
        self.asked.append(" ".join(argv))
        match tuple(argv[:2]):
            case ("systemctl", "list-units") if self.silent:
                return Ran(1, ("Failed to list units: Connection timed out",))
            case ("systemctl", "list-units") if "--state=active" in argv:
                return Ran(0, tuple(f"{unit} loaded active running A unit" for unit in self.active))
            case ("systemctl", "list-units"):
                rows = [f"{unit} loaded failed failed A unit" for unit in self.failed]
                return Ran(0, (*rows, *(f"{unit} loaded activating auto-restart A unit" for unit in self.loops)))
            case ("systemctl", "show"):
                return Ran(0, self.told.get(argv[-1], ()))
            case ("systemctl", "start"):
                self.active += argv[3:]
                self.failed = tuple(unit for unit in self.failed if unit in self.stuck)
                return Ran(0, ())
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
    expected = (
        f"{base}/ok?deep=1 answers 204",
        f"{base}/bad answers 500",
        "http://127.0.0.1:1/ answers nothing: Connection refused",
    )
    assert found(Machine(tmp_path), Systemd(), checks) == (expected, ())


def test_a_unit_that_starts_over_and_over_after_failures_has_failed(machine: Machine) -> None:
    """Its status travels with it; one that ends well each time, and is started again, is no failure."""
    run = Systemd(said=["bind() failed"])
    run.loops = ("crashes.service", "repeats.service")
    run.told = {
        "crashes.service": ("SubState=auto-restart", "Result=exit-code", "ExecMainCode=1", "ExecMainStatus=3"),
        "repeats.service": ("SubState=auto-restart", "Result=success", "ExecMainCode=1", "ExecMainStatus=0"),
    }
    problems, lines = found(machine, run, Checks(settle_s=0))
    status = "result exit-code: its main process exited with status 3, and starts over and over"
    assert ("crashes.service failed",) == problems
    assert (f"crashes.service: {status}", "crashes.service: bind() failed") == lines


def test_many_failed_units_are_counted_and_only_some_described(machine: Machine) -> None:
    """What travels with an outcome is bounded, and says what it leaves out."""
    run = Systemd(*(f"unit-{number}.service" for number in range(20)), said=["x"] * 50)
    problems, lines = found(machine, run, Checks(settle_s=0))
    assert (units.UNITS_SHOWN + 1, "12 more units failed") == (len(problems), problems[-1])
    assert len(lines) == units.UNITS_SHOWN * units.UNIT_LINES


def test_a_systemd_that_does_not_answer_is_a_problem_and_no_unit(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error message names no unit, and no answer is not "nothing failed"; it is asked more than once."""
    monkeypatch.setattr(units, "ASK_AGAIN_S", 0)
    run = Systemd()
    run.silent = True
    assert ((units.NO_ANSWER,), ()) == found(machine, run, Checks(settle_s=0))
    assert units.ASK_TRIES == len(run.asked)


def test_going_back_starts_what_the_failed_switch_stopped_or_broke(machine: Machine) -> None:
    """What ran before and does not now, and what failed since; not what was broken before, nor what is transient."""
    before = ("web.service", "db.service", "run-u7.service", "user@1000.service", "nixfleet-switch-x.service")
    run, folder = Systemd("old.service", active=before), machine.state_dir
    asyncio.run(units.note_active(machine.host, folder, run))
    run.active, run.failed, run.stuck = ["web.service"], ("old.service", "cache.service"), ("old.service",)
    assert () == asyncio.run(units.start_again(machine.host, folder, ["old.service"], run))
    expected = ["systemctl reset-failed -- cache.service", "systemctl start -- cache.service db.service"]
    assert expected == [asked for asked in run.asked if "list-units" not in asked]


def test_what_does_not_start_on_the_old_system_either_is_named(machine: Machine) -> None:
    """Going back has ended all the same: there is no other system to go to."""
    run = Systemd("web.service")
    run.stuck = ("web.service",)
    assert ("web.service",) == asyncio.run(units.start_again(machine.host, machine.state_dir, [], run))


def test_where_nothing_is_missing_nothing_is_started(machine: Machine) -> None:
    """A way back that left all as it was is left alone; so is a note that is garbage."""
    run = Systemd(active=["web.service"])
    asyncio.run(units.note_active(machine.host, machine.state_dir, run))
    (machine.state_dir / "units-before").write_text("web.service\n--now\n; reboot\n")
    assert () == asyncio.run(units.start_again(machine.host, machine.state_dir, [], run))
    assert not [asked for asked in run.asked if " start " in asked]


def test_a_command_check_is_over_with_all_it_started(tmp_path: Path) -> None:
    """One that runs on is killed with its children, and says what it said last."""
    script = f"echo waiting; (sleep 60; touch {tmp_path}/late) & echo $! >{tmp_path}/child; wait"
    checks = Checks(command=(CommandCheck(argv=("/bin/sh", "-c", script), timeout_s=1, retries=0),))
    problems, _ = asyncio.run(health.problems(Machine(tmp_path).host, checks, (), run_beside))
    assert ("/bin/sh did not end within 1 s: waiting",) == problems
    child = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/cmdline")
    assert not (child.exists() and child.read_bytes())


def test_a_command_that_floods_its_output_costs_no_memory(tmp_path: Path) -> None:
    """The last of it is kept."""
    ran = asyncio.run(run_beside(("/bin/sh", "-c", "yes flood | head -c 5000000; echo; echo last; exit 3"), 20))
    assert (3, "last") == (ran.exit_code, ran.lines[-1])
    assert sum(map(len, ran.lines)) <= OUTPUT_BYTES


def test_a_command_that_cannot_be_started_is_a_failed_check(tmp_path: Path) -> None:
    """A program that is not there is no crash of the agent."""
    ran = asyncio.run(run_beside((str(tmp_path / "none"),), 1))
    assert (None, ()) == (ran.exit_code, ran.lines)


async def _dribbles(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send an answer that never ends, a byte now and then, until the other side goes."""
    await reader.readuntil(b"\r\n\r\n")
    while not reader.at_eof():
        writer.write(b"H")
        await writer.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.02):
                await reader.read(1)


@pytest.mark.parametrize(
    ("answer", "status", "why"),
    [
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", 204, ""),
        (b"SSH-2.0-OpenSSH_9.6\r\n", None, "no HTTP answer"),
        (b"", None, "the connection was closed"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 9, None, "it announces an answer for ever"),
        (b"HTTP/1.1 " + b"9" * 70_000, None, "Separator is not found, and chunk exceed the limit"),
    ],
)
async def test_a_probe_reads_the_status_alone_and_says_why_there_is_none(
    answer: bytes, status: int | None, why: str
) -> None:
    """Whatever a service sends, it is a status or a reason."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    async with answering(serve) as port:
        assert (status, why) == await probing.http_status(f"http://127.0.0.1:{port}/", 10)


async def test_a_probe_ends_in_time_though_bytes_keep_coming() -> None:
    """The time is that of the whole probe, not of the silence between two bytes."""
    async with answering(_dribbles) as port:
        assert (None, "no answer within 0.2 s") == await probing.http_status(f"http://127.0.0.1:{port}/", 0.2)


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
