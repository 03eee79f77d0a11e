"""What devices say, under their own signatures, that they can follow, and which of them are not there yet.

It must never take the coordinator's word where a device's own is to be had: a raised protocol cannot be lowered.
"""

import asyncio
from typing import Final

from nixfleet.client.api import Client
from nixfleet.client.faults import Unknown
from nixfleet.errors import Untrusted
from nixfleet.trust.replay import DeviceRecord, State
from nixfleet.trust.reports import open_report
from nixfleet.trust.sshsig import parse_public_key

AT_ONCE: Final = 16


async def cannot_follow(client: Client, state: State, protocol: int) -> tuple[str, ...]:
    """Name the unretired devices whose newest signed report does not say that they replay this protocol, and why.

    Raises: Unreachable, Refused.
    """
    turns = asyncio.Semaphore(AT_ONCE)

    async def fault(device: str, record: DeviceRecord) -> str:
        async with turns:
            why = await _fault(client, state, device, record, protocol)
        return f"{record.statement.name} ({why})" if why else ""

    asked = [fault(device, record) for device, record in state.devices.items() if record.statement.state != "retired"]
    return tuple(sorted(filter(None, await asyncio.gather(*asked))))


async def _fault(client: Client, state: State, device: str, record: DeviceRecord, protocol: int) -> str:
    try:
        signed = await client.device_report(device)
        report = open_report(signed, parse_public_key(record.statement.key), fleet=state.fleet, device=device)
    except Unknown:
        return "has not reported yet"
    except Untrusted as error:
        return f"its report does not hold: {error}"
    return "" if report.protocol >= protocol else f"protocol {report.protocol}"


async def behind_root(client: Client, state: State) -> tuple[str, ...]:
    """Name the unretired devices that have not told of replaying the root in force, in the coordinator's words."""
    index = _root_index(state)
    known = {view.id: view.log_size for view in await client.devices()}
    return tuple(
        sorted(
            record.statement.name
            for device, record in state.devices.items()
            if record.statement.state != "retired" and device in known and known[device] <= index
        )
    )


def _root_index(state: State) -> int:
    """Give the entry that brought the root in force: its log key signs from the next size on."""
    return state.log_keys[-1][0] - 1
