"""Devices' newest reports as the devices signed them, many in one request.

It must never say that one is genuine: who reads it verifies it (`trust.reports`).
"""

from typing import Final

from nixfleet.client.api import Client
from nixfleet.errors import Untrusted
from nixfleet.model.wire import Signed
from nixfleet.trust.replay import State

_PAGES_MORE: Final = 8
"""Devices that came since the log was read have reports, too."""


async def newest_reports(client: Client, state: State) -> dict[str, Signed]:
    """Fetch the newest report, unverified, of each unretired device of the log; one that told nothing has none.

    Devices whose reports this person may not read are left out. Raises: Unreachable, Refused, Untrusted for pages
    without end.
    """
    told: dict[str, Signed] = {}
    after = ""
    # Each page but the last moves on by one device of the log at least; of others nothing is kept.
    for _ in range(len(state.devices) + _PAGES_MORE):
        page = await client.device_reports(after)
        told |= {one.device: one.report for one in page.reports if one.device in state.devices}
        if not page.next:
            return told
        if page.next <= after:
            break
        after = page.next
    raise Untrusted(
        f"{client.url} shows reports without end: they are of more devices than the log has, or in no order"
    )
