"""A real ssh-agent that holds a fresh ed25519 key, and more when asked for."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

DEADLINE_S = 10


@dataclass(frozen=True)
class SshAgent:
    """Where it listens, and the public key file; the private key is in the agent alone."""

    sock: Path
    public: Path


@contextmanager
def ssh_agent(folder: Path) -> Iterator[SshAgent]:
    """Start an agent in a folder, and end it with the block."""
    if shutil.which("ssh-agent") is None:
        pytest.skip("needs ssh-agent")
    folder.mkdir(parents=True, exist_ok=True)
    sock = folder / "agent.sock"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(sock)], stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + DEADLINE_S
        while not sock.exists():
            assert time.monotonic() < end, "ssh-agent does not listen"
            time.sleep(0.01)
        yield SshAgent(sock, add_key(sock, folder / "id_ed25519"))
    finally:
        process.terminate()
        process.wait(10)


def add_key(sock: Path, file: Path) -> Path:
    """Make a key that is in an agent alone; give its public file."""
    public = make_key(file)
    env = {**os.environ, "SSH_AUTH_SOCK": str(sock)}
    subprocess.run(["ssh-add", "-q", str(file)], env=env, check=True, timeout=10)
    file.unlink()
    return public


def make_key(file: Path) -> Path:
    """Make a key without a passphrase; give its public file."""
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(file)]
    subprocess.run(argv, check=True, timeout=10)
    return file.with_name(f"{file.name}.pub")
