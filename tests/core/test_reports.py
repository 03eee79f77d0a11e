"""Reports, enrolment requests and sessions: signed by whom they name, for one fleet, in a namespace of their own."""

import pytest
from tests.factories import T0, device_id, fingerprint, key

from nixfleet.errors import Untrusted, UserError
from nixfleet.model.device import EnrollRequest, Report, Session
from nixfleet.model.statements import LogState
from nixfleet.model.wire import Signed
from nixfleet.trust.reports import (
    NAMESPACE_SESSION,
    open_enroll,
    open_report,
    open_session,
    session_payload,
    sign_enroll,
    sign_report,
)

FLEET = "f" * 64
LOG = LogState(size=1, root="0" * 64)


def report(**fields: object) -> Report:
    """Make a report of web-01."""
    made: dict[str, object] = {
        "v": 1,
        "fleet": FLEET,
        "device": device_id("web-01"),
        "seq": 1,
        "at": T0,
        "log": LOG,
        "protocol": 1,
        "boot_id": "b",
        "system": "",
        "booted": "",
        "healthy": True,
    }
    return Report(**(made | fields))  # type: ignore[arg-type]  # fields by name


def test_a_report_is_opened_by_its_devices_key() -> None:
    """The device's key, fleet and id must all be the ones expected."""
    signed = sign_report(report(), key("web-01"))
    assert report() == open_report(signed, key("web-01").public, fleet=FLEET, device=device_id("web-01"))
    with pytest.raises(Untrusted, match="signed by"):
        open_report(signed, key("web-02").public, fleet=FLEET, device=device_id("web-01"))
    with pytest.raises(Untrusted, match="another fleet"):
        open_report(signed, key("web-01").public, fleet="0" * 64, device=device_id("web-01"))
    with pytest.raises(Untrusted, match="another device"):
        open_report(signed, key("web-01").public, fleet=FLEET, device=device_id("web-02"))


def test_a_report_beyond_its_bounds_is_not_written() -> None:
    """The writer is as strict as the reader."""
    with pytest.raises(UserError, match="note"):
        sign_report(report(note="x" * 301), key("web-01"))


def test_a_report_cannot_pass_for_an_enrolment() -> None:
    """Namespaces keep the kinds apart."""
    signed = sign_report(report(), key("web-01"))
    with pytest.raises(Untrusted, match="nixfleet-report-v1"):
        open_enroll(signed, fleet=FLEET)


def test_an_enrolment_request_proves_its_key() -> None:
    """Nobody asks in the name of a key they do not hold."""
    request = EnrollRequest(
        v=1, fleet=FLEET, device=device_id("web-01"), name="web-01", key=key("web-01").public.text, at=T0
    )
    assert request == open_enroll(sign_enroll(request, key("web-01")), fleet=FLEET)
    with pytest.raises(Untrusted, match="key it names"):
        open_enroll(sign_enroll(request, key("stranger")), fleet=FLEET)
    with pytest.raises(Untrusted, match="another fleet"):
        open_enroll(sign_enroll(request, key("web-01")), fleet="0" * 64)


def session(by: str = "lead", at: int = T0, length_s: int = 43_200) -> Signed:
    """Sign a session of a person."""
    made = Session(
        v=1, fleet=FLEET, by=fingerprint("lead"), key=key("session").public.text, at=at, not_after=at + length_s
    )
    payload = session_payload(made)
    return Signed(payload=payload, signature=key(by).sign(NAMESPACE_SESSION, payload))


def test_a_session_lasts_twelve_hours_at_most() -> None:
    """It is opened while it lasts, by the key that it names."""
    assert fingerprint("lead") == open_session(session(), fleet=FLEET, now=T0 + 43_199).by
    with pytest.raises(Untrusted, match="ended"):
        open_session(session(), fleet=FLEET, now=T0 + 43_200)
    with pytest.raises(Untrusted, match="12 hours"):
        open_session(session(length_s=43_201), fleet=FLEET, now=T0)
    with pytest.raises(Untrusted, match="12 hours"):
        open_session(session(length_s=0), fleet=FLEET, now=T0)
    with pytest.raises(Untrusted, match="future"):
        open_session(session(at=T0 + 301), fleet=FLEET, now=T0)
    with pytest.raises(Untrusted, match="key it names"):
        open_session(session(by="stranger"), fleet=FLEET, now=T0)
