"""Signers against a real ssh-agent and a real ssh-keygen, and against agents that misbehave."""

import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.core.keyfiles import KEY, NAMESPACE, OTHER, PAYLOAD, find

from nixfleet.errors import NixfleetError, Unreachable, Untrusted, UserError
from nixfleet.trust import signers, sshagent, sshsig
from nixfleet.trust.signers import AgentSigner, KeygenSigner, MemorySigner
from nixfleet.trust.sshsig import SecretKey
from nixfleet.trust.sshwire import string, u32

needs_openssh = pytest.mark.skipif(
    not all(map(shutil.which, ("ssh-keygen", "ssh-agent", "ssh-add"))), reason="OpenSSH's client is not installed"
)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Give a folder with a path short enough for a socket's name."""
    with tempfile.TemporaryDirectory(prefix="nf-") as folder:
        yield Path(folder)


@pytest.fixture
def agent(short_folder: Path) -> Iterator[str]:
    """Start a real, empty ssh-agent; it forks once its socket listens."""
    path = str(short_folder / "agent")
    told = subprocess.run(["ssh-agent", "-s", "-a", path], capture_output=True, text=True, timeout=30, check=True)
    match = re.search(r"SSH_AGENT_PID=(\d+)", told.stdout)
    assert match
    yield path
    os.kill(int(match[1]), signal.SIGTERM)


def write_key(folder: Path, key: SecretKey, name: str = "id") -> Path:
    """Write a private key file and its .pub as ssh-keygen would; returns the private one."""
    path = folder / name
    path.write_text(key.to_openssh())
    path.chmod(0o600)
    path.with_suffix(".pub").write_text(f"{key.public.text} a comment\n")
    return path


def add_key(agent: str, path: Path) -> None:
    """Add a private key to the agent."""
    ssh_add(agent, str(path))


def ssh_add(agent: str, *arguments: str) -> None:
    """Run ssh-add."""
    environment = {**os.environ, "SSH_AUTH_SOCK": agent}
    subprocess.run(["ssh-add", "-q", *arguments], env=environment, timeout=30, check=True, capture_output=True)


class FakeAgent:
    """An agent that answers every connection with the same bytes, then hangs up, or never does."""

    def __init__(self, path: Path, answer: bytes, *, hang: bool = False) -> None:
        self.path = str(path)
        self._answer, self._hang = answer, hang
        self._stop = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                if self._stop.is_set():
                    return
                with contextlib.suppress(OSError):  # the client may have given up by now
                    connection.recv(4096)
                    connection.sendall(self._answer)
                if self._hang:
                    self._stop.wait(30)

    def __enter__(self) -> str:
        self._thread.start()
        return self.path

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(self.path)
        self._thread.join(30)
        self._listener.close()


def signed_by(key: SecretKey) -> bytes:
    """Return an agent's answer with a genuine signature by `key` over the test's payload."""
    raw = key.sign_raw(sshsig.to_sign(NAMESPACE, sshsig.message_digest(PAYLOAD)))
    return string(bytes([14]) + string(string(b"ssh-ed25519") + string(raw)))


def test_memory_signer() -> None:
    """A key in memory signs what then verifies under it."""
    signer: signers.Signer = MemorySigner(KEY)
    assert KEY.public == signer.key == sshsig.verify(signer.sign(NAMESPACE, PAYLOAD), PAYLOAD, NAMESPACE)


@needs_openssh
def test_agent_signs(agent: str, tmp_path: Path) -> None:
    """A real agent lists its ed25519 keys only, and signs with the one asked for."""
    for number, key in enumerate((KEY, OTHER)):
        add_key(agent, write_key(tmp_path, key, f"id{number}"))
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", str(tmp_path / "ecdsa")], timeout=30, check=True)
    add_key(agent, tmp_path / "ecdsa")
    assert [KEY.public, OTHER.public] == sshagent.keys(agent)
    blob = AgentSigner(OTHER.public, agent).sign(NAMESPACE, PAYLOAD)
    assert OTHER.sign(NAMESPACE, PAYLOAD) == blob
    with pytest.raises(UserError, match="would not sign"):
        AgentSigner(SecretKey.generate().public, agent).sign(NAMESPACE, PAYLOAD)


