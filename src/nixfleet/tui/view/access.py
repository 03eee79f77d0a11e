"""Rights as rows and cards: the root's people and keys, the grants as a tree, what waits; pure functions."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal

import msgspec

from nixfleet.model.statements import ACTIONS, Action
from nixfleet.model.text import clean, counted
from nixfleet.model.views import AccessView, GrantView, PendingView, PrincipalView, RootView, RuleView
from nixfleet.tui.ports import Subject
from nixfleet.tui.view.devices import when
from nixfleet.tui.view.text import Line, Role, Span, age, fit, joined, pairs, reflow, trimmed, wrap

NO_ACCESS: Final = AccessView(root=None, grants=(), pending=())
RowKind = Literal["pending", "principal", "key", "grant"]
_SHORT: Final = 12
ADD_KEY: Final = "nixfleet access root update --add-key"
_STATES: Final[dict[str, tuple[str, Role]]] = {
    "waits": ("◌", "warn"),
    "root": ("●", "ok"),
    "key": ("·", "dim"),
    "live": ("●", "ok"),
    "future": ("◔", "busy"),
    "used up": ("□", "dim"),
    "expired": ("✗", "dim"),
    "cut": ("✗", "bad"),
    "revoked": ("✗", "bad"),
}
"""Glyph and role of a row's state; a word nobody knows is drawn without a glyph."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the Access screen; `order` is its place in the tree, `depth` how far it is indented."""

    key: str
    kind: RowKind
    order: int
    state: str
    who: str
    depth: int = 0
    may: str = ""
    over: str = ""
    ends: str = ""
    ends_at: int = 0
    why: str = ""


def rows(access: AccessView, now: int) -> dict[str, Row]:
    """Give what waits, then the root's people with their keys, then the grants, each below what it came from."""
    found = [*map(_pending_row, access.pending), *_root_rows(access.root), *_grant_rows(access.grants, now)]
    return {row.key: msgspec.structs.replace(row, order=place) for place, row in enumerate(found)}


def _pending_row(one: PendingView) -> Row:
    return Row(
        key=f"pending:{one.index}",
        kind="pending",
        order=0,
        state="waits",
        who=one.by_name,
        may=one.subject,
        why=one.waits,
    )


def _root_rows(root: RootView | None) -> Iterator[Row]:
    for principal in root.principals if root is not None else ():
        live = [key for key in principal.keys if key not in principal.revoked]
        keys = counted(len(live), "key") if live else "no key that is left"
        over = "every device" if live else ""
        may = "everything" if live else "nothing"
        yield Row(
            key=f"principal:{principal.name}",
            kind="principal",
            order=0,
            state="root" if live else "revoked",
            who=principal.name,
            may=may,
            over=over,
            why=keys,
        )
        for key in principal.keys:
            gone = key in principal.revoked
            yield Row(
                key=f"key:{key}",
                kind="key",
                order=0,
                state="revoked" if gone else "key",
                who=key,
                depth=1,
            )


def _grant_rows(grants: Sequence[GrantView], now: int) -> Iterator[Row]:
    depths: dict[str, int] = {}
    for grant in grants:
        depth = depths[grant.id] = depths[grant.parent] + 1 if grant.parent in depths else 0
        yield Row(
            key=f"grant:{grant.id}",
            kind="grant",
            order=0,
            state=state_word(grant),
            who=grant.name,
            depth=depth,
            may=" ".join(grant.actions) or "read",
            over=over_words(grant.select),
            ends=ends_words(grant, now),
            ends_at=grant.not_after,
            why=limits_words(grant) if grant.state == "live" else why_words(grant),
        )


def why_words(grant: GrantView) -> str:
    """Say why a grant is not live, where that is more than its state says already."""
    return "" if grant.why == f"it is {grant.state}" else grant.why


def state_word(grant: GrantView) -> str:
    """Say how a grant stands in a word."""
    return "used up" if grant.state == "live" and grant.why else grant.state


