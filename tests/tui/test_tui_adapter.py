"""The adapter: what the coordinator says of a release is held against the log before it is shown or signed again."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tests.tui.console_fleet import NOW, device_id, digest, fingerprint, system

from nixfleet.client.admin import Acted
from nixfleet.client.checks import check_lines
from nixfleet.errors import Unreachable, Untrusted, UserError
from nixfleet.model import answers
from nixfleet.model.ids import Digest, Fingerprint, FleetId
from nixfleet.model.statements import CacheRef, Closure, LogState, Release, SelectLine, TargetLine, Wave
from nixfleet.model.views import Delta, ReleaseLineView, ReleaseView
from nixfleet.rollout.asking import Order, RolloutWishes
from nixfleet.trust.lines import LineTree
from nixfleet.trust.replay import Place, ReleaseRecord, State
from nixfleet.tui.acting import AdminActs
from nixfleet.tui.adapter import ClientSource
from nixfleet.tui.ports import Deployment, Reset

NAMES = ("web-01", "web-02", "web-03")
KEY = Fingerprint(fingerprint("ops"))


def line_view(name: str, version: str = "25.05.2304") -> ReleaseLineView:
    """Make what the coordinator shows of a device's line."""
    return ReleaseLineView(
        device=device_id(name),
        name=name,
        path=system("web", version),
        system="x86_64-linux",
        digest=digest(version),
        nar_size=1_000,
    )


def release_view(lines: tuple[ReleaseLineView, ...] | None = None) -> ReleaseView:
    """Make what the coordinator shows of the release."""
    lines = tuple(map(line_view, NAMES)) if lines is None else lines
    return ReleaseView(
        id=digest("r"), index=3, name="web-2304", by=KEY, principal="ops", at=NOW, targets=len(lines), lines=lines
    )


def signed_state(lines: tuple[SelectLine, ...] | None = None) -> State:
    """Make a verified log in which the release was signed, by device lines or by selectors."""
    tree = LineTree(
        [
            TargetLine(device=one.device, path=one.path, system=one.system, digest=one.digest, nar_size=one.nar_size)
            for one in map(line_view, NAMES)
        ]
    )
    statement = Release(
        v=1,
        fleet=digest("fleet"),
        by=KEY,
        at=NOW,
        base=LogState(size=3, root=digest("root")),
        name="web-2304",
        caches=(CacheRef(url="/cache", key="cache-1:" + "A" * 43 + "="),),
        targets=None if lines else tree.targets,
        lines=lines,
    )
    state = State(fleet=FleetId(digest("fleet")))
    key = Digest(digest("r"))
    state.releases[key] = ReleaseRecord(key, Place(3, NOW, KEY, bytes(64)), statement)
    return state


