"""The flake and the NixOS module under real Nix, offline, against this folder's stand-in for nixpkgs."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nixfleet.agent.settings import (
    Checks,
    CommandCheck,
    ExtraCache,
    Fetching,
    HttpCheck,
    Settings,
    TcpCheck,
    UnitCheck,
)
from nixfleet.model.ids import PROTOCOL
from nixfleet.server.settings import ServerSettings

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


def evaluate(nix: dict[str, str], settings: str, code: int = 0) -> Any:
    """Evaluate the module with the given settings; give what it configures, or why Nix refuses."""
    argv = ["nix-instantiate", "--eval", "--strict", "--json", str(HERE / "eval.nix"), "--arg", "settings", settings]
    done = subprocess.run(argv, env=nix, capture_output=True, text=True, check=False, timeout=60)
    assert code == done.returncode, done.stderr
    return done.stderr if code else json.loads(done.stdout)


def of_agent(more: str = "") -> str:
    """Write the settings of a device that joins by a token."""
    return f'{{ services.nixfleet.agent = {{ enable = true; tokenFile = "/etc/nixfleet/token"; {more} }}; }}'


def of_coordinator(more: str = "") -> str:
    """Write the settings of a coordinator."""
    return f"{{ services.nixfleet.coordinator = {{ enable = true; {more} }}; }}"


def test_the_module_writes_the_agents_settings_and_unit(nix: dict[str, str]) -> None:
    """An enabled agent gets its agent.toml, an enabled unit that a switch does not take down, and no stray defaults."""
    checks = 'tags.site = "berlin"; checks.http = [ { url = "http://127.0.0.1/"; retries = 2; } ];'
    result = evaluate(nix, of_agent(checks))
    assert [] == result["failed"]
    assert {
        "name": "nixos",
        "token_file": "/etc/nixfleet/token",
        "urls": [],
        "tags": {"site": "berlin"},
        "caches": [],
        "state_dir": "/var/lib/nixfleet",
        "checks": {"units": [], "http": [{"url": "http://127.0.0.1/", "retries": 2}], "tcp": [], "command": []},
        "fetch": {},
        "protocol": PROTOCOL,
    } == result["agentToml"]
    unit = result["services"]["nixfleet-agent"]
    assert ["multi-user.target"] == unit["wantedBy"]
    assert (False, False, False) == (
        unit["restartIfChanged"],
        unit["stopIfChanged"],
        unit["unitConfig"]["X-StopOnRemoval"],
    )
    assert '"/nix/store/nixfleet-agent/bin/nixfleet" "agent" "run"' == unit["serviceConfig"]["ExecStart"]
    assert ["/nix/store/nixfleet-agent"] == result["packages"]
    assert {"nixfleet-agent", "nixfleet-rescue", "nixfleet-silence"} == result["services"].keys()


def test_an_agent_that_crashes_or_is_silent_makes_way_for_the_last_that_synced(nix: dict[str, str]) -> None:
    """Five crashes, or 168 hours, start the rescue unit; it and the agent never run at once, and neither gives up."""
    result = evaluate(nix, of_agent('stateDir = "/var/lib/other";'))
    agent, rescue, silence = (result["services"][f"nixfleet-{name}"] for name in ("agent", "rescue", "silence"))
    assert (5, ["nixfleet-rescue.service"]) == (
        agent["unitConfig"]["StartLimitBurst"],
        agent["unitConfig"]["OnFailure"],
    )
    # On the way to the next start the unit is not failed: else the first crash would do (systemd.service(5)).
    assert "direct" == agent["serviceConfig"]["RestartMode"]
    # Five starts, each 5 s after the last, are well within the time that they are counted in.
    assert agent["unitConfig"]["StartLimitIntervalSec"] > 5 * (agent["serviceConfig"]["RestartSec"] + 30)
    assert (["nixfleet-agent.service"], 0) == (rescue["conflicts"], rescue["unitConfig"]["StartLimitIntervalSec"])
    assert ([], "on-failure") == (rescue["wantedBy"], rescue["serviceConfig"]["Restart"])
    for unit in (rescue, silence):
        assert ("/var/lib/other", "/nix/store/nixfleet-agent") == (
            unit["environment"]["NIXFLEET_RESCUE_STATE"],
            unit["environment"]["NIXFLEET_RESCUE_PACKAGE"],
        )
    assert (ROOT / "nix/rescue.sh").read_text() == rescue["script"]
    assert (ROOT / "nix/silence.sh").read_text() == silence["script"]
    timer = result["timers"]["nixfleet-silence"]
    assert (["timers.target"], 3600) == (timer["wantedBy"], timer["timerConfig"]["OnUnitActiveSec"])


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ('networking.hostName = "Web-01";', "web-01"),
        ('networking.hostName = "";', None),
        ("services.nixfleet.agent.name = null;", None),
        ('services.nixfleet.agent.name = "kiosk-7";', "kiosk-7"),
    ],
)
def test_a_device_is_called_as_its_host_unless_told_otherwise(
    nix: dict[str, str], settings: str, name: str | None
) -> None:
    """The name is the configured host name; without one agent.toml is silent, and the agent asks the device."""
    agent = 'services.nixfleet.agent.enable = true; services.nixfleet.agent.tokenFile = "/etc/nixfleet/token";'
    result = evaluate(nix, f"{{ {agent} {settings} }}")
    assert name == result["agentToml"].get("name")


EVERYTHING = """{ services.nixfleet.agent = {
  enable = true; name = "web-01"; tokenFile = "/etc/nixfleet/token"; urls = [ "https://fleet.example.org" ];
  fleet = "HEX"; checkpoint = "1:HEX"; tags.site = "berlin"; keyFile = "/etc/key"; stateDir = "/var/lib/other";
  caches = [ { url = "https://cache.example.org"; key = "c-1:KEY="; } ];
  checks = {
    units = [ { unit = "sshd.service"; PATIENCE } ];
    http = [ { url = "http://127.0.0.1/"; status = 200; PATIENCE } ];
    tcp = [ { host = "127.0.0.1"; port = 22; PATIENCE } ];
    command = [ { argv = [ "/bin/true" ]; PATIENCE } ];
    settle_s = 1;
  };
  orphanSeconds = 60; pollSeconds = 5; reportLines = false; volatileState = true;
  fetch = { rate_bytes_s = 1; stall_s = 1; total_s = 1; netrc_file = "/etc/netrc"; };
}; }"""
EVERYTHING = (
    EVERYTHING.replace("HEX", "ab" * 32)
    .replace("KEY", "A" * 43)
    .replace("PATIENCE", "timeout_s = 1; retries = 1; start_delay_s = 1;")
)


def test_the_module_has_an_option_for_each_of_the_agents_settings(nix: dict[str, str]) -> None:
    """With every option set, agent.toml has each key of each of the agent's tables, and its own reader takes it."""
    written = evaluate(nix, EVERYTHING)["agentToml"]
    settings = msgspec.convert(written, Settings)
    assert (1, 1) == (settings.checks.units[0].timeout_s, settings.fetch.total_s)
    tables: dict[type[msgspec.Struct], dict[str, Any]] = {
        Settings: written,
        ExtraCache: written["caches"][0],
        Checks: written["checks"],
        UnitCheck: written["checks"]["units"][0],
        HttpCheck: written["checks"]["http"][0],
        TcpCheck: written["checks"]["tcp"][0],
        CommandCheck: written["checks"]["command"][0],
        Fetching: written["fetch"],
    }
    for table, said in tables.items():
        assert {field.encode_name for field in msgspec.structs.fields(table)} == set(said), table


