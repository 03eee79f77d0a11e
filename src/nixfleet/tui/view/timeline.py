"""A rollout's course in time: its waves as bars over one scale, and what happened when; pure."""

from collections.abc import Iterator
from typing import Final

from nixfleet.model.text import clean, counted, utc
from nixfleet.model.typed import duration
from nixfleet.model.views import RolloutView, WaveView
from nixfleet.tui.view.rollouts import ends, failed_for, state_cell, title
from nixfleet.tui.view.text import Line, Role, Span, joined

_BAR_CELLS: Final = 48
_COARSE_S: Final = 60
"""From this length on a time is told to the minute."""


def timeline(rollout: RolloutView, now: int) -> list[Line]:
    """Set out when a rollout was signed, when each wave opened, was done and had soaked, and when it ended."""
    begin = rollout.at
    end = max(begin + 1, rollout.finished_at or now)
    took: Line = (Span(ends(rollout)),) if ends(rollout) else ()
    lines: list[Line] = [joined((state_cell(rollout), (Span(title(rollout), "strong"),), took)), ()]
    lines += [
        (
            Span(f"wave {wave.number:<3}", "strong"),
            *wave_bar(wave, begin, end, _BAR_CELLS),
            Span(f"  {counted(wave.total, 'device')}", "dim"),
        )
        for wave in rollout.waves
    ]
    scale = f"{utc(begin)[11:16]}{'':<{_BAR_CELLS - 10}}{utc(end)[11:16]}"
    lines += [(Span(f"{'':<8}{scale}  ━ updates", "dim"),), (Span(f"{'':<{_BAR_CELLS + 10}}╍ soaks", "dim"),), ()]
    lines += [
        (Span(f"{utc(at)[:16]}  ", "dim"), Span(f"{_since(at - begin):>7}  ", "dim"), Span(what))
        for at, what in sorted(_events(rollout), key=lambda event: event[0])
    ]
    if rollout.causes:
        lines += [(), (Span(f"failed for {failed_for(rollout)}", "bad"),)]
    return lines


def wave_bar(wave: WaveView, begin: int, end: int, cells: int) -> Line:
    """Draw a wave over the time from `begin` to `end`: closed, updating, soaking, passed; no part is lost."""
    if wave.opened_at is None:
        return (Span("·" * cells, "dim"),)
    opened = _cell(wave.opened_at, begin, end, cells)
    done = _cell(end if wave.done_at is None else wave.done_at, begin, end, cells)
    passed = (
        done if wave.done_at is None else _cell(end if wave.passed_at is None else wave.passed_at, begin, end, cells)
    )
    opened = min(opened, cells - 1)
    done = max(done, opened + 1)
    passed = max(passed, done)
    role: Role = "bad" if wave.failed else "busy" if wave.done_at is None else "ok"
    spans = (
        Span("·" * opened, "dim"),
        Span("━" * (done - opened), role),
        Span("╍" * (passed - done), "busy"),
        Span(" " * (cells - passed)),
    )
    return tuple(span for span in spans if span.text)


def _cell(at: int, begin: int, end: int, cells: int) -> int:
    return max(0, min(cells, (at - begin) * cells // (end - begin)))


def _since(seconds: int) -> str:
    return f"+{duration(seconds // 60 * 60 if seconds >= _COARSE_S else seconds)}" if seconds > 0 else ""


def _events(rollout: RolloutView) -> Iterator[tuple[int, str]]:
    yield rollout.at, f"signed by {clean(rollout.principal or rollout.by)}"
    if rollout.started_at is not None:
        yield rollout.started_at, "the first device began"
    for wave in rollout.waves:
        for at, what in ((wave.opened_at, "opened"), (wave.done_at, "was done"), (wave.passed_at, "had soaked")):
            if at is not None:
                yield at, f"wave {wave.number} {what}"
    if rollout.finished_at is not None:
        yield rollout.finished_at, "finished"
