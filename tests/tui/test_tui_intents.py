"""What actions would do: refusals with reasons, levels of confirmation, previews, and the steps in the command log."""

import msgspec
import pytest
from tests.tui.console_fleet import (
    DONE,
    HALTED,
    NOW,
    RELEASE,
    ROLLOUT,
    device,
    device_id,
    digest,
    fingerprint,
    fleet_access,
    fleet_devices,
    release_with_lines,
)
from tests.tui.console_ports import FakeActs, FakeSource

from nixfleet.errors import Refused, UserError
from nixfleet.model.views import Delta, RolloutView, StopView
from nixfleet.tui import actions
from nixfleet.tui.calls import MAX_CALLS, Calls
from nixfleet.tui.confirm import question
from nixfleet.tui.help import help_lines
from nixfleet.tui.intents import Plan, Scene, Standing, kind_of, plan, plan_deployment, refusal
from nixfleet.tui.keys import BY_ID, KEYS, footer
from nixfleet.tui.ports import Deployment, Identity
from nixfleet.tui.preview import filled
from nixfleet.tui.starting import read_start
from nixfleet.tui.store import Store
from nixfleet.tui.view.preview import preview_lines
from nixfleet.tui.view.text import plain

MUTATING = [key.id for key in KEYS if key.mutates]


def wanted_on(on: str, **texts: str) -> Deployment:
    """Fill in the form for the kiosks' release."""
    names = {one.name: one.id for one in fleet_devices()}
    return read_start(RELEASE, {"on": on, **texts}, names, NOW)


SIGNED = digest("a rollout with a signed gate")


def signed(rollout: RolloutView) -> RolloutView:
    """Make a rollout whose last gate asks for a signature, and that has stopped for a kind of device."""
    *waves, last = rollout.waves
    gated = msgspec.structs.replace(last, gate="signed")
    stop = StopView(kind="NUC", path="/nix/store/x", failed=2, tried=2, left=4, said="stops for NUC: 2 of 2 failed")
    return msgspec.structs.replace(rollout, id=SIGNED, waves=(*waves, gated), stops=(stop,))


async def scene(**changes: object) -> Scene:
    """Make a scene over the made-up fleet, signed in as somebody who may do everything."""
    store = Store()
    shown = await FakeSource().snapshot()
    made = signed(next(one for one in shown.rollouts if one.id == ROLLOUT))
    store.load(msgspec.structs.replace(shown, rollouts=(*shown.rollouts, made)))
    return msgspec.structs.replace(Scene(store=store, identity=FakeActs().identity, now=NOW), **changes)


@pytest.mark.parametrize("action", MUTATING)
async def test_every_mutation_is_refused_to_who_may_only_read(action: str) -> None:
    """A read-only person, a key without rights and a lost link all say why."""
    chosen = {
        "devices": (device_id("nas-oslo-01"),),
        "rollout": ROLLOUT,
        "requests": (device_id("kiosk-oslo-09"),),
        "right": "pending:38" if action.endswith("sign") else f"grant:{fleet_access().grants[0].id}",
        "standing": Standing(access=fleet_access(), why_not_sign=lambda _: "your key has no right to approve"),
    }
    reader = await scene(**chosen, identity=Identity(read_only="auditors read"))
    nobody = await scene(**chosen, identity=Identity(principal="x"))
    away = await scene(**chosen, live=False)
    reasons = [refusal(action, where) for where in (reader, nobody, away)]
    assert "read-only: auditors read" == reasons[0]
    assert reasons[1].startswith("your key has no right to ")
    assert "the coordinator is not connected" == reasons[2]
    beginning = await scene(**chosen, live=False, identity=Identity())
    assert reasons[2] == refusal(action, beginning), "nobody is told of rights before their key is known"


