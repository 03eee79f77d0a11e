"""The flake and the NixOS module under real Nix, offline, against this folder's stand-in for nixpkgs."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from nixfleet.agent.settings import Settings

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


@pytest.fixture
def nix(tmp_path: Path) -> dict[str, str]:
    """Give an environment in which Nix keeps everything of its own under a temporary folder."""
    if shutil.which("nix-instantiate") is None:
        pytest.skip("needs nix")
    conf = tmp_path / "conf"
    conf.mkdir()
    registry = tmp_path / "registry.json"
    registry.write_text('{"flakes": [], "version": 2}')
    settings = ["experimental-features = nix-command flakes", "substituters =", "build-users-group ="]
    (conf / "nix.conf").write_text("\n".join([*settings, f"flake-registry = {registry}\n"]))
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "NIX_CONF_DIR": str(conf),
        "NIX_USER_CONF_FILES": "/dev/null",
        "NIX_REMOTE": f"local?root={tmp_path}/store",
    }


def evaluate(nix: dict[str, str], settings: str) -> subprocess.CompletedProcess[str]:
    """Evaluate the module with the given settings and give the process; its output is JSON."""
    argv = ["nix-instantiate", "--eval", "--strict", "--json", str(HERE / "eval.nix"), "--arg", "settings", settings]
    return subprocess.run(argv, env=nix, capture_output=True, text=True, check=False, timeout=60)


def test_the_module_writes_the_agents_settings_and_unit(nix: dict[str, str]) -> None:
    """An enabled agent gets its agent.toml, an enabled unit that a switch does not take down, and no stray defaults."""
    done = evaluate(
        nix,
        '{ services.nixfleet.agent = { enable = true; tokenFile = "/etc/nixfleet/token"; tags.site = "berlin"; '
        'checks.http = [ { url = "http://127.0.0.1/"; retries = 2; } ]; }; networking.hostName = "web-01"; }',
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["failed"] == []
    assert result["agentToml"] == {
        "name": "web-01",
        "token_file": "/etc/nixfleet/token",
        "urls": [],
        "tags": {"site": "berlin"},
        "caches": [],
        "state_dir": "/var/lib/nixfleet",
        "checks": {"units": [], "http": [{"url": "http://127.0.0.1/", "retries": 2}], "tcp": [], "command": []},
        "fetch": {},
        "protocol": 1,
    }
    unit = result["services"]["nixfleet-agent"]
    assert unit["wantedBy"] == ["multi-user.target"]
    assert unit["restartIfChanged"] is False
    assert unit["serviceConfig"]["ExecStart"] == "/nix/store/nixfleet-agent/bin/nixfleet agent run"


EVERYTHING = """{ services.nixfleet.agent = {
  enable = true; name = "web-01"; tokenFile = "/etc/nixfleet/token"; urls = [ "https://fleet.example.org" ];
  fleet = "HEX"; checkpoint = "1:HEX"; tags.site = "berlin"; keyFile = "/etc/key"; stateDir = "/var/lib/other";
  caches = [ { url = "https://cache.example.org"; key = "c-1:KEY="; } ];
  checks = {
    units = [ { unit = "sshd.service"; timeout_s = 1; retries = 1; start_delay_s = 1; } ];
    http = [ { url = "http://127.0.0.1/"; status = 200; } ];
    tcp = [ { host = "127.0.0.1"; port = 22; } ];
    command = [ { argv = [ "/bin/true" ]; } ];
    settle_s = 1;
  };
  orphanSeconds = 60; pollSeconds = 5; reportLines = false; volatileState = true;
  fetch = { rate_bytes_s = 1; stall_s = 1; total_s = 1; };
}; }""".replace("HEX", "ab" * 32).replace("KEY", "A" * 43)


def test_the_module_has_an_option_for_each_of_the_agents_settings(nix: dict[str, str]) -> None:
    """With every option set, agent.toml has each key that the agent knows, and the agent's own reader takes it."""
    done = evaluate(nix, EVERYTHING)
    assert done.returncode == 0, done.stderr
    written = json.loads(done.stdout)["agentToml"]
    assert set(written) == {field.encode_name for field in msgspec.structs.fields(Settings)}
    settings = msgspec.convert(written, Settings)
    assert settings.checks.units[0].timeout_s == 1
    assert settings.fetch.total_s == 1


