"""Proof that outsiders can check and speak: ssh-keygen verifies what was signed, the routes are written down."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from tests.acceptance.bench import QUICK, Bench, join, state_of, until
from tests.acceptance.front import STREAM, Front
from tests.nix.harness import Device

pytestmark = pytest.mark.nix

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.md"
_ROUTE = re.compile(r"`(?:(GET|POST|PUT|DELETE) )?(/[^`?]*)(?:\?[^`]*)?`")
_SCHEMA = "/schema/openapi.json"


def test_ssh_keygen_verifies_every_kind_of_statement(bench: Bench, web: Device, tmp_path: Path) -> None:
    """`audit show N --out` writes what `ssh-keygen -Y verify` accepts, and refuses once a byte has changed."""
    bench.open_fleet()
    join(web, bench.token())
    until("web-01 is a member", lambda: bench.read("/v1/devices")["devices"])
    bench.release("a", bench.systems.a, "web-01")
    web.steer("hold")
    rollout = bench.rollout("a")
    bench.nixfleet("rollout", "cancel", rollout, "--yes")
    entries = bench.json("audit", "list")["entries"]
    assert ["root", "grant", "device", "release", "rollout", "control"] == [one["type"] for one in entries]
    for entry in entries:
        out = tmp_path / str(entry["index"])
        bench.nixfleet("audit", "show", str(entry["index"]), "--out", str(out))
        payload = (out / "payload.json").read_bytes()
        assert entry["type"] == json.loads(payload)["type"]
        assert verifies(out, payload)
        assert not verifies(out, payload.replace(b'"v":1', b'"v":2'))


def verifies(out: Path, payload: bytes) -> bool:
    """Ask ssh-keygen, as anybody can."""
    signer, namespaces, *_ = (out / "allowed_signers").read_text().split()
    namespace = namespaces.partition('"')[2].rstrip('"')
    argv = ["ssh-keygen", "-Y", "verify", "-f", "allowed_signers", "-I", signer, "-n", namespace]
    argv += ["-s", "payload.json.sig"]
    done = subprocess.run(argv, cwd=out, input=payload, capture_output=True, check=False, timeout=10)
    return done.returncode == 0


def test_the_schema_names_every_route_of_the_protocol(bench: Bench) -> None:
    """/schema/openapi.json has each method and path of docs/protocol.md, and none that it leaves out.

    But those of a coordinator that waits to be claimed, which has no others.
    """
    bench.open_fleet()
    status, body = bench.get(_SCHEMA)
    assert 200 == status
    schema = json.loads(body)
    assert schema["openapi"].startswith("3.1")
    served = {(method.upper(), plain(path)) for path, item in schema["paths"].items() for method in item}
    heads = {(method, path) for method, path in served if method == "HEAD"}
    elsewhere = {("GET", _SCHEMA), ("GET", "/v1/claim"), ("POST", "/v1/claim")}
    assert written() - elsewhere == served - heads
    assert elsewhere <= written()
    assert all(("GET", path) in served for _, path in heads)


def written() -> set[tuple[str, str]]:
    """List the routes in the first column of the protocol's table; a cell names the method once for all its paths."""
    found = set()
    for line in PROTOCOL.read_text().partition("## Routes")[2].partition("\n## ")[0].splitlines():
        method = "GET"
        for named, path in _ROUTE.findall(line.split(" | ")[0]):
            method = named or method
            found.add((method, plain(path)))
    return found


def plain(path: str) -> str:
    """Write a path with its parameters unnamed."""
    return re.sub(r"\{[^}]*\}(\.narinfo)?", "{}", path.rstrip("/"))


def test_polling_does_where_a_proxy_buffers_streams(bench: Bench, front: Front, web: Device) -> None:
    """No event ever comes through: the device polls, is online, updates and confirms."""
    front.buffers = True
    bench.open_fleet(front.url)
    join(web, bench.token(), f"poll_s = 1\n{QUICK}")
    until("streams are tried", lambda: sum(one.startswith(STREAM) for one in front.asked) >= 2)
    until("it polls", lambda: front.asked[-1].startswith("/v1/sync"))
    a = bench.systems.a
    bench.release("a", a, "web-01")
    assert (True, "poll") == (bench.device("web-01")["online"], bench.device("web-01")["link"])
    bench.watch(bench.rollout("a"))
    assert (a, a, a) == state_of(web)
