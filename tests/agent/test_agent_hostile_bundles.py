"""Bundles that somebody has changed, swapped, cut or made up: refused, and the device is as it was."""

import dataclasses
import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.agent.bundles import applied, line_of, member, write
from tests.agent.made_up import CACHE, digest_of
from tests.agent.site import Site, until
from tests.factories import Fleet

from nixfleet.client import bundle as bundles
from nixfleet.client.bundle import BundleDevice, Head, LineOf, Writer, file_url, unpack
from nixfleet.errors import NixfleetError, Untrusted, UserError
from nixfleet.model.ids import Digest
from nixfleet.model.statements import TargetLine
from nixfleet.model.wire import LineAnswer
from nixfleet.trust.lines import LineTree
from nixfleet.trust.narinfo import CacheKey, NarInfo, to_base32_hash

pytestmark = pytest.mark.usefixtures("impatient")

OTHER = "0" * 32


async def _offered(root: Path) -> tuple[Site, str, str]:
    """Make a device for which a rollout is signed; give site, device and rollout."""
    site, device = await member(root)
    return site, device, site.deploy(device, site.machine.system("new", at="cache"))


def _untouched(site: Site) -> bool:
    """Tell whether the device runs what it ran, and nothing is left of the bundle."""
    left = (site.machine.state_dir / "bundle").exists()
    return not left and site.machine.switches() == [] and site.machine.host.current_system() == site.old


async def test_a_bundle_of_another_fleet_is_refused(tmp_path: Path) -> None:
    """Whether the file says so itself, or claims to be of this fleet while its log is of another."""
    site, device, rollout = await _offered(tmp_path)
    with pytest.raises(Untrusted, match="the bundle is of fleet"):
        await applied(site, write(site, device, rollout, fleet="f" * 64))
    mine, site.fleet = site.fleet, Fleet(at=site.fleet.now + 5)
    for _ in range(mine.size):
        site.fleet.grant("x", "deploy")
    path = write(site, device, rollout, fleet=mine.fleet)
    site.fleet = mine
    with pytest.raises(Untrusted):
        await applied(site, path)
    assert _untouched(site)


async def test_a_bundle_for_another_device_is_refused(tmp_path: Path) -> None:
    """It is said whom it is for, before anything is unpacked."""
    site, device, rollout = await _offered(tmp_path)
    others = (BundleDevice(device=OTHER, name="web-02"),)
    with pytest.raises(Untrusted, match="the bundle is for web-02, and not for this device"):
        await applied(site, write(site, device, rollout, devices=others))
    assert _untouched(site)


async def test_another_devices_line_is_no_line_of_this_one(tmp_path: Path) -> None:
    """Two lines that were swapped in the file are found out by the device that each names."""
    site, device = await member(tmp_path)
    new = site.machine.system("new", at="cache")
    rollout = site.deploy(device, new)
    line = TargetLine(device=device, path=new, system="x86_64-linux", digest=digest_of(new), nar_size=1_000)
    site.server.lines = LineTree([line, replace(line, device=OTHER)])
    release, _ = site.fleet.release("r", caches=(CACHE,), lines=None, targets=site.server.lines.targets)
    rollout = site.fleet.rollout(release)
    swapped = [line_of(site.server.lines, OTHER, rollout, asks=device)]
    with pytest.raises(NixfleetError, match="does not hold: the line is for device 0000"):
        await applied(site, write(site, device, rollout, lines=swapped))
    assert _untouched(site)


async def test_a_line_that_nobody_signed_is_no_line(tmp_path: Path) -> None:
    """A line that names another system is not under the root that the release signs."""
    site, device, rollout = await _offered(tmp_path)
    evil = site.machine.system("evil", at="cache")
    line = TargetLine(device=device, path=evil, system="x86_64-linux", digest=digest_of(evil), nar_size=1_000)
    forged = [LineOf(rollout=rollout, device=device, answer=LineAnswer(line=LineTree([line]).proof(device)))]
    with pytest.raises(NixfleetError, match=r"the line that .* does not hold"):
        await applied(site, write(site, device, rollout, lines=forged))
    assert _untouched(site)


