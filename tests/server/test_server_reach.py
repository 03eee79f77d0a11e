"""Who may read what (docs/protocol.md): every route asked by every kind of caller, and the consoles' stream."""

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tests.factories import T0, device_id, key, store_path
from tests.factories import principal as _principal
from tests.server.harness import DEADLINE_S, Rig, rig, until

from nixfleet.client.api import Client
from nixfleet.client.checks import check_lines
from nixfleet.errors import Refused, Unreachable, Untrusted
from nixfleet.model.answers import Reset
from nixfleet.model.device import Cause, EnrollRequest, Facts, Outcome, Phase, Progress
from nixfleet.model.ids import Digest
from nixfleet.model.views import Delta, DeviceView, RolloutDetail, Snapshot
from nixfleet.trust.httpsig import sign_request
from nixfleet.trust.reports import sign_enroll
from nixfleet.trust.statements import digest

TAGS = {
    "web-prod": {"env": "prod", "team": "web"},
    "web-test": {"env": "test", "team": "web"},
    "db-prod": {"env": "prod", "team": "db"},
}
CALLERS = (
    "nobody", "stranger", "web-prod", "db-prod", "token",
    "auditor", "operator", "reader", "admin", "revoked", "expired",
)  # fmt: skip
"""Who asks: nobody signs nothing; `auditor` reads env=prod, `operator` deploys to team=web, `reader` reads everything,
`revoked` has a revoked key, and `expired` a grant that has ended."""
PEOPLE = {"auditor", "operator", "reader", "admin"}
ALL = {"web-prod", "web-test", "db-prod"}
SEES = {"auditor": {"web-prod", "db-prod"}, "operator": {"web-prod", "web-test"}, "reader": ALL, "admin": ALL}


class Scene:
    """A fleet with a release and two rollouts, one of them of db-prod alone."""

    def __init__(self, one: Rig) -> None:
        self.one = one
        self.release = Digest("")
        self.everywhere = ""
        self.of_db = ""

    async def ask(self, who: str, method: str, path: str, body: bytes = b"") -> httpx.Response:
        """Send a request as somebody would."""
        bare, _, query = path.partition("?")
        headers = {}
        if who != "nobody":
            signed: dict[str, Any] = {"method": method, "path": bare, "query": query, "body": body}
            headers = sign_request(key(who), **signed, created=int(self.one.now), fleet=self.one.fleet.fleet)
        async with httpx.AsyncClient(base_url=self.one.server.address, trust_env=False) as http:
            return await http.request(method, path, content=body, headers=headers)

    async def status(self, who: str, method: str, path: str, body: bytes = b"") -> int:
        """Give the answer's status."""
        return (await self.ask(who, method, path, body)).status_code


@asynccontextmanager
async def scene(data_dir: Path) -> AsyncGenerator[Scene, None]:
    """Serve the fleet."""
    async with rig(data_dir) as one, one.client("admin") as admin:
        made, fleet = Scene(one), one.fleet
        for name, tags in TAGS.items():
            fleet.device(name, tags=tags)
        fleet.grant("auditor", select={"env": ["prod"]})
        fleet.grant("operator", "deploy", select={"team": ["web"]})
        fleet.grant("reader")
        fleet.grant("token", "enroll", select={"env": ["prod"]}, max_uses=5)
        fleet.grant("revoked", "release")
        fleet.grant("expired", "release", not_after=T0 + 5)
        fleet.revoke(key_name="revoked")
        made.release, lines = fleet.release("r1", {name: f"nixos-{name}" for name in TAGS})
        made.of_db = fleet.rollout(made.release, select={"team": ["db"]})
        made.everywhere = fleet.rollout(made.release)
        assert lines is not None
        await one.send(admin, tuple(lines.texts))
        await _ask_to_enrol(one, "new-web", {"team": "web"})
        await _ask_to_enrol(one, "new-any", {})
        yield made


