"""Updates in a file: exported from a real coordinator's cache, and brought back as what devices signed."""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cachehost import packed, path_of
from tests.cli.commandline import EMPTY, Commands, now
from tests.factories import device_id, key

from nixfleet.client import receipt as receipts
from nixfleet.client.admin import Admin
from nixfleet.client.api import Client
from nixfleet.client.bundle import Bundle, unpack
from nixfleet.client.mirror import Mirror
from nixfleet.client.receipt import ReceiptHead
from nixfleet.client.session import SessionKeeper
from nixfleet.model.device import Attempt, Facts, Outcome, Phase, Report
from nixfleet.model.statements import Closure, LogState
from nixfleet.model.wire import CachePath, Signed
from nixfleet.trust import sshagent
from nixfleet.trust.narinfo import ClosureLine, closure_digest, hash_part
from nixfleet.trust.reports import sign_report
from nixfleet.trust.signers import AgentSigner

LIB, OLD, NEW = b"a library", b"the old system", b"the new system"


def _closure(*paths: CachePath) -> Closure:
    lines = [ClosureLine(one.store_path, one.nar_hash, one.nar_bytes) for one in paths]
    size = sum(one.nar_bytes for one in paths)
    return Closure(path=paths[0].store_path, system="x86_64-linux", digest=closure_digest(lines), nar_size=size)


class Field:
    """A fleet with devices in the field, and systems in the built-in cache."""

    def __init__(self, served: Commands) -> None:
        self.served = served
        served.enroll("web-01", "web-02")
        self.lib = path_of(LIB, name="lib")
        self.old, self.new = (path_of(one, self.lib.store_path, name="system") for one in (OLD, NEW))
        self._act(self._push)

    def _act(self, act: Callable[[Admin, Client], Awaitable[Any]]) -> Any:
        async def run(client: Client) -> Any:
            (held,) = sshagent.keys(str(self.served.agent.sock))
            signer = AgentSigner(held, str(self.served.agent.sock))
            mirror = Mirror.open(self.served.home / "made", self.served.fleet)
            file = self.served.home / "made.session"
            await SessionKeeper(signer, fleet=self.served.fleet, file=file, clock=now).attach(client)
            return await act(Admin(client, mirror, signer, now), client)

        return self.served.on_wire(run)

    async def _push(self, _: Admin, client: Client) -> None:
        for content, path in ((LIB, self.lib), (OLD, self.old), (NEW, self.new)):
            await client.upload_chunk(hash_part(path.store_path), 0, packed(content))
            await client.commit_path(path)

    def release(self, name: str, path: CachePath, *devices: str, digest: str = "") -> None:
        """Publish a system for devices; `digest` in place of the right one."""
        made = _closure(path, self.lib)
        if digest:
            made = Closure(path=made.path, system=made.system, digest=digest, nar_size=made.nar_size)
        self._act(lambda admin, _: admin.release(name, devices=dict.fromkeys(devices or ("web-01", "web-02"), made)))

    def start(self, name: str) -> str:
        """Start its rollout; give the id."""
        self.served("rollout", "start", name, "--all-at-once", "--yes")
        rollouts = self.served("rollout", "list", "--json").json["rollouts"]
        return str(max(rollouts, key=lambda one: one["index"])["id"])

    def member(self, rollout: str, name: str) -> dict[str, Any]:
        """Show a device's place in a rollout."""
        members = self.served("rollout", "show", rollout, "--json").json["members"]
        return next(one for one in members if one["name"] == name)

    def ended(self, rollout: str, name: str) -> dict[str, Any]:
        """Wait until the coordinator shows an outcome of a device."""
        deadline = time.monotonic() + 30
        while not (shown := self.member(rollout, name))["outcome"]:
            assert time.monotonic() < deadline, shown
        return shown

    def signed(self, name: str, rollout: str, seq: int = 1, by: str = "") -> Signed:
        """Sign, as a device does, that it confirmed."""
        told = Attempt(
            rollout=rollout, run=1, phase=Phase.CONFIRMED, outcome=Outcome.CONFIRMED, path=self.new.store_path
        )
        report = Report(
            v=1,
            fleet=self.served.fleet,
            device=device_id(name),
            seq=seq,
            at=now(),
            log=LogState(size=0, root=EMPTY),
            protocol=1,
            boot_id="boot",
            system=self.new.store_path,
            booted=self.new.store_path,
            healthy=True,
            facts=Facts(hostname=name),
            attempt=told,
        )
        return sign_report(report, key(by or name))

    def receipt(self, path: Path, name: str, *reports: Signed, fleet: str = "") -> Path:
        """Write a receipt of a device."""
        receipts.write(path, ReceiptHead(fleet=fleet or self.served.fleet, device=device_id(name)), reports)
        return path


