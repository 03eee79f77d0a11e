"""The last agent that synced: noted with its settings, and started again in the place of one that does not work."""

import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.agent.made_up import MadeUpStore, store_path
from tests.agent.site import Site
from tests.agent.workbench import Bench

from nixfleet.agent import rescue
from nixfleet.agent.agent import Agent
from nixfleet.agent.rescue import STANDS_IN, UNDONE, LastGood, package_of
from nixfleet.agent.update import State, Update
from nixfleet.errors import UserError
from nixfleet.model.device import Cause, Outcome, Phase

SCRIPTS = Path(__file__).parents[2] / "nix"
PACKAGE = store_path("agent-1")


@pytest.mark.parametrize(
    ("file", "package"),
    [
        ("/nix/store/abc-nixfleet-agent-0.1/lib/python3.12/site-packages/nixfleet/__init__.py",) * 1
        + ("/nix/store/abc-nixfleet-agent-0.1",),
        ("/usr/lib/python3/dist-packages/nixfleet/__init__.py", ""),
        ("/nix/store/abc", ""),
        ("", ""),
    ],
)
def test_a_package_is_the_store_path_that_a_program_is_in(file: str, package: str) -> None:
    """What was not installed by Nix has none, and cannot be kept."""
    assert package == package_of(file)


class Noting(Bench):
    """A bench with two agents in its store."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.machine.write(f"{PACKAGE}/bin/nixfleet", "")
        self.toml = root / "agent.toml"
        self.toml.write_text('name = "web-01"\n')

    def last_good(self, package: str = PACKAGE) -> LastGood:
        """Give the record, as an agent of a package sees it."""
        return LastGood(self.host, self.store, self.machine.state_dir, self.toml, package)


@pytest.fixture
def bench(tmp_path: Path) -> Noting:
    """Give a bench in a folder of its own."""
    return Noting(tmp_path)


async def test_an_agent_that_synced_is_kept_with_its_settings(bench: Noting) -> None:
    """Its package is a root, its agent.toml is copied for root alone, and the hours of silence end."""
    (bench.machine.state_dir / rescue.SILENCE_FILE).write_text("7\n")
    await bench.last_good().note()
    assert PACKAGE == bench.roots()[rescue.ROOT]
    copy = bench.machine.state_dir / rescue.SETTINGS_FILE
    assert ('name = "web-01"\n', 0o600) == (copy.read_text(), copy.stat().st_mode & 0o777)
    assert not (bench.machine.state_dir / rescue.SILENCE_FILE).exists()


async def test_the_next_agent_that_syncs_takes_its_place(bench: Noting) -> None:
    """With its own settings; the one before is let go."""
    await bench.last_good().note()
    other = store_path("agent-2")
    bench.machine.write(f"{other}/bin/nixfleet", "")
    bench.toml.write_text('name = "web-02"\n')
    await bench.last_good(other).note()
    assert other == bench.roots()[rescue.ROOT]
    assert (bench.machine.state_dir / rescue.SETTINGS_FILE).read_text() == 'name = "web-02"\n'


async def test_syncs_in_a_row_cost_no_write(bench: Noting, monkeypatch: pytest.MonkeyPatch) -> None:
    """One note for each life of an agent, and none when the last life made the same."""
    noted = bench.last_good()
    await noted.note()

    async def fail(*_: object) -> None:
        pytest.fail("written again")

    monkeypatch.setattr(MadeUpStore, "add_root", fail)
    monkeypatch.setattr(rescue, "write_atomic", fail)
    await noted.note()
    await bench.last_good().note()


async def test_what_cannot_be_noted_stops_nobody_and_is_tried_again(
    bench: Noting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk is a line in the journal; the next sync notes it."""
    noted = bench.last_good()
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise UserError("No space left on device")

        patch.setattr(rescue, "write_atomic", fail)
        await noted.note()
    assert "No space left on device" in caplog.text
    assert rescue.ROOT not in bench.roots()
    await noted.note()
    assert PACKAGE == bench.roots()[rescue.ROOT]


@pytest.mark.parametrize("package", ["", store_path("gone")])
async def test_an_agent_that_nix_did_not_install_is_not_kept(bench: Noting, package: str) -> None:
    """There is nothing to start again; the silence ends all the same."""
    (bench.machine.state_dir / rescue.SILENCE_FILE).write_text("7\n")
    await bench.last_good(package).note()
    assert (rescue.ROOT in bench.roots(), (bench.machine.state_dir / rescue.SILENCE_FILE).exists()) == (False, False)


async def test_a_sync_of_a_whole_agent_notes_it(tmp_path: Path) -> None:
    """From the first one on."""
    site = Site(tmp_path)
    site.machine.write(f"{PACKAGE}/bin/nixfleet", "")
    noted = LastGood(site.machine.host, site.store, site.machine.state_dir, tmp_path / "none", PACKAGE)
    agent = Agent(replace(site.parts(), last_good=noted))
    assert await agent.run_once()
    assert PACKAGE == site.machine.host.link(f"/nix/var/nix/gcroots/nixfleet/{rescue.ROOT}")


