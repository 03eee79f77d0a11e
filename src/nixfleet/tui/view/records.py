"""Log entries, enrolment requests, releases and the log's state as rows and cards; pure functions of the records."""

from collections.abc import Iterable
from typing import Final

from nixfleet.model.text import clean, counted
from nixfleet.model.views import DeviceView, EnrollView, EntryView, ReleaseLineView, ReleaseView
from nixfleet.tui.ports import LogCheck
from nixfleet.tui.view.devices import tags_text, when
from nixfleet.tui.view.text import (
    Line,
    Role,
    Span,
    ago,
    fit,
    joined,
    pairs,
    size,
    store_short,
    trimmed,
    wrap,
)

CHECKS: Final[dict[str, tuple[str, str, Role]]] = {
    "checking": ("◌", "being checked", "busy"),
    "valid": ("✓", "verified", "ok"),
    "behind": ("!", "coordinator is behind", "warn"),
    "fork": ("‼", "FORK", "bad"),
    "invalid": ("‼", "DOES NOT VERIFY", "bad"),
    "unknown": ("·", "not verified", "warn"),
}
"""Glyph, words and role of the log's verification state."""


def check_spans(check: LogCheck, *, words: bool = True) -> Line:
    """Draw whether our own replay of the log holds."""
    glyph, said, role = CHECKS[check.state]
    return (Span(f"{glyph} {said}" if words or role == "bad" else glyph, role),)


def log_head(check: LogCheck, devices: Iterable[DeviceView], cells: int) -> list[Line]:
    """Say how the log stands: our own check, and what every device sees of it."""
    seen = [device for device in devices if device.log_size and device.state != "retired"]
    forks = sum(device.log_state == "fork" for device in seen)
    behind = sum(device.log_size < check.size and device.log_state != "fork" for device in seen)
    agree = len(seen) - forks - behind
    root = f"root {check.root[:12]}…" if check.root else ""
    lines = [
        fit(
            joined(
                (
                    (Span(f"log {check.size:,}", "strong"),),
                    check_spans(check),
                    (Span(root, "dim"),) if root else (),
                    (Span(f"{counted(agree, 'device')} agree" if agree != 1 else "1 device agrees", "plain"),),
                    (Span(f"{behind} not there yet", "dim"),) if behind else (),
                    (Span(f"‼ {counted(forks, 'device')} on another log", "bad"),) if forks else (),
                )
            ),
            cells,
        )
    ]
    if check.detail and check.state != "valid":
        lines += wrap(check.detail, cells, CHECKS[check.state][2], most=2)
    return lines


def verdict_cell(entry: EntryView) -> Line:
    """Draw the verdict as a glyph and a word."""
    if entry.verdict == "valid":
        return (Span("✓ valid", "ok"),)
    return (Span(f"✗ {clean(entry.verdict)}", "bad"),)


def entry_phrase(entry: EntryView) -> Line:
    """Say what was done, and for a void act why it has no effect."""
    spans: Line = (Span(clean(entry.what), "plain" if entry.verdict == "valid" else "dim"),)
    if entry.why:
        return (*spans, Span(f"  {clean(entry.why)}", "bad"))
    return (*spans, Span(f"  {clean(entry.note)}", "dim")) if entry.note else spans


def entry_head(entry: EntryView, cells: int) -> list[Line]:
    """Set out one entry."""
    lines: list[Line] = [
        joined(((Span(f"entry {entry.index}", "strong"),), verdict_cell(entry), (Span(clean(entry.what)),)))
    ]
    if entry.why:
        lines += wrap(entry.why, cells, "bad", most=3)
    lines += pairs(
        [
            ("when", (Span(f"{when(entry.at)} UTC"),)),
            ("who", (Span(clean(entry.principal) or "nobody the log knows"),)),
            ("key", (Span(clean(entry.by), "dim"),)),
            ("on", (Span(clean(entry.subject)),) if entry.subject else ()),
            ("digest", (Span(entry.digest, "dim"),) if entry.digest else ()),
            ("note", (Span(clean(entry.note)),) if entry.note else ()),
        ],
        cells,
        label=8,
    )
    return lines


def fingerprint_rows(fingerprint: str) -> list[str]:
    """Set a fingerprint out in groups of four, in lines short enough to read aloud and compare."""
    body = clean(fingerprint).removeprefix("SHA256:")
    groups = [body[at : at + 4] for at in range(0, len(body), 4)]
    return ["  ".join(groups[at : at + 4]) for at in range(0, len(groups), 4)]


def request_card(request: EnrollView, now: int, cells: int) -> list[Line]:
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
    if request.reason:
        lines[1:1] = wrap(request.reason, cells, "warn", most=3)
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


def release_targets(release: ReleaseView) -> str:
    """Say for how many devices, or lines, a release is."""
    return counted(release.targets, "device") if release.targets else counted(len(release.lines), "selector")


def release_source(release: ReleaseView) -> str:
    """Say where a release was built from, or what its note says."""
    return f"{release.source_url} {release.source_rev[:12]}".strip() or release.note


def release_head(release: ReleaseView, now: int, cells: int) -> list[Line]:
    """Set out a release."""
    source = " ".join(part for part in (release.source_url, release.source_rev[:12]) if part)
    return [
        joined(
            ((Span(clean(release.name), "strong"),), (Span(release_targets(release)),), (Span(release.id[:8], "dim"),))
        ),
        fit((Span(f"by {clean(release.principal)} {ago(release.at, now)} ago  {clean(source)}", "dim"),), cells),
        *(wrap(release.note, cells, "plain", most=2) if release.note else []),
    ]


def line_for(line: ReleaseLineView) -> Line:
    """Say for whom a line of a release is."""
    if line.select is None:
        return (Span(clean(line.name) or line.device[:8], "strong"),)
    chosen = " ".join(f"{clean(key)}={','.join(map(clean, values))}" for key, values in sorted(line.select.items()))
    return (Span(chosen or "every device", "strong"),)


def line_path(line: ReleaseLineView) -> Line:
    """Name the system of a line."""
    return (Span(store_short(line.path)),)