async def _ask_to_enrol(one: Rig, name: str, tags: dict[str, str]) -> None:
    made = EnrollRequest(
        v=1, fleet=one.fleet.fleet, device=device_id(name), name=name, key=key(name).public.text, at=int(one.now),
        tags=tags, facts=Facts(hostname=name),
    )  # fmt: skip
    async with one.client(None) as anybody:
        await anybody.enroll_request(sign_enroll(made, key(name)))


LOG = PEOPLE | {"web-prod", "db-prod", "token"}
NOT_SIGNED = {"nobody": 401, "stranger": 401, "revoked": 403, "expired": 403}
"""A key that had rights once is told in words that it has none any more."""
ROUTES: list[tuple[str, str, set[str]]] = [
    ("GET", "/v1/log/entries", LOG),
    ("GET", "/v1/log/inclusion?index=0&size=1", LOG),
    ("GET", "/v1/log/consistency?old=1&new=2", LOG),
    ("GET", "/v1/log/payloads/{grant}", LOG),
    ("GET", "/v1/log/payloads/{web-prod}", PEOPLE | {"web-prod"}),
    ("GET", "/v1/sync?size=0", LOG),
    ("GET", "/v1/rollouts/{everywhere}/line", {"web-prod", "db-prod"}),
    ("GET", "/v1/enroll", PEOPLE),
    ("GET", "/v1/devices", PEOPLE),
    *(
        ("GET", f"/v1/devices/{name}{what}", {who for who in PEOPLE if name in SEES[who]})
        for name in TAGS
        for what in ("", "/lines", "/history", "/report")
    ),
    ("GET", "/v1/reports", PEOPLE),
    ("GET", "/v1/rollouts", PEOPLE),
    ("GET", "/v1/rollouts/{everywhere}", PEOPLE),
    ("GET", "/v1/rollouts/{of_db}", {"auditor", "reader", "admin"}),
    ("GET", "/v1/releases", PEOPLE),
    ("GET", "/v1/releases/r1", PEOPLE),
    ("GET", "/v1/audit", PEOPLE),
    ("GET", "/v1/audit/refusals", PEOPLE),
    ("GET", "/v1/snapshot", PEOPLE),
    ("GET", "/v1/cache/uploads/0123456789abcdfghijklmnpqrsvwxyz", {"admin"}),
    ("POST", "/v1/progress", {"web-prod", "db-prod"}),
    ("POST", "/v1/cache/missing", {"admin"}),
    ("DELETE", "/v1/enroll/{new-web}", {"admin"}),
]
BODIES = {
    "/v1/progress": msgspec.json.encode(Progress(rollout="0" * 64, phase=Phase.FETCHING)),
    "/v1/cache/missing": b'{"paths":[]}',
}
STREAMS = {"/v1/events?since=0": PEOPLE, "/v1/agent/events?size=0": {"web-prod", "db-prod"}}


@pytest.mark.parametrize("who", CALLERS)
async def test_each_caller_reads_what_it_may_and_nothing_else(tmp_path: Path, who: str) -> None:
    """Every route answers those that the protocol names, and refuses all others in the way that is theirs."""
    async with scene(tmp_path / "data") as made, made.one.client("admin") as admin:
        for name in TAGS:
            async with made.one.client(name) as device:
                await device.report(made.one.report(name))
        names: dict[str, str] = {
            "grant": digest(made.one.fleet.entries[4][1]),
            "web-prod": digest(made.one.fleet.entries[1][1]),
            "everywhere": made.everywhere,
            "of_db": made.of_db,
            "new-web": device_id("new-web"),
        }
        for method, path, allowed in ROUTES:
            asked = path.format_map(names)
            expected = 200 if who in allowed else NOT_SIGNED.get(who, 403)
            assert (asked, expected) == (asked, await made.status(who, method, asked, BODIES.get(path, b"")))
        for path, allowed in STREAMS.items():
            if who not in allowed:  # to the others it never ends: see below
                assert (path, NOT_SIGNED.get(who, 403)) == (path, await made.status(who, "GET", path))
        refused = await admin.refusals()
        written = {one.by for one in refused}
        named = key(who).public.fingerprint if who != "nobody" else ""
        assert (named in written) == (who not in {"nobody", "stranger"})