# For each bound of the agent's settings a value within and one without: key of agent.toml, option of the module.
BOUNDS: tuple[tuple[str, str, Any, Any], ...] = (
    ("name", "name", "web-01", "Web 01"),
    ("token_file", "tokenFile", "/token", "token"),
    ("key_file", "keyFile", "/key", "key"),
    ("state_dir", "stateDir", "/state", "state"),
    ("urls", "urls", ["http://a"], ["ftp://a"]),
    ("fleet", "fleet", "ab" * 32, "ab"),
    ("checkpoint", "checkpoint", f"0:{'ab' * 32}", f"01:{'ab' * 32}"),
    ("tags", "tags", {"site": "a.b"}, {"site": "a b"}),
    ("caches", "caches", [{"url": "http://a", "key": f"a:{'A' * 43}="}], [{"url": "http://a", "key": "a"}]),
    ("poll_s", "pollSeconds", 1, 0),
    ("poll_s", "pollSeconds", 3_600, 3_601),
    ("orphan_s", "orphanSeconds", 1, 0),
    ("orphan_s", "orphanSeconds", 86_400, 86_401),
    ("fetch", "fetch", {"stall_s": 1}, {"stall_s": 0}),
    ("fetch", "fetch", {"total_s": 86_400}, {"total_s": 86_401}),
    ("fetch", "fetch", {"rate_bytes_s": 0}, {"rate_bytes_s": -1}),
    ("checks", "checks", {"settle_s": 3_600}, {"settle_s": 3_601}),
    ("checks", "checks", {"units": [{"unit": "a", "timeout_s": 1}]}, {"units": [{"unit": "a", "timeout_s": 0}]}),
    ("checks", "checks", {"units": [{"unit": "a", "retries": 0}]}, {"units": [{"unit": "a", "retries": 101}]}),
    (
        "checks", "checks",
        {"tcp": [{"host": "a", "port": 1, "start_delay_s": 3_600}]},
        {"tcp": [{"host": "a", "port": 1, "start_delay_s": 3_601}]},
    ),
    (
        "checks", "checks",
        {"http": [{"url": "http://a", "status": 599}]},
        {"http": [{"url": "http://a", "status": 600}]},
    ),
    ("checks", "checks", {"command": [{"argv": ["a"]}]}, {"command": [{"argv": "a"}]}),
)  # fmt: skip


