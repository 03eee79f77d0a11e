"""What the console does, over `nixfleet.client`: signed by a person's key, appended, and verified in the log.

It translates and nothing else: what may be done is judged by the log.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Literal

from nixfleet.client.acts import DAY_S, find_rollout
from nixfleet.client.admin import Acted, Admin
from nixfleet.client.api import Client
from nixfleet.client.checks import check_lines, check_request, members_of
from nixfleet.client.enrolling import Wish, enroll_many, rekey
from nixfleet.client.grants import grant
from nixfleet.client.handing import GrantWishes, name_warning
from nixfleet.client.previewing import Previewer, release_targets, rollback_wishes
from nixfleet.errors import UserError
from nixfleet.model.ids import DeviceId, Digest, Fingerprint
from nixfleet.model.statements import ACTIONS, Rollout, Verb
from nixfleet.model.text import counted
from nixfleet.model.views import EnrollView, ReleaseLineView, ReleaseView
from nixfleet.preview.plan import Preview
from nixfleet.rollout.asking import RolloutWishes
from nixfleet.trust.access import access_view
from nixfleet.trust.replay import may_ever, principal_of
from nixfleet.trust.replay.rights import alive, grants
from nixfleet.tui.ports import Deployment, GrantWish, Identity, Secret, Subject, TokenWish
from nixfleet.tui.preview import line_for
from nixfleet.tui.view.access import role_words


class AdminActs:
    """What changes the fleet: signed by a person's key, appended, and verified in the log."""

    def __init__(
        self,
        client: Client,
        admin: Admin,
        *,
        signer: Fingerprint,
        clock: Callable[[], int],
        memory: Path | None = None,
    ) -> None:
        """Act as the holder of the key `signer`; `clock` gives unix seconds, the file `memory` remembers narinfos."""
        self._client = client
        self._admin = admin
        self._signer = signer
        self._clock = clock
        self._previewer = Previewer(client, admin, clock, memory)
        self._drafts: dict[str, tuple[Deployment | None, Rollout]] = {}
        """What was previewed last, and would be signed as it was shown: by release, or by the rollout to take back."""

    @property
    def identity(self) -> Identity:
        """Who the verified log says the signer is, and may do."""
        state, now = self._admin.state, self._clock()
        root = self._signer in state.root_keys and self._signer not in state.revoked_keys
        may = frozenset(action for action in ACTIONS if may_ever(state, self._signer, [action], now))
        known = state.root is not None
        return Identity(
            principal=principal_of(state, self._signer) if known else "",
            root=root,
            role=role_words(
                root=root, may=may, reads=any(alive(state, one, now) for one in grants(state, self._signer))
            )
            if known
            else "",
            key=self._signer,
            may=may,
            read_only="your key may change nothing here" if known and not may else "",
        )

    async def preview(self, deployment: Deployment) -> AsyncGenerator[Preview, None]:
        """Preview a deployment; where no release has to come first, the rollout is drafted, and its waves are drawn."""
        whole = await self._checked(deployment.release)
        state, wishes = self._admin.state, deployment.order.wishes
        if deployment.devices:
            lines, draft = self._lines(whole, deployment), None
        else:
            lines = members_of(whole, state, wishes.select or {})
            draft = self._admin.draft(wishes, release=deployment.release, note=deployment.note or None)
            self._drafts[deployment.release] = deployment, draft
        caches = state.releases[Digest(whole.id)].statement.caches
        targets = release_targets(state, lines)
        async with aclosing(self._previewer.deployment(whole.name, targets, wishes, caches, draft=draft)) as previews:
            async for one in previews:
                yield one

    async def preview_roll_back(self, rollout: str, /) -> AsyncGenerator[Preview, None]:
        """Preview the way back from a rollout, as the devices that confirmed it have signed it."""
        state = self._admin.state
        of = find_rollout(state, rollout)
        draft = self._admin.draft(await rollback_wishes(self._client, state, of, RolloutWishes()), of=of)
        self._drafts[of] = None, draft
        release = state.releases.get(state.rollouts[of].names(state.rollouts) or Digest(""))
        name = release.statement.name if release is not None else ""
        async with aclosing(self._previewer.rollback(name, of, draft)) as previews:
            async for one in previews:
                yield one

    async def deploy(self, deployment: Deployment) -> str:
        """Start a rollout, as it was previewed; for named devices a release of just their lines comes first."""
        release = deployment.release
        if deployment.devices:
            release = await self._narrowed(deployment)
        shown, draft = self._drafts.pop(release, (None, None))
        acted = await self._admin.rollout(
            release,
            deployment.order.wishes,
            note=deployment.note or None,
            draft=draft if shown == deployment else None,
        )
        return _said("The rollout is signed", acted)

    async def roll_back(self, rollout: str, note: str, /) -> str:
        """Bring back the devices that confirmed a rollout, as it was previewed."""
        _, draft = self._drafts.pop(rollout, (None, None))
        if draft is None:
            state = self._admin.state
            wishes = await rollback_wishes(self._client, state, find_rollout(state, rollout), RolloutWishes())
        else:  # as it was shown, whoever has confirmed meanwhile
            wishes = RolloutWishes(
                waves=draft.waves, max_in_flight=draft.max_in_flight, stop_at=draft.stop_at, soak_s=draft.soak_s
            )
        acted = await self._admin.rollback(rollout, wishes, note=note or None, draft=draft)
        return _said("The rollback is signed", acted)

    async def control(self, rollout: str, verb: Verb, *, wave: int | None = None, devices: Sequence[str] = ()) -> str:
        """Pause, resume, advance, retry (these `devices`, or all that failed), or cancel a rollout."""
        which: Literal["failed"] | Sequence[str] | None = (devices or "failed") if verb == "retry" else None
        acted = await self._admin.control(rollout, verb, wave=wave, devices=which)
        return _said(f"{verb.capitalize()} is signed", acted)

    async def enroll(self, request: EnrollView, *, replace: bool = False) -> str:
        """Make a device that asked a member of the fleet."""
        return _said(f"{request.name} is enrolled", await self._admin.enroll(request, replace=replace))

    async def enroll_many(self, requests: Sequence[EnrollView]) -> str:
        """Enrol new devices by one signature of this key."""
        acted = await enroll_many(self._admin, [Wish(request) for request in requests])
        return _said(f"{counted(len(acted), 'device')} enrolled", acted[-1])

    async def renew_key(self, request: EnrollView, name: str) -> str:
        """Give the device that is enrolled as `name` the key it asks with now."""
        check_request(request, self._admin.fleet)
        return _said(f"{name} has its new key", await rekey(self._admin, request.device, request.key))

    async def make_token(self, wish: TokenWish) -> Secret:
        """Make a join token."""
        text = await self._admin.make_token(wish.tags, wish.uses, wish.days)
        return Secret(said=f"A token for {counted(wish.uses, 'device')} is made.", text=text)

    async def grant(self, wish: GrantWish) -> str:
        """Hand on a right, from the widest grant of one's own that covers it, or from the root."""
        wishes = GrantWishes(
            name=wish.name,
            keys=(wish.key,),
            actions=wish.actions,
            select=wish.select,
            not_after=None if wish.days is None else self._clock() + wish.days * DAY_S,
            depth=wish.depth,
            max_devices=wish.max_devices,
        )
        granted = await grant(self._admin, wishes, note=wish.note or None)
        warning = name_warning(self._admin.state, granted.grant)
        said = _said(f"{wish.name} has grant {granted.grant.id[:12]}", granted.acted)
        return f"{said} {warning[:1].upper()}{warning[1:]}." if warning else said

    async def revoke(self, subject: Subject) -> str:
        """End a grant or a key."""
        acted = await self._admin.revoke(grant=subject.grant or None, key=subject.key or None)
        return _said(f"What {subject.name} had is revoked", acted)

    async def approve(self, digest: str) -> str:
        """Sign what another submitted, as well."""
        acted = await self._admin.approve(digest)
        left = [one for one in access_view(self._admin.state, self._clock()).pending if one.digest == digest]
        return f"Signed: entry {acted.index}" + (f"; {left[0].waits}." if left else ": it has what it needs.")

    async def forget_request(self, device: str) -> str:
        """Drop a device's request to be enrolled."""
        await self._client.forget_request(device)
        return "The request is dropped."

    async def set_state(self, device: str, state: Literal["active", "held", "retired"], until: int | None) -> str:
        """Hold, release or retire a device."""
        if state == "held":
            assert until is not None, "a hold has an end"
            acted = await self._admin.hold([device], until)
        elif state == "active":
            acted = await self._admin.unhold([device])
        else:
            acted = await self._admin.retire([device])
        return _said(f"The device is {state}", acted[0])

    async def _narrowed(self, deployment: Deployment) -> str:
        """Publish the lines of a release that the named devices have, and nothing else; gives its digest."""
        whole = await self._checked(deployment.release)
        return await self._admin.part(whole.name, self._lines(whole, deployment), note=deployment.note or None)

    async def _checked(self, release: str) -> ReleaseView:
        """Read a release whose lines are the signed ones. Raises: Untrusted."""
        whole = await self._client.release(release)
        check_lines(whole, self._admin.state)
        return whole

    def _lines(self, whole: ReleaseView, deployment: Deployment) -> dict[str, ReleaseLineView]:
        """Give the lines of the named devices. Raises: UserError for one that has none."""
        lines: dict[str, ReleaseLineView] = {}
        for device in deployment.devices:
            record = self._admin.state.devices.get(DeviceId(device))
            line = line_for(whole.lines, device, {} if record is None else record.statement.tags)
            if line is None:
                raise UserError(f"{whole.name} has no line for {device[:8]}")
            lines[device] = line
        return lines


def _said(what: str, acted: Acted) -> str:
    """Say what was done, where it stands, and what it still waits for."""
    waits = f"; not in force yet: {acted.waits}; others sign it on Access" if acted.waits else ""
    return f"{what}: entry {acted.index}{waits}."
