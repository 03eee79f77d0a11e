"""An agent that meets a root above its own protocol: what is older may still begin, nothing newer, and it says so."""

from pathlib import Path

from tests.agent.site import Site, until


async def test_an_agent_that_is_too_old_begins_only_what_is_older(tmp_path: Path) -> None:
    """The rollout below the root runs, and may bring the newer agent; the one above never does, though it is open.

    The agent goes on to take the log in, judges nothing of it, and its reports say what it waits for.
    """
    site = Site(tmp_path)
    older, newer = (site.machine.system(name, at="cache") for name in ("older", "newer"))
    async with site.running() as agent:
        device = await site.member()
        below = site.deploy(device, older)
        assert site.server.lines is not None
        site.server.line_trees[below] = site.server.lines
        raised = site.fleet.size
        site.fleet.root(protocol=2)
        above = site.deploy(device, newer)
        for rollout in (above, below):
            site.server.open_gate(rollout, device)
        await until(lambda: site.machine.host.current_system() == older)
        said = f"agent too old: entry {raised} raised the protocol"
        await until(lambda: any(one.note.startswith(said) for one in site.server.reports))
        site.fleet.grant("later", "deploy")
        site.server.open_gate(above, device)
        await until(lambda: agent.link.mirror.size == site.fleet.size)
        assert raised == agent.link.mirror.state.stopped_at
    assert [f"switch {older}"] == site.machine.switches()
    assert {1} == {one.protocol for one in site.server.reports}
