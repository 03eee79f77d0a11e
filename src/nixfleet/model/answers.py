"""What the coordinator answers where it is more than one view: small frozen records, read tolerantly."""

import msgspec

from nixfleet.model.views import DeviceView, EnrollView, EntryView, ReleaseView, RolloutView
from nixfleet.model.wire import Signed


class Devices(msgspec.Struct, frozen=True, kw_only=True):
    """A list of devices."""

    devices: tuple[DeviceView, ...]


class Rollouts(msgspec.Struct, frozen=True, kw_only=True):
    """A list of rollouts."""

    rollouts: tuple[RolloutView, ...]


class Releases(msgspec.Struct, frozen=True, kw_only=True):
    """A list of releases, without their lines."""

    releases: tuple[ReleaseView, ...]


class Requests(msgspec.Struct, frozen=True, kw_only=True):
    """The devices that ask to be enrolled."""

    requests: tuple[EnrollView, ...]


class Lines(msgspec.Struct, frozen=True, kw_only=True):
    """Output lines of a device; `next` is the newest one's number: ask again with `after=next`."""

    next: int
    lines: tuple[str, ...]


class PastAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """A try of a rollout, in the device's signed words; `at` is unix seconds, `lines` end the activation's output."""

    rollout: str
    release: str = ""
    run: int = 1
    outcome: str | None = None
    cause: str = ""
    reason: str = ""
    path: str = ""
    previous: str = ""
    at: int = 0
    lines: tuple[str, ...] = ()


class History(msgspec.Struct, frozen=True, kw_only=True):
    """A device's updates, newest first."""

    attempts: tuple[PastAttempt, ...]


class DeviceReport(msgspec.Struct, frozen=True, kw_only=True):
    """A device's newest report, as it signed it."""

    device: str
    report: Signed


class Reports(msgspec.Struct, frozen=True, kw_only=True):
    """Devices' newest reports, by device id in rising order; where there are more, those after `next`."""

    reports: tuple[DeviceReport, ...]
    next: str = ""


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """Log entries in the coordinator's words, and the log's size."""

    entries: tuple[EntryView, ...]
    size: int


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """What the coordinator refused: when, signed by which key, what was asked, and why.

    A statement that it kept out of the log has a namespace and a digest; a request has neither.
    """

    at: int
    by: str
    namespace: str = ""
    digest: str = ""
    reason: str
    what: str = ""


class Refusals(msgspec.Struct, frozen=True, kw_only=True):
    """The journal of refused statements and requests, newest first: the coordinator's word, unlike the log."""

    refusals: tuple[Refusal, ...]


class Reset(msgspec.Struct, frozen=True, kw_only=True):
    """The stream cannot go on from where the reader was: ask for a snapshot."""
