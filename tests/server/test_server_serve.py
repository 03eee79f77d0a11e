"""Beginning a fleet, starting, stopping, and what stands in the way of it: one clear line each."""

import asyncio
import stat
from pathlib import Path

import pytest
from tests.factories import Fleet, key
from tests.server.harness import Rig, rig

from nixfleet.errors import Unreachable, Untrusted, UserError
from nixfleet.server.serve import Server, running
from nixfleet.server.settings import ServerSettings
from nixfleet.server.setup import create_fleet
from nixfleet.trust.leaf import Leaf
from nixfleet.trust.narinfo import CacheKey
from nixfleet.trust.sshsig import SecretKey

CACHE_KEY = CacheKey.generate("acme-1").text


def test_new_fleet_has_its_keys_and_nothing_else(tmp_path: Path) -> None:
    """The folder and the secrets are their owner's only; the fleet id is the first payload's digest."""
    one = Rig(tmp_path / "deep" / "data", Fleet())
    assert one.create() == one.fleet.fleet
    assert sorted(path.name for path in one.data_dir.iterdir()) == ["cache", "cache.key", "fleet.db", "log.key"]
    assert sorted(path.name for path in one.data_dir.parent.iterdir()) == ["data"]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (one.data_dir, *one.data_dir.glob("*.key"))}
    assert modes == {"data": 0o700, "log.key": 0o600, "cache.key": 0o600}
    assert SecretKey.from_openssh((one.data_dir / "log.key").read_text()) == one.fleet.log_key


def test_a_key_that_is_gone_is_named_with_what_it_means(tmp_path: Path) -> None:
    """The coordinator does not begin with another key in its place: what it signs would be trusted by nobody."""
    one = Rig(tmp_path / "data", Fleet())
    one.create()
    for name, why in (("cache.key", "devices trust no other key for this cache"), ("log.key", "nobody else can sign")):
        path = one.data_dir / name
        held = path.read_text()
        path.unlink()
        with pytest.raises(UserError, match=why) as said:
            one.make_server().start()
        assert str(path) in str(said.value)
        path.write_text(held)


async def test_folder_that_was_open_to_others_is_closed(tmp_path: Path) -> None:
    """A fleet begun in a folder of mode 0755, or served from one, is its owner's only, database and cache too."""
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    data.chmod(0o755)

    def modes() -> dict[str, int]:
        return {path.name: stat.S_IMODE(path.stat().st_mode) for path in (data, *data.iterdir())}

    one = Rig(data, Fleet())
    one.create()
    private = {"data": 0o700, "log.key": 0o600, "cache.key": 0o600, "fleet.db": 0o600, "cache": 0o700}
    assert modes() == private
    for path in (data, data / "cache"):
        path.chmod(0o755)
    (data / "fleet.db").chmod(0o644)
    await asyncio.to_thread(one.server.start)
    try:
        beside = {"fleet.db-wal": 0o600, "fleet.db-shm": 0o600, "coordinator.lock": 0o600}
        assert modes() == private | beside
    finally:
        await asyncio.to_thread(one.server.stop)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@db/fleet",
        "postgresql://db/fleet?password=secret",
        "postgresql://me@db/fleet?sslmode=require&PassWord=secret",
        "postgresql://db/fleet?p%61ssword=secret",
        "postgresql://db/fleet?password=",
    ],
)
def test_database_url_with_a_password_is_refused(url: str) -> None:
    """Others read a command line and a unit file: the password belongs into a file, wherever in the URL it stands."""
    with pytest.raises(UserError, match="PGPASSFILE") as refused:
        ServerSettings(data_dir=Path("data"), database_url=url).url()
    assert "secret" not in str(refused.value)
    plain = ServerSettings(data_dir=Path("data"), database_url="postgres://me@db/fleet?passfile=/run/pw")
    assert plain.url() == "postgresql+asyncpg://me@db/fleet?passfile=/run/pw"


def test_second_fleet_in_a_folder_is_refused(tmp_path: Path) -> None:
    """What is there stays as it is."""
    one = Rig(tmp_path / "data", Fleet())
    one.create()
    before = (one.data_dir / "log.key").read_bytes()
    with pytest.raises(UserError, match="already holds"):
        one.create()
    assert (one.data_dir / "log.key").read_bytes() == before


