"""Releases and rollouts on the command line, against a real coordinator: shown, started, watched, steered, refused."""

import subprocess
import sys
import time

import msgspec
import pytest
from tests.cli.commandline import Commands, entries
from tests.factories import store_path
from tests.nix.probes import wait_until

from nixfleet.client.api import Client
from nixfleet.model.device import Outcome
from nixfleet.model.views import ReleaseView

# Presses Ctrl-C at the second question to the coordinator about what is watched.
INTERRUPTED = """
import os, signal, sys
from nixfleet.cli.main import main
from nixfleet.client.api import Client
asked = 0
def press(honest):
    async def ask(*args):
        global asked
        asked += 1
        if asked == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return await honest(*args)
    return ask
Client.rollout, Client.device_lines = press(Client.rollout), press(Client.device_lines)
sys.exit(main(sys.argv[1:]))
"""


def test_releases_and_rollouts_are_shown(served: Commands) -> None:
    """Reading commands give tables and JSON; a rollout is started, steered, and followed to its end."""
    served.enroll("web-01", "web-02")
    digest = served.release("one", web_01="system-1", web_02="system-1")
    (listed,) = served("release", "list", "--json").json["releases"]
    assert (digest, "one", 2) == (listed["id"], listed["name"], listed["targets"])
    shown = served("release", "show", "one", "--json").json
    assert [store_path("system-1")] * 2 == [line["path"] for line in shown["lines"]]
    assert store_path("system-1") in served("release", "show", digest[:8]).out
    assert "no release 'two'" in served("release", "show", "two", code=2).complaint

    before = entries(served)
    dry = served("rollout", "start", "one", "--dry-run", "--wave", "1", "--soak", "1m", "--json").json
    assert (["web-01", "web-02"], 60) == ([one["name"] for one in dry["devices"]], dry["soak_s"])
    assert [("1", 2)] == [(wave["members"], wave["devices"]) for wave in dry["waves"]]
    assert "2 devices in 2 waves, at most 1 at once, soak 5m" in served("rollout", "start", "one", "--dry-run").out
    assert before == entries(served), "a dry run signs nothing"

    rollout = served("rollout", "start", "one", "--all-at-once").out.strip()
    assert 64 == len(rollout)
    assert [rollout] == [one["id"] for one in served("rollout", "list", "--json").json["rollouts"]]
    assert {"rollout", "members"} == set(served("rollout", "show", rollout[:6], "--json").json)
    assert "web-01" in served("rollout", "show", rollout).out
    explained = served("rollout", "explain", rollout, "--json").json
    assert ["web-01", "web-02"] == sorted(explained["devices"])
    assert served("rollout", "explain", rollout, "web-01").out.startswith("web-01 waits: ")
    assert served("rollout", "explain", "web-01").out == served("rollout", "explain", rollout, "web-01").out
    assert f"one is a release, not a rollout; say which, newest first: {rollout[:12]}" in (
        served("rollout", "explain", "one", code=2).complaint
    )
    assert "not in this rollout's set" in served("rollout", "explain", rollout, "nas", code=2).complaint
    served("rollout", "pause", rollout)
    assert "paused" == served("rollout", "show", rollout, "--json").json["rollout"]["state"]
    served("rollout", "resume", rollout)
    assert "retry" == served("rollout", "retry", rollout, "web-01", "--json").json["verb"]
    by_release = served("rollout", "pause", "one", code=2).complaint
    assert f"one is a release, not a rollout; say which, newest first: {rollout[:12]}" in by_release
    assert "no rollout 'abcdef'" in served("rollout", "pause", "abcdef", code=2).complaint
    assert "add --yes" in served("rollout", "cancel", rollout, code=2).err
    served("rollout", "cancel", rollout, "--yes")
    assert 1 == served("rollout", "watch", rollout, code=1).code
    assert "is cancelled" in served("rollout", "resume", rollout, code=2).complaint


def test_watching_offline_devices_does_not_wait(served: Commands) -> None:
    """A rollout to devices that are away ends the watch at once; they are listed."""
    served.enroll("web-01")
    served.release("one", web_01="system-1")
    begun = time.monotonic()
    done = served("rollout", "start", "one", "--watch", "--json")
    assert "web-01: offline, not updated yet" in done.err
    assert "web-01" == done.json["members"][0]["name"]
    assert time.monotonic() - begun < 15
    waited = served("rollout", "watch", done.json["rollout"]["id"], "--wait", "all", "--timeout", "1", code=5)
    assert "comes back to it" in waited.err.splitlines()[-1]


