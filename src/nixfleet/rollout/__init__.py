"""The pure rollout planner: `plan()` says what to do next and why not, `check()` lists broken invariants.

It must never read a clock, a database or chance: time, members and state come in as arguments. Durations are
measured on the coordinator's running clock (`Clock.run_s`), so that time only passes while a coordinator runs.

The shell's loop: read row and members; `plan`; `apply` (compare-and-set on the row's version); send gates for what
was started, ask whom an `Ask` names, show the waits; come back on news or after `next_wake` seconds.
"""

from nixfleet.rollout.decisions import (
    Ask,
    Await,
    Decision,
    Done,
    Finish,
    Halt,
    Open,
    Overdue,
    Parked,
    Passed,
    Resumed,
    Start,
    StopKind,
    Wait,
)
from nixfleet.rollout.fold import apply, waiting
from nixfleet.rollout.invariants import check
from nixfleet.rollout.kinds import kind_of, kind_words
from nixfleet.rollout.planner import plan
from nixfleet.rollout.reasons import Reason, Subject, Unplanned, clause, record, sentence, stop_sentence
from nixfleet.rollout.standing import Counts, Standing, Summary, is_awaited, standing, status, stopped, summary
from nixfleet.rollout.types import Clock, Course, Kind, Member, Status, Stop, WaveState
from nixfleet.rollout.wake import next_wake
from nixfleet.rollout.waves import (
    DEFAULT_SOAK_S,
    assigned,
    at_once,
    default_in_flight,
    default_stop_at,
    default_waves,
    waves,
)

__all__ = [
    "DEFAULT_SOAK_S",
    "Ask",
    "Await",
    "Clock",
    "Counts",
    "Course",
    "Decision",
    "Done",
    "Finish",
    "Halt",
    "Kind",
    "Member",
    "Open",
    "Overdue",
    "Parked",
    "Passed",
    "Reason",
    "Resumed",
    "Standing",
    "Start",
    "Status",
    "Stop",
    "StopKind",
    "Subject",
    "Summary",
    "Unplanned",
    "Wait",
    "WaveState",
    "apply",
    "assigned",
    "at_once",
    "check",
    "clause",
    "default_in_flight",
    "default_stop_at",
    "default_waves",
    "is_awaited",
    "kind_of",
    "kind_words",
    "next_wake",
    "plan",
    "record",
    "sentence",
    "standing",
    "status",
    "stop_sentence",
    "stopped",
    "summary",
    "waiting",
    "waves",
]
