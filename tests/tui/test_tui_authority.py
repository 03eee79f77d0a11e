"""Rights as the console asks for them, out of a real log for one key; and acts on rights, found in the log again."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests import factories
from tests.factories import Fleet, device_id, fingerprint, key
from tests.fakelog import FakeLog
from tests.httpd import httpd

from nixfleet.client.admin import Admin
from nixfleet.client.api import Client
from nixfleet.client.mirror import Mirror
from nixfleet.errors import UserError
from nixfleet.model.statements import Rule
from nixfleet.model.views import DeviceView
from nixfleet.trust.signers import MemorySigner, Signer
from nixfleet.trust.sshsig import PublicKey
from nixfleet.trust.statements import digest
from nixfleet.tui.acting import AdminActs
from nixfleet.tui.authority import LogAuthority
from nixfleet.tui.ports import GrantWish, Subject, TokenWish

PROD = Rule(select={"env": ("prod",)}, actions=("deploy", "device"), approvals=1)


@pytest.fixture
def fleet() -> Fleet:
    """Make a fleet of two devices, with a team that may deploy to one of them and its CI."""
    made = Fleet()
    made.device("web-01", tags={"env": "prod"})
    made.device("dev-01", tags={"env": "test"})
    team = made.grant("team", "deploy", "grant", "device", select={"env": ["test"]}, depth=1)
    made.grant("ci", "deploy", by="team", parent=team, select={"env": ["test"]})
    return made


class Touched:
    """A key that a person has to touch, and how often they did."""

    def __init__(self, who: str) -> None:
        self._signer = MemorySigner(key(who))
        self.touches = 0

    @property
    def key(self) -> PublicKey:
        """The public key of every signature it makes."""
        return self._signer.key

    def sign(self, namespace: str, payload: bytes) -> bytes:
        """Return an SSHSIG blob."""
        self.touches += 1
        return self._signer.sign(namespace, payload)


@asynccontextmanager
async def sitting(
    folder: Path, fleet: Fleet, who: str = "admin", signer: Signer | None = None
) -> AsyncIterator[tuple[AdminActs, LogAuthority]]:
    """Let somebody sit at the console of a fleet whose log is served."""
    async with (
        httpd(FakeLog(fleet)) as server,
        Client([server.url], fleet=fleet.fleet, key=key(who), clock=lambda: fleet.now) as client,
    ):
        mirror = Mirror.open(folder / who, fleet.fleet)
        admin = Admin(client, mirror, signer or MemorySigner(key(who)), lambda: fleet.now)
        await mirror.catch_up(client)
        acts = AdminActs(client, admin, signer=fingerprint(who), clock=lambda: fleet.now)
        yield acts, LogAuthority(mirror, signer=fingerprint(who), clock=lambda: fleet.now)


def view(name: str, **tags: str) -> DeviceView:
    """Make what the console holds of a device."""
    return DeviceView(id=device_id(name), name=name, key=fingerprint(name), tags=tags, state="active")


async def test_who_sits_here_is_what_the_log_says(tmp_path: Path, fleet: Fleet) -> None:
    """The role is root, the actions that the grants allow, or auditor; a key that may do nothing is read-only."""
    fleet.grant("auditor")
    told = {}
    for who in ("admin", "team", "ci", "auditor"):
        async with sitting(tmp_path, fleet, who) as (acts, _):
            told[who] = (acts.identity.root, acts.identity.role, bool(acts.identity.read_only))
    assert {
        "admin": (True, "root", False),
        "team": (False, "deploy device grant", False),
        "ci": (False, "deploy", False),
        "auditor": (False, "auditor", True),
    } == told


async def test_a_missing_right_is_told_by_the_grant_that_falls_short(tmp_path: Path, fleet: Fleet) -> None:
    """Over a device out of reach the sentence names the grant's limit; over one within reach there is none."""
    async with sitting(tmp_path, fleet, "team") as (_, authority):
        assert "" == authority.why_not("deploy", [view("dev-01", env="test")])
        said = authority.why_not("deploy", [view("dev-01", env="test"), view("web-01", env="prod")])
        assert said.startswith("team lacks the right to deploy to web-01")
        assert "covers env=test only" in said


async def test_a_right_that_waits_for_approvals_is_not_grey(tmp_path: Path) -> None:
    """An act that others have to approve can be submitted: it is not refused beforehand."""
    fleet = Fleet("lead", "security", threshold=2, rules=(PROD,))
    fleet.approve(digest(fleet.entries[0][1]), "security")
    fleet.grant("ops", "deploy", "enroll", by="lead")
    fleet.approve(digest(fleet.entries[-1][1]), "security")
    fleet.device("web-01", by="ops", tags={"env": "prod"})
    async with sitting(tmp_path, fleet, "ops") as (_, authority):
        assert "" == authority.why_not("deploy", [view("web-01", env="prod")])
        assert authority.why_not("device", [view("web-01", env="prod")])


async def test_the_tree_is_worked_out_anew_when_the_log_grows(tmp_path: Path, fleet: Fleet) -> None:
    """The same answer is kept until there is something new, so that a screen can tell."""
    async with sitting(tmp_path, fleet) as (acts, authority):
        first = authority.access()
        assert first is authority.access()
        team = next(grant for grant in first.grants if grant.name == "team")
        stops = authority.stops(Subject(name="team", grant=team.id), [])
        assert [("grant", "team/ci")] == [(stop.kind, stop.name) for stop in stops]
        await acts.revoke(Subject(name="team", grant=team.id))
        second = {grant.name: grant.state for grant in authority.access().grants}
        assert {"team": "revoked", "team/ci": "cut"} == second


