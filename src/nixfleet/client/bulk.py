"""One touch for many acts: a person's key signs a narrow one-hour grant to a key in memory, which signs the rest.

Pure but for the keys that it is given. The grants are as narrow as the acts let them be: for enrolments one a set of
tag keys, for exactly so many devices; for changes the tags that all devices have in common (trust.md, Keys). It must
never hand on what the person does not hold, nor use a grant where the log would let it wait for others.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from nixfleet.client.acts import Head
from nixfleet.model.ids import Fingerprint, Selector, Tags, covers
from nixfleet.model.statements import Action, Device, Grant, Principal, Statement
from nixfleet.model.wire import Signed
from nixfleet.trust.replay import Over, State, principal_of
from nixfleet.trust.replay.rights import alive, grants, rules
from nixfleet.trust.replay.rules import newly_covered
from nixfleet.trust.signers import MemorySigner
from nixfleet.trust.sshsig import SecretKey

BULK_FROM: Final = 4
"""From so many acts on, one signature over a grant is less to ask for than one over each."""
BULK_S: Final = 3_600
VALUES_MAX: Final = 64
"""Values that a selector may list of one tag (docs/protocol.md, statements)."""
_NAME_CHARS: Final = 40


@dataclass(frozen=True, slots=True)
class Job:
    """An act on one device: the rights that it takes, over devices with these tags, and how it is written."""

    actions: tuple[Action, ...]
    tags: tuple[Tags, ...]
    build: Callable[[Head, State], Statement]
    follows: bool = False
    """It makes no sense without the job before it: both are in one append."""
    proof: Signed | None = None
    """The request of the device that it lets in."""


def change_job(head: Head, state: State, device: str, change: Callable[[Head, State, str], Device]) -> Job:
    """Describe the change of a device: `device` over its tags before and after, and `deploy` where they bring it more.

    Raises: UserError when it cannot be.
    """
    before, after = state.devices[device].statement, change(head, state, device)
    deploys = before.tags != after.tags and newly_covered(state, head.at, before, after)
    actions: tuple[Action, ...] = ("deploy", "device") if deploys else ("device",)
    return Job(actions, (before.tags, after.tags), lambda now, newest: change(now, newest, device))


@dataclass(frozen=True, slots=True)
class Handed:
    """A narrow grant to a key in memory."""

    key: MemorySigner
    write: Callable[[Head, State], Grant]


@dataclass(frozen=True, slots=True)
class Bulk:
    """Who signs what: the grants to sign first, and for each job its key in memory, or None for the person's own."""

    grants: tuple[Handed, ...]
    keys: tuple[MemorySigner | None, ...]
    why_alone: str = ""
    """Why the person's own key signs each, though there are many."""

    @property
    def touches(self) -> int:
        """How often the person's own key is asked for a signature."""
        return len(self.grants) + self.keys.count(None)


def plan(
    state: State,
    signer: Fingerprint,
    jobs: Sequence[Job],
    now: int,
    fresh: Callable[[], tuple[str, SecretKey]],
) -> Bulk:
    """Choose the fewest signatures of the person's key; `fresh` gives an id for a grant and a new key."""
    if len(jobs) < BULK_FROM:
        return Bulk((), (None,) * len(jobs))
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, job in enumerate(jobs):
        groups.setdefault(_kind(job), []).append(place)
    keys: list[MemorySigner | None] = [None] * len(jobs)
    handed, why = [], ""
    for places in (part for members in groups.values() for part in _parts(jobs, members)):
        members = [jobs[place] for place in places]
        parent = _parent(state, signer, members, now)
        if isinstance(parent, Refusal):
            why = parent.why
        elif len(places) > 1:
            grant_id, secret = fresh()
            one = _handed(grant_id, MemorySigner(secret), members, parent, principal_of(state, signer))
            handed.append(one)
            for place in places:
                keys[place] = one.key
    return Bulk(tuple(handed), tuple(keys), why)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a person cannot hand on what an act takes."""

    why: str


def _kind(job: Job) -> tuple[object, ...]:
    """Sort by what one grant can serve: a token's kind of grant fits exactly its tag keys (trust.md, Enrolment)."""
    return (job.actions, frozenset(job.tags[0])) if job.actions == ("enroll",) else job.actions


def _parts(jobs: Sequence[Job], members: Sequence[int]) -> Iterable[list[int]]:
    """Cut a group of enrolments where a tag would have more values than a selector may list."""
    part: list[int] = []
    for place in members:
        if jobs[place].actions == ("enroll",) and _too_many([*(jobs[one] for one in part), jobs[place]]):
            yield part
            part = []
        part.append(place)
    yield part


def _too_many(jobs: Iterable[Job]) -> bool:
    return any(len(values) > VALUES_MAX for values in _values(jobs).values())


def _values(jobs: Iterable[Job]) -> dict[str, dict[str, None]]:
    """Gather the values of the tags that all have, in the order of their coming."""
    found: dict[str, dict[str, None]] | None = None
    for tags in (tags for job in jobs for tags in job.tags):
        if found is None:
            found = {tag: {} for tag in tags}
        found = {tag: {**values, tags[tag]: None} for tag, values in found.items() if tag in tags}
    return found or {}


def _select(jobs: Sequence[Job]) -> Selector:
    return {tag: tuple(values) for tag, values in sorted(_values(jobs).items()) if len(values) <= VALUES_MAX}


def _parent(state: State, signer: Fingerprint, jobs: Sequence[Job], now: int) -> Grant | Refusal | None:
    """Find the grant under which a person hands on what the jobs take; None is the root itself."""
    select, actions = _select(jobs), jobs[0].actions
    if any(rule.approvals for rule in rules(state, "grant", Over(select=select))):
        return Refusal("a rule asks for approvals of every grant")
    root = state.root
    if signer in state.root_keys and root is not None and root.threshold == 1:
        return None
    for record in grants(state, signer):
        held = record.statement
        handable = {*actions, "grant"} <= set(held.actions) and held.depth > 0 and covers(held.select, select)
        if handable and alive(state, record, now):
            return held
    what = " and ".join(f"'{action}'" for action in actions)
    return Refusal(f"no grant of your key lets it hand on {what} here (that takes 'grant', and a depth above 0)")


def _handed(grant_id: str, key: MemorySigner, jobs: Sequence[Job], parent: Grant | None, person: str) -> Handed:
    select, actions = _select(jobs), jobs[0].actions

    def write(head: Head, _: State) -> Grant:
        ends = head.at + BULK_S
        return Grant(
            **head.fields(),
            id=grant_id,
            parent=parent.id if parent is not None else None,
            to=Principal(name=_name(person, grant_id), keys=(key.key.text,)),
            actions=actions,
            select=select,
            not_before=head.at,
            not_after=min(ends, parent.not_after) if parent is not None else ends,
            max_devices=parent.max_devices if parent is not None else None,
            max_uses=len(jobs) if actions == ("enroll",) else None,
        )

    return Handed(key, write)


def _name(person: str, grant_id: str) -> str:
    """Name a key in memory after whose it is: the log shows it as the signer of each act."""
    known = person.rpartition("/")[2] if not person.startswith("SHA256:") else ""
    return f"{known[:_NAME_CHARS].rstrip('._@-')}-bulk-{grant_id[:8]}".removeprefix("-")
