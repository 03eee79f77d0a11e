"""All devices' signed reports in a few requests, and no page that goes on for ever."""

from pathlib import Path
from typing import cast

import pytest
from tests.factories import device_id
from tests.server.harness import rig

from nixfleet.client import gossip
from nixfleet.client.api import Client
from nixfleet.client.mirror import Mirror
from nixfleet.errors import Untrusted
from nixfleet.model.answers import DeviceReport, Reports
from nixfleet.model.wire import Signed
from nixfleet.server.routes import devices as routes

NAMES = ("web-01", "web-02", "db-01", "db-02", "gone")


async def test_reports_come_in_pages_of_what_one_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five devices in pages of two: each report once, as it was signed; a retired one's and others' are left out."""
    monkeypatch.setattr(routes, "_REPORTS", 2)
    async with rig(tmp_path / "data", *NAMES) as one, one.client("admin") as admin, one.client("ops") as ops:
        signed = {device_id(name): one.report(name) for name in NAMES}
        for name in NAMES:
            async with one.client(name) as device:
                await device.report(signed[device_id(name)])
        one.fleet.device("gone", state="retired")
        for name in ("web-01", "web-02"):
            one.fleet.device(name, tags={"team": "web"})
        one.fleet.grant("ops", select={"team": ["web"]})
        await one.send(admin)
        asked = 0
        whole = Client.device_reports

        async def counted(self: Client, after: str = "") -> Reports:
            nonlocal asked
            asked += 1
            return await whole(self, after)

        monkeypatch.setattr(Client, "device_reports", counted)
        mirror = Mirror.open(tmp_path / "mirror", one.fleet.fleet)
        await mirror.catch_up(admin)
        told = dict(await gossip.reports(admin, mirror))
        assert {device_id(name): signed[device_id(name)] for name in NAMES if name != "gone"} == told
        assert 3 == asked
        assert {device_id("web-01"), device_id("web-02")} == dict(await gossip.reports(ops, mirror)).keys()
        seen = {witness.name: witness.seen for witness in await gossip.witnesses(ops, mirror)}
        assert {"web-01": "ok", "web-02": "ok", "db-01": "silent", "db-02": "silent"} == seen


@pytest.mark.parametrize("grows", [False, True])
async def test_pages_without_end_are_untrusted(tmp_path: Path, *, grows: bool) -> None:
    """A coordinator that sends the same page for ever, or more reports than there are devices, is found out."""

    class Endless:
        """Answers always the same, or with empty pages in good order."""

        url = "http://evil"

        async def device_reports(self, after: str = "") -> Reports:
            """Go round in circles, or on and on."""
            if grows:
                return Reports(reports=(), next=after + "0")
            report = DeviceReport(device="d", report=Signed(payload=b"", signature=b""))
            return Reports(reports=(report,), next="d")

    mirror = Mirror.open(tmp_path / "mirror", "f" * 64)
    with pytest.raises(Untrusted, match="http://evil shows reports without end"):
        await gossip.reports(cast("Client", Endless()), mirror)
