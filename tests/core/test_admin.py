"""Administrative acts end to end over sockets: built on the verified log, signed, appended, found in the log again."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from tests import factories
from tests.factories import Fleet, closure, device_id, key
from tests.fakelog import FakeLog
from tests.httpd import Answer, Asked, Handler, httpd

from nixfleet.client import acts
from nixfleet.client.admin import Admin, sign
from nixfleet.client.api import Client
from nixfleet.client.mirror import Mirror
from nixfleet.errors import Conflict, Refused, Untrusted, UserError
from nixfleet.model.statements import Grant, LogState, Principal, Rollout, Root, Rule, SelectLine, StopAt, Wave
from nixfleet.model.views import EnrollView, ReleaseLineView
from nixfleet.model.wire import AppendResponse
from nixfleet.rollout.asking import RolloutWishes
from nixfleet.trust import token
from nixfleet.trust.leaf import Leaf
from nixfleet.trust.lines import LineTree
from nixfleet.trust.replay import Valid, Verdict
from nixfleet.trust.signers import MemorySigner
from nixfleet.trust.sshsig import SecretKey
from nixfleet.trust.statements import digest, encode, parse


@pytest.fixture
def fleet() -> Fleet:
    """Make a fleet with two devices."""
    made = Fleet()
    made.device("web-01", tags={"env": "prod", "site": "berlin"})
    made.device("web-02")
    return made


@asynccontextmanager
async def working(folder: Path, fleet: Fleet, handler: Handler, by: str = "admin") -> AsyncIterator[Admin]:
    """Give an admin, whose key has a name, of a coordinator that answers by `handler`."""
    async with (
        httpd(handler) as server,
        Client([server.url], fleet=fleet.fleet, key=key(by), clock=lambda: fleet.now) as api,
    ):
        mirror = Mirror.open(folder / by, fleet.fleet)
        yield Admin(api, mirror, MemorySigner(key(by)), lambda: fleet.now)


@asynccontextmanager
async def at_work(folder: Path, fleet: Fleet, by: str = "admin") -> AsyncIterator[tuple[FakeLog, Admin]]:
    """Serve a fleet's log and give an admin of it."""
    log = FakeLog(fleet)
    async with working(folder, fleet, log, by) as admin:
        yield log, admin


def asking(fleet: Fleet, name: str = "new", **tags: str) -> EnrollView:
    """Make the request of a device that asks to be enrolled."""
    return factories.asking(fleet.fleet, name, tags=tags)


async def test_a_root_made_here_begins_a_log() -> None:
    """What `create_root` builds is a root 1 that the strict reader takes."""
    admin, log_key = key("admin"), key("log")
    root = acts.create_root(
        by=admin.public.fingerprint,
        at=5,
        urls=["http://127.0.0.1:7070"],
        principals=[Principal(name="lead", keys=(admin.public.text,))],
        log_key=log_key.public.text,
    )
    assert root == parse(encode(root))
    assert (1, "", LogState(size=0, root=root.base.root)) == (root.version, root.fleet, root.base)


async def test_a_token_lets_as_many_devices_join_as_it_says(tmp_path: Path, fleet: Fleet) -> None:
    """The key in a join token may enrol devices with exactly its tags, and no more of them than its uses."""
    async with at_work(tmp_path, fleet) as (_, admin):
        text = await admin.make_token({"env": "prod"}, uses=2, days=2)
    read = token.read(text)
    assert (fleet.fleet, fleet.log, fleet.root_statement.urls) == (read.fleet, read.log, read.urls)
    joiner = SecretKey.from_seed(bytes.fromhex(read.seed))
    grant = parse(fleet.entries[-1][1])
    assert isinstance(grant, Grant)
    assert (("enroll",), 2, 2 * 86_400) == (grant.actions, grant.max_uses, grant.not_after - grant.at)
    assert [False, True, False] == [
        isinstance(join(fleet, joiner, name, {"env": env}), Valid)
        for name, env in (("a", "dev"), ("b", "prod"), ("c", "prod"))
    ]


def join(fleet: Fleet, joiner: SecretKey, name: str, tags: dict[str, str]) -> Verdict:
    """Append a device's own statement, signed by the key of its token."""
    head = acts.Head(fleet.fleet, joiner.public.fingerprint, fleet.now, fleet.log)
    (made,) = acts.enroll(
        head, fleet.state, device=device_id(name), key=key(name).public.text, name=name, tags=tags, replace=False
    )
    payload, signature = sign(MemorySigner(joiner), made)
    fleet.append_leaf(Leaf(fleet.now, hashlib.sha512(payload).digest(), signature).pack(), payload)
    return fleet.verdicts[-1]


