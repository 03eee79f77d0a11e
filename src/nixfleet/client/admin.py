"""Administrative acts: built on the verified log, signed by a person's key, appended, and checked to be in the log.

It must never sign on a log that does not verify, nor call done what the replay does not.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from nixfleet.client import acts
from nixfleet.client.acts import Head
from nixfleet.client.api import Client
from nixfleet.client.bulk import BULK_FROM, Bulk, Job, change_job, plan
from nixfleet.client.checks import check_request
from nixfleet.client.drafts import drafted, reaching
from nixfleet.client.handing import token_grant
from nixfleet.client.mirror import Mirror
from nixfleet.errors import Conflict, Refused, Untrusted, UserError
from nixfleet.model.device import JoinToken
from nixfleet.model.ids import NAME_CHARS, PROTOCOL, Digest, Fingerprint, Tags
from nixfleet.model.statements import CacheRef, Closure, Device, Rollout, SelectLine, Source, Statement, Verb
from nixfleet.model.views import EnrollView, ReleaseLineView
from nixfleet.model.wire import Signed, Submission
from nixfleet.rollout.asking import RolloutWishes
from nixfleet.trust import token
from nixfleet.trust.approving import unmet
from nixfleet.trust.replay import State, Valid, Waiting
from nixfleet.trust.signers import MemorySigner, Signer
from nixfleet.trust.sshsig import SecretKey
from nixfleet.trust.statements import NAMESPACE_APPROVE, Malformed, digest, encode, namespace_of

TRIES: Final = 3
_PART: Final = "-part"
BATCH_BYTES: Final = 900_000
"""Of statements in one append: with a margin to what a coordinator takes of anybody."""
_SIGNATURE_CHARS: Final = 600
CLOCK_OFF_S: Final = 240
"""Clocks nearer than this are not why a statement was refused."""


@dataclass(frozen=True, slots=True)
class Acted:
    """A statement in the log: its index, its digest, and what it still waits for (approvals), if anything."""

    index: int
    digest: Digest
    waits: str = ""


@dataclass(frozen=True, slots=True)
class Act:
    """What is to be signed: a statement, and a release's device lines as exact texts."""

    statement: Statement
    lines: tuple[str, ...] = ()
    signer: Signer | None = None
    """Who signs it, where that is not the person's own key."""
    proof: Signed | None = None
    """The request of the device that an enrolment lets in: what a one-hour key signs is nobody's word."""


class Unread(Refused):
    """The coordinator took an act that ended the signer's own right to read, so that nobody here saw it in the log."""


Build = Callable[[Head, State], Sequence[Act]]


def too_old(protocol: int) -> str:
    """Say that this software cannot judge what the log says by now, and so signs nothing on it."""
    return f"this nixfleet follows protocol {PROTOCOL}, and the fleet's root says {protocol}: update it"


def sign(signer: Signer, statement: Statement) -> tuple[bytes, bytes]:
    """Give a statement's payload and the signature over it; may wait for a person.

    Raises: UserError for what no statement can say: the fault is with who asked for it, not with a signature.
    """
    try:
        payload = encode(statement)
    except Malformed as error:
        raise UserError(f"nothing is signed: {error}") from error
    return payload, signer.sign(namespace_of(statement), payload)