@pytest.mark.parametrize("phase", [Phase.ACTIVATING, Phase.CHECKING, Phase.CONFIRMING])
async def test_the_agent_that_stands_in_takes_an_unconfirmed_update_back_and_ends(tmp_path: Path, phase: Phase) -> None:
    """Only the new agent's own sync confirms; the old system's agent gets its turn, and the outcome says why."""
    site = Site(tmp_path)
    assert await Agent(site.parts()).run_once()
    old = site.machine.host.current_system()
    new = site.machine.system("broken-agent")
    offer = site.machine.offer(new)
    parts = replace(site.parts(), rescue=True, supervised=True)
    update = Update(phase=phase, offer=offer, give_up_s=9_999, boot_id="boot-1", previous=old)
    parts.journal.write(State(update=update, attempted=(0, offer.index)))
    site.machine.boot(new)
    agent = Agent(parts)
    await agent.run()
    assert agent.replaced
    assert (old, old) == (site.machine.host.current_system(), site.machine.host.profile_system())
    [told] = agent.service.state.outbox
    assert (Outcome.REVERTED, Cause.HEALTH, UNDONE) == (told.outcome, told.cause, told.reason)


async def test_the_agent_that_stands_in_says_so_and_changes_no_system_by_itself(tmp_path: Path) -> None:
    """With nothing under way it syncs, reports, and waits for what is signed next."""
    site = Site(tmp_path)
    assert await Agent(site.parts()).run_once()
    agent = Agent(replace(site.parts(), rescue=True))
    assert await agent.run_once()
    assert site.server.reports[-1].note == STANDS_IN
    assert site.machine.switches() == []


def run(script: str, root: Path, **env: str) -> list[str]:
    """Run one of the module's scripts on a made-up root; give what it started, in order."""
    text = f"set -e\n{(SCRIPTS / script).read_text()}".replace("/nix/var/", f"{root}/nix/var/")
    bins = root / "bin"
    bins.mkdir(exist_ok=True)
    told = root / "told"
    told.unlink(missing_ok=True)
    active = env.pop("active", "1")
    systemctl = f'#!/bin/sh\n[ "$1" != is-active ] || exit {active}\necho "systemctl $*" >>{told}\n'
    (bins / "systemctl").write_text(systemctl)
    (bins / "systemctl").chmod(0o755)
    environment = {"PATH": f"{bins}:/usr/bin:/bin", "NIXFLEET_RESCUE_STATE": str(root / "state"), **env}
    subprocess.run(("/bin/sh", "-c", text), env=environment, timeout=20, check=True)
    return told.read_text().splitlines() if told.exists() else []


def agent_at(root: Path, name: str) -> Path:
    """Make a package whose program tells how it was called."""
    program = root / name / "bin/nixfleet"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\necho "{name} $*" >>{root}/told\n')
    program.chmod(0o755)
    return root / name


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """Give a root with two packages and a state folder."""
    agent_at(tmp_path, "new")
    agent_at(tmp_path, "good")
    (tmp_path / "state").mkdir()
    (tmp_path / "nix/var/nix/gcroots/nixfleet").mkdir(parents=True)
    return tmp_path


def keep(device: Path, name: str) -> None:
    """Note a package as the last that synced."""
    (device / "nix/var/nix/gcroots/nixfleet/last-good").symlink_to(device / name)
    (device / "state/last-good.toml").write_text("")


def test_the_rescue_unit_starts_the_last_agent_that_synced_with_its_settings(device: Path) -> None:
    """Neither the new package nor the new agent.toml is asked."""
    keep(device, "good")
    state = device / "state"
    expected = f"good agent run --rescue --config {state}/last-good.toml --state-dir {state}"
    assert [expected] == run("rescue.sh", device, NIXFLEET_RESCUE_PACKAGE=str(device / "new"))


def test_where_none_ever_synced_the_systems_own_is_tried_on(device: Path) -> None:
    """A device without any agent could never be mended."""
    assert ["new agent run"] == run("rescue.sh", device, NIXFLEET_RESCUE_PACKAGE=str(device / "new"))


@pytest.mark.parametrize(
    ("kept", "active", "expected"),
    [
        ("good", "1", "systemctl --no-block start nixfleet-rescue.service"),
        ("good", "0", "systemctl --no-block restart nixfleet-agent.service"),
        ("new", "1", "systemctl --no-block restart nixfleet-agent.service"),
        ("", "1", "systemctl --no-block restart nixfleet-agent.service"),
    ],
)
def test_after_a_week_without_a_sync_another_agent_has_its_turn(
    device: Path, kept: str, active: str, expected: str
) -> None:
    """At the 168th hour, and then the count begins anew; where there is no other agent, the same one begins anew."""
    if kept:
        keep(device, kept)
    package = str(device / "new")
    (device / "state" / rescue.SILENCE_FILE).write_text("166\n")
    assert [] == run("silence.sh", device, NIXFLEET_RESCUE_PACKAGE=package, active=active)
    assert [expected] == run("silence.sh", device, NIXFLEET_RESCUE_PACKAGE=package, active=active)
    assert (device / "state" / rescue.SILENCE_FILE).read_text() == "0\n"


@pytest.mark.parametrize("found", ["", "x", "-5", "99999999999999999999"])
def test_a_damaged_count_begins_anew(device: Path, found: str) -> None:
    """It is never a reason to switch agents, nor to count no more."""
    (device / "state" / rescue.SILENCE_FILE).write_text(found)
    assert [] == run("silence.sh", device, NIXFLEET_RESCUE_PACKAGE=str(device / "new"))
    assert (device / "state" / rescue.SILENCE_FILE).read_text() == "1\n"
