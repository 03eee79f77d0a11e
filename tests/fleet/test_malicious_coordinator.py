"""Each lie of a malicious coordinator: what the device does, and what the console and the command line say.

The double is the project's own coordinator behind a layer that lies (`tests.malicious.double`). Each test begins with
the same double being honest: both devices do an update and the log verifies, so nothing here passes because the double
is broken. A lie is told while something new is signed: the end of a grant, a release of system b, and its rollout.
"""

import base64
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.factories import device_id, key
from tests.malicious.double import PEOPLE, Change
from tests.malicious.history import Pair, restamped
from tests.malicious.scene import Scene, confirmed, scene
from tests.server.harness import until

from nixfleet.agent.agent import Agent
from nixfleet.errors import Unreachable
from nixfleet.model.device import EnrollRequest
from nixfleet.model.statements import Wave
from nixfleet.model.wire import Signed, Submission
from nixfleet.trust.reports import sign_enroll
from nixfleet.trust.statements import encode, namespace_of

WEB = key("web-01").public.fingerprint
VERIFY = ("audit", "verify")
DEVICES, AUDIT, LOGS = "1", "4", "4 d"
"""What is pressed to see a page; a device's log is shown on the page that `d` opens."""


@dataclass(frozen=True)
class Attack:
    """A lie, and what comes of it."""

    name: str
    does: Callable[[Scene], None]
    device_sees: str
    """What the device says on itself and in its signed report; empty: it has no way to see anything."""
    console_shows: Mapping[str, tuple[str, ...]]
    """By the keys of a page: what stands there, spaces between words apart."""
    cli_says: tuple[int, str]
    asks: tuple[str, ...] = VERIFY
    """The command that says so."""
    runs: str = "a"
    """Which system the device runs while it is lied to."""
    recovers: bool = True
    """Whether the device goes on by itself once the coordinator is honest again."""
    told: tuple[str, ...] = (WEB, PEOPLE)
    """Who was told a lie."""
    heard: bool = True
    """Whether what the device says gets to anybody."""
    seen: bool = True
    """Whether the person knew what is new before they were lied to."""
    rollout: Mapping[str, Any] = field(default_factory=dict)


def rewritten(size: int) -> str:
    """Give the sentence of a fork."""
    return f"the log has another root at {size} entries than the one known: it was rewritten"


FORK_BANNER = (
    "log 9 ‼ FORK",
    "‼ FORK: the coordinator shows another history than this machine has verified.",
    "Sign nothing, and keep this machine's copy of the log: it is the evidence.",
)
DEVICE_BANNER = ("‼ 1 device has seen another log than the coordinator's: web-01.", "They take no updates.")
WITNESSED = ("‼ 1 device on another log", "‼ another log web-01")
FIRST_WAVE = Wave(members={"name": ("web-02",)})
TWO_WAVES = {"soak_s": 3_600, "waves": (FIRST_WAVE, Wave(members="100%"))}
SIGNED_WAVE = {"soak_s": 3_600, "waves": (FIRST_WAVE, Wave(members="100%", gate="signed"))}
NO_BASE = "has no effect: its base is not within the 4096 entries before it"

