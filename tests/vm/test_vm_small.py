"""The agent on a small machine under a real systemd, and what its unit may do there."""

import pytest
from tests.vm import cgroups
from tests.vm.site import Site

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

MEMORY_BYTES = 256 << 20
CORE = 0.3
AGENT_BYTES = 60 << 20
"""Of the agent's own process while it is idle: budgets.md says 45 MB, here with all that it shares."""


async def test_a_machine_with_little_memory_and_a_slow_core_updates_itself(site: Site) -> None:
    """256 MB for all that runs, a third of a core: the agent replaces itself and confirms, and nothing is killed."""
    machine = site.machine
    await site.boot(memory_bytes=MEMORY_BYTES, cpu=CORE)
    new = site.workshop.build(version=2, agentVersion=2)
    attempt = await site.outcome(await site.deploy(new, confirm_s=300))
    site.tell("256 MB and a third of a core")
    assert ("confirmed", (new, new, new)) == (attempt.outcome, machine.systems)
    status = machine.live(f"/proc/{machine.main_pid('nixfleet-agent.service')}/status").read_text()
    resident = next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmRSS"))
    peak = cgroups.peak_bytes(machine.groups)
    print(
        f"--- agent resident {resident >> 20} MiB; the whole machine at most {peak >> 20} MiB of {MEMORY_BYTES >> 20}"
    )
    assert resident < AGENT_BYTES
    assert "oom" not in machine.journal("--grep=oom", "--boot")


async def test_the_agents_unit_may_do_what_it_needs_and_no_more(site: Site) -> None:
    """Under the unit's limits an update works (above); its state is root's alone, and the kernel bounds its process."""
    machine = site.machine
    await site.boot()
    status = machine.live(f"/proc/{machine.main_pid('nixfleet-agent.service')}/status").read_text()
    words = dict(line.split(":\t", 1) for line in status.splitlines())
    assert ("1", "2") == (words["NoNewPrivs"], words["Seccomp"])
    dropped = {"sys_module": 16, "sys_rawio": 17, "sys_boot": 22, "sys_time": 25, "mknod": 27, "net_admin": 12}
    bounding = int(words["CapBnd"], 16)
    assert [] == [name for name, bit in dropped.items() if bounding >> bit & 1]
    for folder in ("/var/lib/nixfleet", "/var/cache/nixfleet"):
        assert (0o700, 0) == (machine.live(folder).stat().st_mode & 0o777, machine.live(folder).stat().st_uid)
    pid = machine.show("nixfleet-agent.service", "MainPID")
    inside = ["nsenter", f"--target={pid}", "--mount", "--"]
    for place in ("/etc", "/usr", "/root", "/home", "/srv"):
        assert machine.run([*inside, "touch", f"{place}/by-the-agent"], check=False).returncode != 0, place
    said = machine.run(["systemd-analyze", "security", "--no-pager", "nixfleet-agent.service"], check=False).stdout
    print(f"--- {said.splitlines()[-1]}")
