"""Signing on the command line: sealed keys, where their passphrase comes from, and one sign-in for twelve hours."""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from nacl.pwhash import argon2id
from tests.cli.commandline import Commands

from nixfleet.cli import passphrases
from nixfleet.errors import UserError
from nixfleet.trust.signers import SealedSigner

DEADLINE_S = 60
SECRET = "open sesame"
CONFIRMS = """
import asyncio, sys
from nixfleet.cli.main import main
from nixfleet.cli.options import command, confirm, Globals
from nixfleet.cli import main as module
import click
@click.command()
@command
async def act(given: Globals) -> None:
    confirm(given, "Do it, for good?")
    print("done")
module.COMMANDS["act"] = "__main__:act"
sys.exit(main(["act"]))
"""
ASKS = "import sys; from nixfleet.cli.passphrases import ask_hidden; print('got', repr(ask_hidden('Passphrase: ')))"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seal with the least memory that is taken."""
    monkeypatch.setattr(argon2id, "MEMLIMIT_MODERATE", 8 << 20)


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    """Give a passphrase file that only its owner may read."""
    path = tmp_path / "passphrase"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def sealed(nixfleet: Commands, secret_file: Path, monkeypatch: pytest.MonkeyPatch, quick: None) -> Iterator[Commands]:
    """Give a served fleet whose only root key is sealed, made without a terminal."""
    monkeypatch.setenv(passphrases.VARIABLE, str(secret_file))
    nixfleet("init", "acme", "--url", nixfleet.url, "--key", "new")
    monkeypatch.delenv(passphrases.VARIABLE)
    server = nixfleet.server()
    server.start()
    try:
        yield nixfleet
    finally:
        server.stop()


def test_a_passphrase_comes_from_the_file_that_the_variable_names(
    sealed: Commands, secret_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, and without a terminal, the way on is said; with it, acts are signed."""
    refused = sealed("enroll", "token", "--yes", code=2)
    assert "no terminal to ask for its passphrase: name a file with it in NIXFLEET_PASSPHRASE_FILE" in refused.err
    monkeypatch.setenv(passphrases.VARIABLE, str(secret_file))
    assert sealed("enroll", "token", "--yes").out.startswith("nixfleet-join-1.")
    secret_file.chmod(0o644)
    assert "can be read by others" in sealed("enroll", "token", "--yes", code=2).err
    secret_file.chmod(0o600)
    secret_file.write_text("wrong\n")
    assert "the passphrase does not open this key file" in sealed("enroll", "token", "--yes", code=2).err


def test_a_passphrase_comes_from_the_file_that_the_context_names(sealed: Commands, secret_file: Path) -> None:
    """It is kept when contexts are written anew, and is for the context's own key alone."""
    config = sealed.home / "config" / "config.toml"
    config.write_text(f'{config.read_text()}passphrase_file = "{secret_file}"\n')
    sealed("context", "use", "acme")
    assert f'passphrase_file = "{secret_file}"' in config.read_text()
    assert sealed("enroll", "token", "--yes").out.startswith("nixfleet-join-1.")
    key = sealed.home / "config" / "keys" / "acme.key"
    other = key.with_name("other.key")
    other.write_bytes(key.read_bytes())
    assert "no terminal" in sealed("--key", str(other), "enroll", "token", "--yes", code=2).err


def test_a_person_signs_in_once_for_twelve_hours(
    sealed: Commands, secret_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One signature serves the reads of all commands; when the session is over, the next read asks once more."""
    monkeypatch.setenv(passphrases.VARIABLE, str(secret_file))
    signed: list[str] = []
    honest = SealedSigner.sign

    def counted(signer: SealedSigner, namespace: str, payload: bytes) -> bytes:
        signed.append(namespace)
        return honest(signer, namespace, payload)

    monkeypatch.setattr(SealedSigner, "sign", counted)
    reads = (("device", "list"), ("audit", "list"), ("rollout", "list"), ("access", "root", "show"), ("approve",))
    for read in reads:
        sealed(*read)
    assert ["nixfleet-session-v1"] == signed
    monkeypatch.delenv(passphrases.VARIABLE)
    for read in reads:
        sealed(*read)
    (kept,) = [path for path in (sealed.home / "state" / "sessions").rglob("*") if path.is_file()]
    session = msgspec.json.decode(kept.read_bytes())
    assert 12 * 3_600 - 120 < session["not_after"] - time.time() <= 12 * 3_600
    kept.write_bytes(msgspec.json.encode({**session, "not_after": int(time.time()) + 60}))
    assert "no terminal to ask for its passphrase" in sealed("device", "list", code=2).err
    monkeypatch.setenv(passphrases.VARIABLE, str(secret_file))
    sealed("device", "list")
    assert 3 == signed.count("nixfleet-session-v1")


def sleeps(pid: int) -> bool:
    """Tell whether a process waits for something (proc_pid_stat(5), field 3)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def on_terminal(typed: bytes, asks: str = ASKS) -> tuple[int, str]:
    """Ask on a terminal of its own, type, and give the exit code and all that the terminal showed."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); {asks}"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as asking:
        os.close(theirs)
        shown, ends, sent = b"", time.monotonic() + DEADLINE_S, False
        while time.monotonic() < ends:
            asked = any(text in shown for text in (b"Passphrase: ", b"[y/N]"))
            # Nobody types between the question and the reading of the answer; there a signal could be missed.
            if asked and not sent and sleeps(asking.pid):
                os.write(ours, typed)
                sent = True
            try:
                if select.select([ours], [], [], 0.1)[0]:
                    shown += os.read(ours, 4096)
            except OSError:
                break  # the other side is closed (EIO)
        code = asking.wait(DEADLINE_S)
    os.close(ours)
    return code, shown.decode()


def test_what_is_typed_is_not_shown() -> None:
    """The answer arrives, and the terminal shows nothing of it."""
    code, shown = on_terminal(b"zw\xc3\xb6lf\n")
    assert (0, 1) == (code, shown.count("zwölf"))
    assert shown.endswith("got 'zwölf'\r\n")


def test_ctrl_c_ends_the_question() -> None:
    """It ends at once, wherever the question is asked from, and what was typed is not taken."""
    code, shown = on_terminal(b"half\x03")
    assert (1, False) == (code, "got" in shown)
    assert "Abort" in shown


@pytest.mark.parametrize(
    ("typed", "code", "told"), [(b"\x03", 1, "interrupted"), (b"n\n", 1, "nothing is done"), (b"y\n", 0, "done")]
)
def test_a_question_before_an_act_is_ended_at_once(typed: bytes, code: int, told: str) -> None:
    """One Ctrl-C is enough, though a command runs in an event loop, and nothing is done then."""
    ended, shown = on_terminal(typed, f"exec({CONFIRMS!r})")
    assert (code, True) == (ended, told in shown.partition("[y/N]")[2])


def test_a_new_passphrase_is_asked_for_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that differ, and an empty one, seal nothing."""
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    for answers, why in ((["a", "b"], "the two passphrases differ"), ([""], "an empty passphrase")):
        left = iter(answers)
        monkeypatch.setattr(passphrases, "ask_hidden", lambda _, left=left: next(left))
        with pytest.raises(UserError, match=why):
            passphrases.new_passphrase("the new key", {})
    monkeypatch.setattr(passphrases, "ask_hidden", lambda _: SECRET)
    assert SECRET == passphrases.new_passphrase("the new key", {})