@needs_openssh
def test_locked_agent_says_so(agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A locked agent holds no key for us, and will not sign."""
    add_key(agent, write_key(tmp_path, KEY))
    ask = askpass(tmp_path, "lock")
    monkeypatch.setenv("SSH_ASKPASS", str(ask))
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    ssh_add(agent, "-x")
    assert [] == sshagent.keys(agent)
    with pytest.raises(UserError, match="is locked"):
        AgentSigner(KEY.public, agent).sign(NAMESPACE, PAYLOAD)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", Unreachable),
        (b"\0\0", Unreachable),
        (u32(0), Untrusted),
        (u32(256 * 1024 + 1), Untrusted),
        (u32(50) + b"\x0e", Unreachable),
        (string(b"\x05"), UserError),
        (string(b"\x0e"), Untrusted),
        (string(b"\x0e" + string(b"x") + b"y"), Untrusted),
        (string(b"\x0e" + string(b"x")), Untrusted),
        (signed_by(OTHER), Untrusted),
    ],
)
def test_misbehaving_agents_are_caught(short_folder: Path, answer: bytes, error: type[NixfleetError]) -> None:
    """Whatever an agent answers, the result is a verified signature or one clear error."""
    with FakeAgent(short_folder / "fake", answer) as path, pytest.raises(error):
        AgentSigner(KEY.public, path, limit_s=20).sign(NAMESPACE, PAYLOAD)


def security_key(flags: int) -> tuple[sshsig.PublicKey, bytes]:
    """Give a security key made of software, and its agent's answer over the test's payload with these flags."""
    kind = string(b"sk-ssh-ed25519@openssh.com")
    public = sshsig.PublicKey.from_blob(kind + string(KEY.public.raw) + string(b"ssh:"))
    told = bytes([flags]) + u32(7)
    digest = hashlib.sha256(sshsig.to_sign(NAMESPACE, sshsig.message_digest(PAYLOAD))).digest()
    raw = KEY.sign_raw(hashlib.sha256(b"ssh:").digest() + told + digest)
    return public, kind + string(raw) + told


@pytest.mark.parametrize(("flags", "touched"), [(0x01, True), (0x05, True), (0x00, False), (0x04, False)])
def test_a_security_key_must_have_been_touched(short_folder: Path, flags: int, *, touched: bool) -> None:
    """A signature without the touch flag, PIN or not, is refused where it is made, and says which key to use."""
    public, answer = security_key(flags)
    with FakeAgent(short_folder / "fake", string(bytes([14]) + string(answer))) as path:
        signer = AgentSigner(public, path)
        if touched:
            assert public == sshsig.verify(signer.sign(NAMESPACE, PAYLOAD), PAYLOAD, NAMESPACE)
        else:
            with pytest.raises(Untrusted, match=r"without a touch.*'no-touch-required' key; use one made without"):
                signer.sign(NAMESPACE, PAYLOAD)


@pytest.mark.parametrize(("flags", "touched"), [(0x01, True), (0x00, False)])
def test_ssh_keygen_with_an_untouched_key_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: int, *, touched: bool
) -> None:
    """What ssh-keygen signed with a security key is held to the same: no touch, no statement."""
    public, answer = security_key(flags)
    signature = tmp_path / "made"
    signature.write_text(sshsig.armor(sshsig.pack(public, NAMESPACE, answer)))
    program = tmp_path / "bin" / "ssh-keygen"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nfor last; do :; done\ncp {signature} "$last.sig"\n')
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    file = tmp_path / "id_sk.pub"
    file.write_text(public.text)
    if touched:
        assert public == sshsig.verify(KeygenSigner(file).sign(NAMESPACE, PAYLOAD), PAYLOAD, NAMESPACE)
    else:
        with pytest.raises(Untrusted, match="without a touch"):
            KeygenSigner(file).sign(NAMESPACE, PAYLOAD)


def test_genuine_fake_agent_signs(short_folder: Path) -> None:
    """The same fake with the right answer passes: the cases above fail for their answers alone."""
    with FakeAgent(short_folder / "fake", signed_by(KEY)) as path:
        assert KEY.sign(NAMESPACE, PAYLOAD) == AgentSigner(KEY.public, path).sign(NAMESPACE, PAYLOAD)


@pytest.mark.parametrize(
    "answer", [string(b"\x05"), string(b"\x0c" + u32(3000)), string(b"\x0c" + u32(1)), string(b"\x0c" + u32(0) + b"x")]
)
def test_malformed_key_lists_are_caught(short_folder: Path, answer: bytes) -> None:
    """A refused, endless, short or overlong list of keys is one clear error."""
    with FakeAgent(short_folder / "fake", answer) as path, pytest.raises((Unreachable, Untrusted)):
        sshagent.keys(path)


@pytest.mark.parametrize("answer", [b"", u32(100) + b"\x0e"])
def test_hanging_agent_times_out(short_folder: Path, answer: bytes) -> None:
    """An agent that does not finish its answer is given up within the limit."""
    with (
        FakeAgent(short_folder / "fake", answer, hang=True) as path,
        pytest.raises(Unreachable, match="did not answer within"),
    ):
        AgentSigner(KEY.public, path, limit_s=0.2).sign(NAMESPACE, PAYLOAD)


@pytest.mark.parametrize("path", ["/nonexistent/agent", "x" * 200, "a\0b"])
def test_absent_agent_is_unreachable(path: str) -> None:
    """A socket that is not there, or cannot be, is Unreachable."""
    with pytest.raises(Unreachable, match="cannot be reached"):
        sshagent.keys(path)


@needs_openssh
def test_a_protected_key_without_a_terminal_says_so(tmp_path: Path) -> None:
    """A job of CI has nowhere to type a passphrase: it is told of ssh-add, not of a passphrase nobody gave."""
    path = tmp_path / "id"
    made = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "zwölf", "-f", str(path)]
    subprocess.run(made, timeout=30, check=True)
    for file in (path, path.with_suffix(".pub")):
        script = (
            f"from pathlib import Path; from nixfleet.trust.signers import KeygenSigner as K; K(Path({str(file)!r}))"
        )
        told = subprocess.run(
            [sys.executable, "-c", f"{script}.sign({NAMESPACE!r}, b'x')"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            start_new_session=True,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert "is protected by a passphrase, and there is no terminal" in told.stderr
        assert f"'ssh-add {path}'" in told.stderr


@needs_openssh
@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_a_key_of_another_type_is_told_by_its_type(tmp_path: Path, kind: str) -> None:
    """Whatever its size, a private key is refused for its type, with the types that are taken."""
    path = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(path)], timeout=60, check=True)
    with pytest.raises(UserError, match=rf"id: .*type '[a-z0-9-]*{kind}.*only ssh-ed25519 and sk-ssh-ed25519@openssh"):
        find(None, key_file=path)


def askpass(folder: Path, passphrase: str) -> Path:
    """Write a program that answers OpenSSH's question for a passphrase."""
    program = folder / "askpass"
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' '{passphrase}'\n")
    program.chmod(0o700)
    return program


@needs_openssh
@pytest.mark.parametrize("suffix", ["", ".pub"])
def test_keygen_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """ssh-keygen signs by the private file, or by the .pub with the private file beside it."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    signer = KeygenSigner(write_key(tmp_path, KEY).with_suffix(suffix))
    assert KEY.public == signer.key
    assert KEY.sign(NAMESPACE, PAYLOAD) == signer.sign(NAMESPACE, PAYLOAD)


@needs_openssh
def test_keygen_asks_for_the_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encrypted key is opened by ssh-keygen's own question; a wrong answer is one clear error."""
    path = write_key(tmp_path, KEY)
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", str(path)], timeout=30, check=True)
    path.with_suffix(".pub").unlink()
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    monkeypatch.setenv("SSH_ASKPASS", str(askpass(tmp_path, "secret")))
    signer = KeygenSigner(path)
    assert KEY.public == signer.key
    assert KEY.sign(NAMESPACE, PAYLOAD) == signer.sign(NAMESPACE, PAYLOAD)
    askpass(tmp_path, "wrong")
    with pytest.raises(UserError, match=re.escape(str(path))):
        signer.sign(NAMESPACE, PAYLOAD)


@needs_openssh
def test_keygen_with_the_wrong_private_key_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A .pub that does not belong to the private file beside it gives no signature."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    path = write_key(tmp_path, KEY)
    path.with_suffix(".pub").write_text(OTHER.public.text)
    with pytest.raises((UserError, Untrusted)):
        KeygenSigner(path.with_suffix(".pub")).sign(NAMESPACE, PAYLOAD)


def test_absent_ssh_keygen_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ssh-keygen on the PATH the error says what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="install OpenSSH"):
        KeygenSigner(write_key(tmp_path, KEY)).sign(NAMESPACE, PAYLOAD)


