"""The query language: what it accepts, what it matches, and where it points when it is wrong."""

import fnmatch
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nixfleet.model.device import Facts, Outcome, Phase
from nixfleet.model.views import DeviceView
from nixfleet.query import FIELDS, STATUSES, Query, QueryError, Status, Term, compile_query, parse, status_of, to_text

NOW = 1_700_000_000
PATH = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-nixos-system-kiosk-24.11.1234"


def device(**changes: object) -> DeviceView:
    """Make a device that is fine, but for `changes`."""
    fields: dict[str, object] = {
        "id": "a" * 32,
        "name": "kiosk-01",
        "key": "",
        "tags": {"site": "Berlin", "role": "kiosk"},
        "state": "active",
        "online": True,
        "seen_at": NOW - 60,
        "system": PATH,
        "intended": PATH,
        "healthy": True,
        "wave": 2,
        "facts": Facts(store_free_bytes=20 * 2**30, memory_bytes=4 * 2**30, cpus=4, kernel="6.6.60"),
        **changes,
    }
    return DeviceView(**fields)  # type: ignore[arg-type] # the factory's keywords are checked by the tests that use it


def found(text: str, subject: DeviceView) -> bool:
    """Tell whether the query matches the device at NOW."""
    return compile_query(parse(text))(subject, NOW)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "status:ok",
        "status:failed,ok",
        "-status:failed",
        "tag.site:berlin",
        "tag.site:b*",
        "tag.site:*",
        "-tag.rack:*",
        "system:*-24.11*",
        "system:01234567",
        "system:nixos-system-kiosk-24.11.1234",
        f"system:{PATH}",
        "seen<10m",
        "seen>=60s",
        "wave:2",
        "wave:1,2",
        "wave>1",
        "-reboot:pending",
        "kiosk",
        "berlin",
        "nas,kiosk",
        "ki?sk-*",
        '"kiosk"',
        "online:yes",
        "healthy:yes",
        "free>=20G",
        "memory<5GiB",
        "cpus:4",
        "id:aaaaaa",
        "status:ok kiosk -nas tag.role:kiosk",
    ],
)
def test_matches(text: str) -> None:
    """Each of these queries finds the healthy kiosk in Berlin."""
    assert found(text, device())


@pytest.mark.parametrize(
    "text",
    [
        "status:failed",
        "tag.site:oslo",
        "tag.rack:*",
        "system:*-25.05*",
        "system:kiosk",
        "seen>10m",
        "wave:1",
        "reboot:pending",
        "nas",
        "kiosk*z",
        "online:no",
        "free>20G",
        "kiosk -berlin",
        "id:b",
    ],
)
def test_does_not_match(text: str) -> None:
    """None of these queries finds it."""
    assert not found(text, device())


def test_unknown_numbers_match_nothing_and_unknown_ages_are_old() -> None:
    """A device without facts has no free space to compare, and one never seen is older than any age."""
    bare = device(facts=None, seen_at=0, online=False, wave=None)
    expected = {"free>1G": False, "free<1G": False, "wave:2": False, "seen>10y": True, "seen<1m": False}
    assert expected == {text: found(text, bare) for text in expected}


@pytest.mark.parametrize(
    ("text", "position", "says"),
    [
        ("status:", 6, "missing"),
        ("kiosk statsu:ok", 6, "no field 'statsu'"),
        ("a status:bad", 2, "'bad' is no status"),
        ("seen:10m", 0, "compare"),
        ("seen>tea", 0, "10m"),
        ("wave>1,2", 0, "one value"),
        ("name>3", 0, "takes ':'"),
        ('reason:"no', 7, "never closed"),
        ('x "a"b', 5, "comma"),
        ("-", 0, "missing"),
        ("a,", 1, "missing"),
        ("tag.:x", 0, "no tag name"),
        ("free:1G", 0, "compare"),
        ("x" * 1001, 1000, "1000 characters"),
        ("a " * 65, 128, "64 terms"),
    ],
)
def test_errors_point_at_their_place(text: str, position: int, says: str) -> None:
    """A query that cannot be read names what is wrong and where."""
    with pytest.raises(QueryError, match=says.replace("'", ".")) as caught:
        parse(text)
    assert position == caught.value.position


def test_typed_text_never_becomes_code() -> None:
    """Quotes, brackets and code in values are compared as text."""
    for value in ("'", "__import__('os')", "[!x]", "{}", "\\", ") or True or ("):
        query = Query((Term("name", ":", (value,)), Term("tag.site", ":", (value + "*",))))
        assert not compile_query(query)(device(), NOW)


