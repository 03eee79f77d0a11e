"""What the command line shows before anything is signed, against a real coordinator and its built-in cache."""

import sys
from pathlib import Path

import click
import pytest
from tests.cli.commandline import Commands, now
from tests.factories import store_path
from tests.sshagent import make_key

from nixfleet.cli.ports import ports_of
from nixfleet.client.api import Client
from nixfleet.client.mirror import Mirror
from nixfleet.client.session import SessionKeeper
from nixfleet.model.device import Facts, Outcome
from nixfleet.preview.diff import SystemDiff
from nixfleet.preview.plan import Preview
from nixfleet.trust import sshagent
from nixfleet.trust.narinfo import CacheKey, NarInfo, base32_encode, format_narinfo, hash_part
from nixfleet.trust.signers import AgentSigner
from nixfleet.tui.ports import Deployment

HASH = f"sha256:{base32_encode(b'0' * 32)}"
ROOMY = Facts(store_free_bytes=2**40, boot_fallback="systemd-boot")
SYSTEMS = {
    "nixos-system-web-24.05": ("linux-6.6.30", "systemd-255.4"),
    "nixos-system-web-24.11": ("linux-6.6.52", "systemd-255.4"),
}


def fill_cache(served: Commands) -> None:
    """Put the narinfos of both systems into the built-in cache, signed by its key; NARs are none of a preview's."""
    signer = CacheKey.parse((served.data / "cache.key").read_text())
    for name in {*SYSTEMS, *(part for parts in SYSTEMS.values() for part in parts)}:
        info = NarInfo(
            store_path=store_path(name), url="nar/x", compression="zstd", file_hash=HASH, file_bytes=1_024,
            nar_hash=HASH, nar_bytes=10_240, references=tuple(map(store_path, SYSTEMS.get(name, ()))),
        )  # fmt: skip
        file = served.data / "cache" / "narinfo" / f"{hash_part(store_path(name))}.narinfo"
        file.write_text(format_narinfo(signer.signed(info)))


def confirmed(served: Commands, name: str, rollout: str, system: str, previous: str = "") -> None:
    """Let a device report that it runs a system since a rollout."""
    served.report(
        name, rollout, Outcome.CONFIRMED, system=store_path(system), facts=ROOMY,
        path=store_path(system), previous=store_path(previous) if previous else "",
    )  # fmt: skip


@pytest.fixture
def updated(served: Commands) -> Commands:
    """Give a fleet whose two devices run the old system, with the new one released and in the cache."""
    old, new = SYSTEMS
    served.enroll("web-01", "web-02", tag="team=web")
    served.release("r1", web_01=old, web_02=old)
    rollout = served("rollout", "start", "r1", "--yes").out.strip()
    for name in ("web-01", "web-02"):
        confirmed(served, name, rollout, old)
    served.release("r2", web_01=new, web_02=new)
    fill_cache(served)
    return served


def test_a_dry_run_tells_bytes_versions_and_reboots(updated: Commands) -> None:
    """Without Nix: closures come from the cache's narinfos, what devices have from their reports."""
    shown = updated("rollout", "start", "r2", "--dry-run", "--json").json
    assert (4_096, 40_960, "done") == (shown["download_bytes"], shown["disk_bytes"], shown["reading"]["state"])
    assert [["kernel 6.6.30 → 6.6.52"]] * 2 == [one["reboot"] for one in shown["devices"]]
    assert [["web-01", "web-02"]] == [change["devices"] for change in shown["changes"]]
    assert [("1", 1, []), ("100%", 1, [])] == [
        (wave["members"], wave["devices"], wave["names"]) for wave in shown["waves"]
    ]
    said = updated("rollout", "start", "r2", "--dry-run").out
    assert "    2  nixos 24.05 → 24.11, kernel 6.6.30 → 6.6.52; packages: 2 updated" in said
    assert "4.0 KiB to fetch in sum, 2.0 KiB each; 40 KiB on disk" in said
    assert "!     2  not connected, and get it when they are back: web-01 (<1m), web-02 (<1m)" in said
    assert (updated.home / "state" / "narinfos.sqlite").exists(), "what is read is remembered"


