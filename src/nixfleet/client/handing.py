"""Which grant a right is handed on from, and what is signed then. Pure: the verified state, a header and wishes in.

It must never build what the log would refuse as far as it can tell: the limit that is in the way is said instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nixfleet.client.acts import DAY_S, TOKEN_DAYS_MAX, Head
from nixfleet.errors import Refused, UserError
from nixfleet.model.ids import MAX_INT, Fingerprint, Selector, Tags
from nixfleet.model.statements import GRANT_DAYS, Action, Grant, Principal
from nixfleet.model.text import utc
from nixfleet.model.typed import check_principal
from nixfleet.trust import fields
from nixfleet.trust.replay import GrantRecord, State, principal_of
from nixfleet.trust.replay.links import SHOWN, beyond, dead_words
from nixfleet.trust.replay.rights import grants

_PREFIX_LEAST: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantWishes:
    """What a person says of a grant; None leaves it to the grant that it is handed on from, or to the defaults."""

    name: str
    keys: Sequence[str]
    actions: Sequence[Action]
    select: Selector
    not_before: int | None = None
    not_after: int | None = None
    depth: int = 0
    max_devices: int | None = None
    max_uses: int | None = None
    parent: str | None = None
    """An id or its first digits; None: the root, or the signer's own widest grant that covers it."""


def grant_of(head: Head, state: State, wishes: GrantWishes, id: str) -> Grant:  # noqa: A002 (the wire's name)
    """Build a grant that fits what it is handed on from. Raises: UserError, Refused."""
    check_principal(wishes.name)
    if wishes.parent is not None:
        parent = state.grants[find_grant(state, wishes.parent)]
        made = _within(head, state, wishes, id, parent)
        fault = _fault(head, state, made, parent)
        if fault:
            raise Refused(f"nothing is signed: {fault}")
        return made
    if head.by in state.root_keys:
        return _within(head, state, wishes, id, None)
    return _from_own(head, state, wishes, id)


def _from_own(head: Head, state: State, wishes: GrantWishes, id_: str) -> Grant:
    """Hand on from the widest of the signer's grants that cover what is wished. Raises: UserError, Refused."""
    who = principal_of(state, Fingerprint(head.by))
    held = grants(state, Fingerprint(head.by))
    if not held:
        raise Refused(f"nothing is signed: {who} lacks the right to grant anything: no grant names its key")
    tried = [(record, _within(head, state, wishes, id_, record)) for record in held]
    fits = [(record, made) for record, made in tried if not _fault(head, state, made, record)]
    if fits:
        return max(fits, key=lambda one: _width(one[0]))[1]
    nearest, made = max(tried, key=lambda one: ("grant" in one[0].statement.actions, _width(one[0])))
    fault = _fault(head, state, made, nearest)
    others = f" (and none of its {len(held) - 1} other grants covers it)" if len(held) > 1 else ""
    if len(held) == 2:
        others = " (and its other grant does not cover it)"
    raise Refused(f"nothing is signed: {who} lacks the right to grant this: {fault}{others}")


def _width(record: GrantRecord) -> tuple[int, int, int, int, int]:
    """Rank grants by how much they could hand on: few tags first, then long, many devices, deep, the newest."""
    grant = record.statement
    end = min(link.not_after for link in record.links)
    return -len(grant.select), end, grant.max_devices or MAX_INT, grant.depth, record.place.index


def _within(head: Head, state: State, wishes: GrantWishes, id_: str, parent: GrantRecord | None) -> Grant:
    """Make the grant; what is not said is as much as its parent allows. Raises: UserError."""
    # Not before the log's own time either: the coordinator's clock may be a little behind this machine's.
    begin, end, most = min(head.at, state.last_time), head.at + GRANT_DAYS * DAY_S, None
    if parent is not None:
        above = parent.statement
        begin, end, most = max(begin, above.not_before), min(end, above.not_after), above.max_devices
    made = Grant(
        **head.fields(),
        id=id_,
        parent=None if parent is None else parent.statement.id,
        to=Principal(name=wishes.name, keys=tuple(wishes.keys)),
        actions=tuple(wishes.actions),
        select=wishes.select,
        not_before=begin if wishes.not_before is None else wishes.not_before,
        not_after=end if wishes.not_after is None else wishes.not_after,
        depth=wishes.depth,
        max_devices=most if wishes.max_devices is None else wishes.max_devices,
        max_uses=wishes.max_uses,
    )
    if "approve" in made.actions and parent is not None:
        raise Refused("nothing is signed: the right to approve is given by the root alone")
    over = f"its end, {utc(made.not_after)}, is over already" if made.not_after <= head.at else ""
    fault = over or fields.fault_of(made)
    if fault:
        raise UserError(f"this grant cannot be: {fault}")
    return made