def test_what_the_agent_would_not_start_with_is_refused_before_anything_is_built(
    nix: dict[str, str], tmp_path: Path
) -> None:
    """On either side of each bound, the module and the agent's own reader say the same."""
    pairs = [{option: value} for _, option, *values in BOUNDS for value in values]
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    each = "agent: let tried = import %s { settings.services.nixfleet.agent = { enable = true; } // agent; }; in"
    taken = "(builtins.tryEval (builtins.deepSeq tried.agentToml true)).success"
    expression = (
        f"map ({each % (HERE / 'eval.nix')} {taken}) (builtins.fromJSON (builtins.readFile {tmp_path}/pairs.json))"
    )
    argv = ["nix-instantiate", "--eval", "--strict", "--json", "--expr", expression]
    done = subprocess.run(argv, env=nix, capture_output=True, text=True, check=True, timeout=60)
    assert [True, False] * len(BOUNDS) == json.loads(done.stdout)
    for key, _, within, without in BOUNDS:
        msgspec.convert({key: within}, Settings)
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({key: without}, Settings)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ("", "a device never trusts on first use"),
        (f'fleet = "{"ab" * 32}";', "set urls"),
        ('tokenFile = "/nix/store/token";', "where everybody can read it"),
    ],
)
def test_the_module_asserts_what_an_agent_needs_to_join(nix: dict[str, str], settings: str, why: str) -> None:
    """Without a token file or a pinned fleet, without an address, or with a public token, it says what to set."""
    found = evaluate(nix, f"{{ services.nixfleet.agent = {{ enable = true; {settings} }}; }}")["failed"]
    assert any(why in message for message in found), found


def test_the_module_has_an_option_for_each_of_the_coordinators_settings(nix: dict[str, str]) -> None:
    """Every setting of a coordinator reaches its command, as it is: systemd expands nothing in it."""
    database = "postgresql://nixfleet@%2Frun%2Fpostgresql/fleet"
    settings = f'listen = "[::]:7171"; database = "{database}"; stateDir = "/srv/fleet"; metricsAnywhere = true;'
    backup = 'backup = { dir = "/srv/backups"; passphraseFile = "/run/secrets/backup"; };'
    result = evaluate(nix, of_coordinator(f"{settings} {backup} openFirewall = true;"))
    assert [] == result["failed"]
    unit = result["services"]["nixfleet-coordinator"]
    program, *argv = [json.loads(word.replace("%%", "%")) for word in unit["serviceConfig"]["ExecStart"].split(" ")]
    assert "/nix/store/nixfleet/bin/nixfleet" == program
    words = ["coordinator", "run", "--listen", "[::]:7171", "--database", database, "--metrics-anywhere"]
    words += ["--backup-dir", "/srv/backups", "--backup-passphrase-file", "/run/secrets/backup"]
    assert words == argv
    assert ["/srv/fleet", "-/srv/backups"] == unit["serviceConfig"]["ReadWritePaths"]
    assert "/srv/fleet" == unit["environment"]["NIXFLEET_DATA_DIR"]
    known = {field.name for field in dataclasses.fields(ServerSettings)}
    # With a folder of its own a coordinator may be claimed: NIXFLEET_DATA_DIR says both.
    backups = {"backup_dir", "backup_passphrase_file"}
    assert {"listen", "database_url", "data_dir", "metrics_anywhere", "claimable"} | backups == known
    assert [7171] == result["ports"]
    assert ["d /srv/fleet 0700 nixfleet nixfleet -"] == result["rules"]
    assert "StateDirectory" not in unit["serviceConfig"]