def test_the_canary_that_is_shown_is_the_one_that_is_drawn(updated: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """The very rollout that was previewed is signed: its digest is known before, and names its first device."""
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(click, "confirm", lambda *_, **__: True)
    said = updated("rollout", "start", "r2").out
    (canary,) = [line.split()[-1] for line in said.splitlines() if "in wave 1 (1): " in line]
    detail = updated("rollout", "show", said.splitlines()[-1], "--json").json
    assert [canary] == [member["name"] for member in detail["members"] if member["wave"] == 1]


def test_a_rollback_is_previewed_by_what_devices_have_signed(updated: Commands) -> None:
    """Each device's own report says where it returns to; one that reported of another update since is said to know."""
    rollout = updated("rollout", "start", "r2", "--yes").out.strip()
    old, new = SYSTEMS
    for name in ("web-01", "web-02"):
        confirmed(updated, name, rollout, new, previous=old)
    updated("rollout", "watch", rollout, "--wait", "all")
    before = updated("audit", "list", "--json").json
    shown = updated("rollout", "rollback", rollout, "--dry-run", "--json").json
    assert ("rollback", [store_path(old)] * 2) == (shown["kind"], [one["intended"] for one in shown["devices"]])
    assert before == updated("audit", "list", "--json").json, "a dry run signs nothing"
    further = updated("rollout", "start", "r2", "--yes").out.strip()
    confirmed(updated, "web-02", further, new)
    shown = updated("rollout", "rollback", rollout, "--dry-run", "--json").json
    assert {"web-01": store_path(old), "web-02": ""} == {one["name"]: one["intended"] for one in shown["devices"]}
    assert "what it returns to is not in its newest report" in updated("rollout", "rollback", rollout, "--dry-run").out


def test_who_may_only_deploy_is_told_what_devices_have_left(updated: Commands, tmp_path: Path) -> None:
    """A system that a device confirmed and left needs `rollback`: it is listed before signing, with who holds it."""
    rollout = updated("rollout", "start", "r2", "--yes").out.strip()
    old, new = SYSTEMS
    confirmed(updated, "web-01", rollout, new, previous=old)
    make_key(tmp_path / "ops")
    updated(
        "access", "grant", "ops", "--to", f"{tmp_path / 'ops'}.pub", "--action", "deploy", "--on", "team=web", "--yes"
    )
    ops = ("--key", str(tmp_path / "ops"))
    shown = updated(*ops, "rollout", "start", "r1", "--on", "team=web", "--dry-run", "--json").json
    needs = {one["name"]: one["needs"] for one in shown["devices"]}
    root = updated("access", "list", "--json").json["root"]["principals"][0]["name"]
    assert {"web-01": f"it has left {old}; only {root} may bring it back", "web-02": ""} == needs
    said = updated(*ops, "rollout", "start", "r1", "--on", "team=web", "--dry-run").out
    assert f"!     1  will refuse: web-01: it has left {old}; only {root} may bring it back" in said
    assert not any(one["needs"] for one in updated("rollout", "start", "r1", "--dry-run", "--json").json["devices"])


def test_an_unreadable_cache_is_said_and_the_rest_previewed(updated: Commands) -> None:
    """Without narinfos the signed sizes bound the disk, and what is not known is named."""
    for file in (updated.data / "cache" / "narinfo").iterdir():
        file.unlink()
    done = updated("rollout", "start", "r2", "--dry-run")
    assert "how much they fetch is not known: no cache that can be read knows these systems" in done.out
    assert "! in no cache that can be read: nixos-system-web-24.11 and 1 more" in done.out
    assert [1_000] * 2 == [
        one["disk_bytes"] for one in updated("rollout", "start", "r2", "--dry-run", "--json").json["devices"]
    ]


def test_two_releases_are_compared_by_package(updated: Commands) -> None:
    """What changes for each device, those that change alike together; kernel called out; --device chooses a line."""
    old, new = SYSTEMS
    updated.enroll("web-03", tag="team=web")
    updated.release("r3", web_01=new, web_03=new)
    said = updated("release", "diff", "r1", "r2").out
    assert "    2  web-01, web-02" in said
    assert "nixos 24.05 → 24.11, kernel 6.6.30 → 6.6.52; packages: 2 updated" in said
    assert "  linux 6.6.30 → 6.6.52" in said
    assert "takes a reboot: kernel 6.6.30 → 6.6.52" in said
    shown = updated("release", "diff", "r1", "r3", "--json").json
    assert (["web-02"], ["web-03"]) == (shown["only_a"], shown["only_b"])
    (change,) = shown["changes"]
    assert (["web-01"], store_path(old), store_path(new)) == (change["devices"], change["old"], change["new"])
    assert ("linux", ["6.6.30"], ["6.6.52"]) == tuple(
        change["diff"]["changed"][0][key] for key in ("name", "old", "new")
    )
    assert "the same system" in updated("release", "diff", "r2", "r3", "--device", "web-01").out
    complaint = updated("release", "diff", "r1", "r3", "--device", "web-02", code=2).complaint
    assert "r1 and r3 do not both have a line for web-02" in complaint
    assert "no release 'r9'" in updated("release", "diff", "r1", "r9", code=2).complaint


def test_a_device_shows_what_would_change(updated: Commands) -> None:
    """Where it does not run what it should: the difference by package; where it does, nothing."""
    assert None is updated("device", "show", "web-01", "--json").json["change"]
    rollout = updated("rollout", "start", "r2", "--yes").out.strip()
    shown = updated("device", "show", "web-01", "--json").json
    assert (rollout, ["6.6.30", "6.6.52"]) == (shown["rollout"], shown["change"]["kernel"])
    said = updated("device", "show", "web-01").out
    assert "what would change:\nnixos 24.05 → 24.11, kernel 6.6.30 → 6.6.52; packages: 2 updated" in said
    assert "takes a reboot: kernel 6.6.30 → 6.6.52" in said


def test_the_console_previews_over_the_same_coordinator(updated: Commands, tmp_path: Path) -> None:
    """Its acts foresee what the command line does, draw the canary, and sign the very rollout that was shown."""
    release = updated("release", "show", "r2", "--json").json["id"]
    old, new = SYSTEMS
    wanted = Deployment(release=release)

    async def act(client: Client) -> tuple[list[Preview], str, list[Preview]]:
        (held,) = sshagent.keys(str(updated.agent.sock))
        signer = AgentSigner(held, str(updated.agent.sock))
        mirror = Mirror.open(tmp_path / "mirror", updated.fleet)
        await SessionKeeper(signer, fleet=updated.fleet, file=tmp_path / "session", clock=now).attach(client)
        await mirror.catch_up(client)
        ports = ports_of(client, mirror, signer, clock=now, exports=tmp_path, memory=tmp_path / "narinfos.sqlite")
        shown = [one async for one in ports.acts.preview(wanted)]
        await ports.acts.deploy(wanted)
        (newest, *_) = sorted(await client.rollouts(), key=lambda one: -one.index)
        detail = await client.rollout(newest.id)
        canary = next(member.name for member in detail.members if member.wave == 1)
        named = await ports.source.changes([("web-01", store_path(old), store_path(new))])
        assert ("6.6.30", "6.6.52") == (named.changes[0].diff or SystemDiff(old="", new="")).kernel
        return shown, canary, [one async for one in ports.acts.preview_roll_back(newest.id)]

    shown, canary, back = updated.on_wire(act)
    assert ("reading", "done") == (shown[0].reading.state, shown[-1].reading.state)
    assert (4_096, (canary,)) == (shown[-1].download_bytes, shown[-1].waves[0].names)
    assert () == back[-1].devices, "nobody has confirmed it yet"
