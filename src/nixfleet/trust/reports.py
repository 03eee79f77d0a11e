"""What is signed outside the log: device reports, enrolment requests, session keys; (payload, signature) pairs.

Each has a namespace of its own, so none can pass for a statement. It must never judge whether a key may speak:
the caller gives the key, or looks up the one returned.
"""

from typing import Final

from nixfleet.errors import Untrusted
from nixfleet.model.device import EnrollRequest, Report, Session
from nixfleet.model.statements import Device
from nixfleet.model.wire import Signed
from nixfleet.trust import fields
from nixfleet.trust.sshsig import PublicKey, SecretKey, verify
from nixfleet.trust.statements import strict_decode, strict_encode

NAMESPACE_REPORT: Final = "nixfleet-report-v1"
NAMESPACE_ENROLL: Final = "nixfleet-enroll-v1"
NAMESPACE_SESSION: Final = "nixfleet-session-v1"
SESSION_MAX_S: Final = 12 * 3_600
SESSION_SKEW_S: Final = 300


def sign_report(report: Report, key: SecretKey) -> Signed:
    """Sign a report with the device's key. Raises: UserError when the report breaks a bound."""
    payload = strict_encode(report)
    return Signed(payload=payload, signature=key.sign(NAMESPACE_REPORT, payload))


def open_report(signed: Signed, key: PublicKey, *, fleet: str, device: str) -> Report:
    """Verify a report of one device by its key. Raises: Untrusted."""
    _by(verify(signed.signature, signed.payload, NAMESPACE_REPORT), key)
    report = strict_decode(signed.payload, Report)
    _check(report.v, report.fleet, fleet)
    if report.device != device:
        raise Untrusted("the report is of another device than its key")
    return report


def sign_enroll(request: EnrollRequest, key: SecretKey) -> Signed:
    """Sign an enrolment request with the key it names. Raises: UserError when it breaks a bound."""
    payload = strict_encode(request)
    return Signed(payload=payload, signature=key.sign(NAMESPACE_ENROLL, payload))


def prove_key(statement: Device, key: SecretKey) -> Signed:
    """Ask with the key that a device statement names to be that device: it is this device's own, nobody else's."""
    asked = EnrollRequest(
        v=1,
        fleet=statement.fleet,
        device=statement.device,
        name=statement.name,
        key=key.public.text,
        at=statement.at,
        tags=statement.tags,
    )
    return sign_enroll(asked, key)


def open_enroll(signed: Signed, *, fleet: str) -> EnrollRequest:
    """Verify an enrolment request by the key it names: proof that the device holds it. Raises: Untrusted."""
    signer = verify(signed.signature, signed.payload, NAMESPACE_ENROLL)
    request = strict_decode(signed.payload, EnrollRequest)
    _check(request.v, request.fleet, fleet)
    if fields.fingerprint(request.key) != signer.fingerprint:
        raise Untrusted("the enrolment request is not signed by the key it names")
    return request


def session_payload(session: Session) -> bytes:
    """Return the bytes that a person signs in ``nixfleet-session-v1``. Raises: UserError."""
    return strict_encode(session)


def open_session(signed: Signed, *, fleet: str, now: int) -> Session:
    """Verify a session of at most 12 h by the key that `by` names; the caller judges its rights. Raises: Untrusted."""
    signer = verify(signed.signature, signed.payload, NAMESPACE_SESSION)
    session = strict_decode(signed.payload, Session)
    _check(session.v, session.fleet, fleet)
    if session.by != signer.fingerprint:
        raise Untrusted("the session is not signed by the key it names")
    if not session.key.startswith("ssh-ed25519 "):
        raise Untrusted("a session key is a plain ed25519 key")
    fields.fingerprint(session.key)
    if not 0 < session.not_after - session.at <= SESSION_MAX_S:
        raise Untrusted(f"a session lasts at most {SESSION_MAX_S // 3_600} hours")
    if session.at > now + SESSION_SKEW_S:
        raise Untrusted("the session begins in the future; check this machine's clock")
    if session.not_after <= now:
        raise Untrusted("the session has ended; sign a new one")
    return session


def _by(signer: PublicKey, key: PublicKey) -> None:
    if signer != key:
        raise Untrusted(f"signed by {signer.fingerprint}, not by {key.fingerprint}")


def _check(version: int, named: str, fleet: str) -> None:
    if version != 1:
        raise Untrusted(f"version {version} is newer than this software")
    if named != fleet:
        raise Untrusted("signed for another fleet")