async def test_an_older_log_than_the_device_knows_is_refused(tmp_path: Path) -> None:
    """What was signed since might say otherwise: a revocation does not go away with an old stick."""
    site, device, rollout = await _offered(tmp_path)
    path = write(site, device, rollout)
    site.server.down = ""
    site.fleet.control(Digest(rollout), "cancel")
    async with site.running() as agent:
        await until(lambda: agent.link.mirror.size == site.fleet.size)
    with pytest.raises(Untrusted, match="it is too old, export another"):
        await applied(site, path)
    assert _untouched(site)


async def test_a_log_that_the_log_key_did_not_sign_is_refused(tmp_path: Path) -> None:
    """One changed entry, and the checkpoint does not cover it; the device's own copy stays as it was."""
    site, device, rollout = await _offered(tmp_path)
    size = site.parts().mirror.size
    leaf, payload = site.fleet.entries[-1]
    site.fleet.entries[-1] = (leaf[:-1] + bytes([leaf[-1] ^ 1]), payload)
    with pytest.raises(Untrusted):
        await applied(site, write(site, device, rollout))
    assert (_untouched(site), site.parts().mirror.size) == (True, size)


async def test_a_log_without_its_end_is_refused(tmp_path: Path) -> None:
    """The checkpoint counts the entries: one that was kept back may be the one that takes the rollout back."""
    site, device, rollout = await _offered(tmp_path)
    site.fleet.control(Digest(rollout), "cancel")
    with pytest.raises(Untrusted):
        await applied(site, write(site, device, rollout, withheld=1))
    assert _untouched(site)


async def test_a_bundle_that_is_cut_short_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    """No part of it is used: neither a log without its end, nor content without the last byte."""
    site, device, rollout = await _offered(tmp_path)
    path = write(site, device, rollout)
    whole = path.read_bytes()
    for cut in (*range(0, len(whole), 3_001), len(whole) - 513, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises((Untrusted, UserError), match=r"cut short|no bundle|does not end|entries, and says"):
            await applied(site, path)
    assert _untouched(site)


CONTENT = b"what a NAR holds" * 100
KEY = CacheKey.generate("cache-1")


def _info(**fields: object) -> NarInfo:
    """Say of some content what a cache says; `fields` lie about it."""
    digest = to_base32_hash(f"sha256:{hashlib.sha256(CONTENT).hexdigest()}")
    info = NarInfo(
        store_path=f"/nix/store/{'a' * 32}-thing",
        url="x",
        compression="none",
        file_hash=digest,
        file_bytes=len(CONTENT),
        nar_hash=digest,
        nar_bytes=len(CONTENT),
        references=(),
    )
    made = dataclasses.replace(info, url=file_url(info))
    return KEY.signed(dataclasses.replace(made, **fields))  # type: ignore[arg-type]  # a lie may be of any kind


def _with_nar(info: NarInfo, content: bytes = CONTENT, paths: int = 1) -> bytes:
    """Write a bundle with one path."""
    file = io.BytesIO()
    writer = Writer(file)
    head = Head(fleet="f" * 64, rollout="e" * 64, entries=0, devices=(), paths=paths)
    writer.log(head, b"note", [], [])
    writer.infos([info])
    writer.begin_nar(info)(content)
    writer.end_nar(info)
    writer.close()
    return file.getvalue()


def _unpacked(root: Path, data: bytes) -> Path:
    """Unpack a bundle into a folder; give where its cache is."""
    (root / "it.bundle").write_bytes(data)
    return unpack(root / "it.bundle", root / "out", lambda _: None).folder / "cache"


def test_a_whole_bundle_unpacks_into_a_cache_that_nix_reads(tmp_path: Path) -> None:
    """Its content lies where its narinfo says, and a bundle is a tar that anybody can list."""
    info = _info()
    cache = _unpacked(tmp_path, _with_nar(info))
    assert (cache / info.url).read_bytes() == CONTENT
    with tarfile.open(tmp_path / "it.bundle") as listed:
        names = listed.getnames()
    assert names[:4] == ["head.json", "checkpoint", "entries.jsonl", "lines.jsonl"]
    assert names[4:] == ["cache/nix-cache-info", f"cache/{'a' * 32}.narinfo", f"cache/{info.url}"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: data.replace(CONTENT, CONTENT[:-1] + b"!"), "is not what it says"),
        (lambda data: data.replace(b"URL: nar/", b"URL: ../../"), "narinfo is malformed|leads out of it"),
        (
            lambda data: _with_header(data, f"cache/{'a' * 32}.narinfo", name="cache/../../x.narinfo"),
            "a narinfo belongs",
        ),
        (lambda data: data.replace(b"StoreDir: /nix/store", b"StoreDir: /etc/store"), "foreign nix-cache-info"),
    ],
    ids=["nar", "url", "name", "info"],
)
def test_a_cache_that_was_tampered_with_is_refused(tmp_path: Path, change: Callable[[bytes], bytes], why: str) -> None:
    """Another content, a narinfo that leads out of the file, a name that climbs out of the folder."""
    data = _with_nar(_info())
    changed = change(data)
    assert changed != data
    with pytest.raises(Untrusted, match=why):
        _unpacked(tmp_path, changed)
    assert {one.name for one in tmp_path.iterdir()} <= {"it.bundle", "out"}


