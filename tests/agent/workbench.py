"""A bench for what the agent does to a machine: made-up NixOS and Nix, real switches, a stand-in for systemd-run."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.agent.made_up import Machine, MadeUpStore, Silent

from nixfleet.agent.runner import Runner
from nixfleet.agent.settings import Settings


class Bench:
    """A machine that runs `old`, its store, and a runner."""

    def __init__(self, root: Path) -> None:
        self.machine = Machine(root)
        self.host = self.machine.host
        self.old = self.machine.system("old")
        self.machine.boot(self.old)
        self.store = MadeUpStore(self.machine)
        self.watcher = Silent()
        self.settings = Settings(state_dir=str(self.machine.state_dir), volatile_state=True)

    def runner(self, settings: Settings | None = None) -> Runner:
        """Make a runner, as after a restart of the agent."""
        return Runner(
            host=self.host,
            store=self.store,
            settings=settings or self.settings,
            watcher=self.watcher,
            cache_base=lambda: "http://coordinator.example/",
            names=lambda: {"web-01"},
        )

    def roots(self) -> dict[str, str]:
        """List the garbage collector roots."""
        return {one.name: str(one.readlink()) for one in self.host.gc_root(".").iterdir()}


SYSTEMD_RUN = """\
#!{python}
import os, re, subprocess, sys
words = sys.argv[1:]
with open({asked!r}, "a") as file:
    file.write("\\n".join(words) + "\\n")
while words[0].startswith("--"):
    words.pop(0)
# systemd.service(5), Command lines: specifiers first, then variables, where $$ is a dollar.
words = [re.sub("%(.)", lambda found: "%" if found[1] == "%" else "", word) for word in words]
variable = "[$](?:[$]|{{(\\\\w+)}})"
words = [re.sub(variable, lambda found: os.environ.get(found[1], "") if found[1] else "$", word) for word in words]
subprocess.Popen(words, stdin=-3, stdout=-3, stderr=-3, start_new_session=True)
"""
"""A stand-in for systemd-run that writes down what it is asked, and unescapes it as systemd does."""


def with_systemd(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Make the machine one where systemd runs; give a way to read the lines of systemd-run's arguments."""
    (bench.machine.root / "run/systemd/system").mkdir(parents=True)
    place = bench.machine.root / "asked"
    tool = bench.machine.root / "tools/systemd-run"
    tool.parent.mkdir()
    tool.write_text(SYSTEMD_RUN.format(python=sys.executable, asked=str(place)))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    return lambda: place.read_text().splitlines()
