"""What the update machine speaks in: the offer, the durable state, events and effects. Values only, never behaviour.

Every struct here is journalled or may be: fields are only ever added, and with a default, so that an older journal
still reads. Seconds are of the device's own boot clock (`now` in `agent.machine`), never of its wall clock.
"""

from enum import StrEnum
from typing import Literal

import msgspec

from nixfleet.model.device import Attempt, Cause, Outcome, Phase
from nixfleet.model.statements import CacheRef


class _Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A journalled value; unknown fields of a newer agent are ignored."""


class Offer(_Value, frozen=True, kw_only=True):
    """An update that this device has verified it may make; a rollback has no caches; its digest is the journal's."""

    rollout: str
    epoch: int
    index: int
    run: int
    """Which try: 1 + the signed retries that name this device."""
    path: str
    system: str = ""
    digest: str = ""
    nar_bytes: int = 0
    caches: tuple[CacheRef, ...] = ()
    verb: Literal["switch", "boot", "test"] = "switch"
    """What `switch-to-configuration` is told; with `test` the system is tried, and never what boots."""
    for_s: int = 0
    """How long it is tried."""
    reboot: Literal["never", "in_window", "now"] = "never"
    accept_no_fallback: bool = False
    """A reboot is wanted even where a boot that fails cannot fall back."""
    confirm_s: int = 120
    contact: Literal["coordinator", "any", "none"] = "coordinator"
    leave: bool = False
    rename: bool = False
    timeout_s: int = 3600
    """How long failures before the switch are retried."""
    orphan_s: int = 1800
    """How long the device waits for the coordinator while only caches answer."""
    by_hand: bool = False
    """Root began it from a file, where no coordinator is to be reached."""


class Update(_Value, frozen=True, kw_only=True):
    """One run of the machine: where it stands, and all it must remember to end right after a crash."""

    phase: Phase
    offer: Offer
    give_up_s: int
    """When failures before the switch stop being retried."""
    boot_id: str
    number: int = 0
    """How often this very run ended for want of network or space before; what mends itself is tried again."""
    retry_s: int | None = None
    tries: int = 0
    previous: str = ""
    previous_digest: str = ""
    """Closure digest of `previous`, taken while it ran; none by an older agent."""
    baseline: tuple[str, ...] = ()
    """Units that had failed before the switch."""
    reboot: tuple[str, ...] = ()
    """What of it only a reboot brings; then it is set for the next boot, and never switched to."""
    fallback: Literal["", "systemd-boot", "grub", "none"] = ""
    """By which boot loader the machine falls back, should it not boot; empty by an older agent."""
    arming: bool = False
    """Staged and wanted; only the guard is missing."""
    confirm_by_s: int = 0
    orphan_by_s: int = 0
    cache_answers: bool = False
    back_tries: int = 0
    claiming: bool = False
    """All that confirming takes has come; the guard is being taken off."""
    defaulting: bool = False
    """Confirmed but for this: it is being made the boot default."""
    rebooting: bool = False
    """The machine is to go down now, or when its window opens: into the new system, or back into the previous one."""
    trying: bool = False
    """Healthy and in contact, on trial until `retry_s`."""
    tried: bool = False
    """The trial's time is over: it is checked once more, and then taken back whatever comes of that."""
    settling: bool = False
    """Went back for want of contact; waits to see whether the coordinator is silent here, too."""
    outcome: Outcome | None = None
    cause: Cause = Cause.NONE
    reason: str = ""
    exit_code: int | None = None
    lines: tuple[str, ...] = ()
    foreign: bool = False
    """Ended, for good, before the digest of what it downloaded was known to be the signed one."""

    @property
    def held(self) -> bool:
        """Whether it is ready to switch and waits for people: for a resume, a window, the end of a hold."""
        return self.phase is Phase.STAGED and self.retry_s is not None and self.cause is Cause.NONE

    @property
    def boots_once(self) -> bool:
        """Whether the boot loader boots it once, and the previous system from then on until it has confirmed."""
        return bool(self.reboot) and self.fallback in {"systemd-boot", "grub"}


class Confirmed(_Value, frozen=True, kw_only=True):
    """A system that a rollout brought and that confirmed here, and the one it replaced."""

    rollout: str
    path: str
    previous: str
    digest: str = ""
    previous_digest: str = ""


