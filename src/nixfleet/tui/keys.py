"""The one registry of what can be done in the console: id, label, key, where, and whether it changes the fleet.

Bindings, footer, menu, palette and help are all made from it. It knows nothing of how an action is done.
"""

from collections.abc import Mapping
from typing import Final, Literal

import msgspec
from textual.binding import Binding, BindingType

Scope = Literal[
    "app",
    "table",
    "lines",
    "devices",
    "device",
    "rollouts",
    "rollout",
    "audit",
    "entry",
    "enroll",
    "releases",
    "access",
    "right",
    "witnesses",
    "page",
]


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """An action as a person meets it; `does` is a Textual action, `foot` its place in the footer (0: not there)."""

    id: str
    label: str
    key: str
    scope: Scope
    does: str
    mutates: bool = False
    foot: int = 0
    help: str = ""


def _go(scope: Scope, name: str, label: str, key: str, does: str, foot: int = 0, note: str = "") -> Key:
    return Key(id=f"{scope}.{name}", label=label, key=key, scope=scope, does=does, foot=foot, help=note)


def _act(scope: Scope, name: str, label: str, key: str = "", foot: int = 0, note: str = "") -> Key:
    """Only capitals and the menu change anything (console.md, Keys)."""
    assert not key or key.isupper()
    full = f"{scope}.{name}"
    return Key(
        id=full, label=label, key=key, scope=scope, does=f"app.act('{full}')", mutates=True, foot=foot, help=note
    )