@needs_openssh
def test_sign_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The payload's temporary folder is gone after a signature and after a failure."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    path = write_key(tmp_path, KEY)
    KeygenSigner(path).sign(NAMESPACE, PAYLOAD)
    signer = KeygenSigner(path)
    path.unlink()
    with pytest.raises(UserError):
        signer.sign(NAMESPACE, PAYLOAD)
    assert [] == list(temporary.iterdir())


@needs_openssh
def test_find_prefers_the_agent(agent: str, tmp_path: Path) -> None:
    """The agent signs where it holds the key, else the private file; a lone .pub says run ssh-add."""
    path = write_key(tmp_path, KEY)
    public = path.with_suffix(".pub")
    for file in (path, public):
        assert isinstance(find(key_file=file, ssh_auth_sock=agent), KeygenSigner)
        assert isinstance(find(key_file=file, ssh_auth_sock="/nonexistent"), KeygenSigner)
    add_key(agent, path)
    expected = AgentSigner(KEY.public, agent)
    for file in (path, public):
        assert expected == find(key_file=file, ssh_auth_sock=agent)
    assert expected == find(KEY.public, ssh_auth_sock=agent)
    assert expected == find(ssh_auth_sock=agent)
    path.unlink()
    assert expected == find(KEY.public, key_file=public, ssh_auth_sock=agent)
    with pytest.raises(UserError, match="run ssh-add, or pass --key"):
        find(key_file=public)
    with pytest.raises(UserError, match=re.escape(f"holds no key {OTHER.public.fingerprint}: run ssh-add")):
        find(OTHER.public, ssh_auth_sock=agent)