class State(_Value, frozen=True, kw_only=True):
    """All that the machine keeps across restarts."""

    update: Update | None = None
    """The update under way, or the last one."""
    attempted: tuple[int, int] = (-1, -1)
    """Epoch and index of the highest rollout ever attempted: never a lower one after it (trust.md, Order)."""
    confirmed: tuple[Confirmed, ...] = ()
    """Newest last."""
    left: tuple[str, ...] = ()
    """Paths confirmed here and then replaced by another confirmed one (trust.md, Back)."""
    outbox: tuple[Attempt, ...] = ()
    """Outcomes that the coordinator has not acknowledged, oldest first."""
    outcomes: tuple[Attempt, ...] = ()
    """The last few, acknowledged or not, newest last; without output."""


class Result(StrEnum):
    """What running ``switch-to-configuration`` came to; five ways to end that are five different things, and two more.

    Exit codes: switch-to-configuration-ng of NixOS.
    """

    DONE = "done"
    """Exit 0, and the running system is the one that was switched to."""
    HALFWAY = "halfway"
    """Exit 2: the activation script failed, units were handled all the same."""
    UNITS = "units"
    """Exit 4: the system is switched, some units failed; the checks decide."""
    REBOOT = "reboot"
    """Exit 100, or `boot` done: takes effect with the next boot."""
    ELSEWHERE = "elsewhere"
    """It says it is done, but the running system is something else."""
    ERROR = "error"
    """Any other exit code: usage, lock, pre-switch check, boot loader."""
    INTERRUPTED = "interrupted"
    """It was started and ended without a word: killed, or the power went."""


# Events


class Offered(msgspec.Struct, frozen=True, kw_only=True):
    """A verified update may begin, in this boot; `refusal` says why it is turned down instead."""

    offer: Offer
    boot_id: str
    refusal: str = ""


class Withdrawn(msgspec.Struct, frozen=True, kw_only=True):
    """The update under way is no longer wanted: cancelled, expired, revoked or retired."""

    reason: str


class Restarted(msgspec.Struct, frozen=True, kw_only=True):
    """The agent starts over with what the journal held; `current` is the system that runs now."""

    boot_id: str
    current: str
    booted: str = ""
    """The system that this boot began with."""
    undone: str = ""
    """Why this update was, or is to be, taken back without the agent that it brought; by the guard or the rescue."""
    lines: tuple[str, ...] = ()
    """How the switch of such an update ended."""


class Tick(msgspec.Struct, frozen=True):
    """Time went by."""


class Nudged(msgspec.Struct, frozen=True):
    """The log moved, or the network came back: what waits may be tried again."""


class Looked(msgspec.Struct, frozen=True, kw_only=True):
    """What runs now, before anything is touched."""

    current: str


class Passed(msgspec.Struct, frozen=True, kw_only=True):
    """The effect of this state ended well: the device is fit, the closure is here, or it is the signed one."""

    previous_digest: str = ""
    """Of preflight: the closure digest of the way back."""


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """Staged, still wanted after another sync; `baseline` are the units that have failed already."""

    baseline: tuple[str, ...]
    reboot: tuple[str, ...] = ()
    """What of it only a reboot brings, or who wants one; nothing: it is switched to."""
    fallback: Literal["", "systemd-boot", "grub", "none"] = ""
    in_place: bool = False
    """The offered system runs already and is the profile's: nothing to switch."""


class Armed(msgspec.Struct, frozen=True):
    """The guard watches: should no agent come back, it goes back."""


class Disarmed(msgspec.Struct, frozen=True):
    """The guard watches no more, and never acts on this update."""


class Overtaken(msgspec.Struct, frozen=True, kw_only=True):
    """The guard is going back already, or has: this update cannot confirm any more."""

    reason: str


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """Staged and not withdrawn, but not now: paused, held, or out of its window."""

    reason: str


class Switched(msgspec.Struct, frozen=True, kw_only=True):
    """The switch, forwards or back, ended."""

    result: Result
    exit_code: int | None = None
    reason: str = ""
    lines: tuple[str, ...] = ()


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """The checks ended; no problem means healthy."""

    problems: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


