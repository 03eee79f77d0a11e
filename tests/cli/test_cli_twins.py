"""Two machines that use one key, as the command line shows them."""

from tests.cli.commandline import EMPTY, Commands, now
from tests.factories import device_id, key

from nixfleet.model.device import Facts, Report
from nixfleet.model.statements import LogState
from nixfleet.trust.reports import sign_report


def test_doctor_and_the_list_name_two_machines_with_one_key(served: Commands) -> None:
    """`doctor` warns with what to do, the list has the word, and a device of one machine is not named."""
    served.enroll("web-01", "web-02")
    for seq in range(1, 5):
        for boot, host in (("aaaa1111", "web-01"), ("bbbb2222", "copy")):
            report = Report(
                v=1,
                fleet=served.fleet,
                device=device_id("web-01"),
                seq=seq,
                at=now(),
                log=LogState(size=0, root=EMPTY),
                protocol=1,
                boot_id=boot,
                system="/run/old",
                booted="/run/old",
                healthy=True,
                facts=Facts(hostname=host),
            )
            signed = sign_report(report, key("web-01"))
            served.on_wire(lambda client: client.report(signed))  # noqa: B023 - used at once
    words = "two machines use this key (web-01 and copy): on the copy, as root, 'nixfleet agent join TOKEN --replace'"
    checks = [one["text"] for one in served("doctor", "--json").json["checks"] if one["check"] == "devices"]
    assert [f"web-01: {words}; if the key was stolen, 'nixfleet enroll web-01 --replace'"] == checks
    assert "cloned" in served("device", "list").out
    (shown,) = served("device", "list", "status:cloned", "--json").json["devices"]
    assert ("web-01", True) == (shown["name"], shown["reason"].startswith(words))