def _fault(head: Head, state: State, made: Grant, parent: GrantRecord) -> str:
    """Say why a grant cannot be handed on from another one, or nothing: as the replay would."""
    id_, who = parent.statement.id[:SHOWN], principal_of(state, Fingerprint(head.by))
    if all(fields.fingerprint(text) != head.by for text in parent.statement.to.keys):
        return f"{who} does not hold grant {id_}"
    dead = dead_words(state, parent, head.at)
    if dead:
        return dead
    wider = beyond(parent.statement, made)
    return f"its grant {id_} {wider}" if wider else ""


def find_grant(state: State, text: str) -> str:
    """Find a grant by id, its first digits, or the name that only one has. Raises: UserError."""
    found = [id_ for id_ in state.grants if len(text) >= _PREFIX_LEAST and id_.startswith(text)]
    found = found or [id_ for id_, record in state.grants.items() if record.principal == text and _open(state, id_)]
    if not found:
        raise UserError(_why_none(state, text))
    if len(found) > 1:
        raise UserError(f"{text!r} means {len(found)} grants; say which: {', '.join(id_[:SHOWN] for id_ in found)}")
    return found[0]


def _why_none(state: State, text: str) -> str:
    """Say why no grant is meant: also of one that waits for signatures, which nothing has to end."""
    waiting = (one.statement for several in state.pending.values() for one in several)
    for grant in waiting:
        if isinstance(grant, Grant) and (
            grant.to.name == text or (len(text) >= _PREFIX_LEAST and grant.id.startswith(text))
        ):
            return (
                f"grant {grant.id[:SHOWN]} to {grant.to.name} gives nothing yet: it waits for signatures, and never"
                " takes effect without them; ask those of 'nixfleet approve' not to sign it"
            )
    return f"there is no grant {text!r}; 'nixfleet access list' shows them all"


def name_warning(state: State, made: Grant) -> str:
    """Say that a grant calls somebody by the name of a root principal whose key it does not name, or nothing.

    Who has one name by the root's hand is one person to approvals and thresholds, whatever their keys.
    """
    own = {key for key, name in state.root_keys.items() if name == made.to.name}
    if made.parent is not None or not own or own & {Fingerprint(fields.fingerprint(text)) for text in made.to.keys}:
        return ""
    return (
        f"{made.to.name} is a root principal, and this is another key: approvals count both as one person; if they are"
        " two, revoke it and grant it under another name"
    )


def _open(state: State, id_: str) -> bool:
    return all(link.id not in state.revoked_grants for link in state.grants[id_].links)


def token_grant(head: Head, state: State, *, id: str, key: str, tags: Tags, uses: int, days: int) -> Grant:  # noqa: A002 (the wire's name)
    """Build the grant of a join token: `enroll` alone, exactly these tags, so many devices, so many days.

    Raises: UserError, Refused.
    """
    if not 1 <= days <= TOKEN_DAYS_MAX:
        raise UserError(f"a join token lasts 1 to {TOKEN_DAYS_MAX} days, not {days}")
    if uses < 1:
        raise UserError("a join token is for at least one device")
    wishes = GrantWishes(
        name=f"token-{id[:8]}",
        keys=(key,),
        actions=("enroll",),
        select={tag: (value,) for tag, value in tags.items()},
        not_after=head.at + days * DAY_S,
        max_uses=uses,
    )
    return grant_of(head, state, wishes, id)
