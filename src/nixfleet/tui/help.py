"""What `?` and the palette show; made from the registry of keys and the fields of the query language."""

from collections.abc import Iterable, Mapping

from textual.command import DiscoveryHit, Hit, Hits, Provider

from nixfleet.query import FIELDS
from nixfleet.tui.keys import KEYS, MARKING, Key, Scope, key_name
from nixfleet.tui.view.text import Line, Span

_LISTS: frozenset[Scope] = frozenset({"devices", "rollouts", "rollout", "audit", "enroll", "releases"})
_LINES: frozenset[Scope] = frozenset({"device", "entry", "lines"})


def help_lines(scope: Scope, remapped: Mapping[str, str]) -> list[Line]:
    """List the keys of a pane, then those of its table or lines, then those that work everywhere."""
    lines: list[Line] = _section("here", (key for key in KEYS if key.scope == scope and scope != "lines"), remapped)
    if scope in _LISTS:
        lines += _section("in the table", (key for key in KEYS if _in_table(key, scope)), remapped)
    if scope in _LINES:
        lines += _section("in the text", (key for key in KEYS if key.scope == "lines"), remapped)
    lines += _section("everywhere", (key for key in KEYS if key.scope == "app"), remapped)
    if scope == "devices":
        lines += [(Span("queries", "head"),)]
        lines += [
            (Span("   status:failed,drifted tag.site:berlin system:*-24.11* seen>10m wave:2 -reboot:pending kiosk"),)
        ]
        lines += [(Span(f"   {'tag.KEY':<12}", "accent"), Span("a tag's value"))]
        lines += [
            (Span(f"   {field.name:<12}", "accent"), Span(field.about), Span(f"  {field.kind.value}", "dim"))
            for field in FIELDS.values()
        ]
    return lines


def _in_table(key: Key, scope: Scope) -> bool:
    """Tell whether a key of tables does something in this one; what Enter opens is said by the pane itself."""
    return key.scope == "table" and key.id != "table.open" and (scope in MARKING or "mark" not in key.id)


def _section(title: str, keys: Iterable[Key], remapped: Mapping[str, str]) -> list[Line]:
    drawn: list[Line] = [
        (
            Span(f"   {key_name(remapped.get(key.id, key.key)):<12}", "accent"),
            Span(f"{key.label:<26}", "strong" if key.mutates else "plain"),
            Span(key.help or ("changes the fleet, asks first" if key.mutates else ""), "dim"),
        )
        for key in keys
    ]
    return [(Span(title, "head"),), *drawn, ()] if drawn else []


class ActionProvider(Provider):
    """Every action of the screen and of the app, by what it is called."""

    def _choices(self) -> list[Key]:
        scope = getattr(self.screen, "scope", "app")
        return [key for key in KEYS if key.scope in {scope, "app"} and key.id != "app.palette"]

    def _hit_of(self, key: Key) -> tuple[str, str]:
        return key.label, f"{key_name(key.key) or 'menu only'}  {key.help}".strip()

    async def discover(self) -> Hits:
        """List them all before anything is typed."""
        for key in self._choices():
            label, about = self._hit_of(key)
            yield DiscoveryHit(label, lambda key=key: self._run(key), help=about)

    async def search(self, query: str) -> Hits:
        """List those whose words fit what is typed."""
        matcher = self.matcher(query)
        for key in self._choices():
            label, about = self._hit_of(key)
            if (score := matcher.match(label)) > 0:
                yield Hit(score, matcher.highlight(label), lambda key=key: self._run(key), help=about)

    async def _run(self, key: Key) -> None:
        await self.app.run_action(key.does, self.screen)
