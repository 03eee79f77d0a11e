"""A real ssh-agent that holds one fresh ed25519 key."""

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
        public = make_key(folder / "id_ed25519")
        private = public.with_suffix("")
        env = {**os.environ, "SSH_AUTH_SOCK": str(sock)}
        subprocess.run(["ssh-add", "-q", str(private)], env=env, check=True, timeout=10)
        private.unlink()
        yield SshAgent(sock, public)
    finally:
        process.terminate()
        process.wait(10)


def make_key(file: Path) -> Path:
    """Make a key without a passphrase; give its public file."""
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(file)]
    subprocess.run(argv, check=True, timeout=10)
    return file.with_name(f"{file.name}.pub")
