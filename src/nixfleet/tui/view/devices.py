"""A device as a row, a summary and a page; pure functions of the record, the time and a width."""

from typing import Final

from nixfleet.model.device import DISTRUST, FORK, Phase
from nixfleet.model.text import clean, utc
from nixfleet.model.views import DeviceView, Transfer
from nixfleet.preview.plan import NO_FALLBACK
from nixfleet.query import STATUSES, Status, status_of
from nixfleet.tui.view.systems import change_words, system_words
from nixfleet.tui.view.text import (
    Line,
    Role,
    Span,
    ago,
    fit,
    joined,
    meter,
    of_total,
    pairs,
    size,
    store_short,
    system_short,
    trimmed,
    why,
    wrap,
)

GLYPHS: Final[dict[Status, tuple[str, Role]]] = {
    "fork": ("‼", "bad"),
    "cloned": ("⧉", "bad"),
    "failed": ("✗", "bad"),
    "refused": ("⊘", "bad"),
    "reverted": ("↺", "bad"),
    "unhealthy": ("!", "warn"),
    "drifted": ("≠", "warn"),
    "offline": ("○", "dim"),
    "updating": ("◐", "busy"),
    "paused": ("◇", "dim"),
    "waiting": ("◌", "plain"),
    "reboot": ("↻", "warn"),
    "held": ("‖", "dim"),
    "new": ("·", "dim"),
    "ok": ("●", "ok"),
    "retired": ("□", "dim"),
}
"""A glyph and a role for each word, so that no state is told by colour alone."""
RANKS: Final[dict[Status, int]] = {status: rank for rank, status in enumerate(STATUSES)}

NO_WAY_BACK: Final = ("fallback", "none: a boot that fails stays so")
"""What stands on the page of a device whose boot loader cannot go back by itself."""
_METER_CELLS: Final = 10
_PHASES: Final[dict[Phase, str]] = {
    Phase.OFFERED: "offered",
    Phase.PREFLIGHT: "checks what it was offered",
    Phase.FETCHING: "fetches",
    Phase.VERIFYING: "verifies what it fetched",
    Phase.STAGED: "fetched; waits for its turn",
    Phase.ACTIVATING: "activates",
    Phase.CHECKING: "checks its services",
    Phase.CONFIRMING: "confirms",
    Phase.REVERTING: "goes back to what it ran",
}
_TRACK: Final = (Phase.PREFLIGHT, Phase.FETCHING, Phase.VERIFYING, Phase.ACTIVATING, Phase.CHECKING, Phase.CONFIRMING)
"""The phases that every update passes one after the other, as far as a person tells them apart."""
_TALKING: Final = frozenset({Phase.ACTIVATING, Phase.CHECKING, Phase.CONFIRMING, Phase.REVERTING})
"""The phases whose own output a device's last line is; before them it is that of an earlier update."""
_ILL: Final = frozenset[Status]({"cloned", "failed", "refused", "reverted", "unhealthy", "drifted"})


def when(at: int) -> str:
    """Print a time to the minute, in UTC."""
    return utc(at).removesuffix(" UTC") if at else "never"


def needs_me(device: DeviceView) -> int:
    """Rank devices so that those that need a person come first."""
    return RANKS[status_of(device)]


def status_cell(device: DeviceView) -> Line:
    """Draw the state as a glyph and a word."""
    return status_spans(status_of(device))


def status_spans(status: Status) -> Line:
    """Draw a status word with its glyph."""
    glyph, role = GLYPHS[status]
    return (Span(f"{glyph} {status}", role),)


def name_cell(device: DeviceView) -> Line:
    """Draw the name; what is gone or away is dim."""
    quiet = device.state == "retired" or not device.online
    return (Span(clean(device.name), "dim" if quiet else "strong"),)


def tags_cell(device: DeviceView) -> Line:
    """Draw the tags' values, the keys being the same all over a fleet."""
    return (Span(" ".join(clean(value) for _, value in sorted(device.tags.items())), "dim"),)


def tags_text(tags: dict[str, str]) -> str:
    """Print tags in full."""
    return " ".join(f"{clean(key)}={clean(value)}" for key, value in sorted(tags.items()))