@pytest.fixture
def field(served: Commands) -> Field:
    """Give a fleet with two devices that were never online since they were enrolled."""
    return Field(served)


def _unpacked(path: Path) -> Bundle:
    return unpack(path, path.with_name("unpacked"), lambda _: None)


def test_a_rollout_is_exported_whole(field: Field, tmp_path: Path) -> None:
    """One file has the log, each device's own proven line, and the closure of its system as the cache signed it."""
    field.release("a", field.new)
    rollout = field.start("a")
    path = tmp_path / "october.bundle"
    said = field.served("bundle", "export", str(path))
    assert f"{path} brings rollout {rollout[:12]} to 2 devices: 2 paths" in said.out
    held = _unpacked(path)
    assert {one.name for one in held.head.devices} == {"web-01", "web-02"}
    assert len(held.offsets) == field.served("audit", "list", "--json").json["size"]
    answer = held.line(rollout, device_id("web-02"))
    assert answer is not None
    assert answer.line is not None
    assert field.new.store_path in answer.line.line
    assert sorted(one.name for one in (held.folder / "cache").glob("*.narinfo")) == sorted(
        f"{hash_part(one.store_path)}.narinfo" for one in (field.lib, field.new)
    )
    assert [one.read_bytes() for one in (held.folder / "cache/nar").iterdir()].count(packed(NEW)) == 1
    assert [one.name for one in tmp_path.iterdir() if one.suffix == ".part"] == []


def test_a_newer_rollout_of_others_is_proven_not_to_be_for_the_device(field: Field, tmp_path: Path) -> None:
    """Else a device could not tell whether it has to wait for that one's line, which the file would not have."""
    field.release("a", field.old, "web-01")
    older = field.start("a")
    field.release("b", field.new, "web-02")
    newer = field.start("b")
    path = tmp_path / "october.bundle"
    field.served("bundle", "export", str(path), "--rollout", older)
    held = _unpacked(path)
    answer = held.line(newer, device_id("web-01"))
    assert answer is not None
    assert (None, True) == (answer.line, answer.absence is not None)


def test_what_the_devices_have_already_is_left_out(field: Field, tmp_path: Path) -> None:
    """A stick for a slow port need not hold what the running system shares with the new one."""
    field.release("a", field.new)
    field.start("a")
    path = tmp_path / "october.bundle"
    shown = field.served(
        "bundle", "export", str(path), "--device", "web-01", "--have", field.old.store_path, "--json"
    ).json
    assert (shown["devices"], shown["paths"]) == (["web-01"], 1)
    assert _unpacked(path).head.have == field.old.store_path


def test_a_rollout_that_nobody_may_begin_is_not_exported(field: Field, tmp_path: Path) -> None:
    """Paused, cancelled, or none at all: a file would only travel in vain; a halt is code 6, as everywhere."""
    path = str(tmp_path / "x.bundle")
    assert "no rollout is under way" in field.served("bundle", "export", path, code=2).complaint
    field.release("a", field.new)
    rollout = field.start("a")
    field.served("rollout", "pause", rollout, "--yes")
    assert (
        "the rollout is paused, so no device would take it" in field.served("bundle", "export", path, code=2).complaint
    )
    field.served("rollout", "resume", rollout, "--yes")
    field.served.report("web-01", rollout, Outcome.REVERTED)
    field.served("rollout", "watch", rollout, "--timeout", "20", code=6)
    assert "is halted" in field.served("bundle", "export", path, "--rollout", rollout, code=6).complaint
    field.served("rollout", "cancel", rollout, "--yes")
    said = field.served("bundle", "export", path, "--rollout", rollout, code=2)
    assert "the rollout is cancelled" in said.complaint
    assert list(tmp_path.glob("x.bundle*")) == []


