"""Enrolment by an admin: what a device that asks would mean, enrolling many with one touch, and giving a key anew.

What the requests say is the coordinator's and the devices' word; the log and the key that a person has compared are
what counts. It must never give a known device another key unless that was asked for in so many words.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from nixfleet.client import acts
from nixfleet.client.acts import Head
from nixfleet.client.admin import Act, Acted, Admin
from nixfleet.client.bulk import Bulk, Job, plan
from nixfleet.client.checks import check_request
from nixfleet.errors import UserError
from nixfleet.model.device import CLONE
from nixfleet.model.ids import Fingerprint, Tags
from nixfleet.model.statements import Device, Grant
from nixfleet.model.views import EnrollView
from nixfleet.model.wire import Signed
from nixfleet.trust.replay import State
from nixfleet.trust.replay.rights import alive
from nixfleet.trust.sshsig import SecretKey, parse_public_key

_SHOWN: Final = 12
"""Digits of an id that tell it apart for people."""


class Kind(StrEnum):
    """What letting a device in would mean."""

    NEW = "new"
    TAKEN = "name taken"
    KEY = "another key"
    RETIRED = "retired"
    MEMBER = "enrolled"
    WAITS = "waits"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request held against the log: `words` say why it asks, `command` what solves what is out of the ordinary."""

    kind: Kind
    words: str = ""
    command: str = ""


def judged(request: EnrollView, state: State) -> Asked:
    """Hold a request against the log as verified here; the device's own reason is only its word."""
    record = state.devices.get(request.device)
    if record is not None and record.statement.state == "retired":
        words = f"its id is that of {record.statement.name}, which is retired"
        return Asked(Kind.RETIRED, words, "on the device: nixfleet agent join --replace")
    if record is not None and record.key == request.fingerprint:
        return Asked(Kind.MEMBER, f"it is enrolled already, as {record.statement.name}")
    if record is not None:
        name = record.statement.name
        words = f"it says that it is {name}, and shows another key than {record.key}"
        # Under its own name alone: else a machine that is known by its key could take over another one's place.
        by_name = f"nixfleet enroll {name}" if request.name == name else f"nixfleet device rekey {name} --key KEY"
        return Asked(Kind.KEY, words, by_name)
    if _waits(request, state):
        return Asked(Kind.WAITS, "its enrolment is signed, and waits for approvals or co-signatures")
    held = owner_of(state, request.fingerprint)
    if held:
        return Asked(Kind.TAKEN, f"its key is that of {held}", "each device needs a key of its own")
    holders = state.named(request.name)
    if holders:
        words = f"the name {request.name} is taken by device {holders[0][:_SHOWN]}"
        command = f"nixfleet enroll {request.name}"
        if request.reason.startswith(CLONE):
            # The one with the name is most likely there: moving the name would retire it.
            return Asked(Kind.TAKEN, f"{request.reason}; {words}", f"{command} --as another name")
        return Asked(Kind.TAKEN, words, f"{command} --replace, or --as another name")
    return Asked(Kind.NEW, request.reason)


def _waits(request: EnrollView, state: State) -> bool:
    """Tell whether an enrolment of this device under this key is in the log already, and has no effect yet."""
    waiting = (one.statement for several in state.pending.values() for one in several)
    return any(isinstance(one, Device) and (one.device, one.key) == (request.device, request.key) for one in waiting)


def owner_of(state: State, fingerprint: str) -> str:
    """Name the device that has a key, or nothing."""
    device = state.device_of(Fingerprint(fingerprint))
    return state.devices[device].statement.name if device is not None else ""


@dataclass(frozen=True, slots=True)
class Token:
    """A join token's grant that still lets devices in; its secret is with whoever made it."""

    id: str
    tags: dict[str, tuple[str, ...]]
    uses: int
    left: int
    ends_at: int
    by: str
    note: str = ""


def live_tokens(state: State, now: int) -> tuple[Token, ...]:
    """List the join tokens that may still enrol a device, those that end first at the top."""
    found = []
    for record in state.grants.values():
        grant = record.statement
        if not _is_token(grant) or not alive(state, record, now):
            continue
        assert grant.max_uses is not None
        used = max((state.use_counts.get(_fingerprint(text), 0) for text in grant.to.keys), default=0)
        if used < grant.max_uses:
            left = grant.max_uses - used
            found.append(
                Token(grant.id, grant.select, grant.max_uses, left, grant.not_after, grant.by, grant.note or "")
            )
    return tuple(sorted(found, key=lambda one: (one.ends_at, one.id)))


def _is_token(grant: Grant) -> bool:
    return grant.actions == ("enroll",) and grant.max_uses is not None


def _fingerprint(text: str) -> Fingerprint:
    return Fingerprint(parse_public_key(text).fingerprint)


@dataclass(frozen=True, slots=True)
class Wish:
    """A device to be let in, whose key was compared: under its own name and tags unless others are given."""

    request: EnrollView
    name: str = ""
    tags: Tags | None = None
    replace: bool = False

    @property
    def called(self) -> str:
        """The name it gets."""
        return self.name or self.request.name

    @property
    def tagged(self) -> Tags:
        """The tags it gets."""
        return self.request.tags if self.tags is None else self.tags