async def test_every_get_route_is_in_the_table(tmp_path: Path) -> None:
    """A route that is added has to say who may read it: the table holds all but the open ones and the streams."""
    async with scene(tmp_path / "data") as made:
        document = (await made.ask("nobody", "GET", "/schema/openapi.json")).json()
        paths = {path for path, item in document["paths"].items() if "get" in item and path.startswith("/v1/")}
        table = {path.partition("?")[0] for _, path, _ in ROUTES}
        shown = {re.sub(r"\{[^}]*\}", "", path) for path in paths}
        open_or_streams = {"/v1/checkpoint", "/v1/fleet", *(path.partition("?")[0] for path in STREAMS)}
        covered = {_without_name(path) for path in table}
        assert shown - open_or_streams <= covered


def _without_name(path: str) -> str:
    """Leave the name out of a path, as the description's pattern without its braces."""
    parts = path.split("/")
    if len(parts) > 3 and parts[2] in {"devices", "rollouts", "releases", "enroll"}:
        parts[3] = ""
    if parts[2:4] in (["log", "payloads"], ["cache", "uploads"]):
        parts[4] = ""
    return "/".join(parts)


@pytest.mark.parametrize("who", ["auditor", "operator", "reader", "admin"])
async def test_lists_hold_what_is_in_reach(tmp_path: Path, who: str) -> None:
    """Lists, members, counts, lines and the snapshot hold the reader's devices alone, and say that more is there."""
    async with scene(tmp_path / "data") as made, made.one.client(who) as client:
        sees = SEES[who]
        assert {view.name for view in await client.devices()} == sees
        detail = await client.rollout(made.everywhere)
        assert {member.name for member in detail.members} == sees
        rollout = detail.rollout
        assert (rollout.total, rollout.waves[0].total, rollout.partial) == (len(sees), len(sees), sees != ALL)
        release = await client.release("r1")
        assert ({line.name for line in release.lines}, release.partial) == (sees, sees != ALL)
        check_lines(release, made.one.fleet.state)
        for change in ({"path": store_path("evil")}, {"place": 7}, {"proof": ("zz",)}, {"place": None}):
            if release.partial:
                other = msgspec.structs.replace(release.lines[0], **change)
                with pytest.raises(Untrusted, match="shows other lines"):
                    check_lines(msgspec.structs.replace(release, lines=(other,)), made.one.fleet.state)
        assert [view.name for view in await client.releases()] == ["r1"]
        rollouts = {view.id for view in await client.rollouts()}
        assert rollouts == {made.everywhere, made.of_db} - ({made.of_db} if who == "operator" else set())
        snapshot = await client.snapshot()
        assert {view.name for view in snapshot.devices} == sees
        assert {view.id for view in snapshot.rollouts} == rollouts
        asking = {view.name for view in await client.enroll_requests()}
        assert asking == {view.name for view in snapshot.requests}
        assert asking == ({"new-web", "new-any"} if sees == ALL else set())


