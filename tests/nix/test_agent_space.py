"""A disk that runs full in the middle of a download, with real Nix: it is as free after it as it was before."""

from pathlib import Path

import pytest
from tests.agent.made_up import Silent
from tests.nix.builder import nix_env, write_conf
from tests.nix.harness import CacheServer, Systems
from tests.smalldisk import small_disk

from nixfleet.agent.host import Host
from nixfleet.agent.runner import Runner
from nixfleet.agent.settings import Settings
from nixfleet.agent.update import Fetch, Offer, Trouble
from nixfleet.model.device import Cause
from nixfleet.model.statements import CacheRef
from nixfleet.nix import Cache, Nix
from nixfleet.trust.narinfo import CacheKey

pytestmark = pytest.mark.nix


async def test_a_disk_that_runs_full_amid_a_download_is_given_back(
    systems: Systems, cache_server: CacheServer, cache_key: CacheKey, tmp_path: Path
) -> None:
    """What the download brought goes, what was there stays, and the outcome is a lack of space that is tried again."""
    write_conf(tmp_path / "conf")
    store = Nix(store=f"local?root={tmp_path}/machine", env=nix_env(tmp_path / "conf", tmp_path / "home"))
    host = Host(root=tmp_path / "machine")
    with small_disk(tmp_path / "machine" / "nix", 3 << 20):
        kept = next(path for path in systems.closure(systems.a) if path.endswith("-lib0-1.0"))
        caches = [Cache(cache_server.url, cache_key.public)]
        root = host.gc_root("kept")
        await store.realise(kept, caches=caches, root=root, on_progress=lambda _: None)
        before, free_bytes = entries(host), host.free_bytes("/nix/store")[0]
        runner = Runner(
            host=host,
            store=store,
            settings=Settings(state_dir=str(tmp_path / "state")),
            watcher=Silent(),
            cache_base=lambda: cache_server.url,
            names=lambda: {"web-01"},
        )
        ref = CacheRef(url=cache_server.url, key=cache_key.public)
        offer = Offer(
            rollout="ab" * 32,
            epoch=0,
            index=5,
            run=1,
            path=systems.a,
            digest="cd" * 32,
            nar_bytes=1 << 30,
            caches=(ref,),
        )
        answer = await runner.perform(Fetch(offer=offer))
        assert isinstance(answer, Trouble)
        assert (Cause.SPACE, True) == (answer.cause, answer.later), answer
        assert before == entries(host)
        assert host.free_bytes("/nix/store")[0] >= free_bytes - (256 << 10)
        assert await store.is_valid(kept)


def entries(host: Host) -> set[str]:
    """List what lies in the store, but for the locks of Nix."""
    return {one.name for one in host.at("/nix/store").iterdir() if not one.name.endswith(".lock")}
