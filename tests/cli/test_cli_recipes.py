"""The recipes of docs/access.md, run as they stand there against a real coordinator: what each may do, and may not."""

import json
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.commandline import Commands, Done
from tests.factories import DIGEST, store_path
from tests.sshagent import make_key

from nixfleet.cli import deploy, releases
from nixfleet.cli.main import main
from nixfleet.model.statements import Closure

DOC = Path(__file__).parents[2] / "docs" / "access.md"
PEOPLE = ("anna", "auditor", "ben", "bob", "carol", "ci", "dora", "guest", "org")
MOST = 4


def recipes() -> dict[str, list[str]]:
    """Read the recipes: by heading, the lines of their console blocks, a blank line between two blocks."""
    text = DOC.read_text(encoding="utf-8").partition("## Recipes")[2].partition("\n## ")[0]
    found = {}
    for part in text.split("\n### ")[1:]:
        heading, _, body = part.partition("\n")
        blocks = re.findall(r"```console\n(.*?)```", body, re.DOTALL)
        found[heading] = "\n".join(blocks).splitlines()
    return found


def steps(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Give each command with the lines that it is to say."""
    command, said = "", list[str]()
    for line in [*lines, "$ "]:
        if line.startswith("$ "):
            if command:
                yield command, said
            command, said = line.removeprefix("$ "), []
        elif line:
            said.append(line)


@pytest.fixture
def office(served: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Give a fleet of two devices, everybody's keys and a release file in the working folder; Nix is made up."""
    folder = tmp_path / "office"
    folder.mkdir()
    for name in PEOPLE:
        make_key(folder / name)
    systems = {name: store_path(f"nixos-system-{name}-42") for name in ("web-01", "db-01")}
    (folder / "deploy.json").write_text(json.dumps({"agents": systems}), encoding="utf-8")
    monkeypatch.chdir(folder)

    async def closures_of(_nix: object, paths: object) -> dict[str, Closure]:
        return {
            path: Closure(path=path, system="x86_64-linux", digest=DIGEST, nar_size=1_000)
            for path in sorted(set(paths))  # type: ignore[call-overload]  # an iterable of store paths
        }

    monkeypatch.setattr(releases, "closures_of", closures_of)
    monkeypatch.setattr(deploy, "closures_of", closures_of)
    for name, tags in (("web-01", ("team=web", "env=test")), ("db-01", ("team=db", "env=prod"))):
        served.enroll(name, tag=tags[0])
        served("device", "tag", name, tags[1])
    return served


def said_by(nixfleet: Commands, command: str) -> Done:
    """Run a command of the guide, with the newest rollout where it says ROLLOUT."""
    program, *argv = shlex.split(command)
    assert program == "nixfleet"
    if "ROLLOUT" in argv:
        listed = nixfleet("rollout", "list", "--json").json["rollouts"]
        newest = max(listed, key=lambda view: int(view["index"]))
        argv = [str(newest["id"])[:12] if word == "ROLLOUT" else word for word in argv]
    nixfleet.capsys.readouterr()
    code = main(argv)
    said = nixfleet.capsys.readouterr()
    return Done(code, said.out, said.err)


def shown_in(line: str, text: str) -> bool:
    """Tell whether a line of the guide is in what was said; ``…`` stands for anything."""
    pattern = ".*".join(map(re.escape, line.split("…")))
    return re.search(pattern, text) is not None


@pytest.mark.parametrize("heading", list(recipes()))
def test_a_recipe_does_what_it_says(office: Commands, heading: str) -> None:
    """Every command of it, in its order: done, or refused with exit code 3 in the words that stand below it."""
    lines = recipes()[heading]
    if heading != "A build server that may only publish":
        office("release", "create", "app-42", "-f", "deploy.json")
    for command, expected in steps(lines):
        done = said_by(office, command)
        refused = any(line.startswith(("nixfleet: ", "no: ")) for line in expected)
        assert (3 if refused else 0) == done.code, f"{command}: {done.out}{done.err}"
        for line in expected:
            assert shown_in(line, done.out + done.err), f"{command}: {done.out}{done.err}"


def test_a_recipe_sets_up_in_at_most_four_commands() -> None:
    """The first block of each is all that it takes; each says what is refused as well."""
    assert 5 == len(recipes())
    for lines in recipes().values():
        first = lines[: lines.index("")]
        assert len(list(steps(first))) <= MOST
        assert any(line.startswith("nixfleet: ") for line in lines)


def test_who_approved_may_be_seen_to_matter(office: Commands) -> None:
    """Under the last recipe's rule the rollout to production waits until it is approved, the other one does not."""
    office("release", "create", "app-42", "-f", "deploy.json")
    started = []
    for command, _ in steps(recipes()["Two people for production"]):
        said_by(office, command)
        if "rollout start" in command:
            started.append(command)
            until_newest(office, "waiting" if "team=db" in command else "running")
        if "--key carol approve" in command:
            until_newest(office, "running")
    assert 2 == len(started)


def until_newest(nixfleet: Commands, state: str) -> None:
    """Wait until the newest rollout is in a state: the coordinator plans in a thread of its own."""
    ends = time.monotonic() + 20
    while True:
        listed = nixfleet("rollout", "list", "--json").json["rollouts"]
        newest = max(listed, key=lambda view: int(view["index"]))
        if (state, state == "waiting") == (newest["state"], "1 more approval is needed" in newest["waits"]):
            return
        assert time.monotonic() < ends, (newest["state"], newest["waits"], newest["release_name"])


def test_a_deploy_without_the_right_is_refused_before_anything_is_pushed(office: Commands) -> None:
    """No closure is sent and no release signed: the missing right is named first."""
    office("access", "grant", "web", "--to", "anna.pub", "--action", "deploy", "--on", "team=web")
    size = office("audit", "list", "--json").json["size"]
    asked = ("--key", "anna", "deploy", "--device", f"web-01={store_path('nixos-system-web-01-42')}", "--yes")
    assert "web lacks the right to release for web-01: its grant" in office(*asked, code=3).complaint
    assert size == office("audit", "list", "--json").json["size"]