async def test_sentences_count_nobody_out_of_reach(tmp_path: Path) -> None:
    """Who may read of two of three devices is told what waits and why, and not how the others are."""
    async with scene(tmp_path / "data") as made, made.one.client("admin") as admin:
        for name in ("db-prod", "web-prod"):
            async with made.one.client(name) as device:
                await device.report(made.one.outcome(name, made.everywhere, Outcome.FAILED, cause=Cause.HEALTH))
        whole = await until(lambda: admin.rollout(made.everywhere), lambda seen: seen.rollout.state == "halted")
        assert "of 3 failed" in whole.rollout.halted
        assert any("of 3 failed" in text for text in _sentences(whole))
        for who in ("operator", "auditor"):
            async with made.one.client(who) as client:
                (listed,) = (view for view in await client.rollouts() if view.id == made.everywhere)
                seen = await client.rollout(made.everywhere)
                shown = [*await client.devices(), *(await client.snapshot()).devices]
                shown += [await client.device(view.name) for view in shown]
            if who == "operator":  # one of its devices waits, and has not failed
                assert any("too many of its devices failed" in view.waits for view in shown)
            assert [view.waits for view in shown if re.search(r"\d of \d", view.waits)] == []
            assert "too many of its devices failed" == seen.rollout.halted == listed.halted
            assert [text for text in _sentences(seen) if re.search(r"\d of \d", text)] == []


def _sentences(seen: RolloutDetail) -> list[str]:
    """Gather all that is said of why something waits."""
    waits = [seen.rollout.waits, seen.rollout.halted, *(wave.waits for wave in seen.rollout.waves)]
    return waits + [member.waits for member in seen.members]


async def test_own_releases_are_read_whole(tmp_path: Path) -> None:
    """Who has released sees every line of it, of devices out of reach, too; another one's release is cut down."""
    async with scene(tmp_path / "data") as made, made.one.client("admin") as admin, made.one.client("ci") as ci:
        fleet = made.one.fleet
        fleet.grant("ci", "release", select={"team": ["db"]})
        await made.one.send(admin)
        _, lines = fleet.release("r2", {name: f"nixos-{name}-2" for name in ("db-prod", "web-test")}, by="ci")
        assert lines is not None
        await made.one.send(ci, tuple(lines.texts))
        own, other = await ci.release("r2"), await ci.release("r1")
        assert ({line.name for line in own.lines}, own.partial) == ({"db-prod", "web-test"}, False)
        assert ({line.name for line in other.lines}, other.partial) == ({"db-prod"}, True)


async def test_own_rollouts_stay_in_sight(tmp_path: Path) -> None:
    """Who started a rollout sees it when all its devices have left its reach, and then none of its members."""
    async with scene(tmp_path / "data") as made, made.one.client("admin") as admin:
        fleet = made.one.fleet
        own = fleet.rollout(made.release, by="operator", select={"team": ["web"]})
        async with made.one.client("operator") as operator:
            await made.one.send(operator)
            for left in ({"web-prod", "web-test"}, {"web-test"}, set[str]()):
                seen = await operator.rollout(own)
                assert ({member.name for member in seen.members}, seen.rollout.total) == (left, len(left))
                assert seen.rollout.partial == (len(left) < 2)
                fleet.device("web-prod" if len(left) == 2 else "web-test", tags={"team": "db"})
                await made.one.send(admin)


# The consoles' stream


class Watch:
    """A console: the number of its snapshot, and what its stream has brought since."""

    def __init__(self, client: Client, seq: int) -> None:
        self.client = client
        self.seq = seq
        self._came: asyncio.Queue[Delta | Reset] = asyncio.Queue()
        self._begun = asyncio.Event()

    async def follow(self) -> None:
        """Read the stream for ever; ends where the coordinator ends it."""
        with contextlib.suppress(Refused, Unreachable, Untrusted):
            async with aclosing(self.client.console_events(self.seq, heard=self._begun.set)) as events:
                async for event in events:
                    self._came.put_nowait(event)

    async def begun(self) -> None:
        """Wait until the stream is open."""
        async with asyncio.timeout(DEADLINE_S):
            await self._begun.wait()

    async def until_seq(self, seq: int) -> list[Delta]:
        """Take what comes up to a number, without a gap in between."""
        taken: list[Delta] = []
        while self.seq < seq:
            async with asyncio.timeout(DEADLINE_S):
                delta = await self._came.get()
            assert isinstance(delta, Delta)
            assert delta.seq == self.seq + 1
            self.seq = delta.seq
            taken.append(delta)
        return taken

    async def reset(self) -> None:
        """Take what comes up to the order to start over."""
        async with asyncio.timeout(DEADLINE_S):
            while not isinstance(await self._came.get(), Reset):
                pass