ATTACKS = (
    Attack(
        name="drops the end of a grant",
        does=lambda the: the.double.drops(the.known),
        device_sees=f"entry 7 {NO_BASE}",
        console_shows={
            DEVICES: (*FORK_BANNER, rewritten(8), *DEVICE_BANNER, "‼ fork web-01 sees another log than we do"),
            LOGS: WITNESSED,
        },
        cli_says=(4, rewritten(8)),
        recovers=False,
    ),
    Attack(
        name="reorders a release and its rollout",
        does=lambda the: the.double.reorders(the.known + 1, the.known + 2),
        device_sees=f"entry 7 {NO_BASE}",
        console_shows={DEVICES: (*FORK_BANNER, rewritten(9), *DEVICE_BANNER), LOGS: WITNESSED},
        cli_says=(4, rewritten(9)),
        recovers=False,
    ),
    Attack(
        name="forks what everybody knows",
        does=lambda the: the.double.forks(the.known - 1),
        device_sees=f"fork: {rewritten(6)}",
        console_shows={
            DEVICES: (*FORK_BANNER, rewritten(9), *DEVICE_BANNER, "‼ fork web-01 was shown another log than it knows"),
            LOGS: WITNESSED,
        },
        cli_says=(4, rewritten(9)),
    ),
    Attack(
        name="forks what a device knows",
        does=lambda the: the.double.forks(the.known - 1, to=WEB),
        device_sees=f"fork: {rewritten(6)}",
        console_shows={
            DEVICES: ("log 9 ✓ verified", *DEVICE_BANNER, "‼ fork web-01 was shown another log than it knows"),
            LOGS: WITNESSED,
        },
        cli_says=(
            4,
            "web-01 was shown another log than the 6 entries that it knows, and that are here, too",
        ),
        told=(WEB,),
    ),
    Attack(
        name="forks what a device knows and drops what it says",
        does=lambda the: the.forks_in_silence(),
        device_sees=f"fork: {rewritten(6)}",
        console_shows={
            DEVICES: ("log 9 ✓ verified", "◐ updating web-01 offered"),
            LOGS: ("2 not there yet", "◌ behind by 3 web-01 6"),
        },
        cli_says=(0, "the log verifies: 9 entries"),
        heard=False,
        told=(WEB,),
    ),
    Attack(
        name="gives two devices different logs",
        does=lambda the: the.double.gives_another_log(WEB, the.known),
        device_sees=f"entry 7 {NO_BASE}",
        console_shows={
            DEVICES: ("log 9 ✓ verified", *DEVICE_BANNER, "‼ fork web-01 sees another log than we do"),
            LOGS: WITNESSED,
        },
        cli_says=(4, "web-01 signed for another log at 8 entries: the coordinator shows two histories; sign nothing"),
        recovers=False,
        told=(WEB,),
    ),
    Attack(
        name="withholds what is new",
        does=lambda the: the.double.withholds_what_is_new(the.known, to=WEB),
        device_sees="",
        console_shows={
            DEVICES: ("log 9 ✓ verified", "web-01 offered"),
            LOGS: ("2 not there yet", "◌ behind by 3 web-01 6"),
        },
        cli_says=(0, "the log verifies: 9 entries"),
        told=(WEB,),
    ),
    Attack(
        name="withholds what was signed",
        does=lambda the: the.double.withholds_the_payload(the.known + 2),
        device_sees="untrusted: entry 8: its payload is needed and missing",
        console_shows={
            DEVICES: (
                "‼ DOES NOT VERIFY",
                "‼ What the coordinator sends as the log does not verify.",
                "entry 8: its payload is needed and missing",
                "Sign nothing. nixfleet audit verify names the first entry that does not hold.",
            ),
            LOGS: ("log 6 ‼ DOES NOT VERIFY", "✓ agrees web-01 6"),
        },
        cli_says=(4, "entry 8: its payload is needed and missing"),
        seen=False,
    ),
    Attack(
        name="replays a rollout",
        does=lambda the: the.double.replays(the.known - 1),
        device_sees="",
        console_shows={
            DEVICES: ("log 10 ✓ verified", "● ok web-01 b"),
            AUDIT: ("9 2027-01-15 08:00 ✗ void admin rollout roll out a", "it repeats entry 5"),
        },
        cli_says=(0, "entry 9 is the first without effect: it repeats entry 5"),
        runs="b",
        recovers=False,
    ),
    Attack(
        name="opens an automatic wave too early",
        does=lambda the: the.double.lies_about_waves(),
        device_sees="",
        console_shows={
            DEVICES: ("log 9 ✓ verified",),
            "2 enter": ("1/1 wave 1 is not done",),
        },
        cli_says=(0, "the log verifies: 9 entries"),
        runs="b",
        rollout=TWO_WAVES,
    ),
    Attack(
        name="opens a signed wave",
        does=lambda the: the.double.lies_about_waves(),
        device_sees="wave 2 waits for a signature",
        console_shows={DEVICES: ("log 9 ✓ verified", "◌ waiting web-01")},
        cli_says=(0, "the log verifies: 9 entries"),
        recovers=False,
        rollout=SIGNED_WAVE,
    ),
    Attack(
        name="swaps target lines",
        does=lambda the: the.swaps_b_for_c(),
        device_sees="the line that the coordinator serves does not hold",
        console_shows={
            DEVICES: ("log 9 ✓ verified", "◌ waiting web-01 the line that the coordinator serves does not hold"),
            "5 enter": ("the coordinator shows other lines of b than those that were signed",),
        },
        cli_says=(4, "the coordinator shows other lines of b than those that were signed"),
        asks=("release", "show", "b"),
    ),
    Attack(
        name="serves an old backup",
        does=lambda the: the.double.serves_an_old_backup(the.known - 1),
        device_sees="behind: the coordinator has 5 entries of the 6 known: an old backup",
        console_shows={
            DEVICES: (
                "log 9 ! coordinator is behind",
                "‼ The coordinator runs an old backup: it lacks entries that this machine has verified.",
                "the coordinator has 5 entries of the 9 known: an old backup; what it lacks could not be given back",
                "◌ waiting web-01 behind: the coordinator has 5 entries of the 6 known",
            )
        },
        cli_says=(
            4,
            "the coordinator has 5 entries of the 9 known: an old backup; what it lacks could not be given back",
        ),
    ),
)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name.replace(" ", "-"))
async def test_what_each_lie_comes_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], attack: Attack
) -> None:
    """The device runs nothing that was not signed for it, and says why; the console and the command line show it."""
    async with scene(tmp_path, monkeypatch, capsys) as the:
        await the.news(seen=attack.seen, **attack.rollout)
        attack.does(the)
        async with the.web.running() as agent:
            await hears(the, agent, attack)
            await agent.service.idle()
        assert the.machine_runs(attack.runs)
        await shows(the, attack)
        said = await the.nixfleet(*attack.asks)
        assert (attack.cli_says[0], True) == (said.code, attack.cli_says[1] in said.text), said
        assert set(attack.told) == {who for told in the.double.told.values() for who in told}
        the.double.relents()
        async with the.web.running():
            if attack.recovers:
                await confirmed(the.web, the.last)
        assert the.machine_runs("b" if attack.recovers else attack.runs)


