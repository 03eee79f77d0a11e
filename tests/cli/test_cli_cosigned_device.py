"""A device that comes in by two signatures: a member with the second one, and not before."""

from pathlib import Path

import pytest
from tests.cli.commandline import Commands
from tests.factories import key
from tests.sshagent import make_key

from nixfleet.errors import Untrusted
from nixfleet.model.device import Outcome

ROLLOUT = "0" * 64


def test_a_device_is_a_member_with_the_second_signature(served: Commands, tmp_path: Path) -> None:
    """Until then its request stands and its reports are nobody's; from then on it is heard."""
    bob = make_key(tmp_path / "bob")
    as_bob = ("--key", str(bob.with_suffix("")))
    served("access", "root", "update", "--add-principal", f"bob={bob}", "--threshold", "2", "--yes")
    served(*as_bob, "access", "root", "sign", "--yes")
    served.ask("web-01")
    served("enroll", "web-01", "--key", key("web-01").public.fingerprint, "--yes")
    assert ["web-01"] == [one["name"] for one in served("enroll", "list", "--json").json["requests"]]
    with pytest.raises(Untrusted, match="not enrolled here"):
        served.report("web-01", ROLLOUT, Outcome.CONFIRMED)
    (waiting,) = served(*as_bob, "approve", "--json").json["pending"]
    served(*as_bob, "approve", waiting["digest"], "--yes")
    assert [] == served("enroll", "list", "--json").json["requests"]
    served.report("web-01", ROLLOUT, Outcome.CONFIRMED)
    (device,) = served("device", "list", "--json").json["devices"]
    assert ("web-01", True) == (device["name"], device["reported_at"] > 0)
