"""What a made-up cache tells of made-up systems: signed, whole, and as heavy as the scenario says."""

from pathlib import Path

import msgspec
import pytest

from nixfleet.client.previewing import changes_between
from nixfleet.errors import UserError
from nixfleet.preview.closures import StoreObject, closure_of, need_of
from nixfleet.preview.diff import reboot_reasons
from nixfleet.sim.closures import Contents, narinfos, stock
from nixfleet.sim.fleet import Fleet
from nixfleet.sim.machine import store_path
from nixfleet.sim.scenario import BUILT_IN, Scenario, checked, kinds, load
from nixfleet.sim.systems import first_system, released
from nixfleet.trust.narinfo import CacheKey, hash_part, parse_narinfo, verify_narinfo

OLD = Contents(path=store_path("a-1"), build="25.05", kernel="6.12.38", packages={"kiosk-session": "4.1"}, mib=90)
NEW = Contents(path=store_path("a-2"), build="25.11", kernel="6.12.58", packages={"kiosk-session": "4.2"}, mib=120)


def known(*systems: Contents) -> dict[str, StoreObject]:
    """Give what a walk would know of systems."""
    return {
        info.store_path: StoreObject(
            path=info.store_path, nar_bytes=info.nar_bytes, file_bytes=info.file_bytes, references=info.references
        )
        for system in systems
        for info in narinfos(system)
    }


def test_a_device_lacks_what_the_scenario_says() -> None:
    """Who has another build needs exactly the release's MiB; who has the release needs nothing."""
    objects = known(OLD, NEW)
    old, new = closure_of(OLD.path, objects), closure_of(NEW.path, objects)
    assert need_of(new, [old], objects).download_bytes == 120 << 20
    assert need_of(new, [new], objects).download_bytes == 0
    assert not old.partial
    assert not new.partial


def test_groups_with_other_packages_each_need_their_mib() -> None:
    """One release for two groups that have other packages weighs the same for both."""
    other = msgspec.structs.replace(NEW, path=store_path("b-2"), packages={"chromium": "142.0", "mesa": "25.2"})
    objects = known(OLD, NEW, other)
    old = closure_of(OLD.path, objects)
    for system in (NEW, other):
        assert need_of(closure_of(system.path, objects), [old], objects).download_bytes == 120 << 20


def test_a_cache_tells_it_by_its_key(tmp_path: Path) -> None:
    """Each path of a closure has a narinfo in its place, which the cache's key has signed and another has not."""
    key = CacheKey.generate("acme-1")
    stock(tmp_path, key, [OLD, NEW])
    for path in known(OLD, NEW):
        info = parse_narinfo((tmp_path / f"{hash_part(path)}.narinfo").read_text())
        assert info.store_path == path
        assert verify_narinfo(info, [key.public]) == "acme-1"
        assert verify_narinfo(info, [CacheKey.generate("acme-1").public]) is None
    assert {one.suffix for one in tmp_path.iterdir()} == {".narinfo"}


def test_the_demo_tells_what_its_releases_change() -> None:
    """The kiosks' first release lacks the panel driver, whose lack breaks some of them; the second has it again."""
    demo = load(BUILT_IN)
    kind = next(one for one in kinds(demo) if one.name == "kiosk-lab-01")
    first, bad, good = (
        dict(first_system(kind).packages),
        *(dict(released(one, kind, 1).packages) for one in demo.release if one.name.startswith("kiosk")),
    )
    assert (first["kiosk-session"], bad["kiosk-session"]) == ("4.1", "4.2")
    assert "aures-panel" in first
    assert "aures-panel" not in bad
    assert "aures-panel" in good


def test_the_demo_foretells_the_reboots_that_its_switches_ask_for() -> None:
    """Only the storage boxes' release brings what takes a reboot; of the others the preview may name none."""
    demo = load(BUILT_IN)
    told = {}
    for release in demo.release:
        kind = next(one for one in kinds(demo) if one.tags["role"] in release.on["role"])
        old, new = first_system(kind).contents, released(release, kind, 1).contents
        objects = known(old, new)
        assert need_of(closure_of(new.path, objects), [closure_of(old.path, objects)], objects).download_bytes == (
            release.mib << 20
        )
        told[release.name] = bool(reboot_reasons(old.path, new.path, objects))
    assert told == {one.name: one.reboot for one in demo.release}
    assert any(told.values())


@pytest.mark.parametrize("entry", ['"../x" = "1"', 'x = "1/2"', 'x = "v1"', '"" = "1"', 'x = "1\\n"'])
def test_packages_that_no_store_path_could_name_are_refused(tmp_path: Path, entry: str) -> None:
    """A name or version that is none is an error that names the place."""
    file = tmp_path / "fleet.toml"
    file.write_text(f'name = "a"\n[[group]]\nname = "d-{{n}}"\ncount = 1\npackages = {{ {entry} }}\n')
    with pytest.raises(UserError, match="packages"):
        load(file)


def test_a_fleets_cache_answers_for_its_systems(tmp_path: Path) -> None:
    """Two systems of a running fleet can be told apart by package, through the coordinator's own cache."""
    tree = {
        "name": "acme",
        "group": [{"name": "kiosk-{n}", "count": 1, "packages": {"kiosk-session": "4.1"}}],
        "release": [{"name": "r1", "version": "25.11.1", "mib": 20, "packages": {"kiosk-session": "4.2"}}],
    }
    with Fleet(checked(msgspec.convert(tree, Scenario), "test")) as fleet:
        kind = fleet.devices["kiosk-01"].kind
        root = fleet.admin.state.root
        assert root is not None
        named = [("kiosk-01", first_system(kind).path, fleet.path("kiosk-01", "r1"))]
        changes, notes = fleet.ask(
            lambda client: changes_between(client, named, root.caches, memory=tmp_path / "narinfos")
        )
    assert notes == ()
    (change,) = changes
    assert change.diff is not None
    assert "kiosk-session" in {one.name for one in change.diff.changed}