def _with_header(data: bytes, member_name: str, **fields: object) -> bytes:
    """Replace the header of a member by another."""
    at = data.index(member_name.encode().ljust(100, b"\0"))
    info = tarfile.TarInfo.frombuf(data[at : at + 512], "ascii", "strict")
    for field, value in fields.items():
        setattr(info, field, value)
    return data[:at] + info.tobuf(tarfile.GNU_FORMAT)[:512] + data[at + 512 :]


@pytest.mark.parametrize(
    ("member_name", "fields", "why"),
    [
        ("checkpoint", {"name": "../../etc/passwd"}, r"has '../../etc/passwd' where checkpoint belongs"),
        ("checkpoint", {"name": "/etc/passwd"}, r"has '/etc/passwd' where"),
        ("checkpoint", {"type": tarfile.SYMTYPE, "linkname": "/etc"}, "cut short or damaged"),
        ("checkpoint", {"type": tarfile.XHDTYPE}, "cut short or damaged"),
        ("checkpoint", {"size": 1 << 40}, "16384 are the most"),
        ("entries.jsonl", {"size": 1 << 40}, "are the most"),
        ("lines.jsonl", {"size": 1 << 40}, "are the most"),
        ("head.json", {"size": 1 << 40}, "is no bundle"),
    ],
    ids=str,
)
def test_headers_that_climb_link_or_swell_are_refused(
    tmp_path: Path, member_name: str, fields: dict[str, object], why: str
) -> None:
    """Each member has its place, its kind and its bound; nothing is written for one that has not."""
    with pytest.raises((Untrusted, UserError), match=why):
        _unpacked(tmp_path, _with_header(_with_nar(_info()), member_name, **fields))


def test_content_beyond_what_its_narinfo_says_is_refused(tmp_path: Path) -> None:
    """The size stands in two places, which have to agree."""
    info = _info()
    with pytest.raises(Untrusted, match=f"not {len(CONTENT)}"):
        _unpacked(tmp_path, _with_header(_with_nar(info), f"cache/{info.url}", size=1 << 40))


def test_more_than_the_disk_holds_is_refused_before_it_is_written(tmp_path: Path) -> None:
    """The sum of what is to come is known from the narinfos, which come first."""
    info = _info(file_bytes=1 << 50)
    with pytest.raises(UserError, match="MiB to unpack"):
        _unpacked(tmp_path, _swollen(info))


def _swollen(info: NarInfo) -> bytes:
    file = io.BytesIO()
    writer = Writer(file)
    writer.log(Head(fleet="f" * 64, rollout="e" * 64, entries=0, devices=(), paths=1), b"note", [], [])
    writer.infos([info])
    return file.getvalue()


def test_narinfos_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its bound, and all together have one."""
    monkeypatch.setattr(bundles, "INFOS_BYTES_MAX", 100)
    with pytest.raises(Untrusted, match="have more than 100 bytes"):
        _unpacked(tmp_path, _with_nar(_info()))


def test_a_head_beyond_its_bounds_is_refused(tmp_path: Path) -> None:
    """Nobody has so many devices that one file is for, nor a system so many paths."""
    with pytest.raises(Untrusted, match="200000 are the most"):
        _unpacked(tmp_path, _with_nar(_info(), paths=bundles.PATHS_MAX + 1))


def test_any_other_file_is_no_bundle(tmp_path: Path) -> None:
    """The command says what makes one."""
    for data in (b"", b"#!/bin/sh\n" * 100, b"\xff" * 4_096):
        with pytest.raises(UserError, match="is no bundle"):
            _unpacked(tmp_path, data)
    with pytest.raises(UserError, match="No such file"):
        unpack(tmp_path / "none", tmp_path / "out", lambda _: None)