@asynccontextmanager
async def watch(made: Scene, who: str) -> AsyncGenerator[Watch, None]:
    """Follow what happens as somebody."""
    async with made.one.client(who) as own:
        seen = Watch(own, (await own.snapshot()).seq)
        following = asyncio.create_task(seen.follow())
        try:
            await seen.begun()
            yield seen
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def _newest(admin: Client, holds: Callable[[Snapshot], bool]) -> int:
    """Give the number of the newest delta once the whole fleet's snapshot is as it should be."""
    snapshot = await until(admin.snapshot, holds)
    return snapshot.seq


def _view(snapshot: Snapshot, name: str) -> DeviceView:
    return next(view for view in snapshot.devices if view.name == name)


async def test_stream_leaves_out_what_is_hidden_and_keeps_its_numbers(tmp_path: Path) -> None:
    """Reports, output lines and rollouts of others come as empty deltas, one's own as for everybody."""
    async with scene(tmp_path / "data") as made, made.one.client("admin") as admin, watch(made, "auditor") as seen:
        progress = Progress(rollout=made.everywhere, phase=Phase.ACTIVATING, lines=("secret",))
        for name in ("web-test", "db-prod"):
            async with made.one.client(name) as device:
                await device.report(made.one.report(name))
                await device.progress(progress)
        seq = await _newest(admin, lambda shot: all(_view(shot, name).lines for name in ("web-test", "db-prod")))
        deltas = await seen.until_seq(seq)
        shown = {delta.device.name for delta in deltas if delta.device is not None}
        # The other device of its reach may still tell what came before.
        assert {"db-prod"} == shown - {"web-prod"}
        assert {delta.line_device for delta in deltas if delta.line_device} == {device_id("db-prod")}
        assert any(delta == Delta(seq=delta.seq) for delta in deltas)
        rollouts = [delta.rollout for delta in deltas if delta.rollout is not None]
        assert all(view.partial and view.total == 2 for view in rollouts if view.id == made.everywhere)
        assert b"web-test" not in msgspec.json.encode(deltas)


async def test_stream_counts_nobody_out_of_reach(tmp_path: Path) -> None:
    """A device that waits for a halted rollout is told of with the reason, and without the others' numbers."""
    async with scene(tmp_path / "data") as made, made.one.client("admin") as admin, watch(made, "operator") as seen:
        for name in ("db-prod", "web-prod"):
            async with made.one.client(name) as device:
                await device.report(made.one.outcome(name, made.everywhere, Outcome.FAILED, cause=Cause.HEALTH))
        seq = await _newest(admin, lambda shot: "of 3 failed" in _view(shot, "web-test").waits)
        deltas = await seen.until_seq(seq)
        said = [delta.device.waits for delta in deltas if delta.device is not None]
        said += [delta.rollout.halted for delta in deltas if delta.rollout is not None]
        assert any("too many of its devices failed" in text for text in said)
        assert [text for text in said if re.search(r"\d of \d", text)] == []


async def test_device_comes_into_reach_and_leaves_it_by_its_tags(tmp_path: Path) -> None:
    """A retagged device shows as a record where it comes into reach and as removed where it leaves, rollouts too."""
    async with scene(tmp_path / "data") as made, made.one.client("admin") as admin, watch(made, "operator") as seen:
        fleet, name = made.one.fleet, "db-prod"
        for team, sees in (("web", True), ("db", False)):
            fleet.device(name, tags={"env": "prod", "team": team})
            await made.one.send(admin)
            seq = await _newest(admin, lambda shot: _view(shot, name).tags["team"] == team)  # noqa: B023 - used at once
            deltas = await seen.until_seq(seq)
            about = [delta.device.name for delta in deltas if delta.device is not None]
            gone = {delta.removed for delta in deltas if delta.removed}
            shown = {delta.rollout.id for delta in deltas if delta.rollout is not None}
            assert (name in about) == sees
            assert (f"device:{device_id(name)}" in gone, f"rollout:{made.of_db}" in gone) == (not sees, not sees)
            assert (made.of_db in shown) == sees


