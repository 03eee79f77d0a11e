"""What restricted people see and do by the command line: their own devices, verified, and words for the rest."""

from pathlib import Path

import pytest
from tests.cli.commandline import Commands
from tests.factories import key
from tests.sshagent import make_key


@pytest.fixture
def ops(served: Commands, tmp_path: Path) -> tuple[str, str]:
    """Give the option by which an operator of team=web signs, in a fleet with a device of theirs and another."""
    file = tmp_path / "ops"
    make_key(file)
    served("access", "grant", "ops", "--to", f"{file}.pub", "--action", "deploy", "--on", "team=web", "--yes")
    for name, team in (("web-01", "web"), ("db-01", "db")):
        served.ask(name)
        served("enroll", name, "--key", key(name).public.fingerprint, "--tag", f"team={team}")
    served.release("r1", web_01="new-web", db_01="new-db")
    return ("--key", str(file))


def test_an_operator_rolls_out_anothers_release_to_their_own_devices(served: Commands, ops: tuple[str, str]) -> None:
    """Of a release for all they see their lines, each held against what was signed, and start what they may."""
    release = served(*ops, "release", "show", "r1").out
    assert "1 of 2 lines: those that your grants cover" in release
    assert "web-01" in release
    assert "db-01" not in release
    assert ["web-01"] == [one["name"] for one in served(*ops, "device", "list", "--json").json["devices"]]
    dry = served(*ops, "rollout", "start", "r1", "--on", "team=web", "--dry-run", "--json").json
    assert ["web-01"] == [one["name"] for one in dry["devices"]]
    started = served(*ops, "rollout", "start", "r1", "--on", "team=web", "--yes", "--json").json
    shown = served(*ops, "rollout", "show", started["rollout"]).out
    assert "web-01" in shown
    assert "it has others" not in shown


def test_a_rollout_of_others_is_shown_as_far_as_ones_grants_reach(served: Commands, ops: tuple[str, str]) -> None:
    """Counts and members are of one's own devices, and the command says so; one that touches none is refused."""
    served("rollout", "start", "r1", "--yes")
    (whole,) = served("rollout", "list", "--json").json["rollouts"]
    (part,) = served(*ops, "rollout", "list", "--json").json["rollouts"]
    assert ((2, False), (1, True)) == ((whole["total"], whole["partial"]), (part["total"], part["partial"]))
    shown = served(*ops, "rollout", "show", whole["id"]).out
    assert "the devices that your grants cover; it has others, too" in shown
    assert "db-01" not in shown
    served("rollout", "start", "r1", "--on", "team=db", "--yes")
    other = served("rollout", "list", "--json").json["rollouts"][0]["id"]
    complaint = served(*ops, "rollout", "show", other, code=3).complaint
    assert "ops lacks the right to read rollout" in complaint
    assert "it holds: deploy on team=web" in complaint
    refused = served("audit", "list", "--refused").out
    assert f"ops read rollout {other[:12]} ops lacks the right" in " ".join(refused.split())
