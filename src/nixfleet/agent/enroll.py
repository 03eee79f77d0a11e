"""How a device becomes a member: its own statement, signed by a join token's key; or a request that an admin signs.

Must never choose tags beyond the grant's selector, nor claim a name that is taken.
"""

import re

from nixfleet.agent.identity import Identity
from nixfleet.agent.settings import Settings
from nixfleet.errors import Refused, UserError
from nixfleet.model.device import SHORT_CHARS, EnrollRequest, Facts, JoinToken
from nixfleet.model.ids import NAME, Fingerprint, Tags
from nixfleet.model.statements import Device, Grant, LogState
from nixfleet.model.text import utc
from nixfleet.model.wire import Signed, Submission
from nixfleet.trust import reports, statements
from nixfleet.trust.replay import State
from nixfleet.trust.sshsig import SecretKey


def is_member(state: State, identity: Identity, key: SecretKey) -> bool:
    """Tell whether the log has this device, unretired, under its own key."""
    record = state.devices.get(identity.device)
    return record is not None and record.statement.state != "retired" and record.key == key.public.fingerprint


def is_retired(state: State, identity: Identity) -> bool:
    """Tell whether the log has ended this device's membership."""
    record = state.devices.get(identity.device)
    return record is not None and record.statement.state == "retired"


def name_of(settings: Settings, hostname: str) -> str:
    """Give the name to join under: the configured one, else the host name. Raises: UserError when neither fits."""
    name = settings.name or hostname.lower()
    if not re.fullmatch(NAME, name):
        raise UserError(f"the host name {hostname!r} does not fit as a device's name; set name in agent.toml")
    return name


def token_key(token: JoinToken) -> SecretKey:
    """Give the key that a token carries."""
    return SecretKey.from_seed(bytes.fromhex(token.seed))


def join(
    state: State,
    log: LogState,
    identity: Identity,
    key: SecretKey,
    token: JoinToken,
    settings: Settings,
    *,
    name: str,
    now: int,
) -> Submission:
    """Write this device's own statement, signed by the token's key; `now` in unix seconds of the coordinator's clock.

    Raises: Refused when the token's grant is gone or the name is taken, UserError when settings leave a tag open.
    """
    signer = token_key(token)
    grant = _grant(state, Fingerprint(signer.public.fingerprint), now)
    if any(other != identity.device for other in state.named(name)):
        raise Refused(
            f"the name {name} is taken by another device; an admin decides: nixfleet enroll {name} --replace, or --as"
            " another name"
        )
    statement = Device(
        v=1,
        fleet=identity.fleet,
        by=signer.public.fingerprint,
        at=max(now, state.last_time),
        base=log,
        device=identity.device,
        version=1,
        name=name,
        key=key.public.text,
        tags=tags_for(grant, settings.tags),
        state="active",
    )
    payload = statements.encode(statement)
    signature = signer.sign(statements.namespace_of(statement), payload)
    return Submission(payload=payload, signature=signature, proof=reports.prove_key(statement, key))


def tags_for(grant: Grant, wished: Tags) -> Tags:
    """Choose exactly the tag keys of the grant's selector, one allowed value each (trust.md, Enrolment).

    Raises: UserError where the selector leaves a choice and agent.toml does not make an allowed one.
    """
    tags: Tags = {}
    for tag, values in sorted(grant.select.items()):
        value = wished.get(tag, values[0] if len(values) == 1 else None)
        if value not in values:
            choices = ", ".join(values[:8])
            raise UserError(f"the token wants the tag {tag} to be one of {choices}; set it under [tags] in agent.toml")
        tags[tag] = value
    return tags


def request(
    identity: Identity, key: SecretKey, settings: Settings, *, name: str, now: int, facts: Facts, reason: str
) -> Signed:
    """Write the wish to be enrolled, signed by the key it names, for an admin to compare and sign."""
    asked = EnrollRequest(
        v=1,
        fleet=identity.fleet,
        device=identity.device,
        name=name,
        key=key.public.text,
        at=now,
        tags=settings.tags,
        facts=facts,
        reason=reason[:SHORT_CHARS],
    )
    return reports.sign_enroll(asked, key)


def _grant(state: State, signer: Fingerprint, now: int) -> Grant:
    """Find the token's grant; whether it is live is judged in the log, this only tells a spent token early."""
    now, why = max(now, state.last_time), "is not in this fleet's log"
    for record in reversed(state.grants_of.get(signer, ())):
        grant = record.statement
        if "enroll" not in grant.actions:
            continue
        if grant.id in state.revoked_grants or signer in state.revoked_keys:
            why = "was revoked"
        elif now > grant.not_after:
            why = f"has ended ({utc(grant.not_after)})"
        else:
            return grant
    raise Refused(f"the join token {why}: ask for another one")