def test_the_module_opens_no_port_and_makes_no_folder_unless_asked(nix: dict[str, str]) -> None:
    """By default the coordinator listens on the loopback, and its folder is systemd's to make, for it alone."""
    result = evaluate(nix, of_coordinator())
    assert ([], []) == (result["ports"], result["rules"])
    unit = result["services"]["nixfleet-coordinator"]["serviceConfig"]
    assert ("nixfleet-coordinator", "0700") == (unit["StateDirectory"], unit["StateDirectoryMode"])
    assert unit["ExecStart"].endswith('"--listen" "127.0.0.1:7070"')


@pytest.mark.parametrize(
    ("backup", "why"),
    [
        ('dir = "/srv/backups";', "set both dir and passphraseFile"),
        ('passphraseFile = "/run/secrets/backup";', "set both dir and passphraseFile"),
        ('dir = "/srv"; passphraseFile = "/nix/store/passphrase";', "where everybody can read it"),
    ],
)
def test_the_module_refuses_backups_that_cannot_be_made_or_kept_secret(
    nix: dict[str, str], backup: str, why: str
) -> None:
    """Half a setting, and a passphrase in the Nix store, end the evaluation with a sentence."""
    found = evaluate(nix, of_coordinator(f"backup = {{ {backup} }};"))["failed"]
    assert any(why in message for message in found), found


@pytest.mark.parametrize(
    ("settings", "trouble"),
    [
        ("{ services.nixfleet.agent.nmae = 1; }", "no such option"),
        (of_coordinator("listen = 7070;"), "not of type str"),
        (of_coordinator('listen = "here";'), "not of type str"),
        (of_coordinator('database = "mysql://db";'), "not of type"),
    ],
)
def test_the_module_refuses_unknown_and_mistyped_options(nix: dict[str, str], settings: str, trouble: str) -> None:
    """A misspelled option or a value of the wrong type is an evaluation error."""
    assert trouble in evaluate(nix, settings, code=1)


