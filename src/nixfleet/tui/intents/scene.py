"""What a screen has chosen, and what a plan is made of; pure data with the words for it."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import msgspec

from nixfleet.model.statements import Action
from nixfleet.model.text import clean, counted
from nixfleet.model.views import AccessView, DeviceView, EnrollView, PendingView, RolloutView
from nixfleet.preview.plan import Preview
from nixfleet.tui.confirm import Confirm
from nixfleet.tui.ports import Acts, Identity, Secret, Stop, Subject
from nixfleet.tui.store import Store
from nixfleet.tui.view.access import NO_ACCESS, label_of
from nixfleet.tui.view.rollouts import title


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Who may do what, as our own replay says; `why_not` gives the first reason against an act on devices."""

    access: AccessView = NO_ACCESS
    stops: Callable[[Subject], Sequence[Stop]] = lambda _: ()
    why_not_sign: Callable[[PendingView], str] = lambda _: ""
    why_not: Callable[[Action, Sequence[DeviceView]], str] = lambda _action, _devices: ""
    touches: Callable[[Sequence[EnrollView]], tuple[int, str]] = lambda _: (1, "")


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """What a screen has chosen, and the state of things around it."""

    store: Store
    identity: Identity
    now: int
    live: bool = True
    distrust: str = ""
    """Why nothing may be signed on the log as it stands."""
    devices: tuple[str, ...] = ()
    rollout: str = ""
    members: tuple[str, ...] = ()
    """The devices that are chosen within the rollout."""
    requests: tuple[str, ...] = ()
    release: str = ""
    standing: Standing = Standing()
    right: str = ""
    """A row of the Access screen, by its key."""

    def device_views(self) -> list[DeviceView]:
        """Give the chosen devices that are still there."""
        return [found for key in self.devices if (found := self.store.devices.get(key)) is not None]

    def rollout_view(self) -> RolloutView | None:
        """Give the chosen rollout, or the one the only chosen device is in."""
        if self.rollout:
            return self.store.rollouts.get(self.rollout)
        ids = {device.rollout for device in self.device_views()}
        return self.store.rollouts.get(ids.pop()) if len(ids) == 1 else None

    def member_views(self) -> list[DeviceView]:
        """Give the devices that are chosen within the rollout."""
        return [found for key in self.members if (found := self.store.devices.get(key)) is not None]

    @property
    def target(self) -> str:
        """Name what is chosen, as the title of a menu does."""
        if self.requests:
            return named([request.name for request in self.request_views()], "request")
        if self.devices:
            return named([device.name for device in self.device_views()], "device")
        if self.rollout:
            rollout = self.rollout_view()
            return f"the rollout of {title(rollout)}" if rollout else ""
        if self.right:
            return label_of(self.standing.access, self.right)
        release = self.store.releases.get(self.release)
        return clean(release.name) if release else ""

    def request_views(self) -> list[EnrollView]:
        """Give the chosen requests that are still there."""
        return [found for key in self.requests if (found := self.store.requests.get(key)) is not None]


def named(names: list[str], word: str) -> str:
    """Name one by its name and more by their number."""
    return clean(names[0]) if len(names) == 1 else counted(len(names), word) if names else ""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One statement: what the command log says of it, its command line, and the act."""

    call: str
    cli: str
    run: Callable[[Acts], Awaitable[str | Secret]]


class Foresight(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes known while a question stands: where previews come from, and the question each one makes of it.

    `cli` is the command that shows the same.
    """

    previews: Callable[[Acts], AsyncGenerator[Preview, None]]
    ask: Callable[[Preview], Confirm]
    cli: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to ask, and what to do then."""

    confirm: Confirm
    steps: tuple[Step, ...]
    foresight: Foresight | None = None


def unless(fine: bool, why: str) -> str:
    """Give the reason why something cannot be, unless it is fine."""
    return "" if fine else why
