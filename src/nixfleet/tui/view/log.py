"""How the log stands, in words and in red: our own check, what devices saw of it, what was refused; pure functions."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, get_args

from nixfleet.model.text import clean, counted
from nixfleet.model.views import DeviceView
from nixfleet.tui.ports import LogCheck, RefusedView
from nixfleet.tui.view.text import Line, Role, Span, ago, fit, joined, wrap

Sight = Literal["fork", "ahead", "behind", "agrees", "unknown"]
"""What a device saw of the log, held against our own; those that need a person first."""
SIGHTS: Final[tuple[Sight, ...]] = get_args(Sight)
_SIGHTS: Final[dict[Sight, tuple[str, Role]]] = {
    "fork": ("‼ another log", "bad"),
    "ahead": ("! further than we", "warn"),
    "behind": ("◌ not there yet", "dim"),
    "agrees": ("✓ agrees", "ok"),
    "unknown": ("· no report", "dim"),
}
CHECKS: Final[dict[str, tuple[str, str, Role]]] = {
    "checking": ("◌", "being checked", "busy"),
    "valid": ("✓", "verified", "ok"),
    "behind": ("!", "coordinator is behind", "warn"),
    "fork": ("‼", "FORK", "bad"),
    "invalid": ("‼", "DOES NOT VERIFY", "bad"),
    "unknown": ("·", "not verified", "warn"),
}
"""Glyph, words and role of the log's verification state."""

DISTRUST: Final[dict[str, tuple[str, str]]] = {
    "behind": (
        "The coordinator runs an old backup: it lacks entries that this machine has verified.",
        "Nothing is signed on it. It is given back what this machine and the devices hold: nixfleet log restore",
    ),
    "fork": (
        "FORK: the coordinator shows another history than this machine has verified.",
        "Sign nothing, and keep this machine's copy of the log: it is the evidence. nixfleet audit verify compares",
    ),
    "invalid": (
        "What the coordinator sends as the log does not verify.",
        "Sign nothing. nixfleet audit verify names the first entry that does not hold.",
    ),
}
"""By the state of the check: what is wrong, and what to do."""
_NAMED: Final = 3


def alarm(check: LogCheck, forked: Sequence[str], cells: int) -> list[Line]:
    """Say in red that the log is not to be trusted, and what to do; nothing while all is well.

    `forked` names the devices that signed for another log.
    """
    lines: list[Line] = []
    if check.state in DISTRUST:
        what, then = DISTRUST[check.state]
        # What a person does then is `then`; the mirror's own sentence ends with as much for the command line.
        detail = check.detail.partition(";")[0] if check.state == "fork" else check.detail
        lines += _block(f"‼ {what}", detail, then, cells)
    if forked:
        named = ", ".join(forked[:_NAMED]) + (f" and {len(forked) - _NAMED} more" if len(forked) > _NAMED else "")
        have = "has" if len(forked) == 1 else "have"
        what = f"‼ {counted(len(forked), 'device')} {have} seen another log than the coordinator's: {named}."
        then = "They take no updates. Audit, d: which log each device saw; compare with nixfleet audit verify."
        lines += _block(what, "", then, cells)
    return lines


def _block(what: str, detail: str, then: str, cells: int) -> list[Line]:
    said = wrap(what, cells, "bad", most=2)
    said += wrap(detail, cells, "plain", indent=2, most=3) if detail else []
    return said + wrap(then, cells, "strong", indent=2, most=3)


def distrust(check: LogCheck) -> str:
    """Say why nothing may be signed on the log as it stands, or nothing."""
    return {
        "behind": "the coordinator runs an old backup: nothing is signed on it",
        "fork": "the coordinator shows another log: nothing is signed on it",
        "invalid": "the log does not verify: nothing is signed on it",
    }.get(check.state, "")


def check_spans(check: LogCheck, *, words: bool = True) -> Line:
    """Draw whether our own replay of the log holds."""
    glyph, said, role = CHECKS[check.state]
    return (Span(f"{glyph} {said}" if words or role == "bad" else glyph, role),)


def log_head(check: LogCheck, sights: Iterable[Sight], cells: int) -> list[Line]:
    """Say how the log stands: our own check, and what every device sees of it."""
    seen = Counter(sights)
    root = f"root {check.root[:12]}…" if check.root else ""
    agree = seen["agrees"]
    return [
        fit(
            joined(
                (
                    (Span(f"log {check.size:,}", "strong"),),
                    check_spans(check),
                    (Span(f"‼ {counted(seen['fork'], 'device')} on another log", "bad"),) if seen["fork"] else (),
                    (Span(f"! {seen['ahead']} further than we", "warn"),) if seen["ahead"] else (),
                    (Span(root, "dim"),) if root else (),
                    (Span(f"{counted(agree, 'device')} agree" if agree != 1 else "1 device agrees", "plain"),),
                    (Span(f"{seen['behind']} not there yet", "dim"),) if seen["behind"] else (),
                )
            ),
            cells,
        )
    ]


def sight_of(device: DeviceView, check: LogCheck, root_at: Callable[[int], str]) -> Sight:
    """Hold what a device signed for against our own log; the coordinator's word counts only where it is worse.

    `root_at` gives our root at a size, empty where we have none.
    """
    if not device.log_size:
        return "unknown"
    if device.log_state == "fork":
        return "fork"
    if device.log_size > check.size:
        return "ahead"
    ours = root_at(device.log_size)
    if ours and device.log_root and ours != device.log_root:
        return "fork"
    return "agrees" if device.log_size == check.size or device.log_state == "ok" else "behind"


def sight_cell(sight: Sight, behind: int = 0) -> Line:
    """Draw it as a glyph and words; `behind` is how many entries of ours it has not seen."""
    said, role = _SIGHTS[sight]
    return (Span(f"◌ behind by {behind:,}" if sight == "behind" and behind > 0 else said, role),)


def refused_lines(refused: Sequence[RefusedView], now: int) -> list[Line]:
    """Set out what the coordinator refused, the newest first."""
    lines: list[Line] = []
    for one in refused:
        lines.append(
            (
                Span(f"{ago(one.at, now):>4} ago  ", "dim"),
                Span(clean(one.what), "strong"),
                Span(f"  {clean(one.by)}", "dim"),
            )
        )
        lines.append((Span(f"          {clean(one.why)}", "bad"),))
    return lines
