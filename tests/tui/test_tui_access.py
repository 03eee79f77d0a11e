"""The Access screen: rows and cards, what may be revoked and signed by whom, and the forms of rights and tokens."""

from functools import partial

import msgspec
import pytest
from tests.tui.console_fleet import NOW, device_id, digest, fingerprint, fleet_access, fleet_devices
from tests.tui.console_pilot import Driven, console
from tests.tui.console_ports import TOKEN, FakeActs, FakeAuthority, FakeSource
from textual import events
from textual.widgets import Input

from nixfleet.errors import UserError
from nixfleet.model.device import CLONE
from nixfleet.model.statements import ACTIONS
from nixfleet.model.views import Delta
from nixfleet.tui.forms import read_explain, read_grant, read_select, read_token
from nixfleet.tui.intents import Scene, Standing, plan_grant, refusal
from nixfleet.tui.ports import Identity
from nixfleet.tui.store import Store
from nixfleet.tui.view import access
from nixfleet.tui.view.text import plain

ACCESS = fleet_access()
ONCALL = ACCESS.grants[0]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5"
GRANT = {"name": "ci", "key": KEY, "actions": "", "on": "", "days": "", "depth": "", "devices": "", "note": ""}


def shows(driven: Driven, *words: str) -> bool:
    """Tell whether the screen shows all of these."""
    return all(word in driven.text for word in words)


def tells(driven: Driven, words: str) -> bool:
    """Tell whether a toast says this."""
    return any(words in toast.message for toast in driven.app._notifications)


def scene(right: str, identity: Identity) -> Scene:
    """Make a scene with a row of the Access screen chosen."""
    return Scene(store=Store(), identity=identity, now=NOW, right=right, standing=Standing(access=ACCESS))


def person(name: str, *may: str, root: bool = False) -> Identity:
    """Make somebody with rights."""
    allowed = frozenset(action for action in ACTIONS if action in may)
    return Identity(principal=name, key=fingerprint(name), may=allowed, root=root)


def test_rows_stand_in_the_order_of_the_tree() -> None:
    """What waits comes first, then people with their keys, then each grant below the one it was handed on from."""
    rows = list(access.rows(ACCESS, NOW).values())
    assert ["pending", "pending", "principal", "key", "key"] == [row.kind for row in rows[:5]]
    tree = [(row.who, row.depth) for row in rows if row.kind == "grant"][:3]
    assert [("oncall", 0), ("oncall/night", 1), ("oncall/trainee", 1)] == tree


def test_states_are_words() -> None:
    """A revoked key, an expired, a revoked and a used-up grant say so, and not by colour alone."""
    cells = {row.who: plain([access.state_cell(row.state)]) for row in access.rows(ACCESS, NOW).values()}
    assert "✗ revoked" == cells[fingerprint("ops old")]
    assert ("✗ expired", "✗ revoked", "□ used up") == (
        cells["oncall/trainee"],
        cells["contractor"],
        cells["token-90bb41de"],
    )


def test_one_root_key_is_a_warning_with_its_command() -> None:
    """While a single root key is left, the head says what that means and how to add one; with two it does not."""
    assert ACCESS.root is not None
    (ops, *_) = ACCESS.root.principals
    alone = msgspec.structs.replace(ACCESS.root, principals=(ops,), threshold=1)
    shown = plain(access.root_head(alone, 160))
    assert "1 root key" in shown
    assert "nixfleet access root update --add-key ops=FILE.pub" in shown
    assert "1 root key" not in plain(access.root_head(ACCESS.root, 160))


def test_rules_are_sentences() -> None:
    """A rule says what acts, on which devices, need."""
    assert ACCESS.root is not None
    said = "deploy and rollback on env=prod need 1 approval, a note, at most 5 at once and a soak of 30m"
    assert said == access.rule_words(ACCESS.root.rules[0])


def test_a_card_names_the_chain_and_the_giver() -> None:
    """A grant's card says what it allows, by whom, from the root down, and its keys."""
    shown = plain(access.card(ACCESS, f"grant:{ACCESS.grants[1].id}", NOW, 100))
    for part in ("root → oncall → oncall/night", "granted by  oncall", "env=test site=berlin", "in 12d", "4 devices"):
        assert part in shown


def test_what_waits_says_who_has_signed_and_who_has_not() -> None:
    """A root version names both; its payload's digest is there to compare."""
    shown = plain(access.card(ACCESS, "pending:34", NOW, 100))
    for part in ("signed   security", "not yet  ops, founder", "1 more root signature", digest("root 4")):
        assert part in shown