def test_content_that_is_not_the_signed_one_is_found_out_at_the_desk(field: Field, tmp_path: Path) -> None:
    """A digest that the caches' content does not have would be refused by each device, far away."""
    field.release("a", field.new, digest="ab" * 32)
    field.start("a")
    path = tmp_path / "x.bundle"
    said = field.served("bundle", "export", str(path), code=4)
    assert "other content than the release signs" in said.complaint
    assert not path.exists()


def test_a_system_that_no_cache_has_is_named(field: Field, tmp_path: Path) -> None:
    """Nothing is left behind by an export that cannot be whole."""
    field.release("a", path_of(b"never pushed", name="system"))
    field.start("a")
    said = field.served("bundle", "export", str(tmp_path / "x.bundle"), code=2)
    assert "no cache of the release has /nix/store/" in said.complaint
    assert list(tmp_path.glob("x.bundle*")) == []


def test_devices_that_would_not_take_it_are_named(field: Field, tmp_path: Path) -> None:
    """One that follows a newer rollout, one that is held, and one that is not in it."""
    field.release("a", field.old, "web-01")
    older = field.start("a")
    path = str(tmp_path / "x.bundle")
    said = field.served("bundle", "export", path, "--device", "web-02", code=2)
    assert "web-02 is not in rollout" in said.complaint
    field.served("device", "hold", "web-01", "--until", "2099-01-31", "--yes")
    held = field.served("bundle", "export", path, "--rollout", older, code=2)
    assert "web-01 would not take it: the device is held" in held.complaint
    field.served("device", "hold", "web-01", "--end", "--yes")
    field.release("b", field.new, "web-01")
    newer = field.start("b")
    said = field.served("bundle", "export", path, "--rollout", older, code=2)
    assert "superseded" in said.complaint or f"follows rollout {newer[:12]}, which is newer" in said.complaint


def test_a_receipt_tells_the_coordinator_of_a_device_that_it_never_started(field: Field, tmp_path: Path) -> None:
    """The rollout takes the signed outcome though it has not started that device; a second import changes nothing."""
    field.release("a", field.new)
    rollout = field.start("a")
    assert field.member(rollout, "web-01")["phase"] == "idle"
    path = field.receipt(tmp_path / "receipt", "web-01", field.signed("web-01", rollout))
    said = field.served("bundle", "import", str(path)).out
    assert said == f"web-01 runs {field.new.store_path[44:]}; rollout {rollout[:12]} confirmed\n"
    shown = field.ended(rollout, "web-01")
    assert (shown["outcome"], shown["phase"]) == ("confirmed", "confirmed")
    again = field.served("bundle", "import", str(path), "--json").json["receipts"]
    assert [(one["device"], one["outcome"]) for one in again] == [("web-01", "confirmed")]
    assert field.member(rollout, "web-02")["outcome"] is None


def test_receipts_that_the_device_did_not_sign_are_refused(field: Field, tmp_path: Path) -> None:
    """By another key, of another fleet, of nobody in the log, or no receipt at all: nothing of it is sent."""
    field.release("a", field.new)
    rollout = field.start("a")
    path = tmp_path / "receipt"
    field.receipt(path, "web-01", field.signed("web-01", rollout, by="web-02"))
    assert "signed by" in field.served("bundle", "import", str(path), code=4).complaint
    field.receipt(path, "web-01", field.signed("web-01", rollout), fleet="f" * 64)
    assert "is of fleet ffffffffffff" in field.served("bundle", "import", str(path), code=2).complaint
    field.receipt(path, "web-03", field.signed("web-03", rollout))
    assert "which is not in the log" in field.served("bundle", "import", str(path), code=4).complaint
    path.write_text("precious\n")
    assert "is no receipt" in field.served("bundle", "import", str(path), code=2).complaint
    assert field.member(rollout, "web-01")["outcome"] is None