@pytest.mark.parametrize(
    ("action", "chosen", "why"),
    [
        ("rollouts.pause", {"rollout": DONE}, "the rollout is finished"),
        ("rollouts.retry", {"rollout": ROLLOUT}, "nothing has failed"),
        ("rollout.advance", {"rollout": ROLLOUT}, "wave 3 opens by itself"),
        ("rollout.lift", {"rollout": ROLLOUT}, "stopped for no kind"),
        ("rollout.retry_these", {"rollout": HALTED}, "no device is chosen"),
        (
            "rollout.retry_these",
            {"rollout": ROLLOUT, "members": (device_id("kiosk-berlin-03"), device_id("kiosk-berlin-01"))},
            "kiosk-berlin-01 has confirmed it",
        ),
        ("rollout.retry_these", {"rollout": DONE, "members": (device_id("nas-oslo-01"),)}, "the rollout is finished"),
        ("rollouts.roll_back", {"rollout": HALTED}, "no device has confirmed it"),
        ("rollouts.pause", {}, "no rollout is chosen"),
        ("devices.retire", {"devices": (device_id("nas-oslo-01"), device_id("nas-oslo-02"))}, "one device at a time"),
        ("devices.hold", {"devices": (device_id("nas-oslo-01"),)}, "only active"),
        ("devices.release_hold", {"devices": (device_id("nas-oslo-02"),)}, "not held"),
        ("devices.hold", {}, "no device is chosen"),
        ("enroll.approve", {}, "nobody asks"),
    ],
)
async def test_what_is_not_possible_says_why(action: str, chosen: dict[str, object], why: str) -> None:
    """A grey action has a reason that can be shown."""
    assert why in refusal(action, await scene(**chosen))


CASES: list[tuple[str, dict[str, object], str, tuple[object, ...], str]] = [
    ("rollout.pause", {"rollout": ROLLOUT}, "yes", ("pause", ROLLOUT, None), "nixfleet rollout pause"),
    ("rollout.pause", {"rollout": HALTED}, "count", ("resume", HALTED, None), "nixfleet rollout resume"),
    ("rollout.advance", {"rollout": SIGNED}, "yes", ("advance", SIGNED, 3), "nixfleet rollout advance"),
    ("rollout.lift", {"rollout": SIGNED}, "yes", ("resume", SIGNED, None), "nixfleet rollout resume"),
    ("rollout.retry", {"rollout": HALTED}, "count", ("retry", HALTED, None), "nixfleet rollout retry"),
    (
        "rollout.retry_these",
        {"rollout": HALTED, "members": (device_id("web-berlin-01"),)},
        "count",
        ("retry", HALTED, (device_id("web-berlin-01"),)),
        f"nixfleet rollout retry {HALTED[:8]} web-berlin-01",
    ),
    ("rollout.cancel", {"rollout": ROLLOUT}, "yes", ("cancel", ROLLOUT, None), "nixfleet rollout cancel"),
    ("rollout.roll_back", {"rollout": DONE}, "count", ("roll_back", DONE), "nixfleet rollout rollback"),
    (
        "devices.retire",
        {"devices": (device_id("web-oslo-01"),)},
        "name",
        ("retired", device_id("web-oslo-01"), None),
        "nixfleet device retire web-oslo-01",
    ),
    (
        "devices.hold",
        {"devices": (device_id("web-oslo-01"),)},
        "count",
        ("held", device_id("web-oslo-01"), NOW + 7 * 86_400),
        "nixfleet device hold web-oslo-01 --until 2026-08-01T17:20Z",
    ),
    (
        "devices.release_hold",
        {"devices": (device_id("nas-oslo-01"),)},
        "count",
        ("active", device_id("nas-oslo-01"), None),
        "nixfleet device hold nas-oslo-01 --end",
    ),
    (
        "enroll.approve",
        {"requests": (device_id("kiosk-oslo-09"),)},
        "yes",
        ("enroll", device_id("kiosk-oslo-09")),
        "nixfleet enroll kiosk-oslo-09 --key SHA256:",
    ),
    (
        "enroll.approve",
        {"requests": (device_id("nas-berlin-02 new"),)},
        "name",
        ("replace", device_id("nas-berlin-02 new")),
        "nixfleet enroll nas-berlin-02 --key SHA256:",
    ),
    (
        "access.revoke",
        {"right": f"grant:{fleet_access().grants[0].id}", "standing": Standing(access=fleet_access())},
        "name",
        ("revoke", fleet_access().grants[0].id),
        f"nixfleet access revoke {fleet_access().grants[0].id[:12]}",
    ),
    (
        "access.revoke",
        {"right": f"key:{fingerprint('ops')}", "standing": Standing(access=fleet_access())},
        "name",
        ("revoke", fingerprint("ops")),
        "nixfleet access revoke SHA256:",
    ),
    (
        "access.sign",
        {"right": "pending:38", "standing": Standing(access=fleet_access())},
        "count",
        ("approve", HALTED),
        f"nixfleet approve {HALTED[:12]}",
    ),
    (
        "right.sign",
        {"right": "pending:34", "standing": Standing(access=fleet_access())},
        "name",
        ("approve", digest("root 4")),
        "nixfleet access root sign ",
    ),
    (
        "enroll.reject",
        {"requests": (device_id("kiosk-oslo-09"),)},
        "yes",
        ("forget", device_id("kiosk-oslo-09")),
        "",
    ),
]


