"""GRUB's own tools on a made-up host tree: what the agent has them remember is what GRUB would boot once."""

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.agent.bootlab import BootLab
from tests.agent.made_up import Machine

from nixfleet.agent import bootmenu
from nixfleet.agent.fallback import Fallback
from nixfleet.agent.tools import run_beside

TOOLS = {name: shutil.which(name, path="/usr/bin:/usr/sbin") for name in ("grub-reboot", "grub-editenv")}

pytestmark = pytest.mark.skipif(not all(TOOLS.values()), reason="GRUB's tools are not here (grub2-common)")


def edit(machine: Machine, verb: str) -> str:
    """Run GRUB's own tool on its environment block."""
    argv = [str(TOOLS["grub-editenv"]), str(machine.host.at(bootmenu.GRUB_MEMORY)), verb]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("block", [False, True])
async def test_grub_remembers_one_boot_and_forgets_it(tmp_path: Path, *, block: bool) -> None:
    """With and without a block that is there already; the entry is named by its menu and its title."""
    machine = Machine(tmp_path)
    lab = BootLab(machine, "grub")
    old, new = lab.system("old", "6.1"), lab.system("new", "6.2")
    for name, tool in TOOLS.items():
        place = machine.host.at(f"{old}/sw/bin/{name}")
        place.unlink()
        place.symlink_to(str(tool))
        (tmp_path / "usr/sbin").mkdir(parents=True, exist_ok=True)
        machine.write(str(tool), "")
    machine.boot(old)
    machine.host.profile().parent.joinpath("system-2-link").symlink_to(new)
    lab.install(old)
    machine.host.at(bootmenu.GRUB_MEMORY).unlink()
    if block:
        edit(machine, "create")
    fallback = Fallback(machine.host, run_beside)
    await fallback.once("grub", new)
    entry = "NixOS - All configurations>NixOS - Configuration 2 (2026-01-02 - 25.05)"
    assert f"next_entry={entry}" == edit(machine, "list")
    assert entry == bootmenu.grub_once(machine.host)
    await fallback.release("grub")
    assert "" == edit(machine, "list")
    assert "" == bootmenu.grub_once(machine.host)
