"""What is typed into the forms of rights and tokens, read and said back in words; pure but for a key's file."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar, get_args

from nixfleet.errors import UserError
from nixfleet.model.ids import NAME, PRINCIPAL, TAG_VALUE, Selector
from nixfleet.model.statements import GRANT_DAYS, Action
from nixfleet.model.text import clean, counted, utc
from nixfleet.model.views import AccessView, DeviceView
from nixfleet.tui.ports import Authority, GrantWish, TokenWish
from nixfleet.tui.view.access import chain_lines, keys_of_row, listed, over_words, pending_of
from nixfleet.tui.view.text import Line, Span

T = TypeVar("T")
DAYS_MAX: Final = 3_660
_TOKEN_DAYS_MAX: Final = 366
_DAY_S: Final = 86_400
_TAG: Final = re.compile(NAME)
_PRINCIPAL: Final = re.compile(PRINCIPAL)
_VALUE: Final = re.compile(TAG_VALUE)

GRANT_FIELDS: Final = (
    ("name", "Who", "a name for the person or CI, such as release-ci"),
    ("key", "Key", "ssh-ed25519 AAAA…, or a .pub file"),
    ("actions", "May", "such as deploy rollback control; empty: only read"),
    ("on", "On", "tag=value or tag=one,other; empty: every device"),
    ("days", "Days", f"empty: {GRANT_DAYS}, or to the end of your own grant"),
    ("depth", "Hand on", "levels down it may be handed on; empty: none"),
    ("devices", "At most", "devices in one release; empty: no limit"),
    ("note", "Note", "ticket or reason"),
)
TOKEN_FIELDS: Final = (
    ("tags", "Tags", "tag=value, as each device that joins will have"),
    ("uses", "Devices", "how many may join"),
    ("days", "Days", "how long it lasts"),
)
EXPLAIN_FIELDS: Final = (
    ("key", "Who", "a name, or a key's fingerprint"),
    ("action", "May", "such as deploy"),
    ("device", "On", "a device"),
)


@dataclass(frozen=True)
class Reading(Generic[T]):
    """What a form comes to, and the words for it; without a value there is nothing to go on with."""

    lines: tuple[Line, ...]
    value: T | None = None


def read_grant(
    texts: Mapping[str, str], public_key: Callable[[str], tuple[str, str]], issuer: str, now: int
) -> Reading[GrantWish]:
    """Read the form of a grant, and say what it allows. Raises: UserError."""
    name = texts["name"]
    if not name or not texts["key"]:
        return Reading(((Span("a name and a key are needed", "dim"),),))
    if not _PRINCIPAL.match(name):
        raise UserError(f"{name!r} is no name: small letters, digits, '.', '_', '@' and '-'")
    line, fingerprint = public_key(texts["key"])
    actions, depth = _read_actions(texts["actions"]), _read_count(texts["depth"], "levels", 8) or 0
    if depth and "grant" not in actions:
        raise UserError("to be handed on, it needs the action grant as well")
    if "grant" in actions and not depth:
        raise UserError("with the action grant, say how many levels down it may be handed on")
    wish = GrantWish(
        name=name,
        key=line,
        key_text=texts["key"],
        actions=actions,
        select=read_select(texts["on"]),
        days=_read_count(texts["days"], "days", DAYS_MAX),
        depth=depth,
        max_devices=_read_count(texts["devices"], "devices", 1_000_000),
        note=texts["note"],
    )
    return Reading(tuple(grant_words(wish, fingerprint, issuer, now)), wish)


def grant_words(wish: GrantWish, fingerprint: str, issuer: str, now: int) -> list[Line]:
    """Say what a grant allows, as the person who gets it could read it."""
    acts = listed(wish.actions) if wish.actions else "only read"
    over = f"devices with {over_words(wish.select)}" if wish.select else "every device"
    days = wish.days or GRANT_DAYS
    ends = utc(now + days * _DAY_S).partition(" ")[0]
    sooner = "" if wish.days else ", or to the end of what it is handed on from"
    wide: bool = not wish.select and bool(wish.actions)
    lines: list[Line] = [
        (
            Span(clean(wish.name), "strong"),
            Span(f" may {acts} on "),
            Span(clean(over), "warn" if wide else "plain"),
            Span(f" until {ends} ({counted(days, 'day')}){sooner}."),
        ),
        (Span(fingerprint, "dim"),),
    ]
    if wish.max_devices is not None:
        lines.append((Span(f"A release of theirs is for at most {counted(wish.max_devices, 'device')}."),))
    if wish.depth:
        lines.append((Span(f"It may be handed on, {counted(wish.depth, 'level')} down.", "warn"),))
    lines.append((Span(clean(f"Granted by {issuer}."), "dim"),))
    return lines


def read_token(texts: Mapping[str, str]) -> Reading[TokenWish]:
    """Read the form of a join token, and say what it allows. Raises: UserError."""
    tags = {}
    for tag, values in read_select(texts["tags"]).items():
        if len(values) != 1:
            raise UserError(f"a device has one value of {tag}, not {counted(len(values), 'value')}")
        tags[tag] = values[0]
    uses = _read_count(texts["uses"], "devices", 1_000_000) or 1
    days = _read_count(texts["days"], "days", _TOKEN_DAYS_MAX) or 7
    words = " ".join(f"{tag}={value}" for tag, value in sorted(tags.items())) or "no tags"
    said = f"Whoever holds it can join {counted(uses, 'device')} with {words}, for {counted(days, 'day')}."
    return Reading(((Span(clean(said)),),), TokenWish(tags=tags, uses=uses, days=days))


def read_explain(
    texts: Mapping[str, str], access: AccessView, devices: Sequence[DeviceView], authority: Authority
) -> Reading[None]:
    """Say what a key may do to a device, and by which chain, or which link fails. Raises: UserError."""
    if not all(texts[name] for name in ("key", "action", "device")):
        return Reading(((Span("who, what, and on which device?", "dim"),),))
    key = _read_holder(texts["key"], access)
    device = next((one for one in devices if texts["device"] in {one.name, one.id} and one.state != "retired"), None)
    if device is None:
        raise UserError(f"no device is called {texts['device']!r}")
    (action, *more) = _read_actions(texts["action"])
    if more:
        raise UserError("ask about one action at a time")
    told = authority.explain(key, action, device.id)
    answer = Span("✗ no", "bad")
    if told.allowed or told.waits:
        answer = Span("✓ yes", "ok") if told.allowed else Span("◌ not alone", "warn")
    lines: list[Line] = [(answer,), (Span(clean(told.sentence)),)]
    for chain in told.chains:
        lines += [(), *chain_lines([(link.holder, link.grant, link.ok, link.why) for link in chain.links])]
        if chain.why and all(link.ok for link in chain.links):
            lines.append((Span(f"  {clean(chain.why)}", "warn"),))
    if not told.chains:
        lines += [(), (Span("No chain of grants leads from the root to this key.", "dim"),)]
    return Reading(tuple(lines))


def _read_holder(text: str, access: AccessView) -> str:
    """Find a key by its fingerprint or its holder's name; of several keys one that is not revoked."""
    if text.startswith("SHA256:"):
        return text
    people = access.root.principals if access.root is not None else ()
    for person in people:
        if person.name == text:
            return next((key for key in person.keys if key not in person.revoked), person.keys[0])
    held = [grant for grant in access.grants if text in {grant.name, grant.name.rpartition("/")[2], grant.id}]
    held.sort(key=lambda grant: grant.state != "live")
    if not held:
        raise UserError(f"the log names nobody {text!r}; give a name of the list, or a key's fingerprint SHA256:…")
    if len({grant.name for grant in held}) > 1 and text not in {grant.name for grant in held}:
        raise UserError(f"{text!r} is several: {', '.join(sorted({grant.name for grant in held}))}")
    return held[0].keys[0]


