"""A person's errands on a device: another key by the old one's signature, joining, joining anew; and a copied disk."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace
from tests.agent.coordinator import MadeUpClient
from tests.agent.site import Site, until
from tests.factories import Fleet, fingerprint, key

from nixfleet import config
from nixfleet.agent import errands, rekey
from nixfleet.agent import identity as identities
from nixfleet.agent import link as links
from nixfleet.agent.agent import Agent
from nixfleet.agent.identity import Identity
from nixfleet.agent.journal import Journal, load
from nixfleet.agent.member import Parts, pause_s
from nixfleet.agent.update import State, Update
from nixfleet.client.api import Client
from nixfleet.errors import Refused, Unreachable, Untrusted, UserError
from nixfleet.model.device import JoinToken, Phase
from nixfleet.model.wire import AppendResponse, Submission


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Come back at once instead of after a second."""
    monkeypatch.setattr(links, "BACKOFF_FIRST_S", 0.02)


def identity_of(site: Site) -> Identity:
    """Read what the device recorded of itself."""
    found = load(site.machine.state_dir / "identity.json", Identity)
    assert found is not None
    return found


def own_key(site: Site) -> str:
    """Give the fingerprint of the key in force on the device."""
    return identities.read_key(site.machine.host, identity_of(site)).public.fingerprint


def versions(site: Site, device: str) -> int:
    """Give how many statements of a device took effect."""
    return site.fleet.state.devices[device].statement.version


async def enrolled(site: Site) -> str:
    """Let the device become a member, by token or by an admin; give its id."""
    async with site.running():
        if site.settings.token_file is None:
            await until(lambda: bool(site.server.requests))
            asked = site.server.requests[0]
            site.fleet.device("web-01", device=asked.device, key=asked.key)
        device = await site.member()
        await until(lambda: bool(site.server.reports))
    return device


def begun(site: Site) -> Parts:
    """Make the new key, and put the parts together as the command does."""
    errands.begin_rekey(site.machine.host, site.settings, site.machine.state_dir)
    return site.parts()


@pytest.mark.parametrize("token", [True, False])
async def test_a_device_changes_its_key_by_the_old_one(tmp_path: Path, token: bool) -> None:
    """One statement, signed by the old key, changes the key alone; an own old key is gone, ssh's host key stays."""
    site = Site(tmp_path, token=token)
    device = await enrolled(site)
    before, old = site.fleet.state.devices[device].statement, own_key(site)
    old_file = site.machine.state_dir / "device_key"
    await errands.change_key(begun(site))
    after = site.fleet.state.devices[device].statement
    assert (old, before.version + 1) == (after.by, after.version)
    assert replace(before, by=old, at=after.at, base=after.base, version=2, key=after.key) == after
    found = identity_of(site)
    assert own_key(site) == site.fleet.state.devices[device].key == found.key != old
    assert ("", site.machine.state_dir) == (found.next_key_file, Path(found.key_file).parent)
    assert old_file.exists() is not token
    assert token or (site.machine.root / "etc/ssh/ssh_host_ed25519_key").exists()
    told = len(site.server.reports)
    async with site.running():
        await until(lambda: len(site.server.reports) > told)
    assert site.server.requests == [] or not token


async def test_the_old_key_is_worth_nothing_from_then_on(tmp_path: Path) -> None:
    """It reads nothing, and signs nothing that has an effect."""
    site = Site(tmp_path)
    device = await enrolled(site)
    parts = begun(site)
    old = parts.key
    await errands.change_key(parts)
    client = cast("Client", MadeUpClient(site.server, ["x"], fleet=site.fleet.fleet, key=old, clock=lambda: 0))
    with pytest.raises(Untrusted):
        await client.sync(0)
    again = rekey.statement(site.fleet.state, site.fleet.log, parts.identity, old, key("thief"), now=site.fleet.now)
    with pytest.raises(Refused, match="neither root nor grant names its key"):
        await client.append([again])
    assert own_key(site) == site.fleet.state.devices[device].key


async def test_a_key_that_was_begun_while_nobody_answered_is_finished_by_the_agent(tmp_path: Path) -> None:
    """The new key lies beside the old one until the log has it, and the same one is gone on with."""
    site = Site(tmp_path)
    device = await enrolled(site)
    old = own_key(site)
    site.server.down = "no route"
    with pytest.raises(Unreachable):
        await errands.change_key(begun(site))
    begun(site)
    assert (old, 2) == (own_key(site), len(list(site.machine.state_dir.glob("device_key*"))))
    site.server.down = ""
    told = len(site.server.reports)
    async with site.running():
        await until(lambda: len(site.server.reports) > told)
        assert own_key(site) == site.fleet.state.devices[device].key != old
    assert 2 == versions(site, device)


