"""Following closures through caches: real HTTP, real signatures, and caches that fail in every way."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
from tests.httpd import Answer, Asked, Httpd, httpd
from tests.preview_facts import path

from nixfleet.client import narinfo_memory, narinfos
from nixfleet.client.api import Client
from nixfleet.client.narinfo_memory import NarinfoMemory
from nixfleet.client.narinfos import Walk
from nixfleet.model.statements import CacheRef
from nixfleet.preview.closures import StoreObject
from nixfleet.trust.narinfo import CacheKey, NarInfo, base32_encode, format_narinfo, hash_part

KEY = CacheKey.generate("public-1")
HASH = f"sha256:{base32_encode(b'0' * 32)}"
A, B, C, D = path(1, "a-1"), path(2, "b-1"), path(3, "c-1"), path(4, "d-1")


def text_of(place: str, *references: str, key: CacheKey = KEY, nar_bytes: int = 100) -> str:
    """Write a signed narinfo."""
    info = NarInfo(
        store_path=place, url="nar/x", compression="xz", file_hash=HASH, file_bytes=nar_bytes // 2, nar_hash=HASH,
        nar_bytes=nar_bytes, references=references,
    )  # fmt: skip
    return format_narinfo(key.signed(info))


def serve(texts: dict[str, str]) -> Callable[[Asked], Answer]:
    """Serve narinfos by path; what is not there is a 404."""
    by_name = {f"/{hash_part(place)}.narinfo": text for place, text in texts.items()}
    return lambda asked: (
        Answer(by_name[asked.path].encode(), kind="text/x-nix-narinfo")
        if asked.path in by_name
        else Answer(b"404", status=404, kind="text/plain")
    )


def ref(server: Httpd, key: CacheKey = KEY) -> CacheRef:
    """Name a cache as a root does."""
    return CacheRef(url=server.url, key=key.public)


async def walked(
    caches: Sequence[CacheRef],
    *roots: str,
    memory: Path | None = None,
    request_s: float = 5.0,
    walk_s: float = 30.0,
    local: dict[str, StoreObject] | None = None,
    url: str = "http://127.0.0.1:9",
) -> Walk:
    """Walk to the end."""
    async with Client((url,), fleet="ab" * 32, key=None, clock=lambda: 0) as client:
        walk = Walk(client, caches, memory, local=local, request_s=request_s, walk_s=walk_s)
        await walk.run(roots)
    return walk


CHAIN = {A: text_of(A, A, B), B: text_of(B, C, A), C: text_of(C)}
"""Three paths, a cycle and a path that names itself among them."""


async def test_a_closure_is_followed_to_its_end() -> None:
    """Every path is asked for once, cycles end, and sizes are what the cache has signed."""
    async with httpd(serve(CHAIN)) as server:
        walk = await walked([ref(server)], A)
    assert {A, B, C} == set(walk.known)
    assert StoreObject(path=B, nar_bytes=100, file_bytes=50, references=(A, C)) == walk.known[B]
    assert 3 == len(server.asked)
    assert () == walk.notes


async def test_caches_are_asked_in_turn_and_the_built_in_one_through_the_client() -> None:
    """What the first lacks the second has; ``/cache`` is the coordinator's own."""
    own = CacheKey.generate("fleet-1")
    built_in = {
        place.replace("/", "/cache/", 1): text for place, text in serve_names({A: text_of(A, B, key=own)}).items()
    }

    def coordinator(asked: Asked) -> Answer:
        if asked.path in built_in:
            return Answer(built_in[asked.path].encode(), kind="text/x-nix-narinfo")
        return Answer(b'{"error": "not here", "kind": "unknown"}', status=404)

    async with httpd(coordinator) as fleet, httpd(serve({B: text_of(B)})) as public:
        caches = [CacheRef(url="/cache", key=own.public), ref(public)]
        walk = await walked(caches, A, url=fleet.url)
    assert {A, B} == set(walk.known)
    assert () == walk.notes


def serve_names(texts: dict[str, str]) -> dict[str, str]:
    """Give narinfos by the name of their file."""
    return {f"/{hash_part(place)}.narinfo": text for place, text in texts.items()}


async def test_what_is_in_no_cache_is_named() -> None:
    """A path that is nowhere leaves the rest known; foreign text as a root is not asked for."""
    async with httpd(serve({A: text_of(A, B, D)})) as server:
        walk = await walked([ref(server)], A, "/etc/passwd", "", "/nix/store/../x")
    assert {A} == set(walk.known)
    assert ("in no cache that can be read: b-1 and 1 more",) == walk.notes
    assert 3 == len(server.asked)


