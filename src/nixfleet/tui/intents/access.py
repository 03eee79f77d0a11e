"""Granting and ending rights, and signing what waits for signatures."""

import shlex
from collections.abc import Iterator, Sequence
from typing import Final, Literal

from nixfleet.model.text import clean, counted
from nixfleet.model.views import AccessView, PendingView
from nixfleet.tui.confirm import Confirm, question
from nixfleet.tui.intents.scene import Plan, Scene, Step
from nixfleet.tui.ports import GrantWish, Stop, Subject
from nixfleet.tui.view import access as view
from nixfleet.tui.view.text import Line, Span

Kind = Literal["revoke", "sign"]
OWN: Final[tuple[Kind, ...]] = ("revoke", "sign")
STOPS_SHOWN: Final = 8
NOT_THEIRS: Final = "your key has no right to revoke this: only the root, its holder, or an issuer above it may"


def refusal(kind: Kind, scene: Scene) -> str:
    """Say why this cannot be done to the chosen row, or nothing."""
    if kind == "sign":
        return _why_not_sign(scene)
    subject = view.subject_of(scene.standing.access, scene.right)
    if subject is None:
        return "choose a grant or a key"
    return _why_not_revoke(scene, subject)


def plan(kind: Kind, scene: Scene) -> Plan:
    """Build the plan for the chosen row, which `refusal` has nothing against."""
    access = scene.standing.access
    if kind == "sign":
        pending = view.pending_of(access, scene.right)
        assert pending is not None
        return _sign(pending, scene)
    subject = view.subject_of(access, scene.right)
    assert subject is not None
    return _revoke(subject, scene)


def plan_grant(wish: GrantWish, told: tuple[Line, ...]) -> Plan:
    """Build the grant that was filled in; `told` says what it allows."""
    words = [wish.name, "--to", wish.key_text]
    words += [part for action in wish.actions for part in ("--action", action)] or ["--read"]
    for tag, values in sorted(wish.select.items()):
        words += ["--on", f"{tag}={','.join(values)}"]
    words += [] if wish.days is None else ["--days", str(wish.days)]
    words += ["--depth", str(wish.depth)] if wish.depth else []
    words += [] if wish.max_devices is None else ["--max-devices", str(wish.max_devices)]
    words += ["-m", wish.note] if wish.note else []
    wide = not wish.select and bool(wish.actions)
    return Plan(
        confirm=Confirm(
            title=f"Grant this to {clean(wish.name)}?",
            lines=told,
            level="name" if wide else "yes",
            expect=clean(wish.name),
            verb="grant",
        ),
        steps=(
            Step(
                call=f"POST /v1/log  grant to {wish.name}",
                cli=clean(f"nixfleet access grant {shlex.join(words)}"),
                run=lambda acts: acts.grant(wish),
            ),
        ),
    )


# Ending


def _why_not_revoke(scene: Scene, subject: Subject) -> str:
    identity, access = scene.identity, scene.standing.access
    if subject.ended:
        return "it is revoked already"
    if identity.root:
        return ""
    if subject.grant:
        above = [identity.key in (grant.by, *grant.keys) for grant in view.chain_of(access, subject.grant)]
        return "" if any(above) else NOT_THEIRS
    return (
        "" if subject.key == identity.key else "your key has no right to revoke this: only the root or its holder may"
    )


def _revoke(subject: Subject, scene: Scene) -> Plan:
    stops = scene.standing.stops(subject)
    what = "grant of " if subject.grant else "key of "
    target = subject.grant[:12] if subject.grant else subject.key
    return Plan(
        confirm=Confirm(
            title=f"Revoke the {what}{clean(subject.name)}?",
            lines=tuple(_revoke_words(subject, scene.standing.access, stops)),
            level="name",
            expect=clean(subject.name).strip(),
            verb="revoke",
        ),
        steps=(
            Step(
                call=f"POST /v1/log  revoke {target[:20]}",
                cli=f"nixfleet access revoke {target}",
                run=lambda acts: acts.revoke(subject),
            ),
        ),
    )


def _revoke_words(subject: Subject, access: AccessView, stops: Sequence[Stop]) -> Iterator[Line]:
    grant = view.grant_of(access, subject.grant) if subject.grant else None
    yield (
        (Span(clean(f"It may {view.may_words(grant)} on {view.over_words(grant.select)}.")),)
        if grant is not None
        else (Span(clean(f"{subject.key} speaks for {subject.name} no more."), "plain"),)
    )
    yield ()
    if not stops:
        yield (Span("Nothing that is open depends on it."),)
    else:
        yield (Span(f"It stops {counted(len(stops), 'thing')}:", "warn"),)
        for stop in stops[:STOPS_SHOWN]:
            yield (Span(f"  {clean(stop.kind)} {clean(stop.name)}", "strong"), Span(f"  {clean(stop.why)}", "dim"))
        if len(stops) > STOPS_SHOWN:
            yield (Span(f"  and {len(stops) - STOPS_SHOWN} more", "dim"),)
    yield (Span("Enrolments done and systems running stay. It cannot be taken back.", "dim"),)


# Signing


def _why_not_sign(scene: Scene) -> str:
    pending = view.pending_of(scene.standing.access, scene.right)
    if pending is None:
        return "choose something that waits for signatures"
    return scene.standing.why_not_sign(pending)


def _sign(pending: PendingView, scene: Scene) -> Plan:
    is_root = pending.type == "root"
    devices = [device for device in scene.store.devices.values() if device.rollout == pending.digest]
    told = tuple(view.pending_words(pending, scene.standing.access.root))
    title = "Co-sign this root?" if is_root else f"Approve this {clean(pending.type)}?"
    command = "access root sign" if is_root else "approve"
    return Plan(
        confirm=question(title, devices, told, verb="sign", forever="root" if is_root else ""),
        steps=(
            Step(
                call=f"POST /v1/log  approve {pending.digest[:12]}",
                cli=f"nixfleet {command} {pending.digest[:12]}",
                run=lambda acts: acts.approve(pending.digest),
            ),
        ),
    )
