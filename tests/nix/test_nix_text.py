"""What Nix prints, read: faults, progress, registrations, sizes. Samples are captured from real runs."""

import json
import string
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nixfleet.errors import UserError
from nixfleet.nix import Cache, FaultKind, FetchLimits, Progress, classify, commands, parse, toplevel_attr
from nixfleet.nix.faults import REASON_CHARS
from nixfleet.nix.progress import Aggregator, Throttle

SAMPLES = Path(__file__).with_name("samples")
HASHES = "0123456789abcdfghijklmnpqrsvwxyz"
KEY = "fleet-1:" + "A" * 43 + "="


class Sample(msgspec.Struct, frozen=True):
    """A failure of a real run: what was done to it, the kind that calls for, what Nix printed."""

    case: str
    kind: FaultKind
    lines: list[str]


CAPTURED = [
    pytest.param(sample, id=f"{file.stem}: {sample.case}")
    for file in sorted(SAMPLES.glob("faults-*.json"))
    for sample in msgspec.json.decode(file.read_bytes(), type=list[Sample])
]

store_names = st.text(string.ascii_letters + string.digits + "+-._?=", min_size=1, max_size=40).filter(
    lambda name: not name.startswith(".")
)
store_paths = st.builds(
    lambda digest, name: f"/nix/store/{digest}-{name}", st.text(HASHES, min_size=32, max_size=32), store_names
)


# Faults


@pytest.mark.parametrize("sample", CAPTURED)
def test_captured_failures_are_classified(sample: Sample) -> None:
    """Every captured failure has the kind that its cause calls for, and a sentence without escapes."""
    fault = classify(sample.lines)
    assert sample.kind == fault.kind
    assert fault.reason.isprintable()
    assert 0 < len(fault.reason) <= REASON_CHARS


APP = "'/nix/store/0c0qwqydljlmm2i9svzv2gxnvr4y257a-app'"
IGNORED = f"warning: ignoring substitute for {APP} from 'http://c', as it's not signed by any of the keys in 'trusted-"
LACKING = f"error: cannot add path {APP} because it lacks a signature by a trusted key"
REQUIRED = f"error: path {APP} is required, but there is no substituter that can build it"
DOWN = "Could not connect to server (7) Failed to connect to c port 80; retrying in 299 ms (attempt 1/5)"
LZMA = "error: failed to read compressed data (Lzma library error: Corrupted input data)"

# The wordings of `nix copy`, and of versions newer than the captured ones.
NEWER = [
    (IGNORED, FaultKind.untrusted, "app from http://c is not signed by a key that may sign it"),
    (LACKING, FaultKind.untrusted, "app from the cache is not signed by a key that may sign it"),
    (REQUIRED, FaultKind.missing, "no cache has app"),
    (f"error: some references of path {APP} could not be realised", FaultKind.missing, "no cache has app"),
    (
        f"warning: error: unable to download 'http://c/nix-cache-info': {DOWN}",
        FaultKind.unreachable,
        f"http://c/nix-cache-info cannot be downloaded: {DOWN}",
    ),
    (LZMA, FaultKind.corrupt, None),
    ("error: interrupted by the user", FaultKind.interrupted, "the Nix command was interrupted"),
    ("error: attribute 'web-09' missing", FaultKind.other, "attribute 'web-09' missing"),
]


@pytest.mark.parametrize(("line", "kind", "reason"), NEWER)
def test_failures_of_other_versions_are_classified(line: str, kind: FaultKind, reason: str | None) -> None:
    """Wordings of newer versions, and of `nix copy`, mean the same kinds."""
    fault = classify([line])
    assert kind == fault.kind
    assert reason is None or reason == fault.reason


def test_a_bad_signature_is_not_hidden_by_a_network_fault() -> None:
    """With both in the output, trust decides, in whatever order they were printed."""
    untrusted = NEWER[0][0]
    network = "error: unable to download 'http://d/nix-cache-info': Couldn't connect to server (7)"
    assert FaultKind.untrusted == classify([untrusted, network]).kind
    assert FaultKind.untrusted == classify([network, untrusted]).kind


