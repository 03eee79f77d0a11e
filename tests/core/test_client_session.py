"""Session keys: one signature for twelve hours, kept privately, renewed when ended or refused."""

import asyncio
import stat
from pathlib import Path

import msgspec
import pytest
from tests.factories import T0, key
from tests.httpd import Answer, Asked, httpd, refusal

from nixfleet.client.api import Client
from nixfleet.client.session import SessionKeeper
from nixfleet.errors import Untrusted
from nixfleet.model.ids import Fingerprint
from nixfleet.model.wire import Signed
from nixfleet.trust.reports import open_session
from nixfleet.trust.signers import MemorySigner
from nixfleet.trust.sshsig import PublicKey, SecretKey, parse_public_key

FLEET = "ab" * 32
HOUR_S = 3_600


class Person:
    """A signer that counts how often it was asked, as a key that wants a touch would."""

    def __init__(self) -> None:
        self.asked = 0
        self._own = MemorySigner(key("lead"))

    @property
    def key(self) -> PublicKey:
        """The public key."""
        return self._own.key

    def sign(self, namespace: str, payload: bytes) -> bytes:
        """Sign, and count."""
        self.asked += 1
        return self._own.sign(namespace, payload)


class Sessions:
    """A coordinator that knows sessions: it answers who signed, and forgets all on demand."""

    def __init__(self) -> None:
        self.known: dict[Fingerprint, PublicKey] = {}
        self.now = T0

    def __call__(self, asked: Asked) -> Answer:
        """Register a session, or check a signed request."""
        if asked.path == "/v1/sessions":
            session = open_session(msgspec.json.decode(asked.body, type=Signed), fleet=FLEET, now=self.now)
            public = parse_public_key(session.key)
            self.known[Fingerprint(public.fingerprint)] = public
            return Answer()
        try:
            asked.signer(now=self.now, fleet=FLEET, key_of=self.known.get)
        except Untrusted as error:
            return refusal("untrusted", str(error), status=401)
        return Answer(b'{"rollouts": []}')


async def use(folder: Path, person: Person | MemorySigner, server: Sessions, *, forget: bool = False) -> None:
    """Ask twice as a new program would, with the session that is in the folder."""
    async with httpd(server) as host, Client([host.url], fleet=FLEET, key=None, clock=lambda: server.now) as api:
        await SessionKeeper(person, fleet=FLEET, file=folder / "session", clock=lambda: server.now).attach(api)
        await api.rollouts()
        if forget:
            server.known.clear()
        await api.rollouts()


async def test_one_signature_serves_many_programs(tmp_path: Path) -> None:
    """A second program uses the kept session; its file is private."""
    person, server = Person(), Sessions()
    await use(tmp_path, person, server)
    server.now += 11 * HOUR_S
    await use(tmp_path, person, server)
    assert (1, 0o600) == (person.asked, stat.S_IMODE((tmp_path / "session").stat().st_mode))


async def test_an_ended_session_is_signed_anew(tmp_path: Path) -> None:
    """Shortly before its end, a session is replaced."""
    person, server = Person(), Sessions()
    await use(tmp_path, person, server)
    server.now += 12 * HOUR_S - 100
    await use(tmp_path, person, server)
    assert 2 == person.asked


async def test_a_forgotten_session_is_signed_anew_in_the_middle(tmp_path: Path) -> None:
    """When the coordinator no longer knows the session, the same request goes through with a new one."""
    person, server = Person(), Sessions()
    await use(tmp_path, person, server, forget=True)
    assert 2 == person.asked


async def test_many_requests_at_once_cost_one_signature(tmp_path: Path) -> None:
    """When a forgotten session meets several requests under way, the person is asked once for all of them."""
    person, server = Person(), Sessions()
    async with httpd(server) as host, Client([host.url], fleet=FLEET, key=None, clock=lambda: server.now) as api:
        await SessionKeeper(person, fleet=FLEET, file=tmp_path / "session", clock=lambda: server.now).attach(api)
        server.known.clear()
        await asyncio.gather(*(api.rollouts() for _ in range(8)))
    assert 2 == person.asked


async def test_a_key_that_is_never_taken_is_an_error(tmp_path: Path) -> None:
    """A coordinator that takes no session is asked once more, not for ever."""
    person = Person()
    server = Sessions()

    def forgetful(asked: Asked) -> Answer:
        answer = server(asked)
        server.known.clear()
        return answer

    async with httpd(forgetful) as host, Client([host.url], fleet=FLEET, key=None, clock=lambda: T0) as api:
        await SessionKeeper(person, fleet=FLEET, file=tmp_path / "session", clock=lambda: T0).attach(api)
        with pytest.raises(Untrusted, match="may not ask here"):
            await api.rollouts()
    assert 2 == person.asked


@pytest.mark.parametrize("content", [b"", b"{}", b'{"by":"x","seed":"zz","not_after":1}', b"\xff"])
async def test_a_damaged_file_counts_as_none(tmp_path: Path, content: bytes) -> None:
    """Whatever stands in the file, the person is asked once and goes on."""
    (tmp_path / "session").write_bytes(content)
    person = Person()
    await use(tmp_path, person, Sessions())
    assert 1 == person.asked


async def test_a_key_in_memory_signs_requests_itself(tmp_path: Path) -> None:
    """CI with a plain key needs no session."""
    server = Sessions()
    own = SecretKey.from_seed(b"c" * 32)
    server.known[Fingerprint(own.public.fingerprint)] = own.public
    await use(tmp_path, MemorySigner(own), server)
    assert not (tmp_path / "session").exists()
