"""Log entries and releases as rows and cards; pure functions of the records."""

from collections.abc import Sequence

from nixfleet.model.text import clean, counted
from nixfleet.model.views import EntryView, PendingView, ReleaseLineView, ReleaseView
from nixfleet.tui.view.devices import when
from nixfleet.tui.view.text import (
    Line,
    Span,
    ago,
    fit,
    joined,
    pairs,
    store_short,
    wrap,
)


def verdict_cell(entry: EntryView) -> Line:
    """Draw the verdict as a glyph and a word."""
    if entry.verdict == "valid":
        return (Span("✓ valid", "ok"),)
    if entry.verdict == "waiting":
        return (Span("◌ waiting", "warn"),)
    return (Span(f"✗ {clean(entry.verdict)}", "bad"),)


def entry_phrase(entry: EntryView) -> Line:
    """Say what was done, and for a void act why it has no effect."""
    spans: Line = (Span(clean(entry.what), "plain" if entry.verdict == "valid" else "dim"),)
    if entry.why:
        return (*spans, Span(f"  {clean(entry.why)}", "bad"))
    return (*spans, Span(f"  {clean(entry.note)}", "dim")) if entry.note else spans


def approvals_of(entry: EntryView, entries: Sequence[EntryView]) -> list[EntryView]:
    """Find the further signatures over an entry's payload: approvals and co-signatures are entries of their own."""
    if not entry.digest or entry.type == "approve":
        return []
    return [one for one in entries[entry.index + 1 :] if one.type == "approve" and one.digest == entry.digest]


def _signed_words(approvals: Sequence[EntryView]) -> str:
    """Say who signed an entry, as well."""
    return ", ".join(
        f"{one.principal} (entry {one.index}{'' if one.verdict == 'valid' else f', {one.verdict}: {one.why}'})"
        for one in approvals
    )


def entry_head(
    entry: EntryView, cells: int, approvals: Sequence[EntryView] = (), pending: PendingView | None = None
) -> list[Line]:
    """Set out one entry, with who signed it as well, and what it still waits for."""
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
            ("signed", (Span(clean(_signed_words(approvals))),) if approvals else ()),
            ("waits", (Span(clean(pending.waits), "warn"),) if pending is not None else ()),
        ],
        cells,
        label=8,
    )
    return lines


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