def test_an_error_on_the_next_line_is_found() -> None:
    """An evaluation error, which Nix prints over several lines, gives its sentence and not its frame."""
    lines = ["error: ", "       … while evaluating x", "error: undefined variable 'foo'", "", "  at /x/flake.nix:3:4:"]
    assert "undefined variable 'foo'" == classify(lines).reason
    assert "infinite recursion" == classify(["error:", "  infinite recursion"]).reason
    assert "Nix failed and printed no reason" == classify([]).reason


@given(st.lists(st.text(max_size=400), max_size=8))
def test_classification_is_total(lines: list[str]) -> None:
    """Whatever a cache makes Nix print, there is a kind and a bounded sentence free of control characters."""
    fault = classify(lines)
    assert 0 < len(fault.reason) <= REASON_CHARS
    assert not any(ord(character) < 0x20 and character != "\t" for character in fault.reason)
    assert "\x1b" not in fault.reason


# Progress


def events(*lines: object) -> Aggregator:
    """Feed events, given as objects."""
    meter = Aggregator()
    for line in lines:
        meter.feed(f"@nix {json.dumps(line)}")
    return meter


def test_captured_download_adds_up() -> None:
    """The captured download ends with all of its bytes and paths, and never goes back."""
    meter = Aggregator()
    seen = []
    for line in (SAMPLES / "realise-2.8.log").read_text().splitlines():
        assert meter.feed(line) is None
        seen.append(meter.snapshot())
    last = seen[-1]
    assert last.total_bytes == last.done_bytes == max(step.done_bytes for step in seen)
    assert 13 == last.paths_done == last.paths_total
    assert [step.done_bytes for step in seen] == sorted(step.done_bytes for step in seen)
    assert seen[0].total_bytes is None
    assert meter.final() == last
    assert meter.unpacked_bytes() > last.done_bytes


def test_narinfos_do_not_count_as_bytes() -> None:
    """Only NARs are the closure's bytes."""
    meter = events(
        {"action": "start", "id": 1, "type": 101, "fields": ["http://c/x.narinfo"]},
        {"action": "result", "id": 1, "type": 105, "fields": [900, 900, 0, 0]},
        {"action": "start", "id": 2, "type": 101, "fields": ["http://c/nar/x.nar.zst"]},
        {"action": "result", "id": 2, "type": 105, "fields": [50, 100, 0, 0]},
        {"action": "result", "id": 3, "type": 106, "fields": [101, 100]},
    )
    assert Progress(50, 100, 0, 0) == meter.snapshot()


def test_a_retried_transfer_never_shows_more_than_the_total() -> None:
    """Bytes sent twice are not progress twice."""
    meter = events(
        {"action": "result", "id": 3, "type": 106, "fields": [101, 100]},
        *(
            event
            for number in (1, 2)
            for event in (
                {"action": "start", "id": number, "type": 101, "fields": ["http://c/nar/x"]},
                {"action": "result", "id": number, "type": 105, "fields": [80, 100, 0, 0]},
                {"action": "stop", "id": number},
            )
        ),
    )
    assert 100 == meter.snapshot().done_bytes


def test_messages_worth_keeping_come_back() -> None:
    """Errors, warnings and the paths that no cache has are kept; the list of what will be fetched is not."""
    meter = Aggregator()
    path = "/nix/store/0c0qwqydljlmm2i9svzv2gxnvr4y257a-app"

    def message(level: int, text: str) -> str | None:
        return meter.feed(f"@nix {json.dumps({'action': 'msg', 'level': level, 'msg': text})}")

    assert message(3, "these 2 paths will be fetched (1.00 MiB download, 2.00 MiB unpacked):") is None
    assert message(3, f"  {path}") is None
    assert "warning: x" == message(1, "\x1b[35;1mwarning:\x1b[0m x")
    assert "don't know how to build these paths:" == message(3, "don't know how to build these paths:")
    assert f"  {path}" == message(3, f"  {path}")
    assert "error: y" == message(0, "error: y")
    assert message(3, f"  {path}") is None
    assert "plain text" == meter.feed("plain text")


