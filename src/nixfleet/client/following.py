"""What devices say, under their own signatures, that they can follow, and which of them are not there yet.

It must never take the coordinator's word where a device's own is to be had: a raised protocol cannot be lowered.
"""

from typing import Final

from nixfleet.client.api import Client
from nixfleet.client.reports import newest_reports
from nixfleet.errors import Refused, Untrusted, UserError
from nixfleet.model.ids import PROTOCOL
from nixfleet.model.statements import Root
from nixfleet.model.text import counted
from nixfleet.model.wire import Signed
from nixfleet.trust.replay import DeviceRecord, State
from nixfleet.trust.reports import open_report
from nixfleet.trust.sshsig import parse_public_key

SHOWN: Final = 10


async def check_followers(client: Client, state: State, new: Root) -> None:
    """Check, before a root is proposed or co-signed, that everybody could replay on behind it.

    Raises: Refused that names the devices below, UserError when this software is itself too old, Unreachable.
    """
    if state.root is not None and new.protocol <= state.root.protocol:
        return
    if new.protocol > PROTOCOL:
        raise UserError(f"this nixfleet follows protocol {PROTOCOL}, not {new.protocol}: update it first")
    below = await cannot_follow(client, state, new.protocol)
    if below:
        raise Refused(
            f"{counted(len(below), 'device')} cannot follow protocol {new.protocol} yet: {some(below)};"
            " bring a newer agent there first, or retire what is gone"
        )


def some(names: tuple[str, ...]) -> str:
    """Name a few of several."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


async def cannot_follow(client: Client, state: State, protocol: int) -> tuple[str, ...]:
    """Name the unretired devices whose newest signed report does not say that they replay this protocol, and why.

    Raises: Unreachable, Refused.
    """
    told = await newest_reports(client, state)
    below = [
        f"{record.statement.name} ({why})"
        for device, record in state.devices.items()
        if record.statement.state != "retired" and (why := _fault(state, record, told.get(device), protocol))
    ]
    return tuple(sorted(below))


def _fault(state: State, record: DeviceRecord, signed: Signed | None, protocol: int) -> str:
    if signed is None:
        return "has not reported yet"
    device = record.statement
    try:
        report = open_report(signed, parse_public_key(device.key), fleet=state.fleet, device=device.device)
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
