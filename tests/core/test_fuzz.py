"""A fuzzer over every parser of bytes from outside: it answers, or refuses in words; its corpus is kept beside it.

NIXFLEET_FUZZ=N tries N inputs for each parser instead of a few hundred. What it finds belongs into the corpus.
"""

import os
import random
from pathlib import Path

import pytest
from tests.core.parsers import parsers

from nixfleet.errors import NixfleetError

CORPUS = Path(__file__).with_name("corpus")
TRIES = int(os.environ.get("NIXFLEET_FUZZ", "300"))
NAMES = sorted(parsers(Path()))
PIECES = (
    b"\0",
    b"\n",
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b" ",
    b"=",
    b"-",
    b"\xff",
    b"\xef\xbb\xbf",
    b"9",
)


def mutated(seed: bytes, other: bytes, chance: random.Random) -> bytes:
    """Change an input in one to four places: bits, bytes, pieces left out, doubled, taken from another, cut off."""
    data = bytearray(seed)
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(data))
        to = min(len(data), at + chance.choice((1, 2, 4, 16, 64)))
        match chance.randint(0, 6):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randint(0, 7)
            case 1 if at < len(data):
                data[at] = chance.randint(0, 255)
            case 2:
                del data[at:to]
            case 3:
                data[at:at] = data[at:to] * chance.randint(1, 40)
            case 4:
                start = chance.randint(0, len(other))
                data[at:to] = other[start : start + chance.choice((1, 8, 64, 512))]
            case 5:
                data[at:at] = chance.choice(PIECES) * chance.choice((1, 1, 1, 20, 2_000))
            case _:
                del data[at:]
    return bytes(data)


def seeds(name: str) -> list[bytes]:
    """Read a parser's corpus."""
    return [file.read_bytes() for file in sorted((CORPUS / name).iterdir())]


@pytest.mark.parametrize("name", NAMES)
def test_each_input_is_taken_or_refused_in_words(name: str, tmp_path: Path) -> None:
    """Whatever the bytes are, nothing else is raised than an error of the project's own tree."""
    parse, known, chance = parsers(tmp_path)[name], seeds(name), random.Random(f"{name} {TRIES}")
    inputs = [*known, *(mutated(chance.choice(known), chance.choice(known), chance) for _ in range(TRIES))]
    for data in inputs:
        try:
            parse(data)
        except NixfleetError:
            continue
        except Exception as error:
            error.add_note(f"the input, for tests/core/corpus/{name}: {data.hex()}")
            raise


@pytest.mark.parametrize("name", NAMES)
def test_the_corpus_holds_what_is_taken(name: str, tmp_path: Path) -> None:
    """Inputs that are all refused at the first byte would try nothing: at least one is taken whole."""
    parse, taken = parsers(tmp_path)[name], 0
    for data in seeds(name):
        try:
            parse(data)
        except NixfleetError:
            continue
        taken += 1
    assert taken


def test_each_parser_has_a_corpus() -> None:
    """And no corpus is left of a parser that is gone."""
    assert NAMES == sorted(folder.name for folder in CORPUS.iterdir())
