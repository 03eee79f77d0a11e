"""What devices say the log is, in reports that they signed, held against the log that this machine has verified.

A coordinator that shows different logs to different readers is found out here: it cannot sign for a device. It must
never take the coordinator's word for what a device said.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from nixfleet.client.api import Client
from nixfleet.client.faults import Unknown
from nixfleet.client.mirror import Mirror
from nixfleet.errors import Refused, Untrusted
from nixfleet.model.statements import Device, LogState
from nixfleet.trust.merkle import Tree
from nixfleet.trust.reports import open_report
from nixfleet.trust.sshsig import parse_public_key

_AT_ONCE: Final = 8

Seen = Literal["ok", "fork", "hidden", "forged", "silent"]


@dataclass(frozen=True, slots=True)
class Witness:
    """What one device's newest signed report says of the log; `why` is a sentence where it is not `ok`."""

    device: str
    name: str
    seen: Seen
    size: int
    why: str = ""


async def witnesses(client: Client, mirror: Mirror) -> tuple[Witness, ...]:
    """Compare every unretired device's newest report with the log as verified here, which is brought up to date.

    Raises: Unreachable, Untrusted. Devices whose reports this person may not read are left out.
    """
    await mirror.catch_up(client)
    devices = [record.statement for record in mirror.state.devices.values() if record.statement.state != "retired"]
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(device: Device) -> tuple[Device, LogState | str | None]:
        async with gate:
            return device, await _told(client, mirror, device)

    told = await asyncio.gather(*(one(device) for device in devices))
    # A report may be newer than the log that was read before it.
    await mirror.catch_up(client)
    return tuple(_witness(mirror.state.tree, device, log) for device, log in told if log != _KEPT_BACK)


_KEPT_BACK: Final = "refused"


async def _told(client: Client, mirror: Mirror, device: Device) -> LogState | str | None:
    """Read what a device signed for: a log state, a sentence when the report does not hold, None when there is none."""
    try:
        signed = await client.device_report(device.device)
    except Unknown:
        return None
    except Refused:
        return _KEPT_BACK
    try:
        return open_report(signed, parse_public_key(device.key), fleet=mirror.fleet, device=device.device).log
    except Untrusted as error:
        return f"the report that the coordinator shows of {device.name} is not by its key: {error}"


def _witness(tree: Tree, device: Device, log: LogState | str | None) -> Witness:
    if log is None:
        return Witness(device.device, device.name, "silent", 0)
    if isinstance(log, str):
        return Witness(device.device, device.name, "forged", 0, log)
    if log.size > tree.size:
        why = f"{device.name} signed for a log of {log.size} entries, and the coordinator shows {tree.size} of them"
        return Witness(device.device, device.name, "hidden", log.size, why)
    if tree.root(log.size).hex() != log.root:
        why = f"{device.name} signed for another log at {log.size} entries: the coordinator shows two histories"
        return Witness(device.device, device.name, "fork", log.size, why)
    return Witness(device.device, device.name, "ok", log.size)


def check_witnesses(told: Sequence[Witness]) -> None:
    """Check that nobody has seen another log. Raises: Untrusted, in one sentence that says what to do."""
    against = [one for one in told if one.why]
    if not against:
        return
    first = next((one for one in against if one.seen == "fork"), against[0])
    more = f" (and {len(against) - 1} more)" if len(against) > 1 else ""
    raise Untrusted(
        f"{first.why}{more}; sign nothing, save this copy ('nixfleet audit export') and what the devices hold, and find"
        " out who runs the coordinator"
    )