async def test_a_grant_from_the_console_is_in_the_log(tmp_path: Path, fleet: Fleet) -> None:
    """The team hands on to a person within its own bounds, and it works; beyond them nothing is signed."""
    wish = GrantWish(
        name="night", key=key("night").public.text, key_text="", actions=("deploy",), select={"env": ("test",)}, days=3
    )
    async with sitting(tmp_path, fleet, "team") as (acts, authority):
        assert "night has grant" in await acts.grant(wish)
        granted = next(grant for grant in authority.access().grants if grant.name == "team/night")
        assert (("deploy",), "live", "team") == (granted.actions, granted.state, granted.by_name)
        assert authority.explain(fingerprint("night"), "deploy", device_id("dev-01")).allowed
        told = authority.explain(fingerprint("night"), "deploy", device_id("web-01"))
        assert (False, [True, False, False]) == (told.allowed, [link.ok for link in told.chains[0].links])


async def test_only_others_may_sign_what_waits(tmp_path: Path) -> None:
    """The submitter hears why not; another root principal may, and then it has what it needs."""
    fleet = Fleet("lead", "security", threshold=2)
    fleet.approve(digest(fleet.entries[0][1]), "security")
    fleet.grant("ops", "deploy", by="lead")
    async with sitting(tmp_path, fleet, "lead") as (_, authority):
        (waiting,) = authority.access().pending
        assert "has submitted it" in authority.why_not_sign(waiting)
    async with sitting(tmp_path, fleet, "security") as (acts, authority):
        assert "" == authority.why_not_sign(waiting)
        assert "it has what it needs" in await acts.approve(waiting.digest)
        assert () == authority.access().pending


async def test_several_devices_are_enrolled_with_one_signature(tmp_path: Path, fleet: Fleet) -> None:
    """A narrow grant to a key in memory signs for all; each device is in the log."""
    requests = [factories.asking(fleet.fleet, f"new-{number}", tags={"env": "test"}) for number in range(5)]
    signer = Touched("admin")
    async with sitting(tmp_path, fleet, signer=signer) as (acts, authority):
        assert (1, "") == authority.touches(requests)
        assert (2, "") == authority.touches(requests[:2])
        assert "5 devices enrolled" in await acts.enroll_many(requests)
        bulk = [grant for grant in authority.access().grants if "-bulk-" in grant.name]
        assert [(("enroll",), 5, {"env": ("test",)})] == [(one.actions, one.max_uses, one.select) for one in bulk]
        assert 1 == signer.touches


async def test_who_cannot_hand_on_is_told_before_that_each_wants_a_signature(tmp_path: Path, fleet: Fleet) -> None:
    """A bulk act of somebody without `grant` is as many touches of their key as there are devices, and says why."""
    fleet.grant("porter", "enroll")
    requests = [factories.asking(fleet.fleet, f"new-{number}", tags={"env": "test"}) for number in range(5)]
    async with sitting(tmp_path, fleet, "porter") as (_, authority):
        touches, why = authority.touches(requests)
    assert (5, True) == (touches, "grant" in why)


async def test_a_device_gets_the_key_that_it_asks_with(tmp_path: Path, fleet: Fleet) -> None:
    """The old key is worth nothing afterwards; it is told by its own name, whatever name it asks under."""
    request = factories.asking(fleet.fleet, "late", by="dev-01 new", device="dev-01")
    async with sitting(tmp_path, fleet) as (acts, _):
        assert "dev-01 has its new key" in await acts.renew_key(request, "dev-01")
        state = acts._admin.state
        assert (device_id("dev-01"), None) == (
            state.device_of(fingerprint("dev-01 new")),
            state.device_of(fingerprint("dev-01")),
        )


async def test_a_token_comes_back_as_a_secret(tmp_path: Path, fleet: Fleet) -> None:
    """What may be written down says nothing of it; its grant is in the tree with its uses."""
    async with sitting(tmp_path, fleet) as (acts, authority):
        secret = await acts.make_token(TokenWish(tags={"env": "test"}, uses=3, days=2))
        assert secret.text not in secret.said
        token = next(grant for grant in authority.access().grants if grant.max_uses == 3)
        assert (("enroll",), 0, {"env": ("test",)}) == (token.actions, token.uses, token.select)


def test_a_public_key_is_its_line_or_its_file(tmp_path: Path, fleet: Fleet) -> None:
    """What is no public key, a private one above all, is refused in words."""
    authority = LogAuthority(Mirror.open(tmp_path / "m", fleet.fleet), signer=fingerprint("x"), clock=lambda: 0)
    public = key("someone").public
    assert (public.text, public.fingerprint) == authority.public_key(f" {public.text} someone@desk ")
    (tmp_path / "key.pub").write_text(f"{public.text} someone@desk\n")
    assert (public.text, public.fingerprint) == authority.public_key(str(tmp_path / "key.pub"))
    with pytest.raises(UserError, match=r"a \.pub file"):
        authority.public_key(str(tmp_path / "missing.pub"))
    with pytest.raises(UserError):
        authority.public_key("ssh-rsa AAAAB3NzaC1yc2E")