@pytest.mark.parametrize(
    ("who", "right", "why"),
    [
        (person("ops", root=True), f"grant:{ONCALL.id}", ""),
        (person("oncall"), f"grant:{ONCALL.id}", ""),
        (person("oncall"), f"grant:{ACCESS.grants[1].id}", ""),
        (person("release-ci"), f"grant:{ONCALL.id}", "only the root, its holder, or an issuer above it"),
        (person("oncall/night"), f"grant:{ONCALL.id}", "no right to revoke this"),
        (person("ops", root=True), f"grant:{ACCESS.grants[5].id}", "revoked already"),
        (person("ops", root=True), f"key:{fingerprint('ops old')}", "revoked already"),
        (person("oncall"), f"key:{fingerprint('ops')}", "only the root or its holder"),
        (person("ops", root=True), "principal:security", ""),
        (person("ops", root=True), "pending:38", "choose a grant or a key"),
        (person("ops", root=True), "", "choose a grant or a key"),
    ],
)
def test_who_may_revoke_what(who: Identity, right: str, why: str) -> None:
    """The root, an issuer above or the holder may; everybody else hears why not."""
    said = refusal("access.revoke", scene(right, who))
    assert (why in said, bool(why)) == (True, bool(said))


@pytest.mark.parametrize(
    ("right", "why"),
    [
        ("pending:38", "oncall has submitted it, and nobody approves what is their own"),
        ("pending:34", ""),
        (f"grant:{ONCALL.id}", "choose something that waits for signatures"),
    ],
)
def test_who_may_sign_what_waits(right: str, why: str) -> None:
    """What waits can be signed unless the replay says why that would not help; nothing else can."""
    own = Standing(access=ACCESS, why_not_sign=lambda one: why if one.index == 38 else "")
    assert why == refusal("access.sign", msgspec.structs.replace(scene(right, person("oncall")), standing=own))


def test_a_right_that_is_missing_for_a_device_is_said_whole() -> None:
    """A right that reaches other devices only greys the act, with the sentence of the replay."""
    store = Store()
    store.apply(Delta(seq=0, device=fleet_devices()[0]))
    why = "ops/ci lacks the right to change kiosk-berlin-01: its grant covers site=oslo only"
    where = Scene(
        store=store,
        identity=person("ci", "device"),
        now=NOW,
        devices=(fleet_devices()[0].id,),
        standing=Standing(why_not=lambda action, devices: why if action == "device" and devices else ""),
    )
    assert why == refusal("devices.hold", where)
    assert "your key has no right to deploy; it may device" == refusal("devices.deploy", where)


# Forms


def public_key(text: str) -> tuple[str, str]:
    """Read a key as the fake does."""
    return FakeAuthority().public_key(text)


def test_the_grant_form_says_what_it_allows() -> None:
    """The sentence names actions, devices, end and fingerprint; handing on and every device are said aloud."""
    texts = {**GRANT, "actions": "deploy, rollback", "on": "site=oslo,berlin", "days": "10", "devices": "5"}
    answer = read_grant(texts, public_key, "ops", NOW)
    said = plain(answer.lines)
    assert "ci may deploy and rollback on devices with site=oslo,berlin until 2026-08-04 (10 days)." in said
    assert fingerprint(KEY) in said
    assert "at most 5 devices" in said
    assert answer.value is not None
    assert (("deploy", "rollback"), {"site": ("oslo", "berlin")}, 10, 5) == (
        answer.value.actions,
        answer.value.select,
        answer.value.days,
        answer.value.max_devices,
    )
    confirm = plan_grant(answer.value, answer.lines).confirm
    assert "yes" == confirm.level
    everything = read_grant({**GRANT, "actions": "deploy"}, public_key, "ops", NOW)
    assert "every device" in plain(everything.lines)
    assert everything.value is not None
    assert ("name", "ci") == (
        plan_grant(everything.value, ()).confirm.level,
        plan_grant(everything.value, ()).confirm.expect,
    )


