"""Enrolling devices that ask: one by its fingerprint, marked ones together; moving names, renewing keys; tokens."""

from typing import Literal

from nixfleet.model.text import clean, counted
from nixfleet.model.views import DeviceView, EnrollView
from nixfleet.tui.confirm import Confirm
from nixfleet.tui.intents.scene import Plan, Scene, Step, named, unless
from nixfleet.tui.ports import TokenWish
from nixfleet.tui.view.joining import fingerprint_rows, renews_key, spent, takes_name
from nixfleet.tui.view.text import Line, Span, ago

Kind = Literal["approve", "reject"]


def refusal(kind: Kind, scene: Scene) -> str:
    """Say why the chosen requests cannot be answered so, or nothing."""
    requests = scene.request_views()
    if kind == "approve" and len(requests) > 1:
        for request in requests:
            if takes_name(request, scene.store) or renews_key(request, scene.store):
                return f"{clean(request.name)} is no new device: approve it alone"
        for request in requests:
            if why := spent(request, scene.store):
                return f"{clean(request.name)}: {why}"
        if len({request.name for request in requests}) < len(requests):
            return "two of these ask under one name: approve them one by one"
    if kind == "approve" and len(requests) == 1:
        return spent(requests[0], scene.store)
    return unless(bool(requests), "nobody asks")


def plan(kind: Kind, scene: Scene) -> Plan:
    """Build the answer to the chosen requests."""
    requests = scene.request_views()
    if kind == "reject":
        return _reject(requests)
    if len(requests) > 1:
        return _enroll_many(requests, scene)
    known = renews_key(requests[0], scene.store)
    if known is not None:
        return _renew(requests[0], known)
    return _enroll(requests[0], takes_name(requests[0], scene.store), scene)


def plan_token(wish: TokenWish) -> Plan:
    """Build the token that was asked for; its text is shown once, and is in no log."""
    tags = "".join(f" --tag {key}={value}" for key, value in sorted(wish.tags.items()))
    words = ", ".join(f"{key}={value}" for key, value in sorted(wish.tags.items())) or "no tags"
    return Plan(
        confirm=Confirm(
            title="Make a token?",
            lines=(
                (Span(f"Whoever holds it can join {counted(wish.uses, 'device')} with {words},"),),
                (Span(f"within {counted(wish.days, 'day')}. It is shown once; revoke it on Access."),),
            ),
            level="yes",
            verb="make it",
        ),
        steps=(
            Step(
                call="POST /v1/log  grant enroll to a token",
                cli=f"nixfleet enroll token{tags} --uses {wish.uses} --days {wish.days}",
                run=lambda acts: acts.make_token(wish),
            ),
        ),
    )


def _enroll(request: EnrollView, holder: DeviceView | None, scene: Scene) -> Plan:
    lines: list[Line] = _to_compare(request)
    replace = " --replace" if holder is not None else ""
    if holder is not None:
        heard = f"last heard {ago(holder.seen_at, scene.now)} ago" if not holder.online else "connected now"
        lines += [
            (),
            (Span(f"The device that has the name now ({holder.id[:8]}, {heard}) is retired for good.", "warn"),),
        ]
    name = clean(request.name)
    return Plan(
        confirm=Confirm(
            title=f"Move the name {name} to this device?" if holder is not None else f"Enroll {name}?",
            lines=tuple(lines),
            level="yes" if holder is None else "name",
            expect=name.strip() or request.device[:8],
            verb="enroll",
        ),
        steps=(
            Step(
                call=f"POST /v1/log  device {request.name} active",
                cli=f"{_command(request)}{replace}",
                run=lambda acts: acts.enroll(request, replace=holder is not None),
            ),
        ),
    )


def _renew(request: EnrollView, known: DeviceView) -> Plan:
    name = clean(known.name)
    return Plan(
        confirm=Confirm(
            title=f"Give {name} its new key?",
            lines=(
                *_to_compare(request),
                (),
                (
                    Span(
                        f"Anybody can ask under the id of {name}: only what the device itself shows proves it.", "warn"
                    ),
                ),
                (Span("It keeps name, tags and history; its old key is worth nothing afterwards."),),
            ),
            level="name",
            expect=name.strip() or known.id[:8],
            verb="renew",
        ),
        steps=(
            Step(
                call=f"POST /v1/log  device {known.name} with another key",
                # By its own name: `nixfleet enroll` renews no key that is asked for under another one.
                cli=f"nixfleet device rekey {name} --key '{clean(request.key)}'",
                run=lambda acts: acts.renew_key(request, known.name),
            ),
        ),
    )


def _to_compare(request: EnrollView) -> list[Line]:
    rows = [(Span(f"   {row}", "accent"),) for row in fingerprint_rows(request.fingerprint)]
    return [(Span("The device must show exactly this:"),), (), *rows]


def _enroll_many(requests: list[EnrollView], scene: Scene) -> Plan:
    listed = [
        (Span(f"{clean(request.name)}  ", "strong"), Span(clean(request.fingerprint), "dim")) for request in requests
    ]
    return Plan(
        confirm=Confirm(
            title=f"Enroll {len(requests)} devices?",
            lines=(*listed, (), (Span(_touch_words(*scene.standing.touches(requests)), "dim"),)),
            level="count",
            expect=str(len(requests)),
            verb="enroll",
        ),
        steps=(
            Step(
                call=f"POST /v1/log  {len(requests)} devices active",
                cli=f"nixfleet enroll {' '.join(clean(request.name) for request in requests)}",
                run=lambda acts: acts.enroll_many(requests),
            ),
        ),
    )


def _touch_words(touches: int, why_each: str) -> str:
    """Say how often the key of the person who sits here is asked for: a security key has to be touched each time."""
    if touches == 1:
        return "One signature: a grant for these alone, for an hour, signs the rest."
    return f"Your key signs {touches} times{f': {clean(why_each)}' if why_each else ''}."


def _command(request: EnrollView) -> str:
    tags = "".join(f" --tag {key}={value}" for key, value in sorted(request.tags.items()))
    return f"nixfleet enroll {clean(request.name)} --key {clean(request.fingerprint)}{clean(tags)}"


def _reject(requests: list[EnrollView]) -> Plan:
    def step(request: EnrollView) -> Step:
        return Step(
            call=f"DELETE /v1/enroll/{request.device[:8]}",
            cli="",
            run=lambda acts: acts.forget_request(request.device),
        )

    what = named([request.name for request in requests], "request")
    return Plan(
        confirm=Confirm(
            title=f"Drop {what}?",
            lines=((Span("The request goes; the device may ask again."),),),
            level="yes" if len(requests) == 1 else "count",
            expect=str(len(requests)),
            verb="drop",
        ),
        steps=tuple(step(request) for request in requests),
    )