@pytest.mark.parametrize(("action", "chosen", "level", "act", "cli"), CASES)
async def test_plans_ask_by_level_and_do_one_act(
    action: str, chosen: dict[str, object], level: str, act: tuple[object, ...], cli: str
) -> None:
    """An action asks as hard as it must, calls the right act, and stands in the log with its command line."""
    where = await scene(**chosen)
    assert "" == refusal(action, where)
    wanted, acts, calls = plan(action, where), FakeActs(), Calls(lambda: NOW)
    assert level == wanted.confirm.level
    result = await actions.perform(wanted, acts, calls, lambda _: None)
    assert ([act], "") == (acts.done, result.failed)
    (call,) = calls
    assert ("done", True) == (call.state, call.cli.startswith(cli))


def test_every_kind_of_mutation_is_planned_for() -> None:
    """No mutating action is without a case above, but deploying, which has a form."""
    forms = {"deploy", "grant", "token"}
    assert {kind_of(action) for action in MUTATING} == {kind_of(case[0]) for case in CASES} | forms


async def test_several_requests_want_the_count() -> None:
    """Approving marked rows at once shows every fingerprint, wants their number typed, and is one act."""
    where = await scene()
    first = where.store.requests[device_id("kiosk-oslo-09")]
    second = msgspec.structs.replace(first, device="b" * 32, name="kiosk-oslo-10")
    where.store.apply(Delta(seq=where.store.seq + 1, request=second))
    where = msgspec.structs.replace(where, requests=(first.device, second.device))
    assert "" == refusal("enroll.approve", where)
    wanted = plan("enroll.approve", where)
    assert ("count", "2", 1) == (wanted.confirm.level, wanted.confirm.expect, len(wanted.steps))
    assert 2 == plain(wanted.confirm.lines).count("SHA256:")


async def test_a_step_that_fails_ends_the_plan() -> None:
    """After a failure nothing more is signed, and what is left is counted."""
    chosen = (device_id("web-oslo-01"), device_id("web-oslo-04"))
    wanted, acts, calls = plan("devices.hold", await scene(devices=chosen)), FakeActs(), Calls(lambda: NOW)
    acts.broken = Refused("no right to device on site=oslo")
    result = await actions.perform(wanted, acts, calls, lambda _: None)
    assert ((), "no right to device on site=oslo", 2) == (result.done, result.failed, result.left)
    assert ["failed"] == [call.state for call in calls]


@pytest.mark.parametrize(
    ("count", "env", "reboot", "level"),
    [
        (1, "test", False, "yes"),
        (10, "test", False, "yes"),
        (11, "test", False, "count"),
        (1, "prod", False, "count"),
        (1, "test", True, "count"),
    ],
)
def test_levels_follow_what_is_touched(count: int, env: str, reboot: bool, level: str) -> None:
    """Many devices, production or a reboot want the count; else y or n."""
    devices = [device(f"x-{number}", "web", "oslo", env) for number in range(count)]
    assert level == question("Go?", devices, verb="go", reboot=reboot).level


async def test_a_deployment_is_previewed_from_the_records() -> None:
    """The preview names waves, changes, who is away and what is already there."""
    source = FakeSource()
    release = release_with_lines(RELEASE, fleet_devices())
    form = filled(release, wanted_on("site=berlin"), source.devices.values())
    words = plain(preview_lines(form.shown, NOW))
    assert 14 == len(form.devices)
    for part in ("14 devices in 2 waves, at most 2 at once", "kiosk-25.05.2219 → ", "2  already there"):
        assert part in words
    wanted = plan_deployment(await scene(), form)
    assert ("count", "14") == (wanted.confirm.level, wanted.confirm.expect)
    assert "nixfleet rollout start kiosk-2304 --on site=berlin" == wanted.steps[0].cli