@pytest.mark.parametrize(("uses", "days"), [(0, 1), (1, 0), (1, 1_000)])
async def test_a_token_has_bounds(tmp_path: Path, fleet: Fleet, uses: int, days: int) -> None:
    """A token for nobody, or for ever, is refused before anything is signed."""
    async with at_work(tmp_path, fleet) as (log, admin):
        with pytest.raises(UserError, match="join token"):
            await admin.make_token({}, uses=uses, days=days)
    assert [] == log.appended


async def test_a_device_is_enrolled_changed_held_and_retired(tmp_path: Path, fleet: Fleet) -> None:
    """Each act on a device raises its version by one and changes only what it says."""
    async with at_work(tmp_path, fleet) as (_, admin):
        await admin.enroll(asking(fleet, "new", env="prod"), tags={"env": "dev", "site": "rome"})
        await admin.tag(["new"], {"env": "prod", "site": None}, note="T-1")
        await admin.hold(["new", device_id("web-01")], fleet.now + 60)
        await admin.unhold(["new"])
        acted = await admin.retire(["new"])
        record = admin.state.devices[device_id("new")].statement
        assert ("retired", {"env": "prod"}, 5, None) == (record.state, record.tags, record.version, record.until)
        assert "held" == admin.state.devices[device_id("web-01")].statement.state
    assert [fleet.size - 1] == [one.index for one in acted]


async def test_a_taken_name_is_moved_only_when_told(tmp_path: Path, fleet: Fleet) -> None:
    """Enrolling under a taken name is refused; with `replace`, the old device is retired in the same append."""
    async with at_work(tmp_path, fleet) as (log, admin):
        with pytest.raises(UserError, match="--replace"):
            await admin.enroll(asking(fleet), name="web-01")
        await admin.enroll(asking(fleet), name="web-01", replace=True)
        assert (device_id("new"),) == admin.state.named("web-01")
        assert [2] == [len(request.statements) for request in log.appended]
        with pytest.raises(UserError, match="enrolled already"):
            await admin.enroll(asking(fleet), name="other")


@pytest.mark.parametrize(
    ("text", "sentence"), [("nobody", "no device 'nobody'"), ("web-0", "no device"), ("ab" * 16, "no device")]
)
async def test_an_unknown_device_is_named(tmp_path: Path, fleet: Fleet, text: str, sentence: str) -> None:
    """A name that no device has is told before anything is signed."""
    async with at_work(tmp_path, fleet) as (log, admin):
        with pytest.raises(UserError, match=sentence):
            await admin.retire([text])
        with pytest.raises(UserError, match="no device is named"):
            await admin.retire([])
        with pytest.raises(UserError, match="over already"):
            await admin.hold(["web-01"], fleet.now)
    assert [] == log.appended


async def test_a_release_of_device_lines_is_proven_by_its_tree(tmp_path: Path, fleet: Fleet) -> None:
    """Device lines travel as exact texts whose Merkle root is the one that was signed."""
    async with at_work(tmp_path, fleet) as (log, admin):
        acted = await admin.release("r", devices={"web-02": closure("b"), device_id("web-01"): closure("a")})
        sent = log.appended[0].statements[0]
        record = admin.state.releases[acted.digest].statement
    assert record.targets == LineTree.from_texts(sent.lines).targets
    assert fleet.root_statement.caches == record.caches


@pytest.mark.parametrize(("name", "part"), [("r", "r-part"), ("r" * 57 + "." + "r" * 5, "r" * 57 + "-part")])
async def test_a_part_of_a_release_is_a_release_of_those_lines(
    tmp_path: Path, fleet: Fleet, name: str, part: str
) -> None:
    """What named devices have of a release is published under its name and ``-part``, which fits however long it is."""
    lines = {device_id("web-01"): ReleaseLineView(path=closure("a").path, digest="d" * 64, nar_size=5, system="s-l")}
    async with at_work(tmp_path, fleet) as (log, admin):
        made = await admin.part(name, lines)
        (text,) = log.appended[0].statements[0].lines
        assert part == admin.state.releases[made].statement.name
    assert closure("a").path in text


async def test_a_release_of_selector_lines_needs_no_tree(tmp_path: Path, fleet: Fleet) -> None:
    """Selector lines stand in the statement itself."""
    async with at_work(tmp_path, fleet) as (log, admin):
        await admin.release("r", lines=[SelectLine(select={"env": ("prod",)}, closure=closure("a"))])
    assert () == log.appended[0].statements[0].lines