def progress(transfer: Transfer, cells: int) -> Line:
    """Draw a download: bar, bytes of total, rate and percentage, as much of it as there is room for."""
    numbers = of_total(transfer.done_bytes, transfer.total_bytes)
    rate = f"{size(transfer.rate_bytes_s)}/s" if transfer.rate_bytes_s else ""
    percent = f"{min(100, transfer.done_bytes * 100 // transfer.total_bytes):>3}%" if transfer.total_bytes else ""
    bar = meter(transfer.done_bytes, transfer.total_bytes, _METER_CELLS)
    room = cells - _METER_CELLS - len(percent) - 1
    spans: list[Span] = [*bar, Span(f"{percent} ", "busy")]
    for span in (Span(f" {numbers}"), Span(f" {rate}", "dim")):
        if len(span.text) > 1 and len(span.text) <= room:
            spans.append(span)
            room -= len(span.text)
    return tuple(spans)


def phrase(device: DeviceView, cells: int) -> Line:
    """Say in one phrase what a device is doing, or what is the matter with it."""
    status = status_of(device)
    if status == "updating":
        return _doing(device, cells)
    if status in {"ok", "offline", "held", "paused", "new", "retired"}:
        return (Span(clean(_quiet(device, status)), "dim"),)
    if status == "waiting":
        return (Span(why(device.waits), "bad" if device.reason.startswith(DISTRUST) else "dim"),)
    said = {
        "fork": "was shown another log than it knows"
        if device.reason.startswith(FORK)
        else "sees another log than we do",
        "unhealthy": device.reason or "its own checks fail",
        "drifted": f"runs {system_short(device.system)}",
        "reboot": reboot_words(device),
    }
    return (Span(clean(said.get(status) or device.reason or device.cause or status)),)


def reboot_words(device: DeviceView) -> str:
    """Say why a device has to reboot, in its own words, what it waits for, and if it cannot go back by itself then."""
    parts = [part for part in (device.reason, device.waits) if part] or ["set for the next boot"]
    stuck = device.facts is not None and device.facts.boot_fallback == NO_FALLBACK
    return "; ".join([*parts, "cannot fall back"] if stuck else parts)


def _doing(device: DeviceView, cells: int) -> Line:
    if device.transfer is not None and device.phase is Phase.FETCHING:
        return progress(device.transfer, cells)
    doing = Span(doing_words(device.phase), "busy")
    talks = device.lines and device.phase in _TALKING
    return (doing, Span(f"  {clean(device.lines[-1])}", "dim")) if talks else (doing,)


def doing_words(phase: Phase) -> str:
    """Say what a device in a phase of an update does."""
    return _PHASES.get(phase, phase.value)


def track(phase: Phase) -> Line:
    """Draw an update's way from offer to confirmation: what is behind it, where it is, what is to come."""
    if phase not in _TRACK:
        return ()
    here = _TRACK.index(phase)
    return joined(
        (
            (Span(f"✓ {step.value}", "ok") if place < here else Span(f"◐ {step.value}", "busy"),)
            if place <= here
            else (Span(f"· {step.value}", "dim"),)
            for place, step in enumerate(_TRACK)
        )
    )


def _quiet(device: DeviceView, status: Status) -> str:
    if status == "offline":
        return "an update waits for it" if device.intended and device.intended != device.system else ""
    if status == "held":
        return f"until {when(device.held_until)[:10]}" if device.held_until else "takes no updates"
    if status == "paused":
        return paused_words(device)
    return "has not reported yet" if status == "new" else device.release


def paused_words(device: DeviceView) -> str:
    """Say until when root has paused updates on the device itself, and why."""
    why = f": {device.pause_reason}" if device.pause_reason else ""
    return f"until {when(device.paused_until)}{why}" if device.paused_until is not None else ""


def seen_cell(device: DeviceView, now: int) -> Line:
    """Say when a device was last heard of; a connected one simply is there."""
    return (Span("now" if device.online else ago(device.seen_at, now), "dim"),)


def system_line(device: DeviceView) -> Line:
    """Name the system it runs."""
    return (Span(store_short(device.system)),) if device.system else ()


def system_cell(device: DeviceView, cells: int, now: int) -> Line:
    """Name the system it runs, and the one it should run where that is another; loud where a person is needed."""
    if not device.system:
        return ()
    if device.intended in {"", device.system}:
        return (Span(system_words(device.system, now), "warn" if status_of(device) == "drifted" else "dim"),)
    old, new = change_words(device.system, device.intended, cells)
    return (Span(old, "dim"), Span(" → ", "dim"), Span(new, "warn" if status_of(device) in _ILL else "plain"))


def intended_line(device: DeviceView) -> Line:
    """Name the system it should run, and whether that is the one it runs."""
    if not device.intended:
        return ()
    if device.intended == device.system:
        return (Span("the same", "dim"),)
    return (Span(store_short(device.intended), "warn"),)


