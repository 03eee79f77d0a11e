"""The NixOS module's units as files, without NixOS: evaluated by Nix as `tests/module` does, written as NixOS would.

Source of the form: nixos/lib/systemd-lib.nix. The agent's package is ``@agent@`` and the folder of scripts ``@units@``,
which the system that has them fills in (`systems/vm.nix`).
"""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

EVAL = Path(__file__).parents[1] / "module" / "eval.nix"
AGENT = "/nix/store/nixfleet-agent"
# NixOS writes the packages of `path` here; those of the test machine are Debian's.
PATH = "/usr/sbin:/usr/bin"


def evaluate(settings: str, env: Mapping[str, str]) -> Any:
    """Evaluate the module with an agent of these settings (Nix syntax); give what it configures."""
    whole = f'{{ networking.hostName = "web-01"; services.nixfleet.agent = {{ enable = true; {settings} }}; }}'
    argv = ["nix-instantiate", "--eval", "--strict", "--json", str(EVAL), "--arg", "settings", whole]
    done = subprocess.run(argv, env={**env}, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def write(configured: Any, folder: Path) -> None:
    """Write units, scripts and agent.toml of an evaluated module into a folder."""
    scripts = folder / "scripts"
    scripts.mkdir(parents=True)
    for name, unit in configured["services"].items():
        (folder / f"{name}.service").write_text(_service(name, unit, scripts).replace(AGENT, "@agent@"))
    for name, timer in configured["timers"].items():
        sections = {"Unit": {"Description": timer["description"]}, "Timer": timer["timerConfig"]}
        text = _text({**sections, "Install": {"WantedBy": timer["wantedBy"]}})
        (folder / f"{name}.timer").write_text(text)
    toml = "".join(f"{key} = {_toml(value)}\n" for key, value in configured["agentToml"].items())
    (folder / "agent.toml").write_text(toml)


def _service(name: str, unit: Mapping[str, Any], scripts: Path) -> str:
    environment = {"PATH": PATH, **unit["environment"]}
    service = {"Environment": [f'"{key}={value}"' for key, value in environment.items()]}
    for key, verb in (("script", "ExecStart"), ("postStop", "ExecStopPost")):
        if unit[key]:
            (scripts / f"{name}-{verb}").write_text(f"#!/bin/sh -e\n{unit[key]}")
            service[verb] = [f"@units@/{name}-{verb}"]
    marks = {
        "X-RestartIfChanged": unit["restartIfChanged"],
        "X-StopIfChanged": unit["stopIfChanged"],
    }
    return _text(
        {
            "Unit": {
                "Description": unit["description"],
                "Wants": unit["wants"],
                "After": unit["after"],
                "Conflicts": unit["conflicts"],
                **unit["unitConfig"],
            },
            "Service": {**marks, **service, **unit["serviceConfig"]},
            "Install": {"WantedBy": unit["wantedBy"]},
        }
    )


def _text(sections: Mapping[str, Mapping[str, Any]]) -> str:
    lines = []
    for section, entries in sections.items():
        lines.append(f"[{section}]")
        for key, value in entries.items():
            values = value if isinstance(value, list) else [value]
            lines += [f"{key}={str(one).lower() if isinstance(one, bool) else one}" for one in values]
    return "\n".join([*lines, ""])


def _toml(value: Any) -> str:
    """Write a value as TOML 1.0; of JSON's strings, numbers and booleans it is a superset."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{json.dumps(key)} = {_toml(one)}' for key, one in value.items())}}}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)
