"""What devices say the log is, in reports that they signed, held against the log that this machine has verified.

A coordinator that shows different logs to different readers is found out here: it cannot sign for a device. It must
never take the coordinator's word for what a device said.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nixfleet.client.api import Client
from nixfleet.client.mirror import Mirror
from nixfleet.client.reports import newest_reports
from nixfleet.errors import Refused, Untrusted
from nixfleet.model.statements import Device
from nixfleet.model.wire import Signed
from nixfleet.trust.reports import open_report
from nixfleet.trust.sshsig import parse_public_key

Seen = Literal["ok", "fork", "hidden", "forged", "silent"]


@dataclass(frozen=True, slots=True)
class Witness:
    """What one device's newest signed report says of the log; `why` is a sentence where it is not `ok`."""

    device: str
    name: str
    seen: Seen
    size: int
    why: str = ""


async def reports(client: Client, mirror: Mirror) -> list[tuple[str, Signed]]:
    """Fetch every unretired device's newest report, unverified; a device that told nothing has none.

    Devices whose reports this person may not read are left out, which may be all. Raises: Unreachable, Untrusted.
    """
    try:
        told = await newest_reports(client, mirror.state)
    except Refused:
        return []
    return [(one.device, told[one.device]) for one in _devices(mirror) if one.device in told]


async def witnesses(client: Client, mirror: Mirror) -> tuple[Witness, ...]:
    """Compare every unretired device's newest report with the log as verified here, which is brought up to date.

    Raises: Unreachable, Untrusted.
    """
    await mirror.catch_up(client)
    told = dict(await reports(client, mirror))
    # A report may be newer than the log that was read before it.
    await mirror.catch_up(client)
    return tuple(_witness(mirror, device, told.get(device.device)) for device in _devices(mirror))


def _devices(mirror: Mirror) -> list[Device]:
    return [record.statement for record in mirror.state.devices.values() if record.statement.state != "retired"]


def _witness(mirror: Mirror, device: Device, signed: Signed | None) -> Witness:
    if signed is None:
        return Witness(device.device, device.name, "silent", 0)
    try:
        key = parse_public_key(device.key)
        report = open_report(signed, key, fleet=mirror.fleet, device=device.device)
    except Untrusted as error:
        why = f"the report that the coordinator shows of {device.name} is not by its key: {error}"
        return Witness(device.device, device.name, "forged", 0, why)
    log, tree = report.log, mirror.state.tree
    if log.size > tree.size:
        why = f"{device.name} signed for a log of {log.size} entries, and the coordinator shows {tree.size} of them"
        return Witness(device.device, device.name, "hidden", log.size, why)
    if tree.root(log.size).hex() != log.root:
        why = f"{device.name} signed for another log at {log.size} entries: the coordinator shows two histories"
        return Witness(device.device, device.name, "fork", log.size, why)
    if report.forked:
        why = f"{device.name} was shown another log than the {log.size} entries that it knows, and that are here, too"
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