def test_the_module_refuses_an_agent_that_would_trust_on_first_use(nix: dict[str, str]) -> None:
    """Without a token file and a fleet id, the module's assertions say what to set."""
    done = evaluate(nix, "{ services.nixfleet.agent.enable = true; }")
    assert done.returncode == 0, done.stderr
    assert any("tokenFile" in message for message in json.loads(done.stdout)["failed"])


def test_the_module_runs_a_hardened_coordinator(nix: dict[str, str]) -> None:
    """The coordinator listens where it is told, opens its port when asked, and has no capabilities."""
    done = evaluate(
        nix,
        '{ services.nixfleet.coordinator = { enable = true; listen = "0.0.0.0:7171"; openFirewall = true; '
        'database = "postgresql+asyncpg:///nixfleet"; }; }',
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["ports"] == [7171]
    unit = result["services"]["nixfleet-coordinator"]["serviceConfig"]
    assert unit["ExecStart"] == (
        "/nix/store/nixfleet/bin/nixfleet coordinator run --listen 0.0.0.0:7171 --database postgresql+asyncpg:///nixfleet"
    )
    assert unit["CapabilityBoundingSet"] == ""
    assert unit["ProtectSystem"] == "strict"


@pytest.mark.parametrize(
    ("settings", "trouble"),
    [
        ("{ services.nixfleet.agent.nmae = 1; }", "no such option"),
        ("{ services.nixfleet.coordinator = { enable = true; listen = 7070; }; }", "not of type str"),
    ],
)
def test_the_module_refuses_unknown_and_mistyped_options(nix: dict[str, str], settings: str, trouble: str) -> None:
    """A misspelled option or a value of the wrong type is an evaluation error."""
    done = evaluate(nix, settings)
    assert done.returncode != 0
    assert trouble in done.stderr


def flake(nix: dict[str, str], tmp_path: Path, *argv: str) -> str:
    """Run a nix command on a copy of this flake with the stand-in as nixpkgs; give its output."""
    copy = tmp_path / "flake"
    if not copy.exists():
        copy.mkdir()
        for name in ("flake.nix", "nix"):
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
    verb, *rest = argv
    command = ["nix", *verb.split(), "--no-write-lock-file", "--override-input", "nixpkgs", f"path:{HERE}/stub", *rest]
    done = subprocess.run(command, env=nix, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_flake_shows_its_outputs_offline(nix: dict[str, str], tmp_path: Path) -> None:
    """`nix flake show` lists packages, apps, the module and the overlay with no network."""
    tree = json.loads(flake(nix, tmp_path, "flake show", "--json", f"path:{tmp_path}/flake"))
    assert set(tree) == {"packages", "apps", "overlays", "nixosModules", "lib"}
    assert set(tree["packages"]["x86_64-linux"]) == {"nixfleet", "nixfleet-agent", "default"}


def test_the_agent_package_leaves_out_what_the_agent_does_not_import(nix: dict[str, str], tmp_path: Path) -> None:
    """The flake's agent package depends on msgspec, httpx, PyNaCl and platformdirs alone."""
    expression = "p: map (d: d.name) p.x86_64-linux.nixfleet-agent.args.dependencies"
    out = flake(nix, tmp_path, "eval", "--json", f"path:{tmp_path}/flake#packages", "--apply", expression)
    assert json.loads(out) == ["msgspec", "httpx", "pynacl", "platformdirs"]


def test_the_package_has_every_runtime_dependency_of_the_project(nix: dict[str, str], tmp_path: Path) -> None:
    """What pyproject.toml requires at run time is what nix/package.nix builds with."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {
        name.split(">")[0].split("[")[0]
        for name in project["dependencies"] + project["optional-dependencies"]["postgres"]
    }
    expression = "p: map (d: d.name) p.x86_64-linux.nixfleet.args.dependencies"
    out = flake(nix, tmp_path, "eval", "--json", f"path:{tmp_path}/flake#packages", "--apply", expression)
    assert set(json.loads(out)) == required


def test_release_turns_configurations_into_the_release_file(nix: dict[str, str], tmp_path: Path) -> None:
    """`lib.release` writes {"agents": {name: system path}} for every NixOS configuration."""
    expression = (
        "release: (release { pkgs = { writeText = name: text: text; }; "
        'nixosConfigurations.web-01.config.system.build.toplevel = "/nix/store/x-nixos-system-web-01"; })'
    )
    out = flake(nix, tmp_path, "eval", "--json", f"path:{tmp_path}/flake#lib.release", "--apply", expression)
    assert json.loads(json.loads(out)) == {"agents": {"web-01": "/nix/store/x-nixos-system-web-01"}}