async def hears(the: Scene, agent: Agent, attack: Attack) -> None:
    """Wait until the device has been lied to, and has said what it makes of that."""
    if attack.device_sees:
        await the.reports(agent, attack.device_sees, heard=attack.heard)
    elif attack.runs == "b":
        await confirmed(the.web, the.last)
        await until(lambda: the.device("web-01"), lambda device: device.outcome == "confirmed" and "b" in device.system)
    else:
        await until(lambda: listeners(the), lambda told: WEB in told)


async def listeners(the: Scene) -> list[str]:
    """List who follows a stream of lies, which they do once they have taken in all that was new."""
    return the.double.told.get("/v1/agent/events", [])


async def shows(the: Scene, attack: Attack) -> None:
    """Look at each page of the console for what has to stand there."""
    async with the.console() as driven:
        for keys, words in attack.console_shows.items():
            await driven.press(*keys.split())
            with contextlib.suppress(TimeoutError):
                await driven.until(lambda words=words: missing(driven.text, words) == [])  # type: ignore[misc]
            assert [] == missing(driven.text, words), driven.text


def missing(screen: str, words: tuple[str, ...]) -> list[str]:
    """List what does not stand on a screen, however wide its columns are."""
    plain = " ".join(screen.split())
    return [one for one in words if one not in plain]