def test_bad_first_statement_leaves_nothing(tmp_path: Path) -> None:
    """A root with a wrong signature, another log key, or that is no root makes no folder."""
    fleet = Fleet()
    leaf, payload = fleet.entries[0]
    good = Leaf.unpack(leaf).sshsig
    fleet.device("web-01")
    other_leaf, other_payload = fleet.entries[1]
    data = tmp_path / "data"
    with pytest.raises(Untrusted):
        create_fleet(data, payload, key("stranger").sign("nixfleet-root-v1", payload), fleet.log_key, CACHE_KEY, now=1)
    with pytest.raises(UserError, match="another log key"):
        create_fleet(data, payload, good, key("other"), CACHE_KEY, now=fleet.now)
    with pytest.raises(UserError, match="begins with a root"):
        create_fleet(data, other_payload, Leaf.unpack(other_leaf).sshsig, fleet.log_key, CACHE_KEY, now=fleet.now)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """A file where the folder should be is named."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/data"):
        Rig(tmp_path / "file" / "data", Fleet()).create()


def test_unreachable_database_takes_the_keys_back(tmp_path: Path) -> None:
    """Without its database a new fleet leaves no keys behind."""
    with pytest.raises(Unreachable):
        Rig(tmp_path / "data", Fleet(), "postgresql://x@127.0.0.1:1/x").create()
    assert list((tmp_path / "data").iterdir()) == []


async def test_fleet_on_postgres_is_served(tmp_path: Path, postgres_url: str) -> None:
    """The same coordinator runs on a PostgreSQL URL; a second fleet there is refused."""
    async with rig(tmp_path / "data", "web-01", database_url=postgres_url) as one, one.client("admin") as admin:
        assert [view.name for view in await admin.devices()] == ["web-01"]
        with pytest.raises(UserError, match="already holds a fleet"):
            Rig(tmp_path / "other", Fleet(), postgres_url).create()
        assert list((tmp_path / "other").iterdir()) == []


def _start(data_dir: Path, listen: str = "127.0.0.1:0") -> None:
    Server(ServerSettings(data_dir=data_dir, listen=listen)).start()


def test_no_fleet_says_how_to_begin_one(tmp_path: Path) -> None:
    """An empty and a missing folder are told apart from a broken one."""
    with pytest.raises(UserError, match="nixfleet init"):
        _start(tmp_path)
    with pytest.raises(UserError, match="nothing"):
        _start(tmp_path / "nothing")


def test_foreign_log_key_is_refused(tmp_path: Path) -> None:
    """A coordinator does not serve a log that it cannot sign."""
    one = Rig(tmp_path / "data", Fleet())
    one.create()
    (one.data_dir / "log.key").write_text(key("other").to_openssh())
    with pytest.raises(UserError, match="put the right one back"):
        _start(one.data_dir)


@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1", "127.0.0.1:99999", "192.0.2.1:0"])
def test_bad_address_is_one_line(tmp_path: Path, listen: str) -> None:
    """An address that is none, or not of this machine, is told as such."""
    one = Rig(tmp_path / "data", Fleet())
    one.create()
    with pytest.raises(UserError, match="listen"):
        _start(one.data_dir, listen)


async def test_taken_port_and_served_folder_are_told(tmp_path: Path) -> None:
    """A second coordinator on the port, or on the folder, says so in one line; the first runs on."""
    async with rig(tmp_path / "data") as one, one.client("admin") as admin:
        other = Rig(tmp_path / "other", Fleet())
        other.create()
        with pytest.raises(UserError, match="in use"):
            await asyncio.to_thread(_start, other.data_dir, one.server.address.removeprefix("http://"))
        with pytest.raises(UserError, match=f"already serves .* at {one.server.address}"):
            await asyncio.to_thread(_start, one.data_dir)
        assert running(one.data_dir) == one.server.address
        assert running(other.data_dir) is None
        assert (await admin.fleet()).log_size == 1
        await asyncio.to_thread(one.server.stop)
        one.server.stop()
        assert running(one.data_dir) is None
