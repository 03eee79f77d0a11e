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
    programs = binaries()
    assert programs is not None
    folder = Path(tempfile.mkdtemp(prefix="nfpg", dir="/tmp"))
    run: list[str | Path] = list(_as_plain_user(folder))
    data = folder / "data"
    try:
        init = [
            programs / "initdb",
            "-D",
            data,
            "-A",
            "trust",
            "-U",
            "nixfleet",
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C",
        ]
        subprocess.run([*map(str, run), *map(str, init)], check=True, stdout=subprocess.DEVNULL, cwd="/")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": folder, "fsync": "off"}
        settings |= {"max_connections": 60, "shared_buffers": "16MB"}
        flags = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [*run, programs / "postgres", "-D", data, *flags], stdout=log, stderr=log, cwd="/"
            )
        try:
            url = f"postgresql://nixfleet@127.0.0.1:{port}"
            ready = [f"{programs}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port), "-t", "5"]
            _until_ready(ready, server)
            yield url
        finally:
            server.send_signal(2)
            server.wait(_WAIT_S)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