def test_a_grant_stands_in_the_log_with_its_whole_command_line() -> None:
    """What the form says can be typed as a command."""
    texts = {**GRANT, "actions": "release grant", "on": "site=oslo", "days": "3", "depth": "1", "note": "FLEET-7"}
    answer = read_grant({**texts, "key": KEY}, public_key, "ops", NOW)
    assert answer.value is not None
    cli = plan_grant(answer.value, ()).steps[0].cli
    options = "--action release --action grant --on site=oslo --days 3 --depth 1 -m FLEET-7"
    assert f"nixfleet access grant ci --to '{KEY}' {options}" == cli


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ({"name": "No Name"}, "is no name"),
        ({"key": "SHA256:abc"}, "give a public key"),
        ({"actions": "reboot"}, "'reboot' is no action"),
        ({"on": "site"}, "write tag=value"),
        ({"on": "site=a site=b"}, "stands twice"),
        ({"days": "0"}, "days: a number from 1"),
        ({"days": "soon"}, "days: a number from 1"),
        ({"depth": "9"}, "levels: a number from 1 to 8"),
        ({"depth": "1", "actions": "deploy"}, "needs the action grant as well"),
        ({"actions": "deploy grant"}, "how many levels down"),
    ],
)
def test_the_grant_form_says_what_is_wrong(texts: dict[str, str], says: str) -> None:
    """Each bad field gets one sentence, and there is nothing to go on with."""
    with pytest.raises(UserError, match=says):
        read_grant({**GRANT, **texts}, public_key, "ops", NOW)


def test_an_unfinished_form_asks_for_the_rest() -> None:
    """Without name and key there is nothing to go on with, and no error either."""
    assert read_grant({**GRANT, "name": ""}, public_key, "ops", NOW).value is None
    token = read_token({"tags": "", "uses": "", "days": ""})
    assert token.value is not None
    assert (1, 7) == (token.value.uses, token.value.days)


def test_a_token_has_one_value_of_each_tag() -> None:
    """A device has one value of a tag, so a token has."""
    with pytest.raises(UserError, match="one value of site"):
        read_token({"tags": "site=oslo,berlin", "uses": "1", "days": "1"})
    assert {"site": ("oslo",)} == read_select("site=oslo")


@pytest.mark.parametrize(
    ("who", "says"),
    [
        ("ops", "✓ yes\nops may deploy to nas-oslo-01, by the root"),
        ("release-ci", "✗ no\nrelease-ci lacks the right to deploy to nas-oslo-01"),
        (fingerprint("oncall/night"), "✗   └ oncall/night  grant 492de0a2feb1  covers site=berlin only"),
        ("night", "✗ no\noncall/night lacks the right"),
    ],
)
def test_what_a_key_may_do_is_told_with_the_failing_link(who: str, says: str) -> None:
    """Names, short names and fingerprints are asked about alike."""
    texts = {"key": who, "action": "deploy", "device": "nas-oslo-01"}
    assert says in plain(read_explain(texts, ACCESS, fleet_devices(), FakeAuthority()).lines)


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ({"key": "nobody"}, "names nobody"),
        ({"device": "nothing"}, "no device is called"),
        ({"action": "deploy release"}, "one action at a time"),
        ({"action": "fly"}, "no action"),
    ],
)
def test_a_question_that_cannot_be_asked_says_why(texts: dict[str, str], says: str) -> None:
    """Each field that cannot be read gets its sentence."""
    first = {"key": "ops", "action": "deploy", "device": "nas-oslo-01"}
    with pytest.raises(UserError, match=says):
        read_explain({**first, **texts}, ACCESS, fleet_devices(), FakeAuthority())


# On the screen


async def test_revoking_shows_what_it_would_stop_and_wants_the_name() -> None:
    """The question lists what depends on the grant; only the typed name does it, once, and the log has the command."""
    async with console() as driven:
        await driven.press("6", *"jjjjjjjjj", "X")
        assert shows(driven, "It stops 2 things:", "rollout nas-2219", "grant oncall/night", "cannot be taken back")
        await driven.press("y", "enter")
        assert [] == driven.acts.done
        driven.app.screen.query_one(Input).value = "oncall"
        await driven.press("enter")
        assert [("revoke", ONCALL.id)] == driven.acts.done
        await driven.press("at")
        assert f"$ nixfleet access revoke {ONCALL.id[:12]}" in driven.text


async def test_approving_a_rollout_shows_its_devices_and_who_signed() -> None:
    """The payload stands there in words, with who signed, what is missing, and how many devices it reaches."""
    async with console() as driven:
        await driven.press("6", "A")
        assert shows(driven, "deploy web-2304 to role=web", "signed   oncall", "1 more approval", "12 devices")
        driven.app.screen.query_one(Input).value = "12"
        await driven.press("enter")
        assert "approve" == driven.acts.done[0][0]


