"""The demo's first page: what one sees, what happens in it, and what to try; of another scenario only the last."""

from nixfleet.model.text import clean
from nixfleet.sim.scenario import BUILT_IN, Scenario, load
from nixfleet.tui.view.text import Line, Span

_STORY = (
    "An exhibition company updates its five sites. The gateways are under",
    "way. Of the kiosks the lab's five go first. One of them has a screen",
    "that the new system does not know: watch it fail, go back, and halt",
    "the rollout before any museum sees it. The fix is there: deploy it.",
)
_FIX = ("D", "there: deploy kiosk-2026.11.1, once the first one has failed")
_ROLLOUTS = ("2", "rollouts: their waves, and why each one waits")
_TRIES = (
    ("3", "enroll: a device asks to be let in; A shows its key, and signs"),
    ("4", "audit: what everybody did, verified here"),
    ("P R", "on a rollout: pause it or go on; bring its devices back"),
    ("/", "find devices, such as status:reverted or tag.site:oslo"),
    ("?", "the keys of a page; : for everything that one can do"),
)


def welcome(scenario: Scenario, speed: float) -> tuple[Line, ...]:
    """Write the page; whole on a screen of 80 by 24 cells."""
    intro: tuple[Line, ...] = (
        (Span(f"{scenario.count} made-up devices, real agents.", "strong"), Span(f" {speed:g} seconds pass in one.")),
        (Span("Each act is signed, by a key of this minute, and verified by each."),),
        (),
    )
    built_in = scenario.name == load(BUILT_IN).name
    story: tuple[Line, ...] = (*((Span(text),) for text in _STORY), ()) if built_in else ()
    tries = (_ROLLOUTS, _FIX, *_TRIES) if built_in else (_ROLLOUTS, *_TRIES)
    keys = tuple((Span(f"{key:>5}  ", "accent"), Span(clean(text))) for key, text in tries)
    return (*intro, *story, *keys, (), (Span("Leave with q; nothing is left behind.", "dim"),))