@given(st.lists(st.one_of(st.text(max_size=60), st.integers(), st.none(), st.lists(st.integers(), max_size=3))))
def test_strange_events_are_passed_over(pieces: list[object]) -> None:
    """No line, however strange, breaks the count or makes it negative."""
    meter = Aggregator()
    for piece in pieces:
        meter.feed(f"@nix {json.dumps(piece)}")
        meter.feed(f"@nix {json.dumps({'action': 'result', 'id': 1, 'type': 105, 'fields': piece})}")
        meter.feed(f"@nix {json.dumps({'action': 'start', 'id': 1, 'type': 101, 'fields': [piece]})}")
    assert 0 <= meter.snapshot().done_bytes


def test_throttle_calls_at_most_so_often_and_tells_the_rate() -> None:
    """Between calls the time asked for passes; the rate is that of the last seconds."""
    clock: Iterator[float] = iter([0.0, 0.0, 0.0, 0.1, 0.3, 0.3])
    told: list[Progress] = []
    throttle = Throttle(told.append, 0.2, clock.__next__)
    assert throttle.due()
    throttle.tell(Progress(0, 1000, 0, 1))
    assert not throttle.due()
    assert throttle.due()
    throttle.tell(Progress(300, 1000, 0, 1))
    assert [0, 1000] == [step.rate_bytes_s for step in told]


# Parsers

TOP = "/nix/store/4s1lbj6vwc469gly0zbhiwwfrbgzy3p9-nixos-system-unnamed-24.05.1"
DUMP = f"""{TOP}
5509b470a78b09f91bda24ef102af2736dbaa6f61b156b6ed85e4b589feb0dfa
7528

2
/nix/store/h4i1izsdhnsx7ywa18vwvpnxq8kw1jby-linux-6.1.1
{TOP}
/nix/store/h4i1izsdhnsx7ywa18vwvpnxq8kw1jby-linux-6.1.1
0000000000000000000000000000000000000000000000000000000000000000
1
/nix/store/h93chfifx4p6y7yzrc7jmwk3n3b5cmhq-linux-6.1.1.drv
0
"""


def test_registrations_are_read() -> None:
    """Hashes come out in Nix's base32, an empty deriver as none, references as they stand."""
    top, linux = parse.registrations(DUMP)
    assert (TOP, 7528, None) == (top.path, top.nar_bytes, top.deriver)
    assert "sha256:1yhdxfgmhjsyv1p6n58vyskblvbky8m11vr4v8dzj2cblxqb82am" == top.nar_hash
    assert (linux.path, TOP) == top.references
    assert "sha256:" + "0" * 52 == linux.nar_hash
    assert linux.deriver == "/nix/store/h93chfifx4p6y7yzrc7jmwk3n3b5cmhq-linux-6.1.1.drv"


@pytest.mark.parametrize("length", range(1, len(DUMP.splitlines())))
def test_registrations_cut_short_are_refused(length: int) -> None:
    """Half a registration is no registration."""
    lines = DUMP.splitlines()[:length]
    if length == 7:  # the first one is whole
        return
    with pytest.raises((ValueError, UserError)):
        parse.registrations("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nix-store (Nix) 2.8.0", (2, 8, 0)),
        ("nix-store (Nix) 2.26.3\n", (2, 26, 3)),
        ("nix (Nix) 2.19.0pre20231010_1234567", (2, 19, 0)),
        ("nix-store (Nix) 2.34", (2, 34, 0)),
        ("nix-store (Determinate Nix 3.6.1) 2.29.0", (2, 29, 0)),
        ("nix-store (Lix, like Nix) 2.91.1", (2, 91, 1)),
        ("git version 2.39.5", None),
    ],
)
def test_versions_are_read(text: str, expected: tuple[int, int, int] | None) -> None:
    """Releases, pre-releases, Nix's relatives and a missing patch level give a triple; anything else an error."""
    if expected is None:
        with pytest.raises(ValueError, match="no Nix version"):
            parse.version(text)
    else:
        assert expected == parse.version(text)