async def test_what_waits_opens_to_the_byte() -> None:
    """Enter on a waiting statement shows the very payload one would sign."""
    async with console() as driven:
        await driven.press("6", "enter")
        assert shows(driven, "entry 38", "payload", "signature", "proof in the log of 42 entries")
        await driven.press("escape", "j", "j", "enter")
        assert shows(driven, "a root principal", "✗ revoked")


async def test_an_act_that_is_not_allowed_says_why_and_signs_nothing() -> None:
    """A person with few rights sees the acts grey, and a toast with the whole reason."""
    acts = FakeActs(
        Identity(principal="release-ci", role="release", key=fingerprint("release-ci"), may=frozenset(["release"]))
    )
    authority = FakeAuthority()
    authority.unsigned[38] = "release-ci lacks the right to approve web-berlin-01"
    async with console(acts=acts, authority=authority) as driven:
        await driven.press("6", "N")
        await driven.until(partial(tells, driven, "your key has no right to grant; it may release"))
        await driven.press("A")
        await driven.until(partial(tells, driven, "release-ci lacks the right to approve web-berlin-01"))
        await driven.press("a")
        assert shows(driven, "New grant", "your key has no right to grant")
        assert [] == acts.done
        assert "release-ci release" in driven.text


async def test_a_grant_is_filled_in_previewed_and_confirmed() -> None:
    """The form's words follow what is typed; Enter asks once more, and y grants it."""
    async with console() as driven:
        await driven.press("6", "N", *"ci", "enter")
        assert [] == driven.acts.done
        for field, text in {"key": KEY, "actions": "release", "on": "site=oslo"}.items():
            driven.app.screen.query_one(f"#form-{field}", Input).value = text
        await driven.until(partial(shows, driven, "ci may release on devices with site=oslo until 2027-07-25"))
        await driven.press("enter")
        assert "Grant this to ci?" in driven.text
        await driven.press("y")
        (done,) = driven.acts.done
        assert "grant" == done[0]


async def test_a_form_goes_on_with_what_stands_in_it_however_fast_it_is_typed() -> None:
    """Keys behind an arrow go to the next field, and Enter takes the last letter along."""
    async with console() as driven:
        await driven.press("3", "T")
        for one in (*"site=oslo", "down", "backspace", "3", "enter"):
            driven.app.post_message(events.Key(one, one if len(one) == 1 else "=" if one == "equals_sign" else None))
        await driven.until(partial(shows, driven, "Make a token?"))
        assert shows(driven, "can join 3 devices with site=oslo")


async def test_a_confirmation_takes_what_is_typed_ahead_in_its_order() -> None:
    """A wrong start that is cleared, the name, and Enter, all before the window has drawn once: it is a yes."""
    async with console() as driven:
        await driven.press("6", "N", *"ci", "enter")
        for field, text in {"key": KEY, "actions": "deploy"}.items():
            driven.app.screen.query_one(f"#form-{field}", Input).value = text
        await driven.until(partial(shows, driven, "ci may deploy on every device"))
        await driven.press("enter")
        assert shows(driven, "Grant this to ci?", "Type the name")
        for one in ("x", "ctrl+u", *"ci", "enter"):
            driven.app.post_message(events.Key(one, one if len(one) == 1 else None))
        await driven.until(lambda: bool(driven.acts.done))
        assert "grant" == driven.acts.done[0][0]


async def test_a_wrong_field_is_red_and_goes_nowhere() -> None:
    """While a field cannot be read, Enter stays on the form."""
    async with console() as driven:
        await driven.press("6", "N", *"ci", "tab", *"nonsense", "enter")
        assert shows(driven, "give a public key", "A grant")
        await driven.press("ctrl+c")
        assert [] == driven.acts.done


async def test_explaining_is_asked_of_the_chosen_row_and_changes_nothing() -> None:
    """The question is filled in from the row; the chain and its failing link follow the typing."""
    async with console() as driven:
        await driven.press("6", *"jjjjjjjjj", "e", *"nas-oslo-01")
        assert shows(driven, "✗ no", "oncall lacks the right to deploy to nas-oslo-01", "covers site=berlin only")
        await driven.press("enter")
        assert "What may they do?" in driven.text
        await driven.press("escape")
        assert ([], "access") == (driven.acts.done, driven.app.current_mode)