class NotedAdmin:
    """Notes what would be signed."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.signed: list[tuple[Any, ...]] = []

    async def part(self, name: str, lines: Mapping[str, Any], *, note: str | None = None) -> Digest:
        """Note a release of some lines."""
        self.signed.append(("part", name, list(lines), note))
        return Digest(digest("part"))

    async def rollout(self, release: str, wishes: Any, *, note: str | None = None, draft: Any = None) -> Acted:
        """Note a rollout."""
        assert draft is None, "nothing was previewed"
        self.signed.append(("rollout", release, wishes.select, wishes.waves, wishes.soak_s, note))
        return Acted(5, Digest(digest("rollout")), "1 of 2 approvals is missing")


def acts_over(view: ReleaseView, state: State) -> tuple[AdminActs, NotedAdmin]:
    """Make the acts of a person over a coordinator that shows `view`."""

    async def release(_: str) -> ReleaseView:
        return view

    admin = NotedAdmin(state)
    client: Any = SimpleNamespace(release=release)
    signing: Any = admin
    return AdminActs(client, signing, signer=KEY, clock=lambda: NOW), admin


def test_the_signed_lines_pass() -> None:
    """Lines that lead to the signed root are what they seem."""
    check_lines(release_view(), signed_state())


@pytest.mark.parametrize(
    "lines",
    [
        (),
        tuple(map(line_view, NAMES[:2])),
        (line_view("web-01", "26.01.evil"), *map(line_view, NAMES[1:])),
        (*map(line_view, NAMES), line_view("web-04")),
    ],
    ids=["none", "one left out", "one replaced", "one added"],
)
def test_other_lines_are_untrusted(lines: tuple[ReleaseLineView, ...]) -> None:
    """A coordinator that leaves out, replaces or adds a line is found out."""
    with pytest.raises(Untrusted, match="other lines"):
        check_lines(release_view(lines), signed_state())


def test_a_release_that_is_not_in_the_log_is_untrusted() -> None:
    """What only the coordinator knows does not exist."""
    with pytest.raises(Untrusted, match="no release"):
        check_lines(release_view(), State(fleet=FleetId(digest("fleet"))))


def test_selector_lines_are_compared_with_the_statement() -> None:
    """Lines by selector are in the signed statement itself; another path is found out."""
    closure = Closure(path=system("web", "25.05.2304"), system="x86_64-linux", digest=digest("x"), nar_size=1)
    state = signed_state((SelectLine(select={"role": ("web",)}, closure=closure),))
    shown = ReleaseLineView(
        select={"role": ("web",)}, path=closure.path, system=closure.system, digest=closure.digest, nar_size=1
    )
    check_lines(release_view((shown,)), state)
    with pytest.raises(Untrusted):
        check_lines(release_view((msgspec.structs.replace(shown, path=system("web", "evil")),)), state)


async def test_a_deployment_by_tags_signs_one_rollout() -> None:
    """Waves, soak and note go as they were typed; what it waits for is said."""
    acts, admin = acts_over(release_view(), signed_state())
    waves = (Wave(members=1), Wave(members="10%"))
    wishes = RolloutWishes(select={"site": ("oslo",)}, waves=waves, soak_s=60)
    said = await acts.deploy(Deployment(release=digest("r"), order=Order(wishes=wishes), note="FLEET-1"))
    assert [("rollout", digest("r"), {"site": ("oslo",)}, waves, 60, "FLEET-1")] == admin.signed
    assert (
        "The rollout is signed: entry 5; not in force yet: 1 of 2 approvals is missing; others sign it on Access."
        == said
    )


async def test_a_deployment_to_devices_signs_their_lines_first() -> None:
    """For named devices a release of just their closures is published, and rolled out by its digest."""
    acts, admin = acts_over(release_view(), signed_state())
    await acts.deploy(Deployment(release=digest("r"), devices=(device_id("web-02"),)))
    part, (_, release, select, *_rest) = admin.signed
    assert ("part", "web-2304", [device_id("web-02")], None) == part
    assert (digest("part"), None) == (release, select)


async def test_nothing_is_signed_on_a_forged_line() -> None:
    """A coordinator that slips in another closure for a device gets no signature over it."""
    forged = release_view((line_view("web-01", "26.01.evil"), *map(line_view, NAMES[1:])))
    acts, admin = acts_over(forged, signed_state())
    with pytest.raises(Untrusted):
        await acts.deploy(Deployment(release=digest("r"), devices=(device_id("web-01"),)))
    assert [] == admin.signed


async def test_a_device_without_a_line_is_named() -> None:
    """A device that the release has nothing for is an error, and nothing is signed."""
    acts, admin = acts_over(release_view(), signed_state())
    with pytest.raises(UserError, match="no line"):
        await acts.deploy(Deployment(release=digest("r"), devices=(device_id("nas-01"),)))
    assert [] == admin.signed


def test_a_key_that_the_log_does_not_know_may_nothing() -> None:
    """Before a root is known nobody has a right, and nothing claims otherwise."""
    acts, _ = acts_over(release_view(), State(fleet=FleetId(digest("fleet"))))
    assert (frozenset(), "") == (acts.identity.may, acts.identity.read_only)


def source_over(events: AsyncGenerator[Delta | answers.Reset, None], *, pings: bool) -> ClientSource:
    """Make a source over a client whose stream gives these events, after a ping where `pings` says so."""

    async def console_events(_since: int, *, heard: Callable[[], None]) -> AsyncGenerator[Delta | answers.Reset, None]:
        if pings:
            heard()
        async for event in events:
            yield event

    client: Any = SimpleNamespace(console_events=console_events)
    mirror: Any = None
    return ClientSource(client, mirror)


async def test_a_ping_is_told_before_anything_has_changed() -> None:
    """A stream that comes through says so at once, by a delta that changes nothing; then its events follow."""
    changed = asyncio.Event()

    async def events() -> AsyncGenerator[Delta | answers.Reset, None]:
        await changed.wait()
        yield Delta(seq=8)
        yield answers.Reset()

    async with aclosing(source_over(events(), pings=True).events(7)) as stream:
        assert Delta(seq=7) == await anext(stream)
        changed.set()
        assert [Delta(seq=8), Reset()] == [event async for event in stream]


async def test_a_stream_that_breaks_before_its_first_byte_gives_nothing() -> None:
    """What is wrong is raised, and no delta pretends that something came through."""

    async def events() -> AsyncGenerator[Delta | answers.Reset, None]:
        raise Unreachable("502 Bad Gateway")
        yield

    with pytest.raises(Unreachable, match="502"):
        await anext(source_over(events(), pings=False).events(7))


async def test_leaving_a_silent_stream_ends_it() -> None:
    """Who stops waiting for a stream that says nothing leaves nothing behind."""
    ended = asyncio.Event()

    async def events() -> AsyncGenerator[Delta | answers.Reset, None]:
        try:
            await asyncio.Event().wait()
            yield Delta(seq=8)
        finally:
            ended.set()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01), aclosing(source_over(events(), pings=False).events(7)) as stream:
            await anext(stream)
    assert ended.is_set()
