"""Names, closures and differences of systems: by properties against slow references, and on telling examples."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.preview_facts import known_of, obj, path

from nixfleet.model.ids import store_name
from nixfleet.preview.closures import Closure, Known, Shelf, StoreObject, closure_of, need_of
from nixfleet.preview.diff import PackageChange, part_of, reboot_reasons, system_diff
from nixfleet.preview.packages import OUTPUTS, Package, named, package_of
from nixfleet.preview.words import diff_lines, headline, package_words

NAMES = st.text(alphabet=string.ascii_letters + string.digits + "+?=._-", min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("hello-2.12.1", ("hello", "2.12.1", "")),
        ("bash-5.2p26-man", ("bash", "5.2p26", "man")),
        ("glibc-2.39-52-bin", ("glibc", "2.39-52", "bin")),
        ("python3.11-requests-2.31.0", ("python3.11-requests", "2.31.0", "")),
        ("nixos-system-web-01-24.05.20240601.abcdef1", ("nixos-system-web-01", "24.05.20240601.abcdef1", "")),
        ("nixos-system-nas-25.11pre-git", ("nixos-system-nas", "25.11pre-git", "")),
        ("nixos-system-c-1", ("nixos-system-c", "1", "")),
        ("linux-6.6.52-modules", ("linux", "6.6.52", "modules")),
        ("linux-6.6.52-modules-shrunk", ("linux", "6.6.52", "modules-shrunk")),
        ("unit-nginx.service", ("unit-nginx.service", "", "")),
        ("7zz-24.07", ("7zz", "24.07", "")),
        ("-1", ("-1", "", "")),
        ("hello-2.12.drv", ("hello", "2.12", "")),
    ],
)
def test_names_versions_and_outputs(base: str, expected: tuple[str, str, str]) -> None:
    """A version begins at the first dash before a digit; a known output behind it is none of the version."""
    assert Package(*expected) == package_of(f"/nix/store/{'0' * 32}-{base}") == package_of(base)


def slow_package(base: str) -> tuple[str, str, str]:
    """Read a name a character at a time."""
    for at in range(1, len(base) - 1):
        if base[at] == "-" and base[at + 1] in string.digits:
            version, output = base[at + 1 :], ""
            for ending in OUTPUTS:
                if version.endswith(f"-{ending}") and len(ending) > len(output):
                    output = ending
            return base[:at], version[: len(version) - len(output) - 1] if output else version, output
    return base, "", ""


@given(NAMES)
def test_every_name_is_read_and_written_back(base: str) -> None:
    """Whatever the name, nothing of it is lost, and a reading character by character agrees."""
    base = base.removesuffix(".drv")
    assert slow_package(base) == package_of(path(1, base))
    assert base.removesuffix(".drv") == named(package_of(path(1, base)))


GRAPHS = st.dictionaries(
    st.integers(0, 11),
    st.tuples(st.integers(1, 1_000), st.none() | st.integers(1, 500), st.lists(st.integers(0, 11), max_size=5)),
    max_size=12,
)
VERSIONS = [
    "a-1",
    "a-2",
    "b-1",
    "b-1-man",
    "c",
    "linux-6.1",
    "initrd-linux-6.1",
    "systemd-255",
    "d-1",
    "a-1-bin",
    "c",
    "e-9",
]


def graph(drawn: dict[int, tuple[int, int | None, list[int]]]) -> dict[str, StoreObject]:
    """Make facts of numbers: each a path, its sizes and its references, cycles and all."""
    place = {number: path(number, VERSIONS[number]) for number in range(12)}
    return {
        place[number]: StoreObject(
            path=place[number],
            nar_bytes=nar_bytes,
            file_bytes=file_bytes,
            references=tuple(place[one] for one in references),
        )
        for number, (nar_bytes, file_bytes, references) in drawn.items()
    }


def slow_closure(root: str, known: Known) -> set[str]:
    """Add references until nothing is new."""
    found = {root}
    while True:
        more = {one for at in found if at in known for one in known[at].references} | found
        if more == found:
            return found
        found = more


@given(GRAPHS, st.integers(0, 11))
def test_a_closure_is_all_that_is_reached(drawn: dict[int, tuple[int, int | None, list[int]]], root: int) -> None:
    """Cycles, paths that name themselves and unknown ones: the slow way gives the same paths and sizes."""
    known = graph(drawn)
    start = path(root, VERSIONS[root])
    reached = slow_closure(start, known)
    expected = Closure(
        paths=frozenset(reached),
        unknown=frozenset(one for one in reached if one not in known),
        nar_bytes=sum(known[one].nar_bytes for one in reached if one in known),
    )
    assert expected == closure_of(start, known) == Shelf(known).closure(start)


@given(GRAPHS, st.integers(0, 11), st.lists(st.integers(0, 11), max_size=3))
def test_what_a_device_lacks(drawn: dict[int, tuple[int, int | None, list[int]]], root: int, have: list[int]) -> None:
    """Exactly the known paths that no system of the device reaches are loaded; what is uncertain is marked."""
    known = graph(drawn)
    start, held = path(root, VERSIONS[root]), [path(one, VERSIONS[one]) for one in have]
    there = set().union(*(slow_closure(one, known) & known.keys() for one in held))
    lacks = [known[one] for one in slow_closure(start, known) - there if one in known]
    need = Shelf(known).need(start, held)
    assert sum(one.nar_bytes for one in lacks) == need.disk_bytes
    assert sum(one.file_bytes or one.nar_bytes for one in lacks) == need.download_bytes
    assert len(lacks) == need.paths
    assert any(one not in known for one in slow_closure(start, known)) == need.at_least
    partial = any(one not in known for system in held for one in slow_closure(system, known))
    assert (partial or any(one.file_bytes is None for one in lacks)) == need.at_most


def test_an_unknown_system_of_a_device_is_no_reason_to_count_less() -> None:
    """What a device runs is in no cache: then all of the new system counts, as the most it can be."""
    known = known_of(obj(1, "new-2", 100, file_bytes=40, refs=[2]), obj(2, "lib-1", 10, file_bytes=5))
    need = need_of(closure_of(path(1, "new-2"), known), [closure_of(path(9, "old-1"), known)], known)
    assert (45, 110, True, False) == (need.download_bytes, need.disk_bytes, need.at_most, need.at_least)


@given(GRAPHS, st.integers(0, 11), st.integers(0, 11))
def test_a_difference_is_that_of_the_packages(
    drawn: dict[int, tuple[int, int | None, list[int]]], old: int, new: int
) -> None:
    """Each package is in exactly one group, by the versions on each side; the bytes of all changes add up."""
    known = graph(drawn)
    one, two = path(old, VERSIONS[old]), path(new, VERSIONS[new])
    diff = system_diff(one, two, Shelf(known))
    before = {place for place in slow_closure(one, known) if place in known}
    after = {place for place in slow_closure(two, known) if place in known}

    def versions(places: set[str], name: str) -> set[str]:
        return {package_of(place).version for place in places if package_of(place).name == name}

    for name in {package_of(place).name for place in before | after}:
        groups = [
            kind
            for kind, changes in (("added", diff.added), ("removed", diff.removed), ("changed", diff.changed))
            if name in {change.name for change in changes}
        ]
        olds, news = versions(before, name), versions(after, name)
        expected = ["added"] if not olds else ["removed"] if not news else ["changed"] if olds != news else []
        assert expected == groups
    rebuilt = sum(known[one].nar_bytes for one in after) - sum(known[one].nar_bytes for one in before)
    if not diff.rebuilt:
        assert rebuilt == sum(change.delta_bytes for change in (*diff.added, *diff.removed, *diff.changed))
    assert rebuilt == diff.new_bytes - diff.old_bytes


def two_systems() -> tuple[str, str, dict[str, StoreObject]]:
    """Give an old and a new system with kernel, initrd, modules, systemd and some packages."""
    old, new = path(1, "nixos-system-web-24.05.1"), path(2, "nixos-system-web-24.11.9")
    known = known_of(
        obj(1, "nixos-system-web-24.05.1", 10, refs=[3, 4, 5, 6, 7, 8]),
        obj(2, "nixos-system-web-24.11.9", 12, file_bytes=3, refs=[13, 14, 15, 6, 17, 9]),
        obj(3, "linux-6.6.30", 1000),
        obj(13, "linux-6.6.52", 1100, file_bytes=300),
        obj(4, "initrd-linux-6.6.30", 500),
        obj(14, "initrd-linux-6.6.52", 500, file_bytes=400),
        obj(5, "linux-6.6.30-modules", 700),
        obj(15, "linux-6.6.52-modules", 700, file_bytes=200),
        obj(6, "systemd-255.4", 300),
        obj(7, "nginx-1.26.0", 50),
        obj(17, "nginx-1.26.2", 60, file_bytes=20),
        obj(8, "telnet-1.0", 5),
        obj(9, "ripgrep-14.1", 7, file_bytes=2),
    )
    return old, new, known


def test_kernel_and_systemd_are_called_out() -> None:
    """The head line names NixOS and kernel; systemd, which stays, is not named; a reboot is wanted, and why."""
    old, new, known = two_systems()
    diff = system_diff(old, new, Shelf(known))
    assert (("24.05.1", "24.11.9"), ("6.6.30", "6.6.52"), ("255.4", "255.4")) == (diff.nixos, diff.kernel, diff.systemd)
    assert ("kernel 6.6.30 → 6.6.52", "initrd 6.6.30 → 6.6.52", "modules 6.6.30 → 6.6.52") == diff.reboot
    assert "nixos 24.05.1 → 24.11.9, kernel 6.6.30 → 6.6.52; packages: 4 updated, 1 added, 1 removed" == headline(diff)
    assert 925 == diff.fetch_bytes
    lines = [line.text for line in diff_lines(diff)]
    assert "  nginx 1.26.0 → 1.26.2  +10 B" in lines
    assert "  telnet 1.0  -5 B" in lines
    assert "takes a reboot: kernel 6.6.30 → 6.6.52, initrd 6.6.30 → 6.6.52, modules 6.6.30 → 6.6.52" in lines
    assert "closure: 2.5 KiB → 2.6 KiB (+114 B)" in lines


def test_no_reboot_where_only_packages_change() -> None:
    """The same kernel, initrd, modules and systemd by path: no reboot; one that is unknown: nobody can tell."""
    old, new, known = two_systems()
    known = known_of(obj(2, "nixos-system-web-24.11.9", 12, refs=[3, 4, 5, 6, 17]), beside=known)
    assert () == reboot_reasons(old, new, known)
    assert None is reboot_reasons(path(40, "nixos-system-web-1"), new, known)
    assert () == reboot_reasons(path(40, "x"), path(40, "x"), known)
    rebuilt = obj(20, "linux-6.6.30", 1000)
    known = known_of(obj(2, "nixos-system-web-24.11.9", 12, refs=[20, 4, 5, 6]), rebuilt, beside=known)
    assert ("kernel rebuilt",) == reboot_reasons(old, new, known)
    container = known_of(obj(30, "nixos-system-c-1", 1, refs=[31]), obj(31, "bash-5", 1))
    assert () == reboot_reasons(path(30, "nixos-system-c-1"), path(30, "nixos-system-c-1"), container)
    assert ("kernel new", "initrd new", "modules new", "systemd new") == reboot_reasons(
        path(30, "nixos-system-c-1"), old, known | container
    )


@pytest.mark.parametrize(
    ("base", "part"),
    [
        ("linux-6.6.52", "kernel"),
        ("linux-zen-6.9", "kernel"),
        ("linux-rpi-6.6.31-stable_20240529", "kernel"),
        ("linux-firmware-20240513", None),
        ("linux-headers-6.7", None),
        ("initrd-linux-6.6.52", "initrd"),
        ("kernel-modules", "modules"),
        ("kernel-modules-6.6.52-shrunk", "modules"),
        ("linux-6.6.52-modules-shrunk", "modules"),
        ("systemd-255.4", "systemd"),
        ("systemd-255.4-dev", None),
        ("systemd-minimal-255.4", None),
        ("etc", None),
    ],
)
def test_the_parts_of_booting(base: str, part: str | None) -> None:
    """Kernels of any kind, initrds, modules and systemd itself are told from what only sounds like them."""
    assert part == part_of(path(1, base))


def test_a_package_without_a_version_is_named_alone() -> None:
    """What carries no version has no arrow; foreign text cannot steer a terminal."""
    assert "etc  +5 B" == package_words(PackageChange(name="etc", new=("",), delta_bytes=5))
    assert "vim 9.0, 9.1 → 9.1" == package_words(PackageChange(name="vim", old=("9.0", "9.1"), new=("9.1",)))
    assert store_name(path(1, "etc")) == "etc"
