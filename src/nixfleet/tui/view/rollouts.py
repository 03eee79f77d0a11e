"""A rollout as a row, its waves as bars, and its members; pure functions of the records, the time and a width."""

from typing import Final

from nixfleet.model.device import Outcome, Phase
from nixfleet.model.text import clean, counted
from nixfleet.model.views import MemberView, RolloutView, WaveView
from nixfleet.rollout.explaining import ahead_words
from nixfleet.tui.view.devices import doing_words, progress, when
from nixfleet.tui.view.text import Line, Role, Span, age, ago, fit, joined, size, spread, why, wrap

STATES: Final[dict[str, tuple[str, Role]]] = {
    "halted": ("✗", "bad"),
    "paused": ("‖", "warn"),
    "running": ("◐", "busy"),
    "waiting": ("◌", "busy"),
    "finished": ("●", "ok"),
    "cancelled": ("□", "dim"),
    "superseded": ("□", "dim"),
    "expired": ("□", "dim"),
}
"""Glyph and role by state, those that need a person first."""
RANKS: Final = {state: rank for rank, state in enumerate(STATES)}
_FULL_BAR: Final = 24
_OPEN: Final = frozenset({"waiting", "running", "paused", "halted"})


def is_open(rollout: RolloutView) -> bool:
    """Tell whether a rollout may still change a device."""
    return rollout.state in _OPEN


def state_cell(rollout: RolloutView) -> Line:
    """Draw the state as a glyph and a word."""
    glyph, role = STATES.get(rollout.state, ("?", "warn"))
    return (Span(f"{glyph} {clean(rollout.state)}", role),)


def title(rollout: RolloutView) -> str:
    """Name a rollout for people; the coordinator's name of a rollback already says that it leads back."""
    return clean(rollout.release_name) or rollout.release[:8] or rollout.id[:8]