@pytest.mark.parametrize(
    ("settings", "name", "exposure"),
    [
        (of_agent(), "nixfleet-agent", 5.0),
        (of_coordinator(), "nixfleet-coordinator", 2.0),
        (of_coordinator('listen = "0.0.0.0:80";'), "nixfleet-coordinator", 2.0),
    ],
)
def test_systemd_understands_the_units_and_finds_them_hardened(
    nix: dict[str, str], tmp_path: Path, settings: str, name: str, exposure: float
) -> None:
    """`systemd-analyze` has nothing to say against a unit, and its exposure (10 is the worst) is below a bound."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    file = tmp_path / f"{name}.service"
    file.write_text(unit_text(evaluate(nix, settings)["services"][name]))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(file)], capture_output=True, text=True, check=False, timeout=60
    )
    # Of other units of this machine it may have something to say. Before systemd 254 a restart was always direct.
    told = [line for line in verified.stderr.splitlines() if name in line and "Unknown key 'RestartMode'" not in line]
    assert [] == told
    argv = ["systemd-analyze", "security", "--offline=true", f"--threshold={exposure * 10:.0f}", str(file)]
    judged = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert 0 == judged.returncode, judged.stdout


def test_the_agent_may_write_where_it_has_to_and_its_state_is_roots_alone(nix: dict[str, str]) -> None:
    """Agent and rescue unit: no new privileges, no kernel, no clock; the state folder is there before they start."""
    services = evaluate(nix, of_agent())["services"]
    moved = evaluate(nix, of_agent('stateDir = "/srv/fleet";'))
    kernels = {"CAP_SYS_MODULE", "CAP_SYS_TIME", "CAP_SYS_BOOT", "CAP_NET_ADMIN"}
    for name in ("nixfleet-agent", "nixfleet-rescue"):
        unit = services[name]["serviceConfig"]
        assert (True, "strict", "mnt") == (unit["NoNewPrivileges"], unit["ProtectSystem"], unit["RestrictNamespaces"])
        assert not kernels & set(unit["CapabilityBoundingSet"])
        assert ("nixfleet", "0700", "0077") == (unit["StateDirectory"], unit["StateDirectoryMode"], unit["UMask"])
        assert {"/nix", "/var/lib/nixfleet"} <= set(unit["ReadWritePaths"])
        elsewhere = moved["services"][name]["serviceConfig"]
        assert ("/srv/fleet" in elsewhere["ReadWritePaths"], "StateDirectory" in elsewhere) == (True, False)
    assert ["d /srv/fleet 0700 root root -"] == moved["rules"]


def unit_text(unit: dict[str, Any]) -> str:
    """Write a unit file as NixOS does, with a program that is there for one that is not built."""
    sections = {
        "Unit": {"Description": unit["description"], "Wants": unit["wants"], "After": unit["after"]}
        | unit["unitConfig"],
        "Service": {"Environment": [f'"{key}={value}"' for key, value in unit["environment"].items()]}
        | unit["serviceConfig"],
        "Install": {"WantedBy": unit["wantedBy"]},
    }
    lines = []
    for section, entries in sections.items():
        lines.append(f"[{section}]")
        for key, value in entries.items():
            values = value if isinstance(value, list) else [value]
            lines += [f"{key}={str(one).lower() if isinstance(one, bool) else one}" for one in values]
    return re.sub(r'"/nix/store/[a-z-]*/bin/nixfleet"', '"/bin/true"', "\n".join([*lines, ""]))


def flake(nix: dict[str, str], tmp_path: Path, *argv: str) -> str:
    """Run a nix command on a copy of this flake with the stand-in as nixpkgs; give its output."""
    copy = tmp_path / "flake"
    if not copy.exists():
        copy.mkdir()
        for name in ("flake.nix", "pyproject.toml", "README.md", "Makefile", "LICENSE-MIT", "nix", "docs", "src"):
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
    verb, *rest = argv
    command = ["nix", *verb.split(), "--no-write-lock-file", "--override-input", "nixpkgs", f"path:{HERE}/stub", *rest]
    done = subprocess.run(command, env=nix, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_flake_shows_its_outputs_offline(nix: dict[str, str], tmp_path: Path) -> None:
    """`nix flake show` lists packages, apps, the module and the overlay with no network; no agent where none runs."""
    tree = json.loads(flake(nix, tmp_path, "flake show", "--json", f"path:{tmp_path}/flake"))
    assert {"packages", "apps", "overlays", "nixosModules", "lib"} == set(tree)
    assert {"nixfleet", "nixfleet-agent", "default"} == set(tree["packages"]["x86_64-linux"])
    assert {"nixfleet", "default"} == set(tree["packages"]["aarch64-darwin"])
    assert {"nixfleet", "default"} == set(tree["apps"]["aarch64-darwin"])


def test_the_packages_have_what_their_programs_import(nix: dict[str, str], tmp_path: Path) -> None:
    """The whole one has pyproject.toml's version and requirements, the agent's four of them; both are built of src."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = project["dependencies"] + project["optional-dependencies"]["postgres"]
    required = {re.split("[>[]", name)[0] for name in listed}
    expression = (
        "p: map (one: { inherit (one.args) pname version; needs = map (d: d.name) one.args.dependencies; "
        "has = builtins.attrNames (builtins.readDir one.args.src); }) "
        "(with p.x86_64-linux; [ nixfleet nixfleet-agent ])"
    )
    out = flake(nix, tmp_path, "eval", "--json", f"path:{tmp_path}/flake#packages", "--apply", expression)
    whole, agent = json.loads(out)
    assert ("nixfleet", "nixfleet-agent") == (whole["pname"], agent["pname"])
    assert {project["version"]} == {whole["version"], agent["version"]}
    # sqlalchemy[asyncio] is greenlet.
    assert required | {"greenlet"} == set(whole["needs"])
    assert ["msgspec", "httpx", "pynacl", "platformdirs"] == agent["needs"]
    assert ["LICENSE-MIT", "README.md", "pyproject.toml", "src"] == whole["has"] == agent["has"]


OWN = 'package = "/mine";'


def test_the_flakes_module_brings_the_flakes_packages(nix: dict[str, str], tmp_path: Path) -> None:
    """Without an overlay, the units start the agent's own package and the whole one; a package of one's own wins."""
    both = f"[ {of_agent()} {of_agent(OWN)} ]"
    expression = f"module: map (settings: (import {HERE}/eval.nix {{ inherit module settings; }}).packages) {both}"
    ref = f"path:{tmp_path}/flake#nixosModules.default"
    out = flake(nix, tmp_path, "eval", "--impure", "--json", ref, "--apply", expression)
    [[brought], [own]] = json.loads(out)
    assert brought.endswith("-nixfleet-agent-0.1.0")
    assert "/mine" == own


def test_release_turns_configurations_into_the_release_file(nix: dict[str, str], tmp_path: Path) -> None:
    """`lib.release` writes {"agents": {name: system path}} for every NixOS configuration."""
    expression = (
        "release: (release { pkgs = { writeText = name: text: text; }; "
        'nixosConfigurations.web-01.config.system.build.toplevel = "/nix/store/x-nixos-system-web-01"; })'
    )
    out = flake(nix, tmp_path, "eval", "--json", f"path:{tmp_path}/flake#lib.release", "--apply", expression)
    assert {"agents": {"web-01": "/nix/store/x-nixos-system-web-01"}} == json.loads(json.loads(out))
