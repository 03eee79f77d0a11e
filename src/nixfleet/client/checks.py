"""What a coordinator says, held against the log that this machine has verified, before it is shown or signed again.

Pure. It must never take the coordinator's word for what the log says itself.
"""

from nixfleet.errors import Untrusted
from nixfleet.model.ids import Digest, Selector, matches
from nixfleet.model.statements import SelectLine, TargetLine
from nixfleet.model.views import EnrollView, ReleaseLineView, ReleaseView
from nixfleet.trust.lines import LineTree
from nixfleet.trust.replay import State, selected
from nixfleet.trust.sshsig import parse_public_key


def check_lines(release: ReleaseView, state: State) -> None:
    """Hold the coordinator's words on a release's lines against the signed release.

    Raises: Untrusted; without this a coordinator could have its own closures signed, or previewed.
    """
    record = state.releases.get(Digest(release.id))
    if record is None:
        raise Untrusted(f"the log as verified here has no release {release.id[:12]}")
    signed = record.statement
    if signed.targets is not None:
        lines = [
            TargetLine(
                device=line.device, path=line.path, system=line.system, digest=line.digest, nar_size=line.nar_size
            )
            for line in release.lines
        ]
        same = bool(lines) and LineTree(lines).targets == signed.targets
    else:
        same = [_shown(line) for line in release.lines] == [_signed(line) for line in signed.lines or ()]
    if not same or release.name != signed.name:
        raise Untrusted(f"the coordinator shows other lines of {signed.name} than those that were signed")


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


def check_request(request: EnrollView) -> None:
    """Check that the fingerprint people compare is that of the key they will sign for. Raises: Untrusted."""
    if parse_public_key(request.key).fingerprint != request.fingerprint:
        raise Untrusted(f"the coordinator shows another fingerprint for {request.name} than that of the key it sent")