def state_cell(state: str) -> Line:
    """Draw a state as a glyph and a word."""
    glyph, role = _STATES.get(state, ("", "plain"))
    return (Span(f"{glyph} {clean(state)}".strip(), role),)


def who_cell(row: Row) -> Line:
    """Draw who it is, indented as deep as it stands in the tree."""
    if row.kind == "key":
        return (Span(f"  {clean(row.who)}", "dim"),)
    branch = f"{'  ' * (row.depth - 1)}└ " if row.depth else ""
    dead = row.state in {"expired", "revoked", "cut"}
    return (Span(branch, "dim"), Span(clean(row.who), "dim" if dead else "strong"))


def may_cell(row: Row) -> Line:
    """Draw what a row allows, or what waits."""
    return (Span(clean(row.may), "dim" if row.state in {"expired", "revoked", "cut"} else "plain"),)


def may_words(grant: GrantView) -> str:
    """Say what a grant allows as the end of a sentence that begins with "may"."""
    return listed(grant.actions) if grant.actions else "read"


def listed(words: Sequence[str]) -> str:
    """Write words as one does in a sentence."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def over_words(select: Mapping[str, Sequence[str]]) -> str:
    """Say for which devices."""
    return " ".join(f"{tag}={','.join(values)}" for tag, values in sorted(select.items())) or "every device"


def ends_words(grant: GrantView, now: int) -> str:
    """Say when it ends, or begins."""
    if now < grant.not_before:
        return f"from {when(grant.not_before)}"
    if now > grant.not_after:
        return f"{age(now - grant.not_after)} ago"
    return f"in {age(grant.not_after - now)}"


def limits_words(grant: GrantView) -> str:
    """Say what a grant limits beyond actions, devices and time."""
    parts = [
        "" if grant.max_devices is None else f"{counted(grant.max_devices, 'device')} a release",
        "" if grant.max_uses is None else f"{grant.uses} of {grant.max_uses * max(1, len(grant.keys))} used",
        f"may be handed on {counted(grant.depth, 'level')} down" if grant.depth else "",
    ]
    return ", ".join(part for part in parts if part)


def role_words(*, root: bool, may: frozenset[Action], reads: bool) -> str:
    """Say in a few words what a person is here, by what the log lets them do."""
    if root:
        return "root"
    if not may:
        return "auditor" if reads else ""
    names = [action for action in ACTIONS if action in may]
    return " ".join(names[:3]) + (f" +{len(names) - 3}" if len(names) > 3 else "")


# The root


def root_keys_live(root: RootView) -> int:
    """Count the root keys that are not revoked."""
    return sum(len(set(one.keys) - set(one.revoked)) for one in root.principals)


def root_head(root: RootView | None, cells: int) -> list[Line]:
    """Set out the root in force: who has to sign, its rules, and what is risky about it."""
    if root is None:
        return [(Span("The root is not known yet: the log is being replayed …", "dim"),)]
    people = len(root.principals)
    sign = f"{root.threshold} of {people} people must sign" if people > 1 else f"{root.principals[0].name} alone signs"
    first = joined(
        (
            (Span(f"root {root.version}", "strong"),),
            (Span(clean(sign)),),
            (Span(f"protocol {root.protocol}", "dim"),),
            (Span(f"epoch {root.epoch}", "dim"),) if root.epoch else (),
            (Span(clean(" ".join(root.urls)), "dim"),),
        ),
        "   ",
    )
    lines = [fit(first, cells)]
    lines += [fit((Span("rule  ", "dim"), Span(clean(rule_words(rule)))), cells) for rule in root.rules]
    if root_keys_live(root) == 1:
        name = clean(root.principals[0].name)
        lines += wrap(
            f"! 1 root key: if it is lost, so is the fleet. Add one: {ADD_KEY} {name}=FILE.pub",
            cells,
            "warn",
            most=2,
        )
    return lines


def rule_words(rule: RuleView) -> str:
    """Say what a rule asks for."""
    asks = [
        counted(rule.approvals, "approval") if rule.approvals else "",
        "a note" if rule.note_required else "",
        f"at most {rule.max_in_flight} at once" if rule.max_in_flight is not None else "",
        f"a soak of {age(rule.min_soak_s)}" if rule.min_soak_s else "",
    ]
    wants = listed([ask for ask in asks if ask])
    needs = "need" if len(rule.actions) > 1 else "needs"
    return f"{listed(rule.actions)} on {over_words(rule.select)} {needs} {wants}"


# One row


def grant_of(access: AccessView, grant: str) -> GrantView | None:
    """Find a grant by its id."""
    return next((one for one in access.grants if one.id == grant), None)


def chain_of(access: AccessView, grant: str) -> list[GrantView]:
    """Give a grant and those above it, from the root down."""
    by_id = {one.id: one for one in access.grants}
    chain: list[GrantView] = []
    while (one := by_id.get(grant)) is not None and one not in chain:
        chain.insert(0, one)
        grant = one.parent
    return chain


def pending_of(access: AccessView, key: str) -> PendingView | None:
    """Find what waits by the key of its row."""
    return next((one for one in access.pending if key == f"pending:{one.index}"), None)


def _principal_of(access: AccessView, key: str) -> PrincipalView | None:
    """Find the root principal of a row: its own, or that of one of its keys."""
    kind, _, name = key.partition(":")
    people = access.root.principals if access.root is not None else ()
    return next((one for one in people if (kind == "key" and name in one.keys) or key == f"principal:{one.name}"), None)


def subject_of(access: AccessView, key: str) -> Subject | None:
    """Give what revoking a row would end; a principal with several keys is ended key by key."""
    kind, _, name = key.partition(":")
    if kind == "grant" and (grant := grant_of(access, name)) is not None:
        return Subject(name=grant.name, grant=grant.id, ended=grant.state == "revoked")
    principal = _principal_of(access, key)
    if principal is None:
        return None
    if kind == "key":
        return Subject(name=principal.name, key=name, ended=name in principal.revoked)
    live = [one for one in principal.keys if one not in principal.revoked]
    return Subject(name=principal.name, key=live[0]) if len(live) == 1 else None


def label_of(access: AccessView, key: str) -> str:
    """Name a row, as the title of a menu does."""
    pending = pending_of(access, key)
    if pending is not None:
        return f"the {clean(pending.type)} of {clean(pending.by_name)}"
    subject = subject_of(access, key)
    if subject is not None:
        return f"the {'grant' if subject.grant else 'key'} of {clean(subject.name)}"
    principal = _principal_of(access, key)
    return clean(principal.name) if principal else ""


def keys_of_row(access: AccessView, key: str) -> tuple[str, ...]:
    """Give the fingerprints that a row stands for."""
    kind, _, name = key.partition(":")
    grant = grant_of(access, name) if kind == "grant" else None
    if grant is not None:
        return grant.keys
    if kind == "key":
        return (name,)
    principal = _principal_of(access, key)
    pending = pending_of(access, key)
    return principal.keys if principal is not None else (pending.by,) if pending is not None else ()


def card(access: AccessView, key: str, now: int, cells: int) -> list[Line]:
    """Set out a row in full."""
    return trimmed(_card(access, key, now, cells), cells)


def _card(access: AccessView, key: str, now: int, cells: int) -> list[Line]:
    kind, _, name = key.partition(":")
    if kind == "grant" and (grant := grant_of(access, name)) is not None:
        return _grant_card(access, grant, now, cells)
    pending = pending_of(access, key)
    if pending is not None:
        return [part for line in pending_words(pending, access.root) for part in reflow(line, cells)]
    principal = _principal_of(access, key)
    return _principal_card(principal, access, cells) if principal is not None else []


def _grant_card(access: AccessView, grant: GrantView, now: int, cells: int) -> list[Line]:
    above = chain_of(access, grant.id)
    below = [one for one in access.grants if one.parent == grant.id]
    state = (*state_cell(state_word(grant)), Span(f"  {clean(grant.why)}", "dim"))
    lines: list[Line] = [joined(((Span(clean(grant.name), "strong"),), state)), ()]
    lines += pairs(
        [
            ("may", (Span(clean(may_words(grant))),)),
            ("on", (Span(clean(over_words(grant.select))),)),
            ("limits", (Span(limits_words(grant)),) if limits_words(grant) else ()),
            ("until", (Span(f"{when(grant.not_after)} UTC  "), Span(ends_words(grant, now), "dim"))),
            ("granted by", (Span(clean(grant.by_name)), Span(f"  entry {grant.index}", "dim"))),
            ("chain", (Span(clean(" → ".join(["root", *(one.name for one in above)]))),)),
            ("note", (Span(clean(grant.note)),) if grant.note else ()),
            ("handed on", (Span(clean(", ".join(one.name for one in below))),) if below else ()),
            ("from", (Span(f"{when(grant.not_before)} UTC"),)),
            ("grant", (Span(grant.id, "dim"),)),
            *((("key", (Span(key, "dim"),))) for key in grant.keys),
        ],
        cells,
    )
    return lines


def _principal_card(principal: PrincipalView, access: AccessView, cells: int) -> list[Line]:
    root = access.root
    others = "" if root is None or root.threshold == 1 else f" together with {root.threshold - 1} more"
    issued = [one.name for one in access.grants if one.by in principal.keys]
    lines: list[Line] = [
        (Span(clean(principal.name), "strong"), Span("  a root principal")),
        *wrap(f"may do everything to every device{others}", cells, "plain", most=2),
        (),
    ]
    for key in principal.keys:
        gone = key in principal.revoked
        lines.append(fit((Span("✗ revoked  " if gone else "· key      ", "bad" if gone else "dim"), Span(key)), cells))
    lines += [(), *wrap(f"granted to {', '.join(issued)}", cells, "dim", most=3)] if issued else []
    return lines


def pending_words(one: PendingView, root: RootView | None = None) -> list[Line]:
    """Say what waits for a signature, whose it is, and who has signed and who has not."""
    lines: list[Line] = [
        (Span(clean(one.subject), "strong"),),
        (Span(clean(f"by {one.by_name}, {when(one.at)} UTC, entry {one.index}"), "dim"),),
    ]
    if one.note:
        lines.append((Span(clean(f"note: {one.note}")),))
    lines += [(), (Span("signed   ", "dim"), Span(clean(", ".join(one.signed))))]
    if one.type == "root" and root is not None:
        left = [person.name for person in root.principals if person.name not in one.signed]
        lines.append((Span("not yet  ", "dim"), Span(clean(", ".join(left)) or "nobody of the root in force")))
    lines.append((Span("waits    ", "dim"), Span(clean(one.waits), "warn")))
    lines.append((Span("payload  ", "dim"), Span(one.digest, "dim")))
    return lines


# What a key may do


def chain_lines(chain: Sequence[tuple[str, str, bool, str]]) -> list[Line]:
    """Draw a chain of (holder, grant, ok, why) from the root down; the link that fails says why."""
    lines: list[Line] = []
    for depth, (holder, grant, ok, why) in enumerate(chain):
        branch = f"{'  ' * depth}{'└ ' if depth else ''}"
        lines.append(
            (
                Span("✓ " if ok else "✗ ", "ok" if ok else "bad"),
                Span(branch, "dim"),
                Span(clean(holder), "strong" if ok else "plain"),
                Span(f"  grant {grant[:_SHORT]}" if grant else "", "dim"),
                Span(f"  {clean(why)}" if why else "", "warn" if ok else "bad"),
            )
        )
    return lines