class Admin:
    """A person at work on a fleet; every act returns once it is in the log and verified there.

    Each raises: UserError for what cannot be, Refused without the right, Untrusted when log and coordinator disagree,
    Conflict when others were faster three times, Unreachable.
    """

    def __init__(self, client: Client, mirror: Mirror, signer: Signer, clock: Callable[[], int]) -> None:
        """Act through `client` on the log in `mirror`; `clock` gives unix seconds."""
        self._client = client
        self._mirror = mirror
        self._signer = signer
        self._clock = clock

    @property
    def state(self) -> State:
        """What the log said when we last looked."""
        return self._mirror.state

    @property
    def key(self) -> Fingerprint:
        """Whose acts these are, by fingerprint."""
        return Fingerprint(self._signer.key.fingerprint)

    def head(self, note: str | None = None) -> Head:
        """Give the header of what would be signed now, for a preview. Raises: Untrusted while there is no root."""
        return self._head(note)

    @property
    def fleet(self) -> str:
        """The fleet's id."""
        return self._mirror.fleet

    @property
    def signer(self) -> Signer:
        """The person's own key."""
        return self._signer

    async def act(self, build: Build, *, note: str | None = None, anywhere: bool = False) -> tuple[Acted, ...]:
        """Build acts on the newest log, sign, append all or none, and verify them in the log.

        When somebody else was faster, what was built is thrown away and built anew on the new log; with `anywhere` it
        is appended all the same, so that nobody is asked for a second signature: the log judges it by itself.
        """
        for tries_left in reversed(range(TRIES)):
            await self._mirror.catch_up(self._client)
            size = self._mirror.size
            built = build(self._head(note), self._mirror.state)
            submissions = await asyncio.to_thread(self._signed, built)
            try:
                return await self._append(submissions, None if anywhere else size)
            except Conflict:
                # Our own request may have been the faster one: its answer got lost and it was sent again.
                if acted := await self._already(submissions, size):
                    return acted
                if not tries_left:
                    raise
        raise AssertionError("the last try returns or raises")

    async def perform(
        self, jobs: Sequence[Job], *, note: str | None = None, told: Callable[[int], None] = lambda _: None
    ) -> tuple[Acted, ...]:
        """Do many acts on devices, with as few signatures of the person's own key as may be (`client.bulk`).

        Each append is all or none; `told` hears how many acts are in the log. Raises: as every act, what is in the
        log by then stays.
        """
        await self._mirror.catch_up(self._client)
        bulk, many = self.plan(jobs), len(jobs) >= BULK_FROM
        if bulk.grants:
            handed = await self.act(
                lambda head, state: [Act(one.write(head, state)) for one in bulk.grants], note=note, anywhere=True
            )
            if waits := next((one.waits for one in handed if one.waits), ""):
                raise Refused(f"the one-hour grant that was to sign the rest has no effect: {waits}")
        acted: list[Acted] = []
        for places in self._batches(jobs, note):

            def build(head: Head, state: State, places: Sequence[int] = places) -> list[Act]:
                return [self._by(bulk.keys[place], jobs[place], head, state) for place in places]

            try:
                acted += await self.act(build, note=note, anywhere=many)
            except Refused as error:
                done = f"; {len(acted)} of {len(jobs)} are done" if acted else ""
                raise Refused(f"{error}{done}") from error
            told(len(acted))
        return tuple(
            replace(one, waits=f"{one.waits}, within the hour") if one.waits and key is not None else one
            for one, key in zip(acted, bulk.keys, strict=True)
        )

    def plan(self, jobs: Sequence[Job]) -> Bulk:
        """Tell who would sign what; a key in memory asks nobody for a touch, and signs all itself."""
        if isinstance(self._signer, MemorySigner):
            return Bulk((), (None,) * len(jobs))
        signer = Fingerprint(self._signer.key.fingerprint)
        now = max(self._clock(), self._mirror.state.last_time)
        return plan(self._mirror.state, signer, jobs, now, lambda: (secrets.token_hex(16), SecretKey.generate()))

    @staticmethod
    def _by(key: MemorySigner | None, job: Job, head: Head, state: State) -> Act:
        """Let a key write and sign an act; the person's own where there is no other."""
        head = head if key is None else replace(head, by=key.key.fingerprint)
        return Act(job.build(head, state), signer=key, proof=job.proof)

    def _batches(self, jobs: Sequence[Job], note: str | None) -> Iterator[list[int]]:
        """Divide acts into appends that a coordinator takes unsigned (docs/protocol.md, Bounds), as few as may be."""
        head, places, size = self._head(note), list[int](), 0
        for place, job in enumerate(jobs):
            grown = len(encode(job.build(head, self._mirror.state))) * 4 // 3 + _SIGNATURE_CHARS
            if job.proof is not None:
                grown += len(job.proof.payload) * 4 // 3 + _SIGNATURE_CHARS
            if places and not job.follows and size + grown > BATCH_BYTES:
                yield places
                places, size = [], 0
            places.append(place)
            size += grown
        if places:
            yield places

    async def approve(self, of: str) -> Acted:
        """Sign another's statement (by digest) as well: an approval, or a root's co-signature."""
        payload = await self._client.payload(of)
        if digest(payload) != of:
            raise Untrusted(f"{self._client.url} sent another payload than that of {of[:12]}")
        await self._mirror.catch_up(self._client)
        self._check_current()
        signature = await asyncio.to_thread(self._signer.sign, NAMESPACE_APPROVE, payload)
        (acted,) = await self._append([Submission(payload=payload, signature=signature)], None)
        return acted

    def _head(self, note: str | None) -> Head:
        state = self._mirror.state
        if state.root is None:
            raise Untrusted("the log has no root in force yet")
        self._check_current()
        fingerprint = self._signer.key.fingerprint
        return Head(
            self._mirror.fleet, fingerprint, self._clock(), self._mirror.log_state, note or None, state.root.protocol
        )

    def _check_current(self) -> None:
        """Sign nothing on what this software cannot judge (trust.md, Versions). Raises: UserError."""
        state = self._mirror.state
        if state.stopped_at is not None and state.root is not None:
            raise UserError(too_old(state.root.protocol))

    def _signed(self, built: Sequence[Act]) -> list[Submission]:
        submissions = []
        for act in built:
            payload, signature = sign(act.signer or self._signer, act.statement)
            submissions.append(Submission(payload=payload, signature=signature, lines=act.lines, proof=act.proof))
        return submissions

    async def _append(self, submissions: Sequence[Submission], size: int | None) -> tuple[Acted, ...]:
        try:
            answer = await self._client.append(submissions, size)
        except Refused as error:
            raise await self._explained(error) from error
        try:
            await self._mirror.catch_up(self._client)
        except Refused as error:
            raise Unread(f"it is signed and sent, but this key may not read the log any more: {error}") from error
        if len(answer.indexes) != len(submissions):
            raise Untrusted(f"{self._client.url} answered for {len(answer.indexes)} of {len(submissions)} statements")
        acted = tuple(map(self._verified, answer.indexes, submissions))
        for submission in submissions:
            if submission.lines:
                self._mirror.keep_lines(digest(submission.payload), submission.lines)
        return acted

    async def _explained(self, error: Refused) -> Refused:
        """Add to a refusal that this machine's clock is off, where it is: log time bounds `at` (trust.md, Log)."""
        off_s = await self._client.ahead_s(self._clock())
        if abs(off_s) < CLOCK_OFF_S:
            return error
        side = "behind" if off_s > 0 else "ahead of"
        return Refused(f"{error}; this machine's clock is {abs(off_s)} s {side} the coordinator's: set it")

    async def _already(self, submissions: Sequence[Submission], size: int) -> tuple[Acted, ...]:
        """Find what was just signed among the entries from `size` on; nothing unless it is all there."""
        await self._mirror.catch_up(self._client)
        at = {self._mirror.payload(index): index for index in range(size, self._mirror.size)}
        if not all(one.payload in at for one in submissions):
            return ()
        return tuple(self._verified(at[one.payload], one) for one in submissions)

    def _verified(self, index: int, submission: Submission) -> Acted:
        """Find a statement in the verified log: an act that is not there did not happen (trust.md, Log)."""
        if not 0 <= index < self._mirror.size or self._mirror.payload(index) != submission.payload:
            raise Untrusted(f"{self._client.url} says it appended entry {index}, but the log does not have it there")
        verdict = self._mirror.verdict(index)
        match verdict:
            case Valid():
                # An update is judged at use: in the log it is valid, and may yet wait for approvals.
                waits = unmet(self._mirror.state, submission.payload, self._clock())
                return Acted(index, digest(submission.payload), waits[0] if waits else "")
            case Waiting(reason=reason):
                return Acted(index, digest(submission.payload), reason)
            case _:
                raise Untrusted(f"entry {index} is in the log without effect: {self._mirror.entry(index).why}")

    # Devices

    async def make_token(
        self, tags: Tags, uses: int, days: int, *, urls: Sequence[str] = (), note: str | None = None
    ) -> str:
        """Grant a fresh key to enrol `uses` devices with exactly these tags; gives it as one line of text, a secret.

        Who is not at the root hands on from a grant of `enroll` of their own.
        """
        key, grant = SecretKey.generate(), secrets.token_hex(16)

        def build(head: Head, state: State) -> list[Act]:
            return [Act(token_grant(head, state, id=grant, key=key.public.text, tags=tags, uses=uses, days=days))]

        await self.act(build, note=note)
        root = self._mirror.state.root
        assert root is not None
        return token.make(
            JoinToken(
                v=1,
                urls=tuple(urls) or root.urls,
                fleet=self._mirror.fleet,
                log=self._mirror.log_state,
                seed=key.seed.hex(),
            )
        )

    async def enroll(
        self,
        request: EnrollView,
        *,
        name: str = "",
        tags: Tags | None = None,
        replace: bool = False,
        note: str | None = None,
    ) -> Acted:
        """Enrol a device that asks, under its own name and tags unless others are given."""
        check_request(request, self.fleet)

        def build(head: Head, state: State) -> list[Act]:
            made = acts.enroll(
                head,
                state,
                device=request.device,
                key=request.key,
                name=name or request.name,
                tags=request.tags if tags is None else tags,
                replace=replace,
            )
            return [Act(statement) for statement in made]

        return (await self.act(build, note=note))[-1]

    async def tag(
        self, devices: Sequence[str], changes: Mapping[str, str | None], *, note: str | None = None
    ) -> tuple[Acted, ...]:
        """Set tags of devices (names or ids), or remove those whose value is None."""
        return await self._each(devices, note, lambda head, state, one: acts.change_tags(head, state, one, changes))

    async def hold(self, devices: Sequence[str], until: int, *, note: str | None = None) -> tuple[Acted, ...]:
        """Let devices take no updates until a time (unix seconds)."""
        if until <= self._clock():
            raise UserError("the time to hold until is over already")
        return await self._each(
            devices, note, lambda head, state, one: acts.change_device(head, state, one, state="held", until=until)
        )

    async def unhold(self, devices: Sequence[str], *, note: str | None = None) -> tuple[Acted, ...]:
        """Let held devices take updates again."""
        return await self._each(
            devices, note, lambda head, state, one: acts.change_device(head, state, one, state="active", until=None)
        )

    async def retire(self, devices: Sequence[str], *, note: str | None = None) -> tuple[Acted, ...]:
        """End the membership of devices; they keep running what they run."""
        return await self._each(
            devices, note, lambda head, state, one: acts.change_device(head, state, one, state="retired", until=None)
        )

    async def _each(
        self, devices: Sequence[str], note: str | None, change: Callable[[Head, State, str], Device]
    ) -> tuple[Acted, ...]:
        if not devices:
            raise UserError("no device is named")
        await self._mirror.catch_up(self._client)
        head, state = self._head(note), self._mirror.state
        ids = dict.fromkeys(acts.find_device(state, text) for text in devices)
        return await self.perform([change_job(head, state, one, change) for one in ids], note=note)

    # Releases and rollouts

    async def release(
        self,
        name: str,
        *,
        devices: Mapping[str, Closure] | None = None,
        lines: Sequence[SelectLine] | None = None,
        caches: Sequence[CacheRef] | None = None,
        source: Source | None = None,
        note: str | None = None,
    ) -> Acted:
        """Publish a release: closures by device (name or id), or selector lines of which the first match wins."""

        def build(head: Head, state: State) -> list[Act]:
            targets = {acts.find_device(state, text): closure for text, closure in (devices or {}).items()}
            if len(targets) != len(devices or {}):
                raise UserError("a device is named twice")
            made, tree = acts.release_of(head, state, name, targets=targets, lines=lines, caches=caches, source=source)
            return [Act(made, () if tree is None else tree.texts)]

        (acted,) = await self.act(build, note=note)
        return acted

    async def part(self, name: str, lines: Mapping[str, ReleaseLineView], *, note: str | None = None) -> Digest:
        """Publish some devices' lines of the release `name` alone: a rollout itself selects by tags; gives the digest.

        It may wait for approvals, as its rollout then does.
        """
        closures = {
            device: Closure(path=line.path, system=line.system, digest=line.digest, nar_size=line.nar_size)
            for device, line in lines.items()
        }
        part = f"{name[: NAME_CHARS - len(_PART)].rstrip('._-')}{_PART}"
        made = await self.release(part, devices=closures, note=note)
        return made.digest

    def draft(
        self, wishes: RolloutWishes, *, release: str | None = None, of: str | None = None, note: str | None = None
    ) -> Rollout:
        """Write a rollout of a release, or one that takes back rollout `of`, for a preview; signs nothing.

        Its digest draws the waves, so `rollout` and `rollback` sign this very one where it still holds.
        Raises: Refused when it would reach nobody.
        """
        state = self._mirror.state
        release = None if release is None else acts.find_release(state, release)
        return reaching(state, acts.rollout_of(self._head(note), state, wishes, release=release, of=of))

    async def rollout(
        self, release: str, wishes: RolloutWishes, *, note: str | None = None, draft: Rollout | None = None
    ) -> Acted:
        """Start a rollout of a release, given by name (its newest), digest or prefix; as it was drafted, if it can.

        Raises: Refused before it is signed when its signer lacks the right to all of its devices.
        """

        def build(head: Head, state: State) -> list[Act]:
            made = acts.rollout_of(head, state, wishes, release=acts.find_release(state, release))
            return [Act(drafted(draft, reaching(state, made), state))]

        (acted,) = await self.act(build, note=note)
        return acted

    async def rollback(
        self, of: str, wishes: RolloutWishes, *, note: str | None = None, draft: Rollout | None = None
    ) -> Acted:
        """Take a rollout back: each device that confirmed it returns to the system it had before."""

        def build(head: Head, state: State) -> list[Act]:
            made = acts.rollout_of(head, state, wishes, of=acts.find_rollout(state, of))
            return [Act(drafted(draft, reaching(state, made), state))]

        (acted,) = await self.act(build, note=note)
        return acted

    async def control(
        self,
        rollout: str,
        verb: Verb,
        *,
        wave: int | None = None,
        devices: Literal["failed"] | Sequence[str] | None = None,
        note: str | None = None,
    ) -> Acted:
        """Pause, resume, advance (`wave`), retry (`devices`: names, ids or ``failed``) or cancel a rollout."""

        def build(head: Head, state: State) -> list[Act]:
            which = devices
            if which is not None and not isinstance(which, str):
                which = [acts.find_device(state, text) for text in which]
            found = acts.find_rollout(state, rollout)
            return [Act(acts.control_of(head, state, found, verb, wave=wave, devices=which))]

        (acted,) = await self.act(build, note=note)
        return acted

    async def revoke(self, *, grant: str | None = None, key: str | None = None, note: str | None = None) -> Acted:
        """End a grant (by id) or a key (by fingerprint)."""
        (acted,) = await self.act(lambda head, _: [Act(acts.revoke_of(head, grant=grant, key=key))], note=note)
        return acted