@pytest.mark.parametrize("argv", [("rollout", "watch", "ROLLOUT", "--wait", "all"), ("device", "logs", "web-01", "-f")])
def test_ctrl_c_detaches_and_cancels_nothing(served: Commands, argv: tuple[str, ...]) -> None:
    """Who leaves a watch gets exit code 130 and is told the way back; lines are just followed until then."""
    served.enroll("web-01")
    served.release("one", web_01="system-1")
    rollout = served("rollout", "start", "one").out.strip()
    words = [rollout if word == "ROLLOUT" else word for word in argv]
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    out, err = process.communicate(timeout=30)
    assert (130 if argv[0] == "rollout" else 0, "") == (process.returncode, out), err
    assert ("comes back to it" in err) == (argv[0] == "rollout")
    assert "Traceback" not in err
    assert "cancelled" != served("rollout", "show", rollout, "--json").json["rollout"]["state"]


def counted(nixfleet: Commands, rollout: str) -> tuple[int, int]:
    """Give how many devices have confirmed a rollout, and how many have failed it."""
    view = nixfleet("rollout", "show", rollout, "--json").json["rollout"]
    return view["confirmed"], view["failed"]


@pytest.mark.parametrize(("wishes", "code"), [(("--stop-at", "1"), 6), (("--stop-at", "2"), 1)])
def test_a_failed_device_decides_the_exit_code(served: Commands, wishes: tuple[str, ...], code: int) -> None:
    """6 when the rollout halted over it, 1 when it went on; the device's reason is said."""
    served.enroll("web-01", "web-02")
    served.release("one", web_01="system-1", web_02="system-1")
    rollout = served("rollout", "start", "one", "--all-at-once", *wishes).out.strip()
    for name in ("web-01", "web-02"):
        outcome = Outcome.REVERTED if name == "web-01" else Outcome.CONFIRMED
        served.report(name, rollout, outcome, path=store_path("system-1"), reason="a unit failed")
    # The coordinator plans in a thread of its own, and a halt ends the watch, whoever is still to be counted.
    wait_until(lambda: counted(served, rollout) == (1, 1))
    done = served("rollout", "watch", rollout, "--wait", "all", code=code)
    assert "web-01: reverted: a unit failed" in done.err
    assert (code == 6) == (f"'nixfleet rollout rollback {rollout[:12]}'" in done.err)
    shown = served("rollout", "show", rollout).out
    assert (code == 6) == any(line.split()[:2] == ["state", "halted:"] for line in shown.splitlines())
    assert "waits: halted" not in shown
    retried = served("rollout", "retry", rollout).err
    assert (code == 6) == (f"'nixfleet rollout resume {rollout[:12]}' lets it start" in retried)


def test_acts_that_would_change_nothing_are_not_signed(served: Commands) -> None:
    """A second pause, a resume of what runs, and a way back for nobody are refused before the key is used."""
    served.enroll("web-01")
    served.release("one", web_01="system-1")
    rollout = served("rollout", "start", "one").out.strip()
    before = entries(served)
    assert "neither paused nor halted" in served("rollout", "resume", rollout, code=2).complaint
    assert before == entries(served)
    nobody = served("rollout", "rollback", rollout, "--yes", code=2).complaint
    assert "no device has confirmed" in nobody
    assert before == entries(served)
    served("rollout", "pause", rollout)
    assert "state    paused by a signed act" in served("rollout", "show", rollout).out
    assert "already paused" in served("rollout", "pause", rollout, code=2).complaint
    assert before + 1 == entries(served)
    served("rollout", "resume", rollout)
    served("rollout", "cancel", rollout, "--yes")
    for verb in ("pause", "resume"):
        assert "is cancelled" in served("rollout", verb, rollout, code=2).complaint
    assert before + 3 == entries(served)