def test_sizes_and_ages_use_their_units() -> None:
    """Ages read s m h d w y, sizes read k M G T with or without iB."""
    subject = device(seen_at=NOW - 7_200, facts=Facts(store_free_bytes=1_572_864))
    expected = {
        "seen>=2h": True,
        "seen>1d": False,
        "seen<1w": True,
        "free>1M": True,
        "free>=1536kb": True,
        "free>=1G": False,
    }
    assert expected == {text: found(text, subject) for text in expected}


STATUS_CASES: list[tuple[Status, dict[str, object]]] = [
    ("ok", {}),
    ("retired", {"state": "retired", "log_state": "fork"}),
    ("fork", {"log_state": "fork", "outcome": Outcome.FAILED}),
    ("cloned", {"cause": "cloned", "outcome": Outcome.FAILED, "phase": Phase.FETCHING}),
    ("failed", {"outcome": Outcome.FAILED, "phase": Phase.FAILED, "online": False}),
    ("refused", {"outcome": Outcome.REFUSED, "phase": Phase.REFUSED}),
    ("reverted", {"outcome": Outcome.REVERTED, "phase": Phase.REVERTED}),
    ("held", {"state": "held"}),
    ("updating", {"phase": Phase.FETCHING, "state": "held"}),
    ("updating", {"phase": Phase.REVERTING, "outcome": None}),
    ("offline", {"phase": Phase.FETCHING, "online": False}),
    ("reboot", {"phase": Phase.REBOOT_PENDING}),
    ("unhealthy", {"healthy": False, "waits": "wave 2 waits"}),
    ("drifted", {"waits": "wave 2 waits", "drifted": True}),
    ("paused", {"waits": "wave 2 waits", "paused_until": NOW + 60}),
    ("paused", {"phase": Phase.STAGED, "outcome": None, "paused_until": NOW + 60}),
    ("updating", {"phase": Phase.CHECKING, "outcome": None, "paused_until": NOW + 60}),
    ("waiting", {"waits": "wave 2 waits", "intended": "/nix/store/x"}),
    ("drifted", {"intended": "/nix/store/x"}),
    ("new", {"online": False, "seen_at": 0}),
    ("new", {"system": ""}),
]


@pytest.mark.parametrize(("word", "changes"), STATUS_CASES)
def test_status_word(word: Status, changes: dict[str, object]) -> None:
    """The word of a device is the one that needs a person most."""
    assert word == status_of(device(**changes))


def test_every_status_word_has_a_case() -> None:
    """No status word is without a device that has it."""
    assert set(STATUSES) == {word for word, _ in STATUS_CASES}
    assert set(get_args(Status)) == set(STATUSES)


WORDS = st.text(
    alphabet=st.one_of(st.sampled_from('abkiosnr-*?:<>=,"\\ .[]2\u00e9'), st.characters(exclude_categories=["Cs"])),
    min_size=1,
    max_size=8,
)


def _term(name: str) -> st.SearchStrategy[Term]:
    kind = FIELDS[name].kind.name if name in FIELDS else "TEXT"
    values: st.SearchStrategy[tuple[str, ...]] = st.lists(WORDS, min_size=1, max_size=3).map(tuple)
    ops = st.just(":")
    if kind == "WORD":
        values = st.lists(st.sampled_from(FIELDS[name].words), min_size=1, max_size=3).map(tuple)
    elif kind == "FLAG":
        values = st.sampled_from([("yes",), ("no",), ("yes", "no")])
    elif kind in {"COUNT", "SIZE", "AGE"}:
        unit = {"COUNT": "", "SIZE": "G", "AGE": "m"}[kind]
        values = st.integers(0, 30).map(lambda number: (f"{number}{unit}",))
        ops = st.sampled_from([">", "<", ">=", "<="])
    return st.builds(Term, st.just(name), ops, values, st.booleans())


QUERIES = st.builds(
    lambda terms: Query(tuple(terms)),
    st.lists(st.sampled_from(["", "tag.site", *FIELDS]).flatmap(_term), max_size=5),
)


@given(QUERIES)
def test_parse_gives_back_what_was_printed(query: Query) -> None:
    """Printing a query and reading it again is the identity, and so is printing once more."""
    assert query == parse(to_text(query))
    assert to_text(query) == to_text(parse(to_text(query)))


@given(st.text(max_size=60))
def test_any_text_parses_or_points_into_itself(text: str) -> None:
    """No text makes the parser fail in any other way than by an error with a place in the text."""
    try:
        query = parse(text)
    except QueryError as error:
        assert 0 <= error.position <= len(text)  # noqa: PT017 - most texts do parse
    else:
        assert query == parse(to_text(query))