def bar(confirmed: int, failed: int, in_flight: int, total: int, cells: int) -> Line:
    """Draw a group as a bar: done, failed, under way, still to come; no part that exists is drawn as nothing."""
    if total <= 0 or cells <= 0:
        return (Span("·" * max(0, cells), "dim"),)
    parts: list[tuple[int, str, Role]] = [(confirmed, "━", "ok"), (failed, "━", "bad"), (in_flight, "╍", "busy")]
    room = cells
    spans: list[Span] = []
    for count, glyph, role in parts:
        share = min(room, max(1, count * cells // total)) if count else 0
        # Told apart without colour, too: what failed begins with a cross.
        spans.append(Span("✗" + "━" * (share - 1) if role == "bad" and share else glyph * share, role))
        room -= share
    if room and confirmed >= total:
        spans[0] = Span("━" * (len(spans[0].text) + room), "ok")
        room = 0
    spans.append(Span("─" * room, "dim"))
    return tuple(span for span in spans if span.text)


def bar_cell(rollout: RolloutView, cells: int) -> Line:
    """Draw a whole rollout as one bar with its count."""
    count = f" {rollout.confirmed}/{rollout.total}"
    drawn = bar(rollout.confirmed, rollout.failed, rollout.in_flight, rollout.total, min(20, cells - len(count)))
    return (*drawn, Span(count))


def reason(rollout: RolloutView) -> Line:
    """Say in one phrase why it stands where it stands."""
    text = rollout.halted if rollout.state == "halted" else rollout.waits
    if text:
        return (Span(clean(text).removeprefix(f"{rollout.state}: ")),)
    if rollout.stops:
        return (Span(clean(rollout.stops[0].said), "warn"),)
    if rollout.state == "finished":
        failed = f"{failed_for(rollout)} failed" if rollout.causes else ""
        stands = "standing: devices that join get it" if rollout.standing and rollout.joiners else ""
        return (Span(" · ".join(filter(None, (failed, stands))), "dim"),)
    return (Span(clean(rollout.note), "dim"),)


def wave_line(wave: WaveView, cells: int, *, count: int) -> Line:
    """Draw a wave: number, who, bar, count and what it waits for."""
    drawn = max(8, min(_FULL_BAR, cells // 4))
    numbers = f" {wave.confirmed}/{wave.total}"
    failed = f"  ✗ {wave.failed} failed" if wave.failed else ""
    overdue = f"  {wave.overdue} overdue" if wave.overdue else ""
    who = "canary" if wave.number == 1 and count > 1 and wave.total == 1 else clean(wave.members)
    plain = {"open": "open", "done": "done", "passed": "done"}.get(wave.state, clean(wave.state))
    said = " · ".join(filter(None, (eta_words(wave), why(wave.waits) or plain)))
    return fit(
        (
            Span(f"wave {wave.number:<2} ", "strong"),
            Span(f"{who[:10]:<11}", "dim"),
            *bar(wave.confirmed, wave.failed, wave.in_flight, wave.total, drawn),
            Span(f"{numbers:<9}"),
            Span(failed, "bad"),
            Span(overdue, "warn"),
            Span(f"  {said}", "dim"),
        ),
        cells,
    )


def took(rollout: RolloutView) -> str:
    """Say how long a finished rollout took; nothing of others."""
    if rollout.started_at is None or rollout.finished_at is None:
        return ""
    return age(max(0, rollout.finished_at - rollout.started_at))


def ends(rollout: RolloutView) -> str:
    """Say how long it took, or may still take; nothing where nobody knows."""
    if took(rollout):
        return f"took {took(rollout)}"
    return "" if rollout.eta_s is None else f"about {age(rollout.eta_s)} left"


def failed_for(rollout: RolloutView) -> str:
    """Count what devices failed for."""
    return ", ".join(f"{count} {clean(cause)}" for cause, count in rollout.causes.items())


def eta_words(wave: WaveView) -> str:
    """Say how long an open wave may still take, and what it downloads in sum; nothing where nobody knows."""
    if wave.state != "open" or wave.eta_s is None:
        return ""
    load = wave.download
    rate = f", {size(load.rate_bytes_s)}/s" if load is not None and load.rate_bytes_s else ""
    return f"about {age(wave.eta_s)} left{rate}"


def head(rollout: RolloutView, now: int, cells: int) -> list[Line]:
    """Set out a rollout: state and reason first, then who, when and the limits, then its waves."""
    whose = " that you may see" if rollout.partial else ""
    lines: list[Line] = [
        spread(
            joined(
                (
                    state_cell(rollout),
                    (Span(title(rollout), "strong"),),
                    (Span(f"{rollout.confirmed} of {counted(rollout.total, 'device')}{whose}"),),
                    (Span(f"✗ {rollout.failed} failed", "bad"),) if rollout.failed else (),
                    (Span(f"{rollout.in_flight} under way", "busy"),) if rollout.in_flight else (),
                    (Span(ends(rollout)),) if ends(rollout) else (),
                )
            ),
            (Span(rollout.id[:8], "dim"),),
            cells,
        )
    ]
    said = reason(rollout)
    if said and said[0].text:
        lines += wrap(said[0].text, cells, said[0].role, most=2)
    if len(rollout.stops) > 1 or (rollout.stops and said[0].text != clean(rollout.stops[0].said)):
        for stop in rollout.stops:
            lines += wrap(clean(stop.said), cells, "warn", most=2)
    limits = (
        f"by {clean(rollout.principal)} {ago(rollout.at, now)} ago · {rollout.max_in_flight} at once · "
        f"soak {age(rollout.soak_s)} · timeout {age(rollout.device_timeout_s)}"
    )
    if rollout.causes:
        limits = f"failed for {failed_for(rollout)} · {limits}"
    if rollout.note and said[0].text != clean(rollout.note):
        limits += f" · {clean(rollout.note)}"
    lines += [fit((Span(limits, "dim"),), cells), ()]
    return lines + [wave_line(wave, cells, count=len(rollout.waves)) for wave in rollout.waves]


def began(rollout: RolloutView) -> str:
    """Say when it was signed."""
    return when(rollout.at)


_MEMBER_STATES: Final[dict[str, tuple[str, Role]]] = {
    "failed": ("✗", "bad"),
    "refused": ("⊘", "bad"),
    "reverted": ("↺", "bad"),
    "overdue": ("!", "warn"),
    "updating": ("◐", "busy"),
    "reboot": ("↻", "warn"),
    "offline": ("○", "dim"),
    "waiting": ("◌", "plain"),
    "confirmed": ("●", "ok"),
}
_MEMBER_RANKS: Final = {word: rank for rank, word in enumerate(_MEMBER_STATES)}


def member_state(member: MemberView) -> str:
    """Sum up a device's place in a rollout in one word."""
    if member.outcome is not None:
        return member.outcome.value
    if member.overdue:
        return "overdue"
    if member.phase is Phase.REBOOT_PENDING:
        return "reboot"
    if member.phase is not Phase.IDLE:
        return "updating" if member.online else "offline"
    return "waiting" if member.online else "offline"


def member_rank(member: MemberView) -> tuple[int, int]:
    """Order members: what failed first, then by wave."""
    rank = _MEMBER_RANKS[member_state(member)]
    return (rank if member.outcome is not Outcome.CONFIRMED else len(_MEMBER_RANKS), member.wave)


def member_cell(member: MemberView) -> Line:
    """Draw the word with its glyph."""
    word = member_state(member)
    glyph, role = _MEMBER_STATES[word]
    return (Span(f"{glyph} {word}", role),)


def member_phrase(member: MemberView, cells: int) -> Line:
    """Say what it is doing, or why it failed or waits."""
    if member.outcome is None and member.transfer is not None and member.phase is Phase.FETCHING:
        return progress(member.transfer, cells)
    if member.outcome is None and member.phase is not Phase.IDLE and not member.reason:
        return (Span(doing_words(member.phase), "busy"),)
    if member.reason:
        return (Span(clean(member.reason), "plain"),)
    return (Span(f"{why(member.waits)}{ahead_words(member.transfer)}", "dim"),)
