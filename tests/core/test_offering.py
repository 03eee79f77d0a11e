"""Giving back to whoever says that they lack something: nobody has proven who they are when they ask."""

from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from tests.factories import Fleet, device_id
from tests.httpd import Answer, Asked, httpd

from nixfleet.client.api import Client
from nixfleet.client.logfile import LogFile
from nixfleet.client.mirror import Mirror
from nixfleet.client.offering import give_back
from nixfleet.errors import NixfleetError
from nixfleet.model.wire import Entry, Offer

SECRET = "a line of a file that is root's alone"


class Thief:
    """Answers every offer with what it is told to, and keeps what it was given."""

    def __init__(self, answer: dict[str, object]) -> None:
        """Be told what to answer."""
        self.answer = msgspec.json.encode(answer)
        self.given: list[bytes] = []

    def __call__(self, asked: Asked) -> Answer:
        """Answer one request."""
        self.given.append(asked.body)
        return Answer(self.answer)

    def payloads(self) -> list[int]:
        """Count the payloads of each offer."""
        return [len(msgspec.json.decode(body, type=Offer).payloads) for body in self.given]


def device_mirror(folder: Path) -> tuple[Fleet, Mirror]:
    """Make a device's copy of a log."""
    fleet = Fleet()
    fleet.device("web-01")
    fleet.release("a", {"web-01": "a"})
    mirror = Mirror.open(folder / "state" / "log", fleet.fleet, device=device_id("web-01"))
    mirror.extend(fleet.checkpoint, 0, [Entry(leaf=leaf, payload=payload) for leaf, payload in fleet.entries])
    return fleet, mirror


@pytest.mark.parametrize("name", ["../../../secret", "{folder}/secret", "ab" * 32])
async def test_a_coordinator_cannot_ask_for_a_file_of_the_device(tmp_path: Path, name: str) -> None:
    """An answer that names a path, or a release of no log, in place of one whose lines lack, brings it nothing."""
    fleet, mirror = device_mirror(tmp_path)
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    (mirror.folder / "lines").mkdir()
    (mirror.folder / "lines" / ("ab" * 32)).write_text(f"{SECRET}\n")
    thief = Thief({"size": 0, "goal": 0, "lines": [name.format(folder=tmp_path)]})
    async with (
        httpd(thief) as server,
        Client([server.url], fleet=fleet.fleet, key=None, clock=lambda: fleet.now) as client,
    ):
        with suppress(NixfleetError):
            await give_back(client, mirror)
    assert thief.given
    assert not any(SECRET.encode() in body for body in thief.given)


@pytest.mark.parametrize("name", ["../../../secret", "{folder}/secret", "..", "", "AB" * 32, "ab" * 32 + "\n"])
def test_lines_are_read_by_a_digest_and_by_nothing_else(tmp_path: Path, name: str) -> None:
    """What is no digest names no file."""
    _, mirror = device_mirror(tmp_path)
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    (mirror.folder / "lines").mkdir()
    held = LogFile.open(mirror.folder, mirror.fleet)
    held.keep_lines("cd" * 32, [SECRET])
    assert (SECRET,) == held.lines("cd" * 32)
    assert held.lines(name.format(folder=tmp_path)) is None


async def test_what_lacks_is_given_once_however_often_it_is_named(tmp_path: Path) -> None:
    """An answer that names one entry again and again costs this device one payload, not memory without end."""
    fleet, mirror = device_mirror(tmp_path)
    thief = Thief({"size": fleet.size, "goal": fleet.size, "lacks": [1] * 1_000})
    async with (
        httpd(thief) as server,
        Client([server.url], fleet=fleet.fleet, key=None, clock=lambda: fleet.now) as client,
    ):
        await give_back(client, mirror)
    assert 1 == sum(thief.payloads())