async def test_a_release_of_nothing_or_both_is_refused(tmp_path: Path, fleet: Fleet) -> None:
    """A release has one kind of lines, at least one, no device twice, and a cache."""
    line = SelectLine(select={}, closure=closure("a"))
    async with at_work(tmp_path, fleet) as (_, admin):
        for devices, lines in (({}, ()), ({"web-01": closure("a")}, (line,))):
            with pytest.raises(UserError, match="either device lines or selector lines"):
                await admin.release("r", devices=devices, lines=lines)
        with pytest.raises(UserError, match="named twice"):
            await admin.release("r", devices={"web-01": closure("a"), device_id("web-01"): closure("a")})
        with pytest.raises(UserError, match="no cache"):
            await admin.release("r", lines=[line], caches=[])


def rollout_in(fleet: Fleet, index: int = -1) -> Rollout:
    """Read the rollout at an index of the log."""
    statement = parse(fleet.entries[index][1])
    assert isinstance(statement, Rollout)
    return statement


async def test_a_rollout_has_the_defaults_of_its_size(tmp_path: Path, fleet: Fleet) -> None:
    """Waves, limits and soak follow the number of devices that the release has lines for, unless told otherwise."""
    for number in range(30):
        fleet.device(f"n{number}", tags={"env": "dev"})
    fleet.release("one", {"web-01": "a"})
    fleet.release("all")
    async with at_work(tmp_path, fleet) as (_, admin):
        await admin.rollout("one", RolloutWishes())
        one = rollout_in(fleet)
        await admin.rollout("all", RolloutWishes())
        many = rollout_in(fleet)
        await admin.rollout("all", RolloutWishes(select={"env": ("dev",)}, all_at_once=True))
        at_once = rollout_in(fleet)
    assert ((Wave(members="100%"),), 1, StopAt(count=1), 300) == (one.waves, one.max_in_flight, one.stop_at, one.soak_s)
    assert (4, 6, StopAt(percent=5), 300) == (len(many.waves), many.max_in_flight, many.stop_at, many.soak_s)
    assert ((Wave(members="100%"),), 30, 0) == (at_once.waves, at_once.max_in_flight, at_once.soak_s)


async def test_the_roots_rules_bound_the_defaults(tmp_path: Path) -> None:
    """Where a rule asks for fewer in flight and a longer soak, the defaults follow; an own word stands."""
    rule = Rule(select={"env": ("prod",)}, actions=("deploy",), max_in_flight=2, min_soak_s=900)
    head = acts.Head("a" * 64, key("admin").public.fingerprint, 5, LogState(size=1, root="b" * 64))
    fleet = Fleet()
    fleet.state.root = msgspec.structs.replace(fleet.root_statement, rules=(rule,))
    assert isinstance(fleet.state.root, Root)
    for all_at_once in (False, True):
        made = acts.rollout_of(head, fleet.state, RolloutWishes(all_at_once=all_at_once), release="c" * 64)
        assert (True, 900) == (made.max_in_flight <= 2, made.soak_s)
    own = acts.rollout_of(head, fleet.state, RolloutWishes(max_in_flight=9, soak_s=1), release="c" * 64)
    assert (9, 1) == (own.max_in_flight, own.soak_s)


async def test_controls_are_numbered_by_the_log(tmp_path: Path, fleet: Fleet) -> None:
    """Each control has the next number, whoever signed the one before; a cancelled rollout takes none."""
    release, _ = fleet.release("a")
    rollout = fleet.rollout(release)
    async with at_work(tmp_path, fleet) as (_, admin):
        await admin.control(rollout[:8], "pause")
        fleet.control(rollout, "resume")
        await admin.control(rollout, "retry", devices=["web-01"])
        await admin.control(rollout, "retry", devices="failed")
        assert 4 == admin.state.rollouts[rollout].controls
        await admin.control(rollout, "cancel")
        with pytest.raises(UserError, match="is cancelled"):
            await admin.control(rollout, "resume")


async def test_a_rollback_names_the_rollout_it_takes_back(tmp_path: Path, fleet: Fleet) -> None:
    """A rollback carries the digest of the earlier rollout and no release."""
    release, _ = fleet.release("a")
    rollout = fleet.rollout(release)
    async with at_work(tmp_path, fleet) as (_, admin):
        await admin.rollback(rollout[:10], RolloutWishes())
    assert ("rollback", rollout, None) == (rollout_in(fleet).kind, rollout_in(fleet).of, rollout_in(fleet).release)