class Contacted(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody answered: the coordinator by a full signed sync, or a cache."""

    by: Literal["coordinator", "cache"]


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """The effect of this state failed: `refused` when the offer is at fault, `later` when waiting may mend it."""

    cause: Cause
    reason: str
    refused: bool = False
    later: bool = False
    lines: tuple[str, ...] = ()


class Delivered(msgspec.Struct, frozen=True, kw_only=True):
    """The coordinator has acknowledged an outcome durably."""

    rollout: str
    run: int


Event = (
    Offered
    | Withdrawn
    | Restarted
    | Tick
    | Nudged
    | Looked
    | Passed
    | Ready
    | Armed
    | Disarmed
    | Overtaken
    | Held
    | Switched
    | Checked
    | Contacted
    | Trouble
    | Delivered
)


# Effects: each is safe to repeat.


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """Say which system runs. Answers: Looked."""

    offer: Offer


class CheckDevice(msgspec.Struct, frozen=True, kw_only=True):
    """Is this device fit for the update, with a way back, and what is that? Answers: Passed, Trouble."""

    offer: Offer
    previous: str


class Fetch(msgspec.Struct, frozen=True, kw_only=True):
    """Download the closure. Answers: Passed, Trouble."""

    offer: Offer


class Verify(msgspec.Struct, frozen=True, kw_only=True):
    """Compare the closure with what was signed, and read the new system. Answers: Passed, Trouble."""

    offer: Offer
    previous: str


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """Keep both systems, ask the log once more, note failed units. Answers: Ready, Held, Withdrawn, Trouble."""

    offer: Offer
    previous: str


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """Have the old system watch over the switch, from outside of the agent. Answers: Armed, Trouble."""

    offer: Offer
    previous: str
    number: int = 0


class Disarm(msgspec.Struct, frozen=True, kw_only=True):
    """Take the guard off, unless it acts already. Answers: Disarmed, Overtaken, Trouble."""

    offer: Offer
    number: int = 0


class Activate(msgspec.Struct, frozen=True, kw_only=True):
    """Set the profile and switch, or collect the end of the switch that was started. Answers: Switched, Trouble."""

    offer: Offer
    number: int = 0
    boots: bool = False
    """It is set for the next boot, and not switched to."""
    once: str = ""
    """For an update that needs a reboot: the system that stays the boot default, while the new one is booted once."""
    fallback: Literal["", "systemd-boot", "grub", "none"] = ""


class Reboot(msgspec.Struct, frozen=True, kw_only=True):
    """Reboot the machine, if it may now, or to go `back`, which always may. Answers: Held, Withdrawn, Trouble."""

    offer: Offer
    back: bool = False


class MakeDefault(msgspec.Struct, frozen=True, kw_only=True):
    """Make a system that was booted once what is booted always. Answers: Switched, Trouble."""

    offer: Offer
    number: int
    """Tells the tries apart."""
    fallback: Literal["", "systemd-boot", "grub", "none"]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """Is the new system healthy? Answers: Checked, Trouble."""

    offer: Offer
    baseline: tuple[str, ...]


class Contact(msgspec.Struct, frozen=True, kw_only=True):
    """Try to reach coordinator and caches until told otherwise. Answers: Contacted."""

    offer: Offer


class GoBack(msgspec.Struct, frozen=True, kw_only=True):
    """Set the profile back and switch to the previous system, if it is what ran. Answers: Switched, Trouble."""

    offer: Offer
    previous: str
    digest: str = ""
    number: int
    """Tells this run's tries of going back apart, over all its repeats."""
    fallback: Literal["", "systemd-boot", "grub", "none"] = ""
    baseline: tuple[str, ...] = ()
    """Units that had failed before the switch: they are not started again."""


class Keep(msgspec.Struct, frozen=True, kw_only=True):
    """Root the confirmed systems, newest first, and let go of the incoming one. Answers nothing."""

    offer: Offer
    paths: tuple[str, ...]


class Tidy(msgspec.Struct, frozen=True, kw_only=True):
    """Let go of a closure that did not stay; `delete` what came when nothing vouches for it. Answers nothing."""

    offer: Offer
    delete: bool


Effect = (
    Look
    | CheckDevice
    | Fetch
    | Verify
    | Stage
    | Arm
    | Activate
    | Reboot
    | Check
    | Contact
    | Disarm
    | MakeDefault
    | GoBack
    | Keep
    | Tidy
)
