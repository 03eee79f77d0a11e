"""The demo's first page: what one sees, what happens in it, and what to try; of another scenario only the last."""

from nixfleet.model.text import clean
from nixfleet.sim.scenario import BUILT_IN, Scenario, load
from nixfleet.tui.view.text import Line, Span

_STORY = (
    "An exhibition company brings its November releases to five sites.",
    "The gateways are under way. The kiosks' canaries are in the lab, and one of",
    "them has a screen that the new system does not know: watch it fail, go back",
    "by itself, and halt the rollout before any museum sees it.",
)


def welcome(scenario: Scenario, speed: float) -> tuple[Line, ...]:
    """Write the page."""
    story = scenario.name == load(BUILT_IN).name
    lines: list[Line] = [
        (Span(f"{scenario.count} made-up devices, real agents.", "strong"), Span(f"  {speed:g} seconds pass in one.")),
        (Span("Only Nix, the clock and the network are made up: every act is signed with a"),),
        (Span("key made for this minute, and verified by every device."),),
        (),
    ]
    if story:
        lines += [(Span("What happens", "head"),), *((Span(text),) for text in _STORY), ()]
    lines.append((Span("Try", "head"),))
    tries = [
        ("2", "rollouts: the waves, and why each one waits"),
        ("3", "enroll: a device asks to be let in; A compares and signs"),
        ("4", "audit: everybody's acts, verified"),
        ("P", "on a rollout: pause it, or let it go on"),
        ("R", "on a rollout: bring its devices back"),
        ("/", "find devices: status:failed, tag.site:oslo"),
        ("?", "the keys of each page; : for everything one can do"),
    ]
    if story:
        tries.insert(1, ("D", "deploy kiosk-2026.11.1 once the canary has failed: it is the fix"))
    lines += [(Span(f"  {key}  ", "accent"), Span(clean(text))) for key, text in tries]
    return (*lines, (), (Span("Leave with q; nothing is left behind.", "dim"),))
