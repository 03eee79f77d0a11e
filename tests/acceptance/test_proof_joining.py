"""Proof of how devices join: by token as far as it goes, else by an admin who compares a fingerprint."""

import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
from tests.acceptance.bench import QUICK, Bench, join, said, spawn, state_of, until
from tests.nix.harness import Device, closing

from nixfleet.client.acts import DAY_S, Head
from nixfleet.client.handing import token_grant
from nixfleet.model.device import JoinToken
from nixfleet.model.ids import Fingerprint, FleetId
from nixfleet.model.statements import LogState
from nixfleet.model.wire import AppendRequest, Submission
from nixfleet.trust import token as tokens
from nixfleet.trust.replay import State
from nixfleet.trust.sshsig import SecretKey
from nixfleet.trust.statements import encode, namespace_of

pytestmark = pytest.mark.nix

POLLS = "poll_s = 1\n"
LIFE_S = 6


@pytest.fixture
def site(bench: Bench, tmp_path: Path) -> Iterator["Site"]:
    """Give a fleet that is served, and a maker of devices."""
    bench.open_fleet()
    with ExitStack() as stack:
        yield Site(bench, tmp_path, stack)


class Site:
    """A fleet, and machines that want to be in it."""

    def __init__(self, bench: Bench, folder: Path, stack: ExitStack) -> None:
        self.bench = bench
        self._folder = folder
        self._stack = stack

    def machine(self, name: str) -> Device:
        """Make a device without a system: enough of it to join."""
        device = Device(self._folder / f"{name}-{secrets.token_hex(2)}", name)
        self._stack.enter_context(closing(device))
        return device

    def members(self) -> dict[str, str]:
        """Give the fleet's devices: name and key."""
        return {one["name"]: one["key"] for one in self.bench.read("/v1/devices")["devices"]}

    def requests(self) -> dict[str, dict[str, str]]:
        """Give who asks to be enrolled, by name."""
        return {one["name"]: one for one in self.bench.read("/v1/enroll")["requests"]}

    def asks(self, name: str) -> dict[str, str]:
        """Wait until a device asks."""
        until(f"{name} asks", lambda: name in self.requests())
        return self.requests()[name]

    def base(self) -> tuple[LogState, FleetId]:
        """Give the whole log's state, and the fleet id."""
        verified = self.bench.json("audit", "verify")
        return LogState(size=verified["size"], root=verified["root"]), verified["fleet"]

    def short_token(self) -> tuple[str, int]:
        """Make a token that ends in a few seconds: signed as long ago as a statement may be; give also its end."""
        base, fleet = self.base()
        signer = self.bench.signer()
        # After all that takes time: the coordinator takes it for LIFE_S from here.
        at = int(time.time()) - DAY_S + LIFE_S
        head = Head(fleet=fleet, by=signer.key.fingerprint, at=at, base=base)
        seed = secrets.token_bytes(32)
        state = State(FleetId(fleet))
        state.root_keys[Fingerprint(head.by)] = "root"
        grant = token_grant(
            head, state, id=secrets.token_hex(16), key=SecretKey.from_seed(seed).public.text, tags={}, uses=1, days=1
        )
        payload = encode(grant)
        signed = Submission(payload=payload, signature=signer.sign(namespace_of(grant), payload))
        status, answer = self.bench.post("/v1/log", msgspec.json.encode(AppendRequest(statements=(signed,))))
        assert status < 300, answer
        token = JoinToken(v=1, urls=(self.bench.url,), fleet=fleet, log=base, seed=seed.hex())
        return tokens.make(token), grant.not_after


def test_a_token_admits_as_many_as_it_says_and_no_longer_than_it_says(site: Site) -> None:
    """Used up, expired: the device asks instead, with the reason; of another fleet: it trusts nothing."""
    token = site.bench.token("--uses", "1")
    join(site.machine("web-01"), token, POLLS)
    until("web-01 is a member", lambda: "web-01" in site.members())
    join(site.machine("web-02"), token, POLLS)
    short, end_s = site.short_token()
    read = tokens.read(token)
    foreign = site.machine("web-04")
    join(foreign, tokens.make(msgspec.structs.replace(read, fleet="ab" * 32)), POLLS)
    until("the short token ends", lambda: int(time.time()) > end_s)
    join(site.machine("web-03"), short, POLLS)

    assert "its token is used up" in site.asks("web-02")["reason"]
    assert "the join token has ended" in site.asks("web-03")["reason"]
    until("web-04 says why", lambda: "serves another fleet" in said(foreign))
    assert {"web-01"} == site.members().keys()