@pytest.mark.parametrize(
    ("text", "download_bytes", "unpacked_bytes"),
    [
        ("these 4 paths will be fetched (0.08 MiB download, 0.33 MiB unpacked):", 83886, 346030),
        ("this path will be fetched (12.0 KiB download, 1.50 GiB unpacked):", 12288, 1610612736),
        ("", 0, 0),
    ],
)
def test_dry_runs_are_read(text: str, download_bytes: int, unpacked_bytes: int) -> None:
    """Sizes in any unit; nothing to fetch is zero."""
    found = parse.missing_bytes(text)
    assert (download_bytes, unpacked_bytes) == (found.download_bytes, found.unpacked_bytes)


def test_bad_paths_are_found_once() -> None:
    """Changed and vanished paths are named, also in a store elsewhere; other lines are not."""
    lines = [
        f"path '{TOP}' was modified! expected hash 'sha256:1', got 'sha256:2'",
        f"error: getting status of '/srv/dev{TOP}': No such file or directory",
        "checking path '/nix/store/h4i1izsdhnsx7ywa18vwvpnxq8kw1jby-linux-6.1.1'...",
    ]
    assert [TOP] == parse.bad_paths(lines)


@given(st.integers(0, 999_999_999), st.sampled_from(["system", "per-user", "a-1-link"]))
def test_generation_links_give_their_number(number: int, profile: str) -> None:
    """Only links of this very profile count."""
    assert number == parse.generation_number(profile, f"{profile}-{number}-link")
    assert parse.generation_number(profile, f"x{profile}-{number}-link") is None
    assert parse.generation_number(profile, profile) is None


def test_build_results_are_read() -> None:
    """One result with `out` is a path, anything else an error that says what came."""
    assert TOP == parse.built_path(json.dumps([{"drvPath": "x", "outputs": {"out": TOP}}]).encode())
    for bad in (b"[]", b"{}", b"", b'[{"outputs": {"dev": "x"}}]', b'[{"outputs": {"out": "/etc"}}]'):
        with pytest.raises((ValueError, UserError)):
            parse.built_path(bad)


# Commands


@given(
    store_paths, st.lists(st.builds(Cache, st.sampled_from(["https://a", "http://b:80/c"]), st.just(KEY)), max_size=3)
)
def test_downloads_name_caches_and_never_build(path: str, caches: list[Cache]) -> None:
    """Caches and keys are set, each setting once, and nothing may be built."""
    argv = commands.realise(path, "/root", commands.cache_options(caches, FetchLimits()))
    options = dict(zip(argv[argv.index("--option") + 1 :: 3], argv[argv.index("--option") + 2 :: 3], strict=True))
    assert " ".join(cache.url for cache in caches) == options["substituters"]
    assert (KEY if caches else "") == options["trusted-public-keys"]
    assert ("true", "0", "", "false", "0", "0") == tuple(
        options[name]
        for name in (
            "require-sigs",
            "max-jobs",
            "builders",
            "fallback",
            "narinfo-cache-negative-ttl",
            "narinfo-cache-positive-ttl",
        )
    )
    assert len(options) == argv.count("--option")
    assert ("nix-store", "--realise", path) == argv[:3]


@pytest.mark.parametrize("url", ["", "cache", "https://a b", "https://a\nhttps://b", "--option", "x" * 9999])
def test_cache_addresses_that_are_none_are_refused(url: str) -> None:
    """A second setting cannot be smuggled into the list of caches."""
    with pytest.raises(UserError, match="no address"):
        Cache(url=url, key=KEY)


@pytest.mark.parametrize("key", ["", "fleet-1", "a b:" + KEY[8:], KEY + " " + KEY, KEY[:-1], ":" + KEY[8:]])
def test_cache_keys_that_are_none_are_refused(key: str) -> None:
    """Nor a second key into the list of keys."""
    with pytest.raises(UserError, match="no public key"):
        Cache(url="https://a", key=key)


def test_toplevel_attributes_are_quoted() -> None:
    """Names with dots are one name; names that would break out of the quotes are refused."""
    assert 'nixosConfigurations."web.01".config.system.build.toplevel' == toplevel_attr("web.01")
    for name in ("", 'a"b', "a${b}", "a\\"):
        with pytest.raises(UserError, match="no name"):
            toplevel_attr(name)
