"""What a coordinator says, held against the log that this machine has verified, before it is shown or signed again.

Pure. It must never take the coordinator's word for what the log says itself.
"""

from nixfleet.errors import Untrusted, UserError
from nixfleet.model.ids import Digest, Selector, matches
from nixfleet.model.statements import SelectLine, TargetLine, Targets
from nixfleet.model.views import EnrollView, ReleaseLineView, ReleaseView
from nixfleet.model.wire import LineProof, Signed
from nixfleet.trust.lines import LineTree, encode_line, verify_line
from nixfleet.trust.replay import State, selected
from nixfleet.trust.reports import open_enroll
from nixfleet.trust.sshsig import parse_public_key


def check_lines(release: ReleaseView, state: State) -> None:
    """Hold the coordinator's words on a release's lines against the signed release.

    Raises: Untrusted; without this a coordinator could have its own closures signed, or previewed.
    """
    record = state.releases.get(Digest(release.id))
    if record is None:
        raise Untrusted(f"the log as verified here has no release {release.id[:12]}")
    signed = record.statement
    if signed.targets is not None and release.partial:
        # Each line for itself: that the others are none of a device's that we may read of is the coordinator's word.
        same = all(_proven(line, signed.targets) for line in release.lines)
    elif signed.targets is not None:
        lines = [_line(line) for line in release.lines]
        same = bool(lines) and LineTree(lines).targets == signed.targets
    else:
        same = [_shown(line) for line in release.lines] == [_signed(line) for line in signed.lines or ()]
    if not same or release.name != signed.name:
        raise Untrusted(f"the coordinator shows other lines of {signed.name} than those that were signed")


def _line(line: ReleaseLineView) -> TargetLine:
    return TargetLine(
        device=line.device, path=line.path, system=line.system, digest=line.digest, nar_size=line.nar_size
    )


def _proven(line: ReleaseLineView, targets: Targets) -> bool:
    """Tell whether a line is one of the signed release's, by its inclusion proof."""
    if line.place is None:
        return False
    try:
        text, hashes = encode_line(_line(line)).decode(), tuple(map(bytes.fromhex, line.proof))
        verify_line(LineProof(line=text, index=line.place, size=targets.size, hashes=hashes), targets, line.device)
    except (Untrusted, UserError, ValueError):
        return False
    return True


def _shown(line: ReleaseLineView) -> tuple[object, ...]:
    return line.select, line.path, line.system, line.digest, line.nar_size


def _signed(line: SelectLine) -> tuple[object, ...]:
    closure = line.closure
    return line.select, closure.path, closure.system, closure.digest, closure.nar_size


def members_of(release: ReleaseView, state: State, select: Selector) -> dict[str, ReleaseLineView]:
    """Give what each unretired device of a rollout's set gets of a checked release, by device id; names from the log.

    A device's own line counts, or the first selector that matches it (trust.md, release).
    """
    found: dict[str, ReleaseLineView] = {}
    for device, tags in selected(state, select).items():
        for line in release.lines:
            if line.device == device or (line.select is not None and matches(line.select, tags)):
                found[device] = line
                break
    return found


def check_request(request: EnrollView, fleet: str) -> None:
    """Check that a request is what its device signed, and its fingerprint that of the key people will sign for.

    Raises: Untrusted; without this a coordinator could have an id or tags of its own choosing signed.
    """
    if parse_public_key(request.key).fingerprint != request.fingerprint:
        raise Untrusted(f"the coordinator shows another fingerprint for {request.name} than that of the key it sent")
    try:
        signed = open_enroll(Signed(payload=request.payload, signature=request.signature), fleet=fleet)
    except Untrusted as error:
        raise Untrusted(f"the coordinator shows a request that {request.name} has not signed: {error}") from error
    shown = request.device, request.name, request.key, request.tags
    if shown != (signed.device, signed.name, signed.key, signed.tags):
        raise Untrusted(f"the coordinator shows another request of {request.name} than the device has signed")