class Deaf(MadeUpClient):
    """A client to which the answer to an append is lost."""

    async def append(self, submissions: Sequence[Submission]) -> AppendResponse:
        """Append, and lose the answer."""
        await super().append(submissions)
        raise Unreachable("the answer was lost")


async def test_a_lost_answer_signs_no_second_change(tmp_path: Path) -> None:
    """The log has the new key, the device does not know it: the next start finds out, and uses it."""
    site = Site(tmp_path)
    device = await enrolled(site)
    old, parts = own_key(site), begun(site)

    def deaf(urls: Sequence[str], **rest: Any) -> Client:
        return cast("Client", Deaf(site.server, urls, **rest))

    with pytest.raises(Unreachable):
        await errands.change_key(replace(parts, make_client=deaf))
    assert (old, 2) == (own_key(site), versions(site, device))
    told = len(site.server.reports)
    async with site.running():
        await until(lambda: len(site.server.reports) > told)
    assert own_key(site) == site.fleet.state.devices[device].key != old
    assert 2 == versions(site, device)


async def test_a_change_that_is_refused_keeps_the_old_key_good(tmp_path: Path) -> None:
    """The command says why; the agent runs on with the old key."""
    site = Site(tmp_path)
    device = await enrolled(site)
    old, site.server.refuse_joins = own_key(site), "not today"
    with pytest.raises(Refused, match="the new key is not in the log: not today"):
        await errands.change_key(begun(site))
    told = len(site.server.reports)
    async with site.running():
        await until(lambda: len(site.server.reports) > told)
    assert (old, old, 1) == (own_key(site), site.fleet.state.devices[device].key, versions(site, device))


async def test_who_is_no_member_has_no_key_to_change(tmp_path: Path) -> None:
    """Before joining, before an admin let it in, and where agent.toml names the key."""
    site = Site(tmp_path, token=False)
    with pytest.raises(UserError, match="has not joined a fleet yet, and has no key to change"):
        begun(site)
    site.parts()
    with pytest.raises(Refused, match="it must be enrolled first"):
        await errands.change_key(begun(site))
    named = replace(site.settings, key_file=identities.HOST_KEY)
    with pytest.raises(UserError, match="take key_file out of it first"):
        errands.begin_rekey(site.machine.host, named, site.machine.state_dir)


# Joining


def token_of(fleet: Fleet, name: str = "joiner", **fields: Any) -> JoinToken:
    """Make a token with the key of a name, which the fleet has granted."""
    made: dict[str, Any] = {"urls": ("http://two.example",), "fleet": fleet.fleet, "log": fleet.log}
    return JoinToken(v=1, seed=key(name).seed.hex(), **{**made, **fields})


async def join(site: Site, token: JoinToken | None, *, replace: bool = False) -> None:
    """Join as the command does."""
    folder, host = site.machine.state_dir, site.machine.host
    errands.begin_join(host, site.settings, folder, token, replace=replace)
    await errands.join(site.parts(token))


async def test_a_device_that_asked_joins_by_a_token_with_a_key_of_its_own(tmp_path: Path) -> None:
    """Images clone host keys: the id that asked with one is given up, and nothing is lost with it."""
    site = Site(tmp_path, token=False)
    site.fleet.grant("joiner", "enroll", select={"env": ["prod"]}, max_uses=2)
    asked = site.parts().identity
    await join(site, token_of(site.fleet))
    found = identity_of(site)
    assert found.device in site.fleet.state.devices
    assert asked.device != found.device
    assert (site.machine.state_dir, ("http://two.example",)) == (Path(found.key_file).parent, found.urls)


async def test_a_member_joins_anew_only_when_told(tmp_path: Path) -> None:
    """A token alone changes nothing; with `replace` it is another device with another key, pinned by the token."""
    site = Site(tmp_path)
    device = await enrolled(site)
    before = identity_of(site)
    for token in (token_of(site.fleet), None):
        with pytest.raises(UserError, match=f"this device is web-01 in fleet .* {device}; --replace makes it a new"):
            await join(site, token)
    assert before == identity_of(site)
    site.settings = replace(site.settings, name="web-02")
    await join(site, token_of(site.fleet), replace=True)
    after = identity_of(site)
    assert {device, after.device} == site.fleet.state.devices.keys()
    assert (site.fleet.state.devices[after.device].key, 2) == (own_key(site), len(site.fleet.state.devices))
    aside = site.machine.state_dir / f"before-{device[:8]}"
    assert before == load(aside / "identity.json", Identity)
    assert (True, True) == ((aside / "log").is_dir(), (aside / "device_key").exists())


