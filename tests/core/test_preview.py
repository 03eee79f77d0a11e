"""The preview of a rollout: what it says of each device and of all, and that nothing unknown is passed over."""

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.preview_facts import known_of, obj, path

from nixfleet.model.device import Facts
from nixfleet.model.statements import Wave
from nixfleet.model.views import DeviceView
from nixfleet.preview.closures import StoreObject
from nixfleet.preview.plan import Asked, Preview, Reading, Target, preview, roots_of
from nixfleet.preview.words import said_of

NOW = 1_000_000
OLD = path(1, "nixos-system-web-24.05")
NEW = path(2, "nixos-system-web-24.11")
MIB = 2**20


def system(number: int, name: str, *refs: int) -> StoreObject:
    """Describe a system."""
    return obj(number, name, MIB, file_bytes=MIB // 4, refs=refs)


KNOWN = known_of(
    system(1, "nixos-system-web-24.05", 3, 4),
    system(2, "nixos-system-web-24.11", 5, 4, 6),
    obj(3, "linux-6.6.30", 100 * MIB, file_bytes=30 * MIB),
    obj(4, "systemd-255.4", 40 * MIB, file_bytes=10 * MIB),
    obj(5, "linux-6.6.52", 100 * MIB, file_bytes=32 * MIB),
    obj(6, "nginx-1.26", 8 * MIB, file_bytes=3 * MIB),
)


def view(name: str, **fields: Any) -> DeviceView:
    """Describe a device that runs the old system, with room enough."""
    facts = fields.pop("facts", Facts(store_free_bytes=2**40, boot_fallback="systemd-boot"))
    base = {"system": OLD, "booted": OLD, "online": True, "tags": {"role": "web"}, **fields}
    return DeviceView(id=f"id-{name}", name=name, key="", state="active", facts=facts, **base)


def asked(*names: str, waves: tuple[Wave, ...] = (Wave(members="100%"),), **fields: Any) -> Asked:
    """Ask for the new system on devices."""
    targets = fields.pop("targets", None) or tuple(
        Target(device=f"id-{name}", name=name, tags={"role": "web"}, path=NEW, nar_bytes=150 * MIB) for name in names
    )
    return Asked(release="r1", targets=targets, waves=waves, max_in_flight=2, soak_s=300, **fields)


def made(wanted: Asked, *views: DeviceView, known: dict[str, StoreObject] | None = None) -> Preview:
    """Preview, with the caches read to their end."""
    reading = Reading(state="done")
    return preview(wanted, {one.id: one for one in views}, KNOWN if known is None else known, reading)


def words(one: Preview) -> list[str]:
    """Give the lines as they are printed."""
    return [f"{line.count}  {line.text}" if line.count is not None else line.text for line in said_of(one, NOW)]


def test_bytes_reboot_and_change() -> None:
    """A device loads what no system of its own has; the change is named by versions, the reboot by its reasons."""
    shown = made(asked("a", "b"), view("a"), view("b", previous=path(6, "nginx-1.26")))
    a, b = shown.devices
    assert (35 * MIB + MIB // 4, 32 * MIB + MIB // 4) == (a.download_bytes, b.download_bytes)
    assert 109 * MIB == a.disk_bytes
    assert (("kernel 6.6.30 → 6.6.52",), True, False) == (a.reboot, a.fits, a.at_most)
    assert [
        "2 devices in 1 wave, at most 2 at once",
        "2  nixos 24.05 → 24.11, kernel 6.6.30 → 6.6.52; packages: 2 updated, 1 added",
        "68 MiB to fetch in sum, 32 MiB to 35 MiB each; 210 MiB on disk",
        "2  need a reboot (kernel 6.6.30 → 6.6.52)",
    ] == words(shown)


def test_the_same_change_of_many_hosts_stands_once() -> None:
    """Each host has a system of its own name; what happens to them is one line with their number."""
    known, targets, views = dict(KNOWN), [], []
    for number in range(40):
        old, new = f"nixos-system-h{number:02d}-24.05", f"nixos-system-h{number:02d}-24.11"
        facts = system(100 + number, old, 3, 4), system(200 + number, new, 5, 4)
        known = known_of(*facts, beside=known)
        place = path(100 + number, old)
        targets.append(Target(device=f"id-h{number:02d}", name=f"h{number:02d}", tags={}, path=path(200 + number, new)))
        views.append(view(f"h{number:02d}", system=place, booted=place))
    shown = made(asked(targets=tuple(targets)), *views, known=known)
    assert [40] == [len(change.devices) for change in shown.changes]
    assert words(shown)[1].startswith("40  nixos 24.05 → 24.11, kernel 6.6.30 → 6.6.52")


def test_who_is_away_full_stuck_or_there_already() -> None:
    """Offline since when, no room, no way back at boot, and no-ops are each said of the right device."""
    shown = made(
        asked("away", "full", "ill", "never", "same", "stuck"),
        view("away", online=False, seen_at=NOW - 2 * 86_400),
        view("full", facts=Facts(store_free_bytes=MIB, boot_fallback="systemd-boot")),
        view("ill", healthy=False, facts=None),
        view("never", online=False, facts=None),
        view("same", system=NEW, booted=NEW),
        view("stuck", facts=Facts(store_free_bytes=2**40, boot_fallback="none")),
    )
    said = words(shown)
    assert "1  already there" in said
    assert "full has not the space: 109 MiB needed, 1.0 MiB free" in said
    assert "1  cannot fall back at boot: stuck" in said
    assert "2  not connected, and get it when they are back: away (2d), never (never seen)" in said
    assert "1  failed or unhealthy now: ill" in said
    assert [True, False, None, None, True, True] == [one.fits for one in shown.devices]
    assert [0] == [one.download_bytes for one in shown.devices if one.same]


def test_who_is_away_is_named_in_a_stable_order() -> None:
    """Who went last comes first; a second more or less makes no order, the names do."""
    seen = {"beta": NOW - 11, "alpha": NOW - 12, "old": NOW - 7_200, "gamma": NOW - 10}
    shown = made(asked(*seen), *(view(name, online=False, seen_at=at) for name, at in seen.items()))
    named = "alpha (<1m), beta (<1m), gamma (<1m), old (2h)"
    assert f"4  not connected, and get it when they are back: {named}" in words(shown)


def test_what_no_cache_knows_is_a_bound_and_said() -> None:
    """An unknown system: its signed size bounds the disk, the reboot is open; one that is known in part bounds too."""
    shown = made(asked("a"), view("a"), known={})
    (one,) = shown.devices
    assert (None, 150 * MIB, True, None, True) == (
        one.download_bytes, one.disk_bytes, one.fits, one.reboot, one.at_most
    )  # fmt: skip
    assert "how much they fetch is not known: no cache that can be read knows these systems" in words(shown)
    assert "1  may need a reboot; their contents are not known: a" in words(shown)
    tight = view("a", facts=Facts(store_free_bytes=MIB))
    assert "1  may lack the space: a" in words(made(asked("a"), tight, known={}))
    without = {place: one for place, one in KNOWN.items() if place != OLD}
    partly = made(asked("a"), view("a"), known=without)
    assert partly.at_most
    assert any(line.startswith("at most 45 MiB to fetch") for line in words(partly))
    hole = {place: one for place, one in KNOWN.items() if "nginx" not in place}
    assert any(line.startswith("at least 32 MiB to fetch") for line in words(made(asked("a"), view("a"), known=hole)))


def test_hosts_whose_systems_nobody_knows_change_alike_by_their_versions() -> None:
    """With nothing in a cache, hosts that go from one version to another, each in its own name, stand in one line."""
    hosts = {"a-1": 10, "a-2": 20, "b": 30}
    views = [view(name, system=path(at, f"nixos-system-{name}-25.05")) for name, at in hosts.items()]
    targets = tuple(
        Target(device=f"id-{name}", name=name, tags={}, path=path(at + 1, f"nixos-system-{name}-{to}"))
        for (name, at), to in zip(hosts.items(), ("25.11", "25.11", "25.05"), strict=True)
    )
    said = words(made(asked(targets=targets), *views, known={}))
    assert "2  nixos 25.05 → 25.11" in said
    assert "1  nixos-system-b-25.05, rebuilt" in said


def test_what_a_device_has_kept_it_does_not_fetch() -> None:
    """Back to a system that a device reports to have, or by a rollback, nothing is loaded, whatever caches know."""
    kept = view("a", system=path(7, "later"), previous=NEW, facts=Facts(store_free_bytes=1))
    (deployed,) = made(asked("a"), kept, known={}).devices
    assert (0, 0, True, None) == (deployed.download_bytes, deployed.disk_bytes, deployed.fits, deployed.reboot)
    back = made(asked("a", kind="rollback"), view("a"), known={})
    assert (0, 0, False) == (back.download_bytes, back.disk_bytes, back.at_least)
    assert "nothing to fetch: the devices have it" in words(back)
    (partly,) = made(
        asked("a"), view("a", previous=NEW), known=known_of(system(2, "nixos-system-web-24.11", 5))
    ).devices
    assert (0, False) == (partly.download_bytes, partly.at_least)


def test_while_the_caches_are_read_it_says_so() -> None:
    """Before anything is known the preview is there, without numbers, and says what it waits for."""
    wanted = asked("a")
    first = preview(wanted, {"id-a": view("a")}, {}, Reading(state="reading"))
    assert "reading the caches …" in words(first)
    assert not any("fetch" in line for line in words(first))
    assert "at most 150 MiB on disk, less what devices already have" in words(preview(wanted, {"id-a": view("a")}, {}))
    assert "reading the caches … 6 paths so far" in words(preview(wanted, {}, KNOWN, Reading(state="reading", paths=6)))


def test_rights_that_are_missing_are_named() -> None:
    """A device that has left what it would get is listed with who may bring it back."""
    shown = made(asked("a", "b", needs={"id-b": "it has left x; only ops may bring it back"}), view("a"), view("b"))
    assert "1  will refuse: b: it has left x; only ops may bring it back" in words(shown)


def test_the_canary_has_a_name_once_the_rollout_is_written() -> None:
    """Its digest draws the waves: without it they are counted, with it the canary is named, in every order."""
    names = [f"n{number}" for number in range(8)]
    waves = Wave(members=1), Wave(members="50%", gate="signed"), Wave(members="100%")
    before = made(asked(*names, waves=waves))
    assert [(1, ()), (4, ()), (3, ())] == [(wave.devices, wave.names) for wave in before.waves]
    assert {0} == {one.wave for one in before.devices}
    assert "1  in wave 1 (1), drawn when it is signed" in words(before)
    assert "4  in wave 2 (50%), opened by hand" in words(before)
    after = made(asked(*names, waves=waves, rollout="ab" * 32))
    again = made(asked(*reversed(names), waves=waves, rollout="ab" * 32))
    (canary,) = after.waves[0].names
    assert canary == again.waves[0].names[0]
    assert [canary] == [one.name for one in after.devices if one.wave == 1]
    assert f"1  in wave 1 (1): {canary}" in words(after)


def test_a_wave_by_tag_is_certain_before_anything_is_written() -> None:
    """What a selector takes depends on no draw, and is named at once."""
    shown = made(asked("a", "b", waves=(Wave(members={"role": ("web",)}), Wave(members="100%"))))
    assert [("role=web", ("a", "b")), ("100%", ())] == [(wave.members, wave.names) for wave in shown.waves]


def test_a_wave_without_devices_is_warned_of() -> None:
    """A wave by a tag that nobody has opens the next one at once; only as the last one it does no harm."""
    typo = (Wave(members={"role": ("wbe",)}), Wave(members="100%"))
    told = {line.text: line for line in said_of(made(asked("a", "b", waves=typo), view("a"), view("b")), NOW)}
    line = told["in wave 1 (role=wbe), so it holds nothing back"]
    assert (0, "warn") == (line.count, line.tone)
    last = (Wave(members=2), Wave(members="100%"))
    assert "0  in wave 2 (100%)" in words(made(asked("a", "b", waves=last), view("a"), view("b")))


def test_foreign_text_cannot_steer_the_terminal() -> None:
    """Names that a device or a cache supplies lose their control characters in every line."""
    targets = (Target(device="id-a", name="a\x1b[2Jb", tags={}, path=NEW),)
    shown = made(asked(targets=targets), view("a", online=False, seen_at=1), known={})
    assert all(line.isprintable() for line in words(shown))


SYSTEMS = [OLD, NEW, path(7, "unknown-1"), ""]


@given(
    st.lists(st.tuples(st.sampled_from(SYSTEMS), st.sampled_from(SYSTEMS), st.booleans()), max_size=12), st.randoms()
)
def test_every_device_is_counted_once(devices: list[tuple[str, str, bool]], chance: random.Random) -> None:
    """Waves and changes part the devices, sums are those of the devices, and the order of asking does not matter."""
    targets = [
        Target(device=f"{number:032x}", name=f"n{number}", tags={}, path=new)
        for number, (_, new, _) in enumerate(devices)
    ]
    views = {
        f"{number:032x}": DeviceView(
            id=f"{number:032x}", name="", key="", tags={}, state="active", system=old, online=on
        )
        for number, (old, _, on) in enumerate(devices)
    }
    waves = Wave(members=1), Wave(members="30%"), Wave(members="100%")
    wanted = asked(targets=tuple(targets) or None, waves=waves, rollout="cd" * 32)
    shown = preview(wanted, views, KNOWN, Reading(state="done"))
    assert len(targets) == len(shown.devices) == sum(wave.devices for wave in shown.waves)
    changing = sorted(one.name for one in shown.devices if not one.same)
    assert changing == sorted(name for change in shown.changes for name in change.devices)
    assert sum(one.download_bytes or 0 for one in shown.devices) == (shown.download_bytes or 0)
    assert all(one.intended for one in shown.devices if one.same)
    chance.shuffle(targets)
    shuffled = preview(
        asked(targets=tuple(targets) or None, waves=waves, rollout="cd" * 32), views, KNOWN, Reading(state="done")
    )
    assert shown == shuffled
    assert said_of(shown, NOW)


def test_the_systems_to_read_are_the_new_ones_first() -> None:
    """What is asked of caches: each system once, what is to come before what is there."""
    one, two = view("a", previous=path(9, "x")), view("b", system="", booted="")
    assert (NEW, OLD, path(9, "x")) == roots_of(asked("a", "b", "c"), {one.id: one, two.id: two})