async def test_a_rollout_that_was_held_back_is_played_after_a_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who signed it is told that it did not arrive; when it comes after a newer one it counts for nobody."""
    async with scene(tmp_path, monkeypatch, capsys) as the:
        held, said_of_c = await held_back(the), "the rollout waits: entry 9 came before it; sign it again"
        await the.news()
        async with the.web.running():
            await confirmed(the.web, the.last)
        await the.double.plays_what_it_held_back()
        the.one.fleet.append_leaf(*restamped(held, the.one.fleet.entries[-1]))
        the.double.lies_about_waves()
        async with the.web.running() as agent:
            await until(lambda: synced(agent), lambda size: size == the.one.fleet.size)
            await agent.desk.consider()
            await agent.service.idle()
        assert the.machine_runs("b")
        said = await the.nixfleet("rollout", "list")
        assert "c waiting 0/0 0 admin" in " ".join(said.text.split())
        assert said_of_c in said.text
        async with the.console() as driven:
            await driven.press("2")
            await driven.until(lambda: missing(driven.text, ("log 11 ✓ verified", "◌ waiting c", said_of_c)) == [])


async def held_back(the: Scene) -> Pair:
    """Sign a rollout of c, which the coordinator keeps to itself; give it as the leaf that it will be."""
    fleet = the.one.fleet
    async with the.one.client("admin") as admin:
        release, texts = the.release("c")
        await the.one.send(admin, texts)
        statement = fleet.rollout_statement(release)
        payload = encode(statement)
        signature = key("admin").sign(namespace_of(statement), payload)
        the.double.holds_back()
        with pytest.raises(Unreachable, match="it was lost"):
            await admin.append([Submission(payload=payload, signature=signature)])
    the.double.relents()
    return fleet.leaf(payload, namespace_of(statement), "admin"), payload


async def synced(agent: Agent) -> int:
    """Tell how much of the log a device has."""
    return agent.link.mirror.size


async def test_lines_that_are_swapped_before_they_are_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rollout of some of a release's devices signs their lines anew: not before they are held against the log."""
    async with scene(tmp_path, monkeypatch, capsys) as the:
        async with the.one.client("admin") as admin:
            _, texts = the.release("b")
            await the.one.send(admin, texts)
        start = ("rollout", "start", "b", "--on", "web-01", "--yes")
        honest = await the.nixfleet(*start, "--dry-run")
        assert 0 == honest.code, honest
        the.swaps_b_for_c()
        said = await the.nixfleet(*start)
        why = "the coordinator shows other lines of b than those that were signed"
        assert (4, True) == (said.code, why in said.text), said
        await nothing_was_signed(the)


async def test_a_key_that_is_swapped_before_it_is_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A coordinator that wants its own key enrolled in the place of a device's needs a person who does not compare."""
    async with scene(tmp_path, monkeypatch, capsys) as the:
        asked, own = request(the, "web-03"), request(the, "operator")
        async with the.one.client(None) as device:
            await device.enroll_request(asked)
        true, false = key("web-03").public, key("operator").public
        swaps = [(true.text, false.text), (true.fingerprint, false.fingerprint)]
        the.double.swaps_content_before_it_is_signed(replacing(swaps), "/v1/enroll", "/v1/snapshot")
        why = "the coordinator shows another request of web-03 than the device has signed"
        said = await the.nixfleet("enroll", "web-03", "--key", false.fingerprint)
        assert (4, True) == (said.code, why in said.text), said
        async with the.console() as driven:
            await driven.press("3", "A", "y")
            await driven.until(lambda: why in " ".join(driven.text.replace("▌", " ").replace("│", " ").split()))
        swaps += [(in_base64(asked.payload), in_base64(own.payload))]
        swaps += [(in_base64(asked.signature), in_base64(own.signature))]
        the.double.swaps_content_before_it_is_signed(replacing(swaps), "/v1/enroll", "/v1/snapshot")
        said = await the.nixfleet("enroll", "web-03", "--key", true.fingerprint)
        assert (2, True) == (said.code, "no device asks under the name 'web-03' with that key" in said.text), said
        await nothing_was_signed(the)
        the.double.relents()
        said = await the.nixfleet("enroll", "web-03", "--key", true.fingerprint)
        assert 0 == said.code, said


async def nothing_was_signed(the: Scene) -> None:
    """Check that the log is as it was, and that a device has nothing to do."""
    async with the.one.client("admin") as admin, the.web.running() as agent:
        assert the.one.fleet.size == (await admin.fleet()).log_size
        await until(lambda: synced(agent), lambda size: size == the.one.fleet.size)
        await agent.desk.consider()
        assert "" == agent.desk.waits
    assert the.machine_runs("a")


def request(the: Scene, by: str) -> Signed:
    """Sign the request of a new device, web-03, by a key."""
    made = EnrollRequest(
        v=1,
        fleet=the.one.fleet.fleet,
        device=device_id("web-03"),
        name="web-03",
        key=key(by).public.text,
        at=the.one.now,
    )
    return sign_enroll(made, key(by))


def in_base64(data: bytes) -> str:
    """Write bytes as they stand in an answer."""
    return base64.b64encode(data).decode()


def replacing(swaps: Sequence[tuple[str, str]]) -> Change:
    """Make the lie that some texts are others."""

    def change(body: bytes) -> bytes:
        for true, false in swaps:
            body = body.replace(true.encode(), false.encode())
        return body

    return change
