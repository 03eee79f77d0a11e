"""What `?` and the palette show; made from the registry of keys and the fields of the query language."""

from collections.abc import Awaitable, Callable, Iterable, Mapping

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content

from nixfleet.model.text import clean
from nixfleet.query import FIELDS
from nixfleet.tui.intents import refusal
from nixfleet.tui.keys import KEYS, Key, Scope, in_table, shown
from nixfleet.tui.screens.base import ConsoleScreen
from nixfleet.tui.view.text import Line, Span

_LINES: frozenset[Scope] = frozenset({"device", "entry", "lines", "right", "page"})


def help_lines(scope: Scope, remapped: Mapping[str, str]) -> list[Line]:
    """List the keys of a pane, then those of its table or lines, then those that work everywhere."""
    lines: list[Line] = _section("here", (key for key in KEYS if key.scope == scope and scope != "lines"), remapped)
    lines += _section("in the table", (key for key in KEYS if in_table(key, scope)), remapped)
    if scope in _LINES:
        lines += _section("in the text", (key for key in KEYS if key.scope == "lines"), remapped)
    lines += _section("everywhere", (key for key in KEYS if key.scope == "app"), remapped)
    return lines + _queries() if scope == "devices" else lines


def _queries() -> list[Line]:
    return [
        (
            Span("queries", "head"),
            Span("   words that all have to hold; -word: must not; a,b: either; * and ? stand for any", "dim"),
        ),
        (Span("  status:failed,drifted tag.site:berlin system:*-24.11* seen>10m wave:2 -reboot:pending kiosk"),),
        (Span(f"  {'tag.KEY':<12} ", "accent"), Span("a tag's value")),
        *(
            (Span(f"  {field.name:<12} ", "accent"), Span(field.about), Span(f"  {field.kind.value}", "dim"))
            for field in FIELDS.values()
        ),
    ]


def _section(title: str, keys: Iterable[Key], remapped: Mapping[str, str]) -> list[Line]:
    drawn: list[Line] = [
        (
            Span(f"  {shown(key, remapped):<12} ", "accent"),
            Span(f"{key.label:<25} ", "strong" if key.mutates else "plain"),
            Span(key.help or ("changes the fleet, asks first" if key.mutates else ""), "dim"),
        )
        for key in keys
    ]
    return [(Span(title, "head"),), *drawn, ()] if drawn else []


class ActionProvider(Provider):
    """Every action of the screen and of the app, one a line: what it is called, its key, and why it cannot be done."""

    async def discover(self) -> Hits:
        """List them all before anything is typed."""
        for key in self._choices():
            yield DiscoveryHit(Content(key.label) + self._about(key), self._runner(key), text=key.label)

    async def search(self, query: str) -> Hits:
        """List those whose words fit what is typed."""
        matcher = self.matcher(query)
        for key in self._choices():
            if (score := matcher.match(key.label)) > 0:
                yield Hit(score, matcher.highlight(key.label) + self._about(key), self._runner(key), text=key.label)

    @property
    def _ours(self) -> ConsoleScreen:
        assert isinstance(self.screen, ConsoleScreen)
        return self.screen

    def _choices(self) -> list[Key]:
        """Give what the screen can do, then what can be done everywhere."""
        scope = self._ours.scope
        here = [key for key in KEYS if key.scope == scope and scope != "lines"]
        return here + [key for key in KEYS if key.scope == "app" and key.id != "app.palette"]

    def _about(self, key: Key) -> Content:
        why = refusal(key.id, self._ours.scene()) if key.mutates else ""
        name = shown(key, self._ours.desk.options.keys)
        return Content.styled(f"{'':<{max(1, 27 - len(key.label))}}{name:<9} {clean(why or key.help)}", "not bold dim")

    def _runner(self, key: Key) -> Callable[[], Awaitable[bool]]:
        return lambda: self.app.run_action(key.does, self.screen)