@dataclass(frozen=True, slots=True)
class Sorted:
    """Wishes that can be fulfilled, and what is against each of the others."""

    good: tuple[Wish, ...] = ()
    bad: tuple[tuple[Wish, str], ...] = field(default=())


def sort_out(state: State, wishes: Sequence[Wish]) -> Sorted:
    """Hold wishes against the log and each other before anything is signed: many are all or none."""
    good: list[Wish] = []
    bad: list[tuple[Wish, str]] = []
    names: set[str] = set()
    keys: set[str] = set()
    for wish in wishes:
        fault = _fault(state, wish)
        if not fault and (wish.called in names or wish.request.fingerprint in keys):
            fault = "another device of this list asks for the same name, or shows the same key"
        if fault:
            bad.append((wish, fault))
        else:
            good.append(wish)
            names.add(wish.called)
            keys.add(wish.request.fingerprint)
    return Sorted(tuple(good), tuple(bad))


def _fault(state: State, wish: Wish) -> str:
    asked = judged(wish.request, state)
    match asked.kind:
        case Kind.MEMBER | Kind.WAITS:
            return asked.words
        case Kind.KEY | Kind.RETIRED:
            return f"{asked.words}: {asked.command}"
        case Kind.NEW | Kind.TAKEN:
            owner = owner_of(state, wish.request.fingerprint)
            if owner:
                return f"its key is that of {owner}: each device has its own"
            if state.named(wish.called) and not wish.replace:
                return f"the name {wish.called} is taken; to move it to this device, add --replace"
            return ""


async def enroll_many(
    admin: Admin,
    wishes: Sequence[Wish],
    *,
    note: str | None = None,
    told: Callable[[int], None] = lambda _: None,
) -> tuple[Acted, ...]:
    """Enrol devices whose keys were compared, with one touch for many; gives an act for each wish, in their order.

    A name that moves is taken from its holder first, in the same append. Raises: UserError for a wish that cannot be
    (`sort_out` tells before), and as every act.
    """
    for wish in wishes:
        check_request(wish.request, admin.fleet)
    bad = sort_out(admin.state, wishes).bad
    if bad:
        raise UserError(f"{bad[0][0].called}: {bad[0][1]}")
    jobs, places = _jobs(admin.state, wishes)
    acted = await admin.perform(jobs, note=note, told=told)
    return tuple(acted[place] for place in places)


def plan_of(admin: Admin, wishes: Sequence[Wish]) -> Bulk:
    """Tell who would sign what, to say before a person is asked."""
    return admin.plan(_jobs(admin.state, wishes)[0])


def plan_for(state: State, signer: Fingerprint, wishes: Sequence[Wish], now: int) -> Bulk:
    """Tell it of any key, where nobody is at work yet: to say before a person is asked."""
    return plan(state, signer, _jobs(state, wishes)[0], now, lambda: (secrets.token_hex(16), SecretKey.generate()))


def _jobs(state: State, wishes: Sequence[Wish]) -> tuple[list[Job], list[int]]:
    """Write down what enrolling takes, and where among that each wish's own act is."""
    jobs: list[Job] = []
    places = []
    for wish in wishes:
        holders = state.named(wish.called)
        for holder in holders:
            tags = state.devices[holder].statement.tags
            jobs.append(Job(("device",), (tags,), _retiring(holder)))
        places.append(len(jobs))
        asked = Signed(payload=wish.request.payload, signature=wish.request.signature)
        jobs.append(Job(("enroll",), (wish.tagged,), _entering(wish), follows=bool(holders), proof=asked))
    return jobs, places


def _retiring(holder: str) -> Callable[[Head, State], Device]:
    return lambda head, state: acts.change_device(head, state, holder, state="retired", until=None)


def _entering(wish: Wish) -> Callable[[Head, State], Device]:
    def build(head: Head, _: State) -> Device:
        return Device(
            **head.fields(),
            device=wish.request.device,
            version=1,
            name=wish.called,
            key=wish.request.key,
            tags=dict(wish.tagged),
            state="active",
        )

    return build


async def rekey(admin: Admin, device: str, key: str, *, note: str | None = None) -> Acted:
    """Give an enrolled device (name or id) another key; the old one is worth nothing from then on.

    Raises: UserError for no key of a device, the key it has, or one that another device has; and as every act.
    """
    public = parse_public_key(key)

    def build(head: Head, state: State) -> list[Act]:
        found = acts.find_device(state, device)
        record = state.devices[found]
        if public.type != "ssh-ed25519":
            raise UserError(
                f"a device's key is a plain ssh-ed25519 key, not {public.type}: nobody is there to touch it"
            )
        if record.key == public.fingerprint:
            raise UserError(f"nothing is signed: {record.statement.name} has the key {record.key} already")
        owner = owner_of(state, public.fingerprint)
        if owner:
            raise UserError(f"the key {public.fingerprint} is that of {owner}: each device has its own")
        return [Act(acts.change_device(head, state, found, key=public.text))]

    (acted,) = await admin.act(build, note=note)
    return acted
