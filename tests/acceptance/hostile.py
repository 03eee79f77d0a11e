"""What a hostile coordinator or cache can make with the keys that it holds; those of admins are out of its reach."""

import hashlib
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal

import msgspec
import zstandard
from tests.acceptance.bench import Bench
from tests.acceptance.front import Alter

from nixfleet.model.ids import FleetId
from nixfleet.model.wire import LineAnswer, Sync
from nixfleet.server.coordinator.judging import judge
from nixfleet.server.store.rows import values
from nixfleet.trust.leaf import Leaf
from nixfleet.trust.narinfo import CacheKey, NarInfo, base32_encode, format_narinfo, parse_narinfo
from nixfleet.trust.replay import State, Void, replay
from nixfleet.trust.sshsig import SecretKey


def log_key(bench: Bench) -> SecretKey:
    """Give the key that signs checkpoints and gates."""
    return SecretKey.from_openssh((bench.data_dir / "log.key").read_text())


def replayed(bench: Bench) -> tuple[State, list[tuple[bytes, bytes]]]:
    """Replay the coordinator's database; give the state, and each entry's leaf and payload."""
    with closing(sqlite3.connect(bench.data_dir / "fleet.db")) as database:
        rows = database.execute('select leaf, payload from entries order by "index"').fetchall()
    state = State(fleet=FleetId(hashlib.sha256(rows[0][1]).hexdigest()))
    for index, (leaf, payload) in enumerate(rows):
        replay(state, index, leaf, payload)
    return state, rows


def smuggle(bench: Bench, payload: bytes, signature: bytes) -> str:
    """Write an entry into a stopped coordinator's database, whatever its worth; give the reason why it has none."""
    state, rows = replayed(bench)
    leaf = Leaf(state.last_time, hashlib.sha512(payload).digest(), signature)
    entry = judge(state, len(rows), leaf, payload)
    row = values(entry.row)
    names = ", ".join(f'"{name}"' for name in row)
    places = ", ".join("?" * len(row))
    with closing(sqlite3.connect(bench.data_dir / "fleet.db")) as database:
        database.execute(f"insert into entries ({names}) values ({places})", tuple(row.values()))
        database.commit()
    assert isinstance(entry.verdict, Void), entry.verdict
    return entry.verdict.reason


def in_sync(change: Callable[[Sync], Sync]) -> Alter:
    """Change what agents are told of the log."""

    def alter(path: str, body: bytes) -> bytes:
        if not path.startswith("/v1/sync"):
            return body
        return msgspec.json.encode(change(msgspec.json.decode(body, type=Sync)))

    return alter


def in_line(change: Callable[[str], str]) -> Alter:
    """Change the text of a device's own line of a release."""

    def alter(path: str, body: bytes) -> bytes:
        if not path.endswith("/line"):
            return body
        told = msgspec.json.decode(body, type=LineAnswer)
        if told.line is None:
            return body
        line = msgspec.structs.replace(told.line, line=change(told.line.line))
        return msgspec.json.encode(msgspec.structs.replace(told, line=line))

    return alter


@dataclass(frozen=True)
class Spoiled:
    """One store path of the built-in cache with other content of the same length."""

    info: NarInfo
    key: CacheKey
    nar: bytes
    """The changed NAR, compressed."""
    said: NarInfo
    """A true narinfo of the changed NAR, not signed."""

    @classmethod
    def of(cls, bench: Bench, name: str) -> "Spoiled":
        """Change the path whose name ends so."""
        infos = [parse_narinfo(file.read_text()) for file in (bench.data_dir / "cache" / "narinfo").iterdir()]
        [info] = [info for info in infos if info.store_path.endswith(name)]
        file = (bench.data_dir / "cache" / info.url).read_bytes()
        nar = bytearray(zstandard.ZstdDecompressor().decompressobj().decompress(file))
        place = nar.rindex(b"\n") - 1  # the last character of a blob of hexadecimal noise
        nar[place] = ord("0") if nar[place] != ord("0") else ord("1")
        packed = zstandard.ZstdCompressor().compress(bytes(nar))
        said = replace(
            info,
            file_hash=f"sha256:{base32_encode(hashlib.sha256(packed).digest())}",
            file_bytes=len(packed),
            nar_hash=f"sha256:{base32_encode(hashlib.sha256(nar).digest())}",
            signatures=(),
        )
        return cls(info, CacheKey.parse((bench.data_dir / "cache.key").read_text()), packed, said)

    def serving(self, lie: Literal["nar", "key", "both"]) -> Alter:
        """Serve the changed NAR under the true narinfo, the true NAR by a wrong key, or a consistent, signed lie."""
        stranger = CacheKey.generate(self.key.name)
        infos = {
            "nar": self.info,
            "key": stranger.signed(replace(self.info, signatures=())),
            "both": self.key.signed(self.said),
        }

        def alter(path: str, body: bytes) -> bytes:
            if path.endswith(f"/{self.info.store_path[11:43]}.narinfo"):
                return format_narinfo(infos[lie]).encode()
            if path.endswith(self.info.url) and lie != "key":
                return self.nar
            return body

        return alter