def first_holder(access: AccessView, row: str) -> str:
    """Give what stands for a row in the field of who is asked about."""
    kind, _, name = row.partition(":")
    if kind == "principal":
        return name
    if kind == "grant":
        return next((grant.name for grant in access.grants if grant.id == name), "")
    pending = pending_of(access, row)
    return pending.by_name if pending is not None else next(iter(keys_of_row(access, row)), "")


def _read_actions(text: str) -> tuple[Action, ...]:
    found: list[Action] = []
    for word in text.replace(",", " ").split():
        action: Action | None = next((one for one in get_args(Action) if one == word), None)
        if action is None:
            raise UserError(f"{word!r} is no action: {' '.join(get_args(Action))}")
        if action not in found:
            found.append(action)
    return tuple(found)


def read_select(text: str) -> Selector:
    """Read ``tag=value tag=one,other``. Raises: UserError."""
    select: Selector = {}
    for word in text.split():
        tag, equals, values = word.partition("=")
        parts = tuple(values.split(","))
        if not equals or not _TAG.match(tag) or not all(_VALUE.match(part) for part in parts):
            raise UserError(f"write tag=value or tag=one,other, not {word!r}")
        if tag in select:
            raise UserError(f"{tag} stands twice; write {tag}=one,other")
        select[tag] = parts
    return select


def _read_count(text: str, what: str, most: int) -> int | None:
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= most:
        raise UserError(f"{what}: a number from 1 to {most:,}, not {text!r}")
    return int(text)