async def test_a_signature_by_another_key_does_not_count() -> None:
    """Another key, another path's narinfo, none at all, and rubbish: each is left out, and how many is said."""
    other = CacheKey.generate("public-1")
    wrong = {
        A: text_of(A, B, C, D),
        B: text_of(B, key=other),
        C: text_of(A),
        D: "rubbish",
    }
    async with httpd(serve(wrong)) as server:
        walk = await walked([ref(server)], A)
    assert {A} == set(walk.known)
    (unsigned, absent) = walk.notes
    assert f"the cache {server.url} sent 3 answers that its listed key has not signed: not counted" == unsigned
    assert absent.startswith("in no cache")


async def test_a_cache_that_is_gone_is_said_and_the_rest_is_known() -> None:
    """Nobody listens there: it is given up after a few tries, and another cache still tells what it has."""
    async with httpd(lambda _: None) as gone:
        dead = ref(gone)
    many = [path(number, "n-1") for number in range(10, 60)]
    async with httpd(serve({A: text_of(A, *many)} | {place: text_of(place) for place in many})) as up:
        walk = await walked([dead, ref(up)], A)
        assert (51, ()) == (len(walk.known), walk.notes)
    async with httpd(serve({A: text_of(A, *many)})) as up:
        walk = await walked([dead, ref(up)], A)
    assert {A} == set(walk.known)
    unread, absent = walk.notes
    assert unread.startswith(f"the cache {dead.url} cannot be read (")
    assert unread.endswith("); what only it has is not counted")
    assert "in no cache that can be read: n-1 and 49 more" == absent


async def test_a_server_error_is_no_absence() -> None:
    """HTTP 503 is asked once more, and what came through counts; for ever, it is said."""
    answers = serve(CHAIN)
    seen: set[str] = set()

    def shaky(asked: Asked) -> Answer:
        if asked.path not in seen:
            seen.add(asked.path)
            return Answer(b"later", status=503, kind="text/plain")
        return answers(asked)

    async with httpd(shaky) as server:
        walk = await walked([ref(server)], A)
    assert ({A, B, C}, ()) == (set(walk.known), walk.notes)
    async with httpd(lambda _: Answer(b"", status=503, kind="text/plain")) as server:
        walk = await walked([ref(server)], *(path(number, "n-1") for number in range(20)))
    assert "HTTP 503" in walk.notes[0]
    assert len(server.asked) < 40, "a cache that only fails is given up"


async def test_a_slow_cache_ends_by_itself() -> None:
    """A cache that never answers costs a few waits, one that drips the time of the walk; both are said."""
    forever = asyncio.Event()

    async def never(_: Asked) -> Answer:
        await forever.wait()
        return Answer()

    async with httpd(never) as server:
        walk = await walked([ref(server)], *(path(number, "n-1") for number in range(12)), request_s=0.05)
        assert "no answer within 0.05 s" in walk.notes[0]
        walk = await walked([ref(server)], A, request_s=20.0, walk_s=0.05)
        assert "the caches are too slow: after 0 s the rest was left out" in walk.notes
        forever.set()


async def test_a_huge_answer_is_cut() -> None:
    """More than a narinfo may be is not read to its end."""

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65_536

    async with httpd(lambda _: Answer(stream=endless(), kind="text/x-nix-narinfo")) as server:
        walk = await walked([ref(server)], A)
    assert {} == walk.known


