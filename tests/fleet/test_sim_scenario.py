"""Scenario files: what the built-in one holds, and that each slip is refused in one line that names it."""

from pathlib import Path

import pytest

from nixfleet.errors import UserError
from nixfleet.sim import scenario
from nixfleet.sim.scenario import BUILT_IN, kinds, load, scaled

SMALL = """\
name = "acme"
[[group]]
name = "web-{site}-{n}"
count = 4
tags = { site = ["berlin", "oslo"] }
asks = 1
held = 1
away = 1
[[release]]
name = "r1"
version = "25.11.1"
on = { site = ["oslo"] }
[[rollout]]
release = "r1"
waves = [1, "50%", { site = ["oslo"] }]
"""


def write(folder: Path, text: str) -> Path:
    """Write a scenario's file."""
    path = folder / "fleet.toml"
    path.write_text(text)
    return path


def test_the_built_in_fleet_has_what_the_demo_promises() -> None:
    """Two hundred devices of distinct names, one that asks, one held, some away, and a release that breaks a canary."""
    found = load(BUILT_IN)
    devices = list(kinds(found))
    assert len({device.name for device in devices}) == 200
    assert [device.name for device in devices if device.asks] == ["kiosk-turin-100"]
    assert len([device for device in devices if device.held]) == 1
    assert len([device for device in devices if device.away]) > 3
    bad = next(release for release in found.release if release.bad)
    canaries = [device for device in devices if device.tags.get("ring") == "canary"]
    broken = [device for device in canaries if device.tags["screen"] in bad.bad[0].on["screen"]]
    assert (5, 1) == (len(canaries), len(broken))
    assert f"{bad.name}.1" in {release.name for release in found.release}, "the fix is published"


def test_devices_are_described_in_turn(tmp_path: Path) -> None:
    """Names take numbers and tags; the last ones of a group ask, those before are away, those before are held."""
    devices = list(kinds(load(write(tmp_path, SMALL))))
    assert [device.name for device in devices] == ["web-berlin-01", "web-oslo-02", "web-berlin-03", "web-oslo-04"]
    assert [(device.held, device.away, device.asks) for device in devices] == [
        (False, False, False),
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("count = 4", "count = 4\ncolour = 'red'", "colour"),
        ("count = 4", "count = 0", "count"),
        ("count = 4", "count = 2", "fewer than ask, are away or held"),
        ("count = 4", "count = 5001", "5000"),
        ("web-{site}-{n}", "web-{site}", "two devices are called 'web-berlin'"),
        ("web-{site}-{n}", "Web {n}", "makes the device name 'Web 01', which is none"),
        ('on = { site = ["oslo"] }', 'on = { site = ["lyon"] }', "release 'r1' is for no device"),
        ('release = "r1"', 'release = "r2"', "names the release 'r2', which is not in the file"),
        ('"50%"', '"150%"', "waves"),
        ("asks = 1", "fails = 1.5", "fails"),
        ("asks = 1", "mbyte_s = [0, 0]", "mbyte_s"),
        ("asks = 1", "mbyte_s = [nan, 1]", "mbyte_s"),
        ("asks = 1", "leaves_every_s = [0, 0]", "leaves_every_s"),
        ("asks = 1", "away_s = [9, 2.5]", "away_s is [9, 2.5]; the lowest comes first"),
        ("waves = [1", "all_at_once = true\nwaves = [1", "all_at_once and waves exclude each other"),
        ('name = "acme"', "", "name"),
        ("[[rollout]]", '[[release]]\nname = "r1"\nversion = "2"\n[[rollout]]', "two releases are called 'r1'"),
        ("[[release]]", "[[release]", "TOML"),
    ],
)
def test_a_slip_is_refused_by_name(tmp_path: Path, old: str, new: str, said: str) -> None:
    """Whatever is unknown, out of bounds or does not fit together is one line with the file and what is wrong."""
    path = write(tmp_path, SMALL.replace(old, new))
    with pytest.raises(UserError) as refused:
        load(path)
    assert said in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("count", [20, 57, 200, 1_000])
def test_a_fleet_is_scaled(count: int) -> None:
    """Another number of devices is met exactly, every group keeping at least one, and its special ones."""
    found = scenario.checked(scaled(load(BUILT_IN), count), "scaled")
    assert found.count == count
    assert [group.asks for group in found.group] == [group.asks for group in load(BUILT_IN).group]


def test_a_fleet_too_small_for_its_story_is_refused() -> None:
    """Fewer devices than a scenario's groups need are refused with the number that would do."""
    with pytest.raises(UserError, match=r"at least [0-9]+ devices"):
        scaled(load(BUILT_IN), 3)