async def test_a_token_is_shown_once_and_is_in_no_log() -> None:
    """Form, question, secret; y copies it, and neither the command log nor the toasts have it."""
    async with console() as driven:
        await driven.press("3", "T", *"site=oslo", "enter")
        assert "Make a token?" in driven.text
        await driven.press("y")
        await driven.until(partial(shows, driven, "The token", "It is shown once"))
        shown = "".join(line.strip(" │\n") for line in driven.text.splitlines() if "QWxs" in line or "IHN0" in line)
        assert TOKEN[:40] in shown
        await driven.press("y", "q", "at")
        assert TOKEN == driven.app.clipboard
        assert "QWxs" not in driven.text
        assert all("QWxs" not in call.said + call.what + call.cli for call in driven.app.desk.calls)
        assert shows(driven, "$ nixfleet enroll token --tag site=oslo --uses 1 --days 7")


async def test_a_device_that_shows_another_key_is_offered_its_new_one() -> None:
    """A known device id with another key is no new device: approving it says what ends, and wants the name.

    The command line that does the same names the device, whatever name it asks under.
    """
    source = FakeSource()
    known = source.devices[device_id("kiosk-oslo-02")]
    request = msgspec.structs.replace(
        source.requests[device_id("kiosk-oslo-09")], device=known.id, name="late", fingerprint=fingerprint("new")
    )
    source.requests = {request.device: request}
    async with console(source=source) as driven:
        await driven.press("3")
        assert shows(driven, "! new key", "shows another", "A gives it this key, the old one ends")
        await driven.press("A")
        assert shows(driven, "Give kiosk-oslo-02 its new key?", "Anybody can ask", "its old key is")
        driven.app.screen.query_one(Input).value = "kiosk-oslo-02"
        await driven.press("enter")
        assert [("renew", known.id, "kiosk-oslo-02")] == driven.acts.done
        said = [call.cli for call in driven.app.desk.calls]
        assert f"nixfleet device rekey kiosk-oslo-02 --key '{request.key}'" in said


async def test_a_request_under_a_spent_id_says_what_to_do() -> None:
    """The id of a retired device is of no use, and a member has nothing to ask for: neither is enrolled."""
    source = FakeSource()
    one = next(iter(source.requests.values()))
    gone, member = (source.devices[device_id(name)] for name in ("kiosk-oslo-02", "kiosk-oslo-03"))
    source.devices[gone.id] = msgspec.structs.replace(gone, state="retired")
    asks = msgspec.structs.replace(one, device=gone.id, name="late", asked_at=NOW - 9_000)
    again = msgspec.structs.replace(one, device=member.id, name=member.name, key=member.key)
    source.requests = {asks.device: asks, again.device: again}
    async with console(source=source) as driven:
        await driven.press("3", "A")
        await driven.until(partial(tells, driven, "which is retired: on the device, nixfleet agent join --replace"))
        await driven.press("j", "A")
        await driven.until(partial(tells, driven, "it is enrolled already, as kiosk-oslo-03"))
        await driven.press("X", "y")
        assert [("forget", member.id)] == driven.acts.done


async def test_a_copied_disk_takes_nobodys_name() -> None:
    """Moving the name would retire the device whose disk was copied: another name is asked for instead."""
    source = FakeSource()
    one = next(iter(source.requests.values()))
    copy = msgspec.structs.replace(
        one, device="c" * 32, name="kiosk-oslo-02", reason=f"{CLONE}: this disk was in kiosk-oslo-02"
    )
    source.requests = {copy.device: copy}
    async with console(source=source) as driven:
        await driven.press("3", "A")
        await driven.until(partial(tells, driven, "nixfleet enroll kiosk-oslo-02 --as another name"))
        assert shows(driven, "! see why", "another machine-id")
        assert [] == driven.acts.done


async def test_marked_requests_are_enrolled_by_one_act_and_odd_ones_alone() -> None:
    """A taken name is never part of a bulk act; new devices are one act together."""
    source = FakeSource()
    first = source.requests[device_id("kiosk-oslo-09")]
    second = msgspec.structs.replace(first, device="b" * 32, name="kiosk-oslo-10", asked_at=NOW - 100)
    source.requests[second.device] = second
    async with console(source=source) as driven:
        await driven.press("3", "asterisk", "A")
        await driven.until(partial(tells, driven, "nas-berlin-02 is no new device: approve it alone"))
        await driven.press("u", "j", "space", "space", "A")
        assert shows(driven, "Enroll 2 devices?", "Your key signs 2 times.")
        driven.app.screen.query_one(Input).value = "2"
        await driven.press("enter")
        assert [("enroll_many", first.device, second.device)] == driven.acts.done