def _plain(subject: DeviceView, name: str) -> str:
    """Read a text field the slow and obvious way."""
    if name.startswith("tag."):
        return subject.tags.get(name[4:], "")
    facts = subject.facts or Facts()
    return {
        "status": status_of(subject),
        "name": subject.name,
        "state": subject.state,
        "phase": subject.phase.value,
        "outcome": subject.outcome.value if subject.outcome else "none",
        "reboot": "pending" if subject.phase is Phase.REBOOT_PENDING else "none",
        "cause": subject.cause,
        "reason": subject.reason or subject.waits,
        "release": subject.release,
        "log": subject.log_state,
        "model": facts.model,
        "arch": facts.architecture,
        "kernel": facts.kernel,
        "nixos": facts.nixos_version,
        "agent": facts.agent_version,
        "fallback": subject.facts.boot_fallback if subject.facts else "",
    }[name]


def _same(text: str, value: str) -> bool:
    """Compare as the language says: no case; wildcards match a text that is there."""
    if "*" in value or "?" in value:
        return text != "" and fnmatch.fnmatch(text.lower(), value.lower().replace("[", "[[]"))
    return text.casefold() == value.casefold()


def _compare(left: float | None, op: str, right: float) -> bool:
    if left is None:
        return False
    return {">": left > right, "<": left < right, ">=": left >= right, "<=": left <= right, ":": left == right}[op]


def _holds(term: Term, subject: DeviceView) -> bool:
    """Judge one term by plain code that shares nothing with the compiler."""
    facts = subject.facts or Facts()
    if term.field == "":
        texts = [subject.name, *subject.tags.values()]
        return any(
            _same(text, value) if "*" in value or "?" in value else value.casefold() in text.casefold()
            for value in term.values
            for text in texts
        )
    if term.field in {"seen", "enrolled"}:
        at = subject.seen_at if term.field == "seen" else subject.enrolled_at
        return _compare(NOW - at if at else float("inf"), term.op, int(term.values[0][:-1]) * 60)
    if term.field in {"memory", "free"}:
        size = facts.memory_bytes if term.field == "memory" else facts.store_free_bytes
        return _compare(size if subject.facts else None, term.op, int(term.values[0][:-1]) * 2**30)
    if term.field in {"cpus", "wave"}:
        count = subject.wave if term.field == "wave" else (facts.cpus if subject.facts else None)
        return _compare(count, term.op, int(term.values[0]))
    if term.field in {"online", "healthy"}:
        flag = subject.online if term.field == "online" else subject.healthy is True
        return any((value == "yes") == flag for value in term.values)
    if term.field in {"id", "rollout"}:
        return any(getattr(subject, term.field).startswith(value.lower()) for value in term.values)
    if term.field in {"system", "intended", "booted"}:
        path = getattr(subject, term.field)
        return any(_path(path, value) for value in term.values)
    return any(_same(_plain(subject, term.field), value) for value in term.values)


def _path(path: str, value: str) -> bool:
    base = path.removeprefix("/nix/store/")
    name = base[33:]
    if "*" in value or "?" in value:
        return any(
            fnmatch.fnmatch(text.lower(), value.lower().replace("[", "[[]"))
            for text in (path, base, name)
            if text or path
        ) or fnmatch.fnmatch(path.lower(), value.lower().replace("[", "[[]"))
    return base.lower().startswith(value.lower()) or value.lower() in {path.lower(), name.lower()}


DEVICES = st.builds(
    device,
    name=st.sampled_from(["kiosk-01", "nas", "web-2"]),
    tags=st.sampled_from([{}, {"site": "Berlin"}, {"site": "oslo", "role": "nas"}]),
    online=st.booleans(),
    seen_at=st.sampled_from([0, NOW - 30, NOW - 1_200]),
    enrolled_at=st.sampled_from([0, NOW - 900]),
    phase=st.sampled_from(list(Phase)),
    outcome=st.sampled_from([None, *Outcome]),
    wave=st.sampled_from([None, 1, 12]),
    facts=st.sampled_from([None, Facts(cpus=8, memory_bytes=8 * 2**30, store_free_bytes=2**30, kernel="6.1")]),
    healthy=st.sampled_from([None, True, False]),
    state=st.sampled_from(["active", "held", "retired"]),
)


@given(QUERIES, st.lists(DEVICES, min_size=1, max_size=4))
def test_compiled_query_agrees_with_plain_code(query: Query, devices: list[DeviceView]) -> None:
    """The generated expression says of every device what plain code says."""
    compiled = compile_query(query)
    for subject in devices:
        expected = all(_holds(term, subject) != term.negated for term in query.terms)
        assert expected == compiled(subject, NOW)