def test_a_superseded_rollout_is_neither_paused_nor_resumed(served: Commands) -> None:
    """Paused when a newer one took its place, it stays where it is: the resume would change nothing."""
    served.enroll("web-01")
    served.release("one", web_01="system-1")
    served.release("two", web_01="system-2")
    rollout = served("rollout", "start", "one").out.strip()
    served("rollout", "pause", rollout)
    served("rollout", "start", "two")
    wait_until(lambda: "superseded" == served("rollout", "show", rollout, "--json").json["rollout"]["state"])
    before = entries(served)
    assert "is superseded, there is nothing to resume" in served("rollout", "resume", rollout, code=2).complaint
    assert "already paused" in served("rollout", "pause", rollout, code=2).complaint
    assert before == entries(served)


def test_a_rollout_to_one_device_is_a_release_of_its_own(served: Commands) -> None:
    """`--on NAME` publishes that device's line alone; tags select without another release."""
    served.enroll("web-01", "web-02")
    served.release("one", web_01="system-1", web_02="system-2")
    served("rollout", "start", "one", "--on", "web-02")
    part = served("release", "show", "one-part", "--json").json
    assert [("web-02", store_path("system-2"))] == [(line["name"], line["path"]) for line in part["lines"]]
    assert "nothing for" in served("rollout", "start", "one-part", "--on", "web-01", code=2).complaint
    assert "no device" in served("rollout", "start", "one", "--on", "nas", code=2).complaint
    assert "no device with these tags" in served("rollout", "start", "one", "--on", "env=dev", code=2).complaint


def test_a_hostile_coordinator_can_have_nothing_else_signed(served: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other lines than those signed, or another release under the name, are found out; nothing is signed."""
    served.enroll("web-01")
    served.release("one", web_01="system-1")
    served.release("evil", web_01="system-2")
    honest = Client.release
    before = entries(served)

    async def other_release(self: Client, _: str) -> ReleaseView:
        return msgspec.structs.replace(await honest(self, "evil"), name="one")

    async def other_lines(self: Client, release: str) -> ReleaseView:
        told = await honest(self, release)
        return msgspec.structs.replace(told, lines=(await honest(self, "evil")).lines)

    for lie in (other_release, other_lines):
        monkeypatch.setattr(Client, "release", lie)
        for argv in (["rollout", "start", "one"], ["rollout", "start", "one", "--dry-run"], ["release", "show", "one"]):
            assert "other lines" in served(*argv, code=4).complaint
    assert before == entries(served)


def test_when_and_how_are_signed_as_they_were_said(served: Commands) -> None:
    """Window, prefetch, mode, contact and waves by tag stand in the statement that devices judge."""
    served.enroll("web-01", "web-02")
    served.release("one", web_01="system-1", web_02="system-2")
    argv = (
        "--window",
        "mon-fri 22:00-05:00 UTC",
        "--prefetch",
        "--mode",
        "boot",
        "--confirm",
        "5m",
        "--contact",
        "any",
    )
    rollout = served("rollout", "start", "one", *argv, "--wave", "env=test", "--wave", "100%:signed").out.strip()
    (entry,) = [one for one in served("audit", "list", "--json").json["entries"] if one["digest"] == rollout]
    said = served("audit", "show", str(entry["index"])).out
    for word in ('"22:00"', '"prefetch":true', '"mode":"boot"', '"confirm_s":300', '"contact":"any"', '"signed"'):
        assert word.replace(" ", "") in said.replace(" ", ""), word
    refused = served("rollout", "start", "one", "--wave", "1", "--wave", "100%:signed", code=2)
    assert "a signed gate may only follow waves by selector" in refused.complaint


def test_a_reboot_where_none_can_fall_back_must_be_accepted(served: Commands) -> None:
    """A device whose boot loader cannot fall back is named, and nothing signed until that is accepted."""
    served.enroll("web-01")
    served.release("one", web_01="system-1")
    told = served("rollout", "start", "one").out.strip()
    served.report("web-01", told, Outcome.CONFIRMED)
    before = entries(served)
    refused = served("rollout", "start", "one", "--reboot", "now", code=2)
    assert "1 device cannot fall back when a boot fails (web-01)" in refused.complaint
    assert before == entries(served)
    rollout = served("rollout", "start", "one", "--reboot", "now", "--accept-no-fallback").out.strip()
    (entry,) = [one for one in served("audit", "list", "--json").json["entries"] if one["digest"] == rollout]
    assert '"no_fallback":true' in served("audit", "show", str(entry["index"])).out.replace(" ", "")