async def test_joining_anew_leaves_a_fork_behind(tmp_path: Path) -> None:
    """Root on the device decides whom to trust: the token's state of the log is the only one from then on."""
    site = Site(tmp_path)
    device = await enrolled(site)
    other = Fleet(caches=site.fleet.root_statement.caches)
    other.grant("joiner", "enroll", select={"env": ["prod"]}, max_uses=2)
    other.device("else", name="web-77")
    assert (other.fleet, False) == (site.fleet.fleet, other.log == site.fleet.log)
    site.fleet = site.server.fleet = other
    other.now = site.fleet.now
    with pytest.raises(Exception, match=r"fork|another log|not the root|behind|does not"):
        await Agent(site.parts()).run_once()
    await join(site, token_of(other), replace=True)
    assert identity_of(site).device in other.state.devices
    assert device not in other.state.devices


async def test_a_token_of_another_fleet_needs_the_word_and_then_always_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What agent.toml pinned is overruled by root's word alone, and until agent.toml says something else again."""
    site = Site(tmp_path, token=False)
    other = Fleet("other")
    other.grant("joiner", "enroll", by="other", select={"env": ["prod"]}, max_uses=2)
    token, old = token_of(other), site.fleet.fleet
    with pytest.raises(UserError, match=r"but agent.toml names .*: use another token, or --replace"):
        await join(site, token)
    site.parts()
    before = identity_of(site)
    with pytest.raises(UserError, match=f"this device has asked in fleet {old[:12]} already"):
        await join(site, token)
    assert before == identity_of(site)
    site.fleet = site.server.fleet = other
    await join(site, token, replace=True)
    assert "agent.toml names another fleet" in caplog.text
    found = identity_of(site)
    assert (other.fleet, other.fleet) == (found.fleet, site.parts().mirror.fleet)
    assert found.device in other.state.devices
    site.settings = replace(site.settings, fleet="9" * 64)
    with pytest.raises(UserError, match="names the fleet 999999999999…, but this device belongs to"):
        site.parts()
    site.settings = replace(site.settings, fleet=other.fleet)
    assert found == site.parts().identity


async def test_a_device_whose_memory_is_damaged_can_always_join_anew(tmp_path: Path) -> None:
    """Identity and journal that nobody can read are put aside as they are; without the word they stop the errand."""
    site = Site(tmp_path)
    await enrolled(site)
    folder = site.machine.state_dir
    for name in ("identity.json", "journal.json"):
        (folder / name).write_text("{")
    with pytest.raises(UserError, match="unreadable"):
        await join(site, token_of(site.fleet))
    site.settings = replace(site.settings, name="web-02")
    await join(site, token_of(site.fleet), replace=True)
    assert identity_of(site).device in site.fleet.state.devices
    aside = folder / "before-unreadable"
    assert ["identity.json", "journal.json", "log", "waits"] == sorted(one.name for one in aside.iterdir())


async def test_no_update_is_cut_in_two_by_joining_anew(tmp_path: Path) -> None:
    """The journal that knows the way back is not put aside while it is needed."""
    site = Site(tmp_path)
    await enrolled(site)
    offer = site.machine.offer(site.old)
    Journal(site.machine.state_dir).write(
        State(update=Update(offer=offer, phase=Phase.ACTIVATING, boot_id="b", give_up_s=0, previous=site.old))
    )
    with pytest.raises(UserError, match=r"an update is under way \(activating\)"):
        await join(site, token_of(site.fleet), replace=True)


async def test_a_retired_device_comes_back_as_a_new_one(tmp_path: Path) -> None:
    """It says on the device how; by what agent.toml pins it asks again, under a new id."""
    site = Site(tmp_path, token=False)
    device = await enrolled(site)
    own = site.fleet.state.devices[device].statement
    site.fleet.device("web-01", device=device, version=2, key=own.key, state="retired")
    site.server.admits.add(device)
    waits = site.machine.state_dir / "waits"
    async with site.running():
        await until(lambda: "this device is retired" in waits.read_text())
    assert "'nixfleet agent join --replace' makes it a new one" in waits.read_text()
    asked = len(site.server.requests)
    with pytest.raises(Refused, match="an admin is asked to let it in"):
        await join(site, None, replace=True)
    assert device != site.server.requests[asked].device
    assert key("host").public.text == site.server.requests[asked].key


