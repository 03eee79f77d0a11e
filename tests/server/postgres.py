"""A throwaway PostgreSQL cluster for tests: run as a plain user on a unix socket and a free loopback port."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_WAIT_S = 60


def binaries() -> Path | None:
    """Find the newest installed server's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    return Path(initdb).parent if initdb else None


def _as_plain_user(folder: Path) -> list[str]:
    """Give the folder to a user that may run a server, for PostgreSQL refuses root; nothing to do when not root."""
    if os.geteuid() != 0:
        return []
    user = (
        pwd.getpwnam("postgres") if any(one.pw_name == "postgres" for one in pwd.getpwall()) else pwd.getpwnam("nobody")
    )
    os.chown(folder, user.pw_uid, user.pw_gid)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


@contextmanager
def cluster() -> Iterator[str]:
    """Start a cluster and give the URL of its server, without a database name; gone with everything afterwards."""
    with files() as folder, running(folder) as url:
        yield url


@contextmanager
def files() -> Iterator[Path]:
    """Make the files of a cluster and give their folder; gone afterwards."""
    programs = binaries()
    assert programs is not None
    folder = Path(tempfile.mkdtemp(prefix="nfpg", dir="/tmp"))
    init: list[str | Path] = [programs / "initdb", "-D", folder / "data", "-A", "trust", "-U", "nixfleet", "--no-sync"]
    init += ["-E", "UTF8", "--locale=C"]
    try:
        command = [*_as_plain_user(folder), *map(str, init)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(folder: Path, **more: str) -> Iterator[str]:
    """Serve the cluster in a folder, with some settings more, and give the URL of its server."""
    programs = binaries()
    assert programs is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": folder, "fsync": "off"}
    settings |= {"max_connections": 60, "shared_buffers": "16MB", **more}
    flags = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    command: list[str | Path] = [*_as_plain_user(folder), programs / "postgres", "-D", folder / "data", *flags]
    with (folder / "log").open("ab") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")
    try:
        ready = [f"{programs}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port), "-t", "5"]
        _until_ready(ready, server)
        yield f"postgresql://nixfleet@127.0.0.1:{port}"
    finally:
        server.send_signal(2)
        server.wait(_WAIT_S)


def _until_ready(command: list[str], server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _WAIT_S
    while subprocess.run(command, check=False).returncode != 0:
        assert server.poll() is None, "the PostgreSQL server ended"
        assert time.monotonic() < deadline, "the PostgreSQL server does not start"
        time.sleep(0.05)  # the server has no event to wait on; bounded by the deadline above


def new_database(url: str, name: str) -> str:
    """Create an empty database and give its URL."""
    programs = binaries()
    assert programs is not None
    subprocess.run([programs / "createdb", f"--maintenance-db={url}/postgres", name], check=True)
    return f"{url}/{name}"
