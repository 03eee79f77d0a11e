"""What narinfos tell of a closure, against what real Nix says of the same one."""

from pathlib import Path

import pytest
from tests.nix.harness import CacheServer, Systems

from nixfleet.client.api import Client
from nixfleet.client.narinfos import Walk
from nixfleet.model.statements import CacheRef
from nixfleet.nix import Nix
from nixfleet.preview.closures import Shelf
from nixfleet.preview.diff import system_diff
from nixfleet.trust.narinfo import CacheKey, parse_narinfo

pytestmark = pytest.mark.nix


async def walked(server: CacheServer, key: CacheKey, *roots: str) -> Walk:
    """Follow closures over HTTP alone."""
    async with Client(("http://127.0.0.1:9",), fleet="ab" * 32, key=None, clock=lambda: 0) as client:
        walk = Walk(client, [CacheRef(url=server.url, key=key.public)])
        await walk.run(roots)
    return walk


def sizes(systems: Systems, paths: list[str]) -> int:
    """Ask Nix for the sizes of paths."""
    said = systems.run(["nix-store", "--query", "--size", *paths, "--store", str(systems.store)])
    return sum(map(int, said.split()))


async def test_narinfos_name_the_closure_that_nix_names(
    builder: Nix, systems: Systems, cache_server: CacheServer, cache_key: CacheKey
) -> None:
    """The same paths as `nix-store --query --requisites`, the same bytes as `--query --size`, nothing left over."""
    walk = await walked(cache_server, cache_key, systems.a)
    closure = Shelf(walk.known).closure(systems.a)
    assert sorted(systems.closure(systems.a)) == sorted(closure.paths)
    assert (sizes(systems, list(closure.paths)), False) == (closure.nar_bytes, closure.partial)
    assert (await builder.digest(systems.a))[1] == closure.nar_bytes
    assert () == walk.notes


async def test_what_a_device_lacks_is_what_nix_would_fetch(
    systems: Systems, cache_server: CacheServer, cache_key: CacheKey
) -> None:
    """From one version to the next: the files of the paths that the first does not need, to the byte."""
    walk = await walked(cache_server, cache_key, systems.a, systems.b)
    shelf = Shelf(walk.known)
    different = set(systems.closure(systems.b)) - set(systems.closure(systems.a))
    files = [Path(cache_server.folder) / f"{path[len('/nix/store/') :][:32]}.narinfo" for path in different]
    infos = [parse_narinfo(file.read_text()) for file in files]
    need = shelf.need(systems.b, [systems.a])
    assert (sum(info.file_bytes for info in infos), len(different)) == (need.download_bytes, need.paths)
    assert (sizes(systems, sorted(different)), False, False) == (need.disk_bytes, need.at_most, need.at_least)
    diff = system_diff(systems.a, systems.b, shelf)
    assert diff.new_bytes - diff.old_bytes == sizes(systems, systems.closure(systems.b)) - sizes(
        systems, systems.closure(systems.a)
    )
    assert (need.download_bytes, False) == (diff.fetch_bytes, diff.partial)
