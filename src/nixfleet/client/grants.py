"""Handing out rights and ending them, and what a revocation would stop: functions over `Admin` and the verified state.

It must never sign what it has not built from the newest log (`handing`).
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nixfleet.client.acts import Head
from nixfleet.client.admin import Act, Acted, Admin
from nixfleet.client.handing import GrantWishes, find_grant, grant_of
from nixfleet.errors import UserError
from nixfleet.model.ids import Fingerprint
from nixfleet.model.statements import Grant, RevokeSubject
from nixfleet.model.typed import checked_fingerprint
from nixfleet.model.views import RolloutView
from nixfleet.trust.replay import State, Stopped, principal_of, would_stop
from nixfleet.trust.replay.links import SHOWN

_OVER: Final = {"cancelled", "superseded", "expired"}
"""States of a rollout that nothing can stop any more; a finished one counts while it stands."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A grant in the log, and what it still waits for, if anything."""

    acted: Acted
    grant: Grant


async def grant(admin: Admin, wishes: GrantWishes, *, note: str | None = None) -> Granted:
    """Hand out a right. Raises: UserError for what no grant can say, Refused in words that name what is missing."""
    made: list[Grant] = []
    id_ = secrets.token_hex(16)

    def build(head: Head, state: State) -> list[Act]:
        made.append(grant_of(head, state, wishes, id_))
        return [Act(made[-1])]

    (acted,) = await admin.act(build, note=note)
    return Granted(acted, made[-1])


def find_subject(state: State, text: str) -> RevokeSubject:
    """Read what is to be revoked: a key's fingerprint, or a grant. Raises: UserError."""
    if text.startswith("SHA256:"):
        key = checked_fingerprint(text)
        if key in state.revoked_keys:
            raise UserError(f"nothing is signed: the key {key} is revoked already")
        return RevokeSubject(key=key)
    id_ = find_grant(state, text)
    if id_ in state.revoked_grants:
        raise UserError(f"nothing is signed: grant {id_[:SHOWN]} is revoked already")
    return RevokeSubject(grant=id_)


def subject_words(state: State, subject: RevokeSubject) -> str:
    """Name what is to be revoked."""
    if subject.grant is not None:
        return f"grant {subject.grant[:SHOWN]} of {state.grants[subject.grant].principal}"
    key = Fingerprint(subject.key or "")
    who = principal_of(state, key)
    return f"the key {key}" if who == key else f"the key {key} of {who}"


def stopped_by(state: State, subject: RevokeSubject, rollouts: Sequence[RolloutView], now: int) -> tuple[Stopped, ...]:
    """List what a revocation would stop; which rollouts are open or stand, the coordinator says where it knows."""
    over = {view.id for view in rollouts if view.state in _OVER or (view.state == "finished" and not view.standing)}
    return tuple(one for one in would_stop(state, subject, now) if one.kind != "rollout" or one.id not in over)