@needs_openssh
def test_find_does_not_guess_among_several(agent: str, tmp_path: Path) -> None:
    """With no key named, an empty agent and one with two keys are clear errors."""
    with pytest.raises(UserError, match="no ed25519 key: run ssh-add"):
        find(ssh_auth_sock=agent)
    for number, key in enumerate((KEY, OTHER)):
        add_key(agent, write_key(tmp_path, key, f"id{number}"))
    with pytest.raises(UserError, match="several keys"):
        find(ssh_auth_sock=agent)


def test_find_without_any_way_says_what_to_do() -> None:
    """Neither file nor agent: the error names both ways out."""
    with pytest.raises(UserError, match="start ssh-agent and run ssh-add, or pass --key FILE"):
        find()
    with pytest.raises(UserError, match=r"cannot be reached.*ssh-add"):
        find(ssh_auth_sock="/nonexistent/agent")


def test_find_names_a_bad_file(tmp_path: Path) -> None:
    """A missing, foreign or oversized key file is named in the error."""
    path = tmp_path / "key"
    with pytest.raises(UserError, match="No such file"):
        find(key_file=path)
    for content in (b"hello", b"ssh-rsa AAAA", b"\xff\xfe", KEY.to_openssh().encode()[:200], b"x" * 100_000):
        path.write_bytes(content)
        with pytest.raises(UserError, match=re.escape(str(path))):
            find(key_file=path)