@pytest.mark.parametrize("text", ["short", "ffffffff", ""])
async def test_an_unknown_digest_says_where_to_look(fleet: Fleet, text: str) -> None:
    """A prefix that is too short, or fits nothing, names the command that lists them."""
    for find, what in ((acts.find_rollout, "rollout"), (acts.find_release, "release")):
        with pytest.raises(UserError, match=f"nixfleet {what} list"):
            find(fleet.state, text)


async def test_the_newest_release_of_a_name_is_meant(fleet: Fleet) -> None:
    """A name stands for its newest release; a digest for itself."""
    first, _ = fleet.release("a", {"web-01": "a"})
    second, _ = fleet.release("a", {"web-01": "b"})
    assert (second, first) == (acts.find_release(fleet.state, "a"), acts.find_release(fleet.state, first[:9]))


async def test_a_faster_one_costs_a_new_try_on_the_new_log(tmp_path: Path, fleet: Fleet) -> None:
    """When another act comes first, the control is built anew, with the number that is then due."""
    release, _ = fleet.release("a")
    rollout = fleet.rollout(release)
    faster = iter(["pause", "resume"])
    async with at_work(tmp_path, fleet) as (log, admin):
        log.before_append = lambda: (verb := next(faster, "")) and fleet.control(rollout, verb, note="the other")
        await admin.control(rollout, "pause")
        assert 3 == admin.state.rollouts[rollout].controls


async def test_three_faster_ones_end_in_a_conflict(tmp_path: Path, fleet: Fleet) -> None:
    """After three tries the person is told."""
    async with at_work(tmp_path, fleet) as (log, admin):
        log.before_append = lambda: fleet.device("web-02", tags={"n": str(fleet.size)})
        with pytest.raises(Conflict):
            await admin.retire(["web-01"])
    assert [] == log.appended


async def test_a_lost_answer_does_not_act_twice(tmp_path: Path, fleet: Fleet) -> None:
    """When the append arrived but its answer was lost, the repeat finds it in the log and signs nothing more."""
    release, _ = fleet.release("a")
    rollout = fleet.rollout(release)
    log = FakeLog(fleet)
    lost = iter([True])

    def losing(asked: Asked) -> Answer | None:
        answer = log(asked)
        return None if asked.method == "POST" and next(lost, False) else answer

    async with working(tmp_path, fleet, losing) as admin:
        acted = await admin.control(rollout, "retry", devices="failed")
    assert (fleet.size - 1, 1) == (acted.index, fleet.state.rollouts[rollout].controls)


async def test_without_the_right_the_coordinator_says_no(tmp_path: Path, fleet: Fleet) -> None:
    """A key without a grant is refused, and the reason is the replay's."""
    async with at_work(tmp_path, fleet, by="stranger") as (_, admin):
        with pytest.raises(Refused, match="neither root nor grant"):
            await admin.retire(["web-01"])


async def test_what_is_not_in_the_log_did_not_happen(tmp_path: Path, fleet: Fleet) -> None:
    """A coordinator that only says it appended is found out."""
    log = FakeLog(fleet)

    def lying(asked: Asked) -> Answer:
        if asked.method == "POST":
            said = AppendResponse(indexes=(fleet.size - 1,), checkpoint=fleet.checkpoint)
            return Answer(msgspec.json.encode(said))
        return log(asked)

    async with working(tmp_path, fleet, lying) as admin:
        with pytest.raises(Untrusted, match="the log does not have it there"):
            await admin.retire(["web-01"])


async def test_a_revocation_ends_a_grant(tmp_path: Path, fleet: Fleet) -> None:
    """A grant is revoked by its id, a key by its fingerprint."""
    grant = fleet.grant("ci", "release")
    async with at_work(tmp_path, fleet) as (_, admin):
        await admin.revoke(grant=grant)
        await admin.revoke(key=key("ci").public.fingerprint)
        assert (True, True) == (grant in admin.state.revoked_grants, bool(admin.state.revoked_keys))


async def test_an_approval_is_a_second_signature(tmp_path: Path) -> None:
    """With a threshold of two, the first act waits and says for what; the other's approval lets it take effect."""
    fleet = Fleet("lead", "security", threshold=2)
    fleet.approve(digest(fleet.entries[0][1]), "security")
    async with (
        at_work(tmp_path, fleet, by="lead") as (_, lead),
        at_work(tmp_path, fleet, by="security") as (_, security),
    ):
        acted = await lead.revoke(key=key("lost").public.fingerprint)
        assert "1 more" in acted.waits
        assert "" == (await security.approve(acted.digest)).waits
        assert key("lost").public.fingerprint in security.state.revoked_keys