async def test_a_deployment_stands_in_the_log_with_its_whole_command_line() -> None:
    """Devices, waves, soak and note are all in it, as they were typed."""
    where = await scene()
    release = release_with_lines(RELEASE, fleet_devices())

    def line(on: str, note: str) -> str:
        wanted = wanted_on(on, wave="1 50%", soak="10m", note=note)
        return plan_deployment(where, filled(release, wanted, where.store.devices.values())).steps[0].cli

    options = "--wave 1 --wave 50% --soak 10m"
    start = f"nixfleet rollout start kiosk-2304 --on kiosk-oslo-01 {options}"
    assert f"{start} -m 'it''s urgent'".replace("''", "'\"'\"'") == line("kiosk-oslo-01", "it's urgent")
    assert f"nixfleet rollout start kiosk-2304 --on site=oslo,berlin {options}" == line("site=oslo,berlin", "")


async def test_a_deployment_of_an_older_release_says_its_digest() -> None:
    """Where a newer release has the same name, the name alone would start that one."""
    where = await scene()
    older = where.store.releases[RELEASE]
    newer = msgspec.structs.replace(older, id="f" * 64, index=older.index + 1_000)
    where.store.apply(Delta(seq=where.store.seq + 1, release=newer))
    wanted = wanted_on("")
    form = filled(release_with_lines(RELEASE, fleet_devices()), wanted, where.store.devices.values())
    assert f"nixfleet rollout start {RELEASE[:12]}" == plan_deployment(where, form).steps[0].cli


def test_a_deployment_to_nobody_is_refused() -> None:
    """A release without a line for anyone chosen says so."""
    with pytest.raises(UserError, match="no line"):
        filled(
            release_with_lines(RELEASE, fleet_devices()),
            wanted_on("role=nas"),
            fleet_devices(),
        )


@pytest.mark.parametrize(
    ("other", "says"), [("web-oslo-01", "no line for web-oslo-01"), ("nas-oslo-01", "nas-oslo-01 is held")]
)
def test_a_named_device_that_would_get_nothing_is_said(other: str, says: str) -> None:
    """Beside one that gets the release, too: who names a device means it."""
    names = ("kiosk-oslo-01", other)
    wanted = wanted_on(" ".join(names))
    with pytest.raises(UserError, match=says):
        filled(release_with_lines(RELEASE, fleet_devices()), wanted, fleet_devices())


def test_only_capitals_change_anything() -> None:
    """No lower-case key mutates, and no capital but those of moving about does not."""
    assert all(key.key.isupper() for key in KEYS if key.mutates and key.key)
    assert {"G", "N", "S"} >= {part for key in KEYS if not key.mutates for part in key.key.split(",") if part.isupper()}


def test_ids_and_keys_are_unique_in_their_scope() -> None:
    """Each id names one action, and no key means two things in one place."""
    assert len(KEYS) == len(BY_ID)
    pressed = [(key.scope, part) for key in KEYS for part in key.key.split(",") if part]
    assert len(pressed) == len(set(pressed))


def test_terminal_keys_are_left_alone() -> None:
    """No action sits on a key that terminals and multiplexers take for themselves; Ctrl+Z means there what it means."""
    taken = {"ctrl+a", "ctrl+b", "ctrl+s", "ctrl+q", "ctrl+z", "ctrl+d", "ctrl+k"}
    used = {part for key in KEYS for part in key.key.split(",") if key.id != "app.suspend"}
    assert set() == {part for part in used if part in taken or part.startswith(("alt+", "shift+"))}


@pytest.mark.parametrize("scope", sorted({key.scope for key in KEYS}))
def test_footers_are_short_and_help_is_whole(scope: str) -> None:
    """A footer has at most eight keys; help lists every action of its scope."""
    assert len(footer(scope)) <= 8  # type: ignore[arg-type] # the scopes come from the registry itself
    shown = plain(help_lines(scope, {}))  # type: ignore[arg-type] # the scopes come from the registry itself
    assert [] == [key.label for key in KEYS if key.scope == scope and key.label not in shown]


async def test_the_command_log_is_bounded() -> None:
    """Only the newest 500 calls are kept."""
    calls = Calls(lambda: NOW)
    for number in range(MAX_CALLS + 5):
        calls.note(str(number), "")
    assert (MAX_CALLS, "5") == (len(calls), next(iter(calls)).what)


def test_plans_are_frozen() -> None:
    """A plan cannot change between the question and the act."""
    with pytest.raises(AttributeError):
        Plan(confirm=question("x", [], verb="x"), steps=()).steps = ()  # type: ignore[misc] # that is the point