def headline(device: DeviceView, now: int, cells: int) -> list[Line]:
    """Say first what matters: the state, and the reason in full."""
    status = status_of(device)
    link = "connected" if device.online else f"last seen {ago(device.seen_at, now)} ago" if device.seen_at else ""
    lines = [joined((status_spans(status), (Span(link, "dim"),) if link else ()))]
    if status == "updating" and device.transfer is not None and device.phase is Phase.FETCHING:
        return [*lines, fit(progress(device.transfer, cells), cells)]
    if status == "waiting":
        return [*lines, *wrap(device.waits, cells, "plain", most=4)]
    if status == "paused":
        return [*lines, *wrap(f"by root on the device, {paused_words(device)}", cells, "plain", most=4)]
    said = "".join(span.text for span in phrase(device, cells))
    if status in _ILL or status == "reboot":
        return [*lines, *wrap(said, cells, "plain", most=4)]
    return [*lines, fit(phrase(device, cells), cells)] if said.strip() else lines


def system_rows(device: DeviceView) -> list[tuple[str, Line]]:
    """List what it runs, should run and ran."""
    booted = device.booted if device.booted != device.system else ""
    return [
        ("system", system_line(device)),
        ("intended", intended_line(device)),
        ("booted", (Span(store_short(booted), "warn"),) if booted else ()),
        ("previous", (Span(store_short(device.previous), "dim"),) if device.previous else ()),
        ("release", (Span(clean(device.release)),) if device.release else ()),
        ("rollout", _rollout(device)),
    ]


def facts_rows(device: DeviceView) -> list[tuple[str, Line]]:
    """List what it tells of itself."""
    facts = device.facts
    if facts is None:
        return [("facts", (Span("none reported yet", "dim"),))]
    store = f"{size(facts.store_free_bytes)} free of {size(facts.store_bytes)}" if facts.store_bytes else ""
    return [
        (name, (Span(clean(text), "warn" if (name, text) == NO_WAY_BACK else "plain"),) if text else ())
        for name, text in (
            ("hardware", facts.model),
            ("machine", f"{facts.architecture}, {facts.cpus} cores, {size(facts.memory_bytes)}"),
            ("store", store),
            ("nixos", facts.nixos_version),
            ("kernel", facts.kernel),
            ("nix", facts.nix_version),
            ("agent", facts.agent_version),
            ("fallback", NO_WAY_BACK[1] if facts.boot_fallback == NO_FALLBACK else facts.boot_fallback),
            ("addresses", " ".join(facts.addresses)),
            ("time zone", facts.timezone),
        )
    ]


def output_line(line: str) -> Line:
    """Draw a line of an activation's output, louder where its program itself calls it a warning or an error."""
    said = clean(line)
    role: Role = "warn" if said.startswith("warning:") else "bad" if said.startswith("error:") else "plain"
    return (Span(said, role),)


def identity_rows(device: DeviceView, now: int) -> list[tuple[str, Line]]:
    """List who it is to the fleet."""
    log = f"at {device.log_size:,} entries" + (f", {clean(device.log_state)}" if device.log_state else "")
    return [
        ("tags", (Span(tags_text(device.tags)),) if device.tags else ()),
        ("id", (Span(device.id, "dim"),)),
        ("key", (Span(clean(device.key), "dim"),) if device.key else ()),
        ("enrolled", (Span(when(device.enrolled_at), "dim"),)),
        ("reported", (Span(f"{ago(device.reported_at, now)} ago", "dim"),) if device.reported_at else ()),
        ("log", (Span(log, "bad" if device.log_state == "fork" else "dim"),) if device.log_size else ()),
    ]


def summary(device: DeviceView, now: int, cells: int) -> list[Line]:
    """Set a device out beside the table."""
    lines: list[Line] = [(Span(clean(device.name), "strong"),), *headline(device, now, cells), ()]
    lines += pairs(system_rows(device), cells, label=9)
    lines += [(), *pairs(identity_rows(device, now)[:1], cells, label=9)]
    lines += pairs(facts_rows(device), cells, label=9)
    if device.lines:
        lines += [(), (Span("last output", "head"),)]
        lines += [fit((Span(clean(line), "dim"),), cells) for line in device.lines[-8:]]
    return trimmed(lines, cells)


def _rollout(device: DeviceView) -> Line:
    if not device.rollout:
        return ()
    wave = f"  wave {device.wave}" if device.wave is not None else ""
    return (Span(device.rollout[:8]), Span(wave, "dim"))