async def test_requests_to_be_enrolled_are_told_to_who_could_enrol_them(tmp_path: Path) -> None:
    """Somebody who may enrol team=web hears of who asks for it, or for no team, and not of who asks for another."""
    async with scene(tmp_path / "data") as made, made.one.client("admin") as admin:
        made.one.fleet.grant("enroller", "enroll", select={"team": ["web"]})
        await made.one.send(admin)
        async with watch(made, "enroller") as seen:
            assert {view.name for view in await seen.client.enroll_requests()} == {"new-web", "new-any"}
            await _ask_to_enrol(made.one, "more-web", {"team": "web", "env": "test"})
            await _ask_to_enrol(made.one, "more-db", {"team": "db"})
            await seen.client.forget_request(device_id("more-web"))
            with pytest.raises(Refused, match="enroller lacks the right to enroll more-db; it holds: enroll on"):
                await seen.client.forget_request(device_id("more-db"))
            await admin.forget_request(device_id("more-db"))
            deltas = await seen.until_seq((await admin.snapshot()).seq)
            told = [(delta.request.name if delta.request else "", delta.removed) for delta in deltas]
            assert [one for one in told if any(one)] == [("more-web", ""), ("", f"request:{device_id('more-web')}")]


async def test_stream_starts_over_when_rights_change(tmp_path: Path) -> None:
    """A new grant, and the end of one, send a console back to a snapshot: of what it may read now, or of nothing."""
    async with scene(tmp_path / "data") as made, made.one.client("admin") as admin:
        async with watch(made, "auditor") as seen:
            more = made.one.fleet.grant("auditor", select={"team": ["web"]})
            await made.one.send(admin)
            await seen.reset()
        async with watch(made, "auditor") as seen:
            assert len(await seen.client.devices()) == 3
            made.one.fleet.revoke(key_name="auditor")
            await made.one.send(admin)
            await seen.reset()
            with pytest.raises(Refused, match="is revoked"):
                await seen.client.snapshot()
        assert more


async def test_who_returns_with_other_rights_starts_over(tmp_path: Path) -> None:
    """A console that was away while its rights changed, and changed back, does not go on from what it had."""
    async with (
        scene(tmp_path / "data") as made,
        made.one.client("admin") as admin,
        made.one.client("auditor") as auditor,
    ):
        before = (await auditor.snapshot()).seq
        grant = made.one.fleet.grant("auditor")
        await made.one.send(admin)
        assert len((await auditor.snapshot()).devices) == 3
        made.one.fleet.revoke(grant=grant)
        await made.one.send(admin)
        assert len((await auditor.snapshot()).devices) == 2
        async with aclosing(auditor.console_events(before)) as events, asyncio.timeout(DEADLINE_S):
            assert isinstance(await anext(events), Reset)


async def test_root_that_is_no_root_any_more_is_told_nothing(tmp_path: Path) -> None:
    """A stream that was opened as root ends with the root version that names the key no more."""
    async with rig(tmp_path / "data", "web-01") as one, one.client("admin") as admin:
        made = Scene(one)
        one.fleet.root(principals=(_principal("boss"), _principal("admin")))
        await one.send(admin)
        async with watch(made, "boss") as seen:
            one.fleet.root(principals=(_principal("admin"),))
            await one.send(admin)
            await seen.reset()
            with pytest.raises(Untrusted):
                await seen.client.devices()
