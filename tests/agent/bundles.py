"""Bundles of a made-up fleet, as an admin would export them; the made-up Nix takes content from elsewhere."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.agent.site import Site

from nixfleet.agent.applying import apply
from nixfleet.client import receipt as receipts
from nixfleet.client.bundle import BundleDevice, Head, LineOf, Writer
from nixfleet.errors import Unreachable
from nixfleet.model.device import Report
from nixfleet.model.wire import Entry, LineAnswer
from nixfleet.trust.lines import LineTree
from nixfleet.trust.reports import open_report
from nixfleet.trust.sshsig import parse_public_key


async def member(root: Path) -> tuple[Site, str]:
    """Make a site whose device joined once, and reaches nobody any more."""
    site = Site(root)
    async with site.running():
        device = await site.member()
    site.server.reports.clear()
    site.server.down = "there is no network"
    return site, device


def bundle_bytes(
    site: Site, device: str, rollout: str, lines: Sequence[LineOf] | None = None, withheld: int = 0, **head: Any
) -> bytes:
    """Write a bundle of the log but for its end, and of what a coordinator would answer the device."""
    held = site.fleet.entries[: site.fleet.size - withheld]
    entries = [Entry(leaf=leaf, payload=payload) for leaf, payload in held]
    tree = site.server.line_trees.get(rollout, site.server.lines)
    told = [line_of(tree, device, rollout)] if lines is None and tree is not None else lines or []
    said: dict[str, Any] = {
        "fleet": site.fleet.fleet,
        "rollout": rollout,
        "entries": len(entries),
        "devices": (BundleDevice(device=device, name="web-01"),),
        "paths": 0,
        **head,
    }
    file = io.BytesIO()
    writer = Writer(file)
    writer.log(Head(**said), site.fleet.checkpoint, entries, told)
    writer.infos(())
    writer.close()
    return file.getvalue()


def line_of(tree: LineTree, device: str, rollout: str, asks: str = "") -> LineOf:
    """Answer a device (that is, whoever `asks`) with a device's line."""
    return LineOf(rollout=rollout, device=asks or device, answer=LineAnswer(line=tree.proof(device)))


def write(site: Site, device: str, rollout: str, **rest: Any) -> Path:
    """Write a bundle beside the machine."""
    path = site.machine.root / "october.bundle"
    path.write_bytes(bundle_bytes(site, device, rollout, **rest))
    return path


def receipt_of(site: Site) -> Path:
    """Give where the receipt goes."""
    return site.machine.root / "receipt"


async def applied(site: Site, path: Path) -> str:
    """Apply a bundle as root would; the network is not there for anybody."""
    return await apply(site.parts(), path, receipt_of(site))


def told(site: Site, device: str) -> list[Report]:
    """Open the reports of the receipt by the device's key."""
    public = parse_public_key(site.fleet.state.devices[device].statement.key)
    held = receipts.read(receipt_of(site))
    return [open_report(one, public, fleet=site.fleet.fleet, device=device) for one in held.reports]


def outcomes(site: Site, device: str) -> list[tuple[str, int, str]]:
    """List the outcomes of the receipt, repeats left out."""
    found = [
        (one.attempt.rollout, one.attempt.run, str(one.attempt.outcome))
        for one in told(site, device)
        if one.attempt is not None and one.attempt.outcome is not None
    ]
    return list(dict.fromkeys(found))


def silent(*_: object, **__: object) -> None:
    """Fail whoever asks a coordinator."""
    raise Unreachable("there is no network")
