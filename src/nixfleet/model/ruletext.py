"""Rules of the root as people type and read them: ``env=prod: deploy,rollback approvals=2 note soak=1h``.

One syntax for option, preview and list: what is shown can be typed again. Errors say how to write it.
"""

import re
from typing import Any, Final, get_args

import msgspec

from nixfleet.errors import UserError
from nixfleet.model.ids import NAME, TAG_VALUE, Selector
from nixfleet.model.statements import Action, Rule
from nixfleet.model.typed import UNITS_S, parse_duration

ALL: Final = "all"
"""How the empty selector is written."""
EXAMPLE: Final = "'env=prod: deploy,rollback approvals=2 note max-in-flight=5 soak=1h'"
_COUNTS: Final = {"approvals": "approvals", "max-in-flight": "max_in_flight"}


def parse_rule(text: str) -> Rule:
    """Read a rule. Raises: UserError that names the word that is wrong, and shows how a rule is written."""
    select, colon, rest = text.partition(":")
    words = rest.split()
    if not colon or not words:
        raise _wrong(text, "it has no ': ACTIONS' behind the devices")
    fields: dict[str, Any] = {"select": _parse_select(select, text), "actions": _parse_actions(words[0], text)}
    for word in words[1:]:
        name, equals, value = word.partition("=")
        read: bool | int
        if word == "note":
            field, read = "note_required", True
        elif name in _COUNTS and re.fullmatch(r"[0-9]{1,7}", value):
            field, read = _COUNTS[name], int(value)
        elif name == "soak" and equals:
            field, read = "min_soak_s", parse_duration(value)
        else:
            raise _wrong(text, f"{word!r} is none of approvals=N, note, max-in-flight=N, soak=1h")
        if field in fields:
            raise _wrong(text, f"{name!r} stands twice")
        fields[field] = read
    if len(fields) == 2:
        raise _wrong(text, "it asks for nothing: add approvals=N, note, max-in-flight=N or soak=1h")
    try:
        return msgspec.convert(fields, Rule)
    except msgspec.ValidationError as error:
        raise _wrong(text, str(error).partition(" - at ")[0]) from error


def _parse_select(text: str, whole: str) -> Selector:
    select: dict[str, tuple[str, ...]] = {}
    words = text.split()
    if not words:
        raise _wrong(whole, f"it names no devices; {ALL!r} means every one")
    for word in [] if words == [ALL] else words:
        tag, equals, listed = word.partition("=")
        values = tuple(listed.split(","))
        good = re.fullmatch(NAME, tag) and all(re.fullmatch(TAG_VALUE, value) for value in values)
        if not equals or not good or tag in select or len(set(values)) != len(values):
            raise _wrong(whole, f"{word!r} is no TAG=VALUE[,VALUE…] of its own")
        select[tag] = values
    return select


def _parse_actions(text: str, whole: str) -> tuple[str, ...]:
    actions = tuple(text.split(","))
    for action in actions:
        if action not in get_args(Action):
            raise _wrong(whole, f"{action!r} is no action; there are {', '.join(get_args(Action))}")
    if len(set(actions)) != len(actions):
        raise _wrong(whole, "an action stands twice")
    return actions


def _wrong(text: str, why: str) -> UserError:
    return UserError(f"{text!r} is no rule: {why}; write it like {EXAMPLE}")


def rule_text(rule: Rule) -> str:
    """Write a rule as it is typed."""
    select = " ".join(f"{tag}={','.join(values)}" for tag, values in sorted(rule.select.items()))
    words = [f"{select or ALL}:", ",".join(rule.actions)]
    words += [f"approvals={rule.approvals}"] if rule.approvals else []
    words += ["note"] if rule.note_required else []
    words += [] if rule.max_in_flight is None else [f"max-in-flight={rule.max_in_flight}"]
    words += [f"soak={_duration(rule.min_soak_s)}"] if rule.min_soak_s else []
    return " ".join(words)


def _duration(seconds: int) -> str:
    unit = next(unit for unit in ("d", "h", "m", "s") if seconds % UNITS_S[unit] == 0)
    return f"{seconds // UNITS_S[unit]}{unit}"