@pytest.mark.parametrize("cut", range(1, 14))
async def test_a_crash_while_joining_anew_leaves_one_whole_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """Cut before each thing that lasts, the next start is the old device with its memory, or the new one without."""
    site = Site(tmp_path)
    device = await enrolled(site)
    folder, left = site.machine.state_dir, cut

    def counted(act: Any) -> Any:
        def call(*args: Any, **rest: Any) -> Any:
            nonlocal left
            left -= 1
            if not left:
                raise KeyboardInterrupt
            return act(*args, **rest)

        return call

    with monkeypatch.context() as patch:
        patch.setattr("nixfleet.agent.identity.write_atomic", counted(config.write_atomic))
        patch.setattr(Path, "replace", counted(Path.replace))
        patch.setattr(Path, "unlink", counted(Path.unlink))
        with pytest.raises(KeyboardInterrupt):
            errands.begin_join(site.machine.host, site.settings, folder, token_of(site.fleet), replace=True)
    found = site.parts()
    assert not (folder / "replacing.json").exists()
    if found.identity.device == device:
        assert (True, found.mirror.size) == ((folder / "log").exists(), site.fleet.size)
    else:
        assert (0, own_key(site)) == (found.mirror.size, found.key.public.fingerprint)
        assert (folder / f"before-{device[:8]}" / "log").is_dir()


# A copied disk


async def test_a_copied_disk_has_a_new_id_and_a_key_of_its_own_though_it_had_the_host_key(tmp_path: Path) -> None:
    """The host key was copied too: two machines with one key would fight, or never be let in."""
    site = Site(tmp_path, token=False)
    first = await enrolled(site)
    site.machine.write("/etc/machine-id", "machine-2\n")
    asked = len(site.server.requests)
    async with site.running():
        await until(lambda: len(site.server.requests) > asked)
    request = site.server.requests[asked]
    assert first != request.device
    assert key("host").public.text != request.key
    assert f"another machine-id: this disk was in web-01, device {first}" == request.reason
    site.machine.write("/etc/machine-id", "machine-2\n")
    assert request.device == site.parts().identity.device


async def test_a_copied_disk_does_not_take_the_first_ones_key_by_its_settings(tmp_path: Path) -> None:
    """Where agent.toml names the key, a person puts another one there; until then nothing is changed."""
    site = Site(tmp_path, token=False)
    place = tmp_path / "named_key"
    place.write_text(key("host").to_openssh())
    site.settings = replace(site.settings, key_file=str(place))
    before = site.parts().identity
    site.machine.write("/etc/machine-id", "machine-2\n")
    with pytest.raises(UserError, match=f"{place} holds that one's key: put another key there"):
        site.parts()
    assert before == identity_of(site)
    place.write_text(key("second").to_openssh())
    after = site.parts().identity
    assert (fingerprint("second"), before.device) == (after.key, after.clone_of)


async def test_a_host_key_made_anew_asks_as_the_same_device(tmp_path: Path) -> None:
    """The path stays, its content does not: the request says so, and an admin's signature is all it takes."""
    site = Site(tmp_path, token=False)
    device = await enrolled(site)
    (site.machine.root / "etc/ssh/ssh_host_ed25519_key").write_text(key("second").to_openssh())
    asked = len(site.server.requests)
    async with site.running():
        await until(lambda: len(site.server.requests) > asked)
        request = site.server.requests[asked]
        assert (device, key("second").public.text) == (request.device, request.key)
        assert request.reason.startswith("another key: /etc/ssh/ssh_host_ed25519_key holds another one")
        told = len(site.server.reports)
        own = site.fleet.state.devices[device].statement
        site.fleet.device("web-01", device=device, version=own.version + 1, key=request.key)
        await until(lambda: len(site.server.reports) > told)
    assert fingerprint("second") == identity_of(site).key


def test_an_identity_of_an_older_agent_is_read(tmp_path: Path) -> None:
    """What is not in it has no meaning yet."""
    site = Site(tmp_path)
    site.parts()
    file = site.machine.state_dir / "identity.json"
    told = json.loads(file.read_text())
    file.write_text(json.dumps({name: told[name] for name in ("device", "fleet", "pin", "key_file", "machine_id")}))
    assert (told["device"], "", "") == (
        (found := site.parts().identity).device,
        found.key,
        found.next_key_file,
    )


def test_who_waits_to_be_let_in_asks_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the pace of polls at first, then every minute for hours, then every few minutes; always spread."""
    monkeypatch.undo()
    for asked, most in ((0, 15), (19, 15), (20, 60), (199, 60), (200, 300), (10_000, 300)):
        pauses = [pause_s(asked, 15) for _ in range(50)]
        assert most / 2 <= min(pauses) < max(pauses) <= most
    assert pause_s(20, 600) >= 300