KEYS: Final[tuple[Key, ...]] = (
    _go("app", "devices", "Devices", "1", "app.view('devices')"),
    _go("app", "rollouts", "Rollouts", "2", "app.view('rollouts')"),
    _go("app", "enroll", "Enroll", "3", "app.view('enroll')"),
    _go("app", "audit", "Audit", "4", "app.view('audit')"),
    _go("app", "releases", "Releases", "5", "app.view('releases')"),
    _go("app", "access", "Access", "6", "app.view('access')"),
    _go("app", "up", "Back", "escape,backspace", "app.up"),
    _go("app", "menu", "Actions", "a", "app.menu", 7, "what can be done here, and why something cannot"),
    _go("app", "help", "Help", "question_mark", "app.help", 8),
    _go("app", "palette", "Palette", "colon,ctrl+p", "app.command_palette"),
    _go("app", "calls", "Command log", "at", "app.calls", 0, "every API call and its command-line equivalent"),
    _go("app", "pause", "Pause the view", "p", "app.pause", 0, "stop following changes; press again to go on"),
    _go("app", "snapshot", "Resnapshot", "r", "app.resnapshot", 0, "ask the coordinator for everything again"),
    _go("app", "copy", "Copy", "y", "app.copy", 0, "the row, or the page, to the terminal's clipboard"),
    _go("app", "pager", "Pager", "o", "app.pager", 0, "the page, or the whole table, in $PAGER"),
    _go("app", "quit", "Quit", "q,ctrl+c", "app.leave", 9),
    _go("app", "suspend", "Suspend", "ctrl+z", "app.suspend", 0, "back to the shell; fg brings it back"),
    _go("table", "down", "Down", "j,down", "row(1)"),
    _go("table", "up", "Up", "k,up", "row(-1)"),
    _go("table", "page_down", "Page down", "pagedown", "page(1)"),
    _go("table", "page_up", "Page up", "pageup", "page(-1)"),
    _go("table", "first", "First", "g,home", "edge(False)"),
    _go("table", "last", "Last", "G,end", "edge(True)"),
    _go("table", "open", "Open", "enter", "open"),
    _go("table", "mark", "Mark", "space", "mark", 5),
    _go("table", "mark_all", "Mark all that match", "asterisk", "mark_all"),
    _go("table", "unmark", "Unmark all", "u", "mark_none"),
    _go("table", "sort", "Sort", "s", "sort(False)", 6, "each column up, then down; ties go by name"),
    _go("table", "sort_second", "Sort, second key", "S", "sort(True)"),
    _go("lines", "down", "Down", "j,down", "scroll_by(1)"),
    _go("lines", "up", "Up", "k,up", "scroll_by(-1)"),
    _go("lines", "page_down", "Page down", "pagedown", "page(1)"),
    _go("lines", "page_up", "Page up", "pageup", "page(-1)"),
    _go("lines", "first", "First", "g,home", "edge(False)"),
    _go("lines", "last", "Last", "G,end", "edge(True)"),
    _go("lines", "follow", "Follow", "f", "follow", 0, "stay at the newest line"),
    _go("lines", "find", "Find", "slash", "screen.ask('find')"),
    _go("lines", "filter", "Filter", "ampersand", "screen.ask('filter')", 0, "show only the lines that match"),
    _go("lines", "next", "Next", "n", "next(1)"),
    _go("lines", "previous", "Previous", "N", "next(-1)"),
    _go("devices", "open", "Open", "enter", "open_here", 1),
    _go("devices", "query", "Query", "slash", "ask('query')", 2, "show only the devices that match"),
    _go("devices", "next", "Next match", "n", "match(1)", 0, "of the last query, also when it is taken away again"),
    _go("devices", "previous", "Previous match", "N", "match(-1)"),
    _go("devices", "columns", "Columns", "c", "columns"),
    _act("devices", "deploy", "Deploy", "D", 3),
    _act("devices", "roll_back", "Roll back their rollout", "R"),
    _act("devices", "retire", "Retire", "X", 0, "for good: it leaves the fleet"),
    _act("devices", "hold", "Hold for a week"),
    _act("devices", "release_hold", "Let it take updates again"),
    _go("device", "log", "Log", "l", "tab('log')", 1),
    _go("device", "history", "History", "h", "tab('history')", 2),
    _go("device", "facts", "Facts", "i", "tab('facts')", 3),
    _go("device", "change", "Diff", "d", "diff", 0, "what would change: the system it runs, and the one it should run"),
    _go("device", "rollout", "Its rollout", "v", "open_rollout", 4),
    _act("device", "deploy", "Deploy", "D"),
    _act("device", "roll_back", "Roll back", "R", 5),
    _act("device", "retire", "Retire", "X", 0, "for good: it leaves the fleet"),
    _act("device", "hold", "Hold for a week"),
    _act("device", "release_hold", "Let it take updates again"),
    _go("rollouts", "open", "Open", "enter", "open_here", 1),
    _go("rollouts", "query", "Find", "slash", "ask('find')", 2),
    _act("rollouts", "deploy", "Deploy", "D", 3),
    _act("rollouts", "pause", "Pause", "P", 4),
    _act("rollouts", "roll_back", "Roll back", "R", 5),
    _act("rollouts", "cancel", "Cancel", "X"),
    _act("rollouts", "retry", "Retry what failed"),
    _act("rollouts", "lift", "Go on for kinds it stopped for"),
    _go("rollout", "open", "Open", "enter", "open_here", 1),
    _go("rollout", "timeline", "Timeline", "t", "timeline", 5, "when each wave opened, was done and had soaked"),
    _go("rollout", "query", "Find", "slash", "ask('find')"),
    _act("rollout", "pause", "Pause", "P", 2),
    _act("rollout", "roll_back", "Roll back", "R", 3),
    _act("rollout", "cancel", "Cancel", "X", 4),
    _act("rollout", "advance", "Advance to the next wave", "A"),
    _act("rollout", "retry_these", "Retry this one, or the marked", "T", 0, "devices that have no outcome, or failed"),
    _act("rollout", "retry", "Retry what failed"),
    _act("rollout", "lift", "Go on for kinds it stopped for"),
    _go("audit", "open", "Open", "enter", "open_here", 1),
    _go("audit", "query", "Filter", "slash", "ask('find')", 2),
    _go("audit", "void", "Only void", "v", "only_void", 3, "acts that have no effect, and why"),
    _go(
        "audit",
        "witnesses",
        "Devices' logs",
        "d",
        "screen.open_page('witnesses')",
        4,
        "what each device saw of the log",
    ),
    _go(
        "audit", "refused", "Refused", "f", "screen.open_page('refused')", 0, "what the coordinator kept out of the log"
    ),
    _go("audit", "export", "Export", "e", "app.export", 5, "write payload and signature to files"),
    _go("witnesses", "open", "Open", "enter", "open_here", 1),
    _go("witnesses", "query", "Find", "slash", "ask('find')", 2),
    _go("entry", "export", "Export", "e", "app.export", 1, "write payload and signature to files"),
    _act("enroll", "approve", "Approve", "A", 1),
    _act("enroll", "reject", "Reject", "X", 2),
    _act("enroll", "token", "Token", "T", 3, "make a token that new devices join with; shown once"),
    _go("releases", "open", "Open", "enter", "open_here", 1),
    _go("releases", "query", "Find", "slash", "ask('find')", 2),
    _go("releases", "diff", "Diff", "d", "diff", 4, "what changes between two marked releases, by package"),
    _act("releases", "deploy", "Deploy it", "D", 3),
    _go("access", "open", "Open", "enter", "open_here", 1),
    _act("access", "sign", "Approve", "A", 2, "sign what waits for signatures, as well"),
    _act("access", "grant", "New grant", "N", 3),
    _act("access", "revoke", "Revoke", "X", 4, "for good: a grant or a key"),
    _go("access", "explain", "May they?", "e", "app.explain", 5, "what a key may do to a device, and by which chain"),
    _go("access", "query", "Find", "slash", "ask('find')"),
    _act("right", "sign", "Approve", "A", 1, "sign what waits for signatures, as well"),
    _act("right", "revoke", "Revoke", "X", 2, "for good: a grant or a key"),
    _go("right", "explain", "May they?", "e", "app.explain", 3, "what a key may do to a device, and by which chain"),
)
MARKING: Final = frozenset[Scope]({"devices", "enroll", "releases", "rollout"})
"""Where acts take more than one row; elsewhere a mark would mean nothing."""
LISTS: Final = frozenset[Scope](
    {"devices", "rollouts", "rollout", "audit", "enroll", "releases", "access", "witnesses"}
)
"""The screens around a table."""
FOOTER_KEYS: Final = 8
BY_ID: Final = {key.id: key for key in KEYS}