def test_a_single_run_with_a_used_up_token_ends_and_says_so(site: Site) -> None:
    """Exit 3 and the reason as its last line, with the wish left for an admin; it waits for nobody."""
    token = site.bench.token("--uses", "1")
    first, second = site.machine("web-01"), site.machine("web-02")
    ends = []
    for machine in (first, second):
        machine.write("/etc/nixfleet/token", token, 0o600)
        machine.write("/etc/nixfleet/agent.toml", f'name = "{machine.name}"\ntoken_file = "/etc/nixfleet/token"\n')
        ends.append(machine.run(("nixfleet", "agent", "run", "--once"), check=False, timeout_s=60))
    assert [0, 3] == [one.returncode for one in ends]
    last = ends[1].stderr.splitlines()[-1]
    assert (True, True) == (last.startswith("nixfleet agent: "), "its token is used up" in last)
    assert site.requests().keys() == {"web-02"}


def test_a_taken_name_waits_for_an_admin_who_moves_it(site: Site) -> None:
    """The second web-01 becomes pending; plain `enroll` says that the name is taken, `--replace` moves it."""
    token = site.bench.token("--uses", "2")
    join(site.machine("web-01"), token, POLLS)
    until("web-01 is a member", lambda: "web-01" in site.members())
    first = site.members()["web-01"]
    join(site.machine("web-01"), token, POLLS)
    asked = site.asks("web-01")
    assert "the name web-01 is taken by " in asked["reason"]
    refused = site.bench.nixfleet("enroll", "web-01", "--key", asked["fingerprint"], check=False)
    assert (2, True) == (refused.returncode, "--replace" in refused.stderr)
    assert first == site.members()["web-01"]
    site.bench.nixfleet("enroll", "web-01", "--key", asked["fingerprint"], "--replace")
    assert {"web-01": asked["key"]} == site.members()
    until("it listens", lambda: site.bench.device("web-01")["online"])
    assert {} == site.requests()


def test_a_device_is_enrolled_by_the_fingerprint_of_its_host_key_and_updates(site: Site, web: Device) -> None:
    """No token, only addresses and the pinned log: it asks, an admin compares and signs, and it takes an update."""
    bench, a = site.bench, site.bench.systems.a
    web.make_host_key()
    verified = bench.json("audit", "verify")
    pins = f'fleet = "{verified["fleet"]}"\ncheckpoint = "{verified["size"]}:{verified["root"]}"\n'
    web.write("/etc/nixfleet/agent.toml", f'name = "web-01"\nurls = ["{bench.url}"]\n{pins}{POLLS}{QUICK}')
    spawn(web, "nixfleet", "agent")
    asked = site.asks("web-01")
    shown = subprocess.run(
        ["ssh-keygen", "-lf", web.path("/etc/ssh/ssh_host_ed25519_key.pub")],
        capture_output=True, text=True, check=True, timeout=10,
    ).stdout.split()[1]  # fmt: skip
    listed = bench.json("enroll", "list")["requests"]
    assert [("web-01", shown)] == [(one["name"], one["fingerprint"]) for one in listed]
    assert shown == asked["fingerprint"]
    assert {} == site.members()
    wrong = bench.nixfleet("enroll", "web-01", "--key", f"SHA256:{'A' * 43}", check=False)
    assert 2 == wrong.returncode
    bench.nixfleet("enroll", "web-01", "--key", shown, "--tag", "env=prod")
    until("it listens", lambda: bench.device("web-01")["reported_at"])
    assert {"env": "prod"} == bench.device("web-01")["tags"]
    bench.nixfleet("deploy", "--device", f"web-01={a}")
    assert (a, a, a) == state_of(web)