async def test_references_without_end_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache whose every path names another one is followed up to the bound, and that is said."""
    monkeypatch.setattr(narinfos, "PATHS_MAX", 20)

    def invents(asked: Asked) -> Answer:
        number = int(asked.path[1:33])
        return Answer(text_of(path(number, "n-1"), path(number + 1, "n-1")).encode(), kind="text/x-nix-narinfo")

    async with httpd(invents) as server:
        walk = await walked([ref(server)], path(1, "n-1"))
    assert 21 == len(walk.known)
    assert any("more than 20 paths" in note for note in walk.notes)


async def test_what_was_verified_is_not_asked_again(tmp_path: Path) -> None:
    """The second walk asks nobody; another key finds nothing in that memory."""
    file = tmp_path / "state" / "narinfos.sqlite"
    async with httpd(serve(CHAIN)) as server:
        await walked([ref(server)], A, memory=file)
        again = await walked([ref(server)], A, memory=file)
        assert ({A, B, C}, 3) == (set(again.known), len(server.asked))
        other = await walked([ref(server, CacheKey.generate("public-1"))], A, memory=file)
    assert {} == other.known
    assert 4 == len(server.asked)


async def test_a_walk_from_memory_lets_others_have_their_turn(tmp_path: Path) -> None:
    """Where all is remembered a screen beside the walk is painted all the same, and the bound of time holds."""
    file = tmp_path / "narinfos"
    chain = [path(number, f"p-{number}") for number in range(1, 201)]
    memory = NarinfoMemory(file)
    memory.put(KEY.public, {hash_part(chain[0]): text_of(chain[0], *chain[1:])})
    memory.put(KEY.public, {hash_part(one): text_of(one) for one in chain[1:]})
    memory.close()
    cache = CacheRef(url="http://127.0.0.1:9", key=KEY.public)
    turns: list[int] = []

    async def paint(walk: Walk) -> None:
        while True:
            turns.append(len(walk.known))
            await asyncio.sleep(0)

    async with Client(("http://127.0.0.1:9",), fleet="ab" * 32, key=None, clock=lambda: 0) as client:
        walk = Walk(client, [cache], file)
        screen = asyncio.ensure_future(paint(walk))
        await walk.run([chain[0]])
        screen.cancel()
    assert set(walk.known) == set(chain)
    assert len(set(turns)) >= len(chain) // narinfos.TURN
    hurried = await walked([cache], chain[0], memory=file, walk_s=0.0)
    assert hurried.notes == ("the caches are too slow: after 0 s the rest was left out",)


@pytest.mark.parametrize("broken", [b"no database at all, but long enough to be read as one" * 40, b""])
async def test_a_broken_memory_is_begun_anew(tmp_path: Path, broken: bytes) -> None:
    """Rubbish in its place, or a file that grew too large, never keeps a preview from being made."""
    file = tmp_path / "narinfos.sqlite"
    file.write_bytes(broken)
    async with httpd(serve(CHAIN)) as server:
        walk = await walked([ref(server)], A, memory=file)
        again = await walked([ref(server)], A, memory=file)
    assert {A, B, C} == set(walk.known) == set(again.known)
    assert 3 == len(server.asked)


def test_a_memory_that_cannot_be_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file stands for its folder it remembers nothing; a file over its bound is begun anew."""
    (tmp_path / "file").write_bytes(b"")
    memory = NarinfoMemory(tmp_path / "file" / "narinfos.sqlite")
    memory.put("k:a", {"part": "text"})
    assert {} == memory.get("k:a", ["part"])
    memory.close()
    kept = NarinfoMemory(tmp_path / "kept.sqlite")
    kept.put("k:a", {str(number): "text" for number in range(1_200)})
    assert 1_200 == len(kept.get("k:a", [str(number) for number in range(2_000)]))
    kept.close()
    monkeypatch.setattr(narinfo_memory, "FILE_BYTES_MAX", 10)
    anew = NarinfoMemory(tmp_path / "kept.sqlite")
    assert {} == anew.get("k:a", ["1"])
    anew.close()


def test_a_memory_that_breaks_while_it_is_used_is_let_go(tmp_path: Path) -> None:
    """A table that somebody dropped makes it forget, and fail nobody."""
    file = tmp_path / "narinfos.sqlite"
    memory = NarinfoMemory(file)
    with sqlite3.connect(file) as other:
        other.execute("DROP TABLE narinfo")
    other.close()
    memory.put("k:a", {"part": "text"})
    assert {} == memory.get("k:a", ["part"])
    memory.close()


async def test_the_local_store_counts_and_caches_add_the_size_of_files() -> None:
    """What this machine has built is known before any cache has it; caches only tell how large the files are."""
    local = {
        A: StoreObject(path=A, nar_bytes=7, references=(B,)),
        B: StoreObject(path=B, nar_bytes=8),
    }
    async with httpd(serve({B: text_of(B, C, nar_bytes=100)})) as server:
        walk = await walked([ref(server)], A, local=local)
    assert StoreObject(path=A, nar_bytes=7, references=(B,)) == walk.known[A]
    assert StoreObject(path=B, nar_bytes=8, file_bytes=50) == walk.known[B]
    assert () == walk.notes
