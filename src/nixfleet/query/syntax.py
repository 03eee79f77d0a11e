"""Reading and printing queries: text to terms and back; it must not look at devices."""

import dataclasses
import re

from nixfleet.errors import UserError
from nixfleet.model.ids import NAME
from nixfleet.query.fields import FIELDS, Field, Kind

MAX_QUERY_CHARS = 1_000
MAX_TERMS = 64
_NUMBERS = frozenset({Kind.COUNT, Kind.SIZE, Kind.AGE})

_HEAD = re.compile(r"(?P<field>[a-z_]+(?:\.[^\s:<>=,\"]*)?)(?P<op>:|>=|<=|>|<)")
_BARE = re.compile(r"[^\s,\"]+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_SAFE = re.compile(r"[^\s,\"\\:<>=-][^\s,\"\\:<>=]*")
_TAG = re.compile(NAME)
_AMOUNT = re.compile(r"(?P<number>[0-9]{1,15})(?P<unit>[A-Za-z]{0,3})")

AGE_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800, "y": 31_536_000}
SIZE_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
YES_NO = {"yes": True, "true": True, "no": False, "false": False}


class QueryError(UserError):
    """A query that cannot be read; `position` and `length` (characters) say where.

    `plain` is the sentence without the hint, which names a key of the console.
    """

    def __init__(self, text: str, position: int, length: int = 1, *, hint: str = "") -> None:
        """Keep the sentence and the place."""
        super().__init__(text + hint)
        self.plain = text
        self.position = position
        self.length = max(1, length)


@dataclasses.dataclass(frozen=True, slots=True)
class Term:
    """One condition; `field` is empty for free text, `op` one of ``: > < >= <=``; `at` is its place in the text."""

    field: str
    op: str
    values: tuple[str, ...]
    negated: bool = False
    at: int = dataclasses.field(default=0, compare=False)
    length: int = dataclasses.field(default=1, compare=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Query:
    """A conjunction of terms; the empty query matches every device."""

    terms: tuple[Term, ...] = ()


def parse(text: str) -> Query:
    """Read a query of at most 1,000 characters and 64 terms.

    Raises: QueryError with the place of the first fault.
    """
    if len(text) > MAX_QUERY_CHARS:
        raise QueryError(f"a query has at most {MAX_QUERY_CHARS} characters", MAX_QUERY_CHARS)
    terms: list[Term] = []
    at = _skip(text, 0)
    while at < len(text):
        if len(terms) == MAX_TERMS:
            raise QueryError(f"a query has at most {MAX_TERMS} terms", at)
        term = _term(text, at)
        _check(term)
        terms.append(term)
        at = _skip(text, at + term.length)
    return Query(tuple(terms))


def to_text(query: Query) -> str:
    """Print a query so that `parse` gives it back."""
    return " ".join(
        ("-" if term.negated else "")
        + (term.field + term.op if term.field else "")
        + ",".join(_quote(value) for value in term.values)
        for term in query.terms
    )


def field_of(term: Term) -> Field:
    """Find the field of a term that is not free text; ``tag.KEY`` gets one of its own."""
    if term.field.startswith("tag."):
        return Field(name=term.field, kind=Kind.TEXT, source="", about="a tag's value")
    return FIELDS[term.field]


def amount(kind: Kind, value: str) -> int | None:
    """Read a number, a size in bytes or an age in seconds; None when it is none."""
    found = _AMOUNT.fullmatch(value)
    if found is None:
        return None
    number, unit = int(found["number"]), found["unit"].lower()
    if kind is Kind.COUNT:
        return number if not unit else None
    if kind is Kind.AGE:
        return number * AGE_UNITS[unit] if unit in AGE_UNITS else None
    unit = unit.removesuffix("ib").removesuffix("b")
    return number * SIZE_UNITS[unit] if unit in SIZE_UNITS else None


def is_glob(value: str) -> bool:
    """Tell whether a value has wildcards."""
    return "*" in value or "?" in value


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _term(text: str, start: int) -> Term:
    at = start
    negated = text[at] == "-"
    at += negated
    head = _HEAD.match(text, at)
    name, op = ("", ":") if head is None else (head["field"], head["op"])
    at = at if head is None else head.end()
    values: list[str] = []
    while True:
        value, at = _value(text, at, start)
        values.append(value)
        if at >= len(text) or text[at].isspace():
            break
        if text[at] != ",":
            raise QueryError("a comma or a space is missing here", at)
        at += 1
    return Term(field=name, op=op, values=tuple(values), negated=negated, at=start, length=at - start)


def _value(text: str, at: int, start: int) -> tuple[str, int]:
    if at < len(text) and text[at] == '"':
        found = _QUOTED.match(text, at)
        if found is None:
            raise QueryError("this quote is never closed", at, len(text) - at)
        return _ESCAPE.sub(r"\1", found[1]), found.end()
    found = _BARE.match(text, at)
    if found is None:
        raise QueryError("a value is missing here", min(at, len(text) - 1), at - start)
    return found[0], found.end()


def _quote(value: str) -> str:
    if _SAFE.fullmatch(value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _check(term: Term) -> None:
    """Refuse unknown fields, and values or comparisons that their field does not have."""
    if not term.field:
        return
    if term.field.startswith("tag."):
        if not _TAG.match(term.field.removeprefix("tag.")):
            raise QueryError(f"{term.field[4:]!r} is no tag name", term.at, term.length)
    elif term.field not in FIELDS:
        length = len(term.field) + term.negated
        raise QueryError(f"no field {term.field!r}", term.at, length, hint="; ? lists them")
    known = field_of(term)
    fault = _operator_fault(known, term)
    if fault:
        raise QueryError(fault, term.at, term.length)
    bad = next((value for value in term.values if not _fits(known, value)), None)
    if bad is not None:
        wants = ", ".join(known.words) if known.words else known.kind.value
        raise QueryError(f"{bad!r} is no {known.name}: {wants}", term.at, term.length)


def _operator_fault(known: Field, term: Term) -> str:
    """Say what is wrong with the comparison of a term, or nothing."""
    if known.kind not in _NUMBERS:
        return "" if term.op == ":" else f"{known.name} takes ':', not {term.op!r}"
    if term.op == ":":
        return "" if known.kind is Kind.COUNT else f"compare {known.name} with > or <"
    return "" if len(term.values) == 1 else f"{term.op} takes one value"


def _fits(known: Field, value: str) -> bool:
    if known.kind in _NUMBERS:
        return amount(known.kind, value) is not None
    if known.kind is Kind.FLAG:
        return value in YES_NO
    return known.kind is not Kind.WORD or value in known.words or is_glob(value)