def bindings(scope: Scope) -> list[BindingType]:
    """Make the bindings of a scope; each has its id, so that the config can remap it."""
    return [
        Binding(key.key, key.does, key.label, show=False, id=key.id) for key in KEYS if key.scope == scope and key.key
    ]


def shown(key: Key, remapped: Mapping[str, str]) -> str:
    """Print the keys of an action, as the person has mapped them."""
    return key_name(remapped.get(key.id, key.key))


def footer(scope: Scope) -> list[Key]:
    """Give the at most eight keys that stand in the footer of a scope; its own come before those of its table."""
    own = [key for key in KEYS if key.scope in {scope, "app"} and key.foot]
    table = [key for key in KEYS if in_table(key, scope) and key.foot]
    return sorted([*own, *table[: max(0, FOOTER_KEYS - len(own))]], key=lambda key: key.foot)[:FOOTER_KEYS]


def in_table(key: Key, scope: Scope) -> bool:
    """Tell whether a key of tables does something in this one; what Enter opens is said by the pane itself."""
    return (
        scope in LISTS
        and key.scope == "table"
        and key.id != "table.open"
        and (scope in MARKING or "mark" not in key.id)
    )


def key_name(key: str) -> str:
    """Print a key as it stands on the keyboard."""
    names = {
        "question_mark": "?",
        "slash": "/",
        "colon": ":",
        "at": "@",
        "asterisk": "*",
        "ampersand": "&",
        "escape": "esc",
        "backspace": "⌫",
        "pagedown": "PgDn",
        "pageup": "PgUp",
        "ctrl+p": "^p",
        "ctrl+c": "^c",
        "ctrl+z": "^z",
        "down": "↓",
        "up": "↑",
    }
    return " ".join(names.get(one, one) for one in key.split(","))
