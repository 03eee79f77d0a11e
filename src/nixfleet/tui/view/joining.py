"""Who asks to be enrolled, and the tokens that devices may join by, as cards; pure functions of the records."""

from collections.abc import Sequence

from nixfleet.model.device import CLONE
from nixfleet.model.text import clean, counted
from nixfleet.model.views import AccessView, DeviceView, EnrollView, GrantView
from nixfleet.tui.store import Store
from nixfleet.tui.view.devices import tags_text
from nixfleet.tui.view.text import Line, Span, age, ago, fit, pairs, size, trimmed, wrap


def renews_key(request: EnrollView, store: Store) -> DeviceView | None:
    """Give the enrolled device that asks under its own id with another key, None when it is none."""
    device = store.devices.get(request.device)
    return device if device is not None and device.state != "retired" else None


def spent(request: EnrollView, store: Store) -> str:
    """Say why a request cannot be granted as it is: a spent id, a member, a copied disk; nothing where it can."""
    device = store.devices.get(request.device)
    if device is not None and device.state == "retired":
        return f"its id is that of {clean(device.name)}, which is retired: on the device, nixfleet agent join --replace"
    if device is not None and device.key == request.key:
        return f"it is enrolled already, as {clean(device.name)}"
    if request.reason.startswith(CLONE) and takes_name(request, store) is not None:
        # The one that has the name is most likely there: moving the name would retire it.
        name = clean(request.name)
        return f"its disk was copied from the device that has the name: nixfleet enroll {name} --as another name"
    return ""


def takes_name(request: EnrollView, store: Store) -> DeviceView | None:
    """Give the other device that has the name a request asks for, None when it is free."""
    holder = store.device_named(request.name)
    return holder if holder is not None and holder.state != "retired" and holder.id != request.device else None


def kind_cell(request: EnrollView, store: Store) -> Line:
    """Say in a word or two what approving a request would mean."""
    if spent(request, store):
        return (Span("! see why", "warn"),)
    if renews_key(request, store) is not None:
        return (Span("! new key", "warn"),)
    return (Span("! name taken", "warn"),) if takes_name(request, store) is not None else (Span("new device"),)


def _why_lines(request: EnrollView, store: Store, now: int, cells: int) -> list[Line]:
    """Say why it asks, and what approving it does beyond enrolling it."""
    known, holder = renews_key(request, store), takes_name(request, store)
    if said := spent(request, store):
        reason = wrap(request.reason, cells, "warn", most=2) if request.reason else []
        return reason + wrap(said[0].upper() + said[1:], cells, "warn", most=4)
    if known is not None:
        return wrap(
            f"It is enrolled as {known.name} and shows another key now: A gives it this key, the old one ends.",
            cells,
            "warn",
            most=3,
        )
    if holder is not None:
        heard = "connected now" if holder.online else f"last heard {ago(holder.seen_at, now)} ago"
        there = f" ({heard})"
        return wrap(
            f"Another device has this name{there}: A moves the name here and retires that one.", cells, "warn", most=3
        )
    return wrap(request.reason, cells, "warn", most=3) if request.reason else []


def tokens(access: AccessView) -> list[GrantView]:
    """Give the live join tokens, those that end first before the others."""
    found = [
        grant
        for grant in access.grants
        if grant.state == "live" and not grant.why and grant.actions == ("enroll",) and grant.max_uses is not None
    ]
    return sorted(found, key=lambda grant: grant.not_after)


def token_lines(found: Sequence[GrantView], now: int, cells: int, *, most: int) -> list[Line]:
    """Set out the tokens that are alive: tags, uses left, end."""
    if not found:
        return [fit((Span("no join token is alive; ", "dim"), Span("T", "accent"), Span(" makes one", "dim")), cells)]
    lines: list[Line] = [fit((Span(counted(len(found), "join token"), "head"),), cells)]
    for grant in found[:most]:
        uses = grant.max_uses or 0
        tags = " ".join(f"{tag}={','.join(values)}" for tag, values in sorted(grant.select.items())) or "no tags"
        left = f"{max(0, uses - grant.uses)} of {uses} left  {age(grant.not_after - now)}"
        lines.append(
            fit(
                (
                    Span(f"{left}  "),
                    Span(clean(tags), "strong"),
                    Span(f"  {grant.id[:12]}", "dim"),
                ),
                cells,
            )
        )
    if len(found) > most:
        lines.append((Span(f"and {len(found) - most} more on Access", "dim"),))
    return lines


def fingerprint_rows(fingerprint: str) -> list[str]:
    """Set a fingerprint out in groups of four, in lines short enough to read aloud and compare."""
    body = clean(fingerprint).removeprefix("SHA256:")
    groups = [body[at : at + 4] for at in range(0, len(body), 4)]
    return ["  ".join(groups[at : at + 4]) for at in range(0, len(groups), 4)]


def request_card(request: EnrollView, store: Store, now: int, cells: int) -> list[Line]:
    """Set out who asks: the fingerprint in large, to be compared with what the device shows."""
    inner = min(cells - 2, 34)
    edge = Span("│", "dim")
    lines: list[Line] = [
        (Span(clean(request.name), "strong"), Span("  asks to be enrolled", "plain")),
        (),
        (Span("╭" + "─ SHA256 ".ljust(inner, "─") + "╮", "dim"),),
    ]
    lines += [
        (edge, *fit((Span("   "), Span(row, "accent")), inner), edge) for row in fingerprint_rows(request.fingerprint)
    ]
    lines[1:1] = _why_lines(request, store, now, cells)
    lines += [
        (Span("╰" + "─" * inner + "╯", "dim"),),
        *wrap("Compare it with what the device itself shows: nixfleet agent status", cells, "dim", most=2),
        (),
    ]
    facts = request.facts
    machine = f"{facts.architecture}, {facts.cpus} cores, {size(facts.memory_bytes)}" if facts else ""
    rows = [
        ("asked", f"{ago(request.asked_at, now)} ago"),
        ("last heard", f"{ago(request.seen_at, now)} ago"),
        ("tags", tags_text(request.tags)),
        ("host name", facts.hostname if facts else ""),
        ("hardware", facts.model if facts else ""),
        ("machine", machine),
        ("nixos", facts.nixos_version if facts else ""),
        ("addresses", " ".join(facts.addresses) if facts else ""),
        ("id", request.device),
    ]
    lines += pairs([(name, (Span(clean(text)),) if text else ()) for name, text in rows], cells)
    return trimmed(lines, cells)
