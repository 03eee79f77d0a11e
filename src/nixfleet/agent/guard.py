"""The guard: outside of the agent, with programs of the old system alone, it goes back when no agent comes back.

A folder with a POSIX shell script that is started before a switch (`agent.guarding`) and looks at that folder now and
then. `armed` is there while it watches: who removes that, or the folder, takes the guard off. `back` says that an agent
has begun to judge the new system. Whoever goes back, or takes the guard off, holds `lock` (flock(2)), so that guard and
agent never both act. This module must never start a process.
"""

import fcntl
import math
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import msgspec

from nixfleet.agent.host import Host
from nixfleet.errors import UserError
from nixfleet.nix import commands

LOOK_S = 5.0
MARGIN_S = 60
"""What a slow device is granted beyond every time that its agent keeps to."""
BACK_TRIES = 5
NOT_BACK = "the new agent did not come back in time"
NOT_CONFIRMED = "the new agent came back, and did not confirm in time"
AGENT_UNIT = "nixfleet-agent.service"
SWITCH_LOCK = "/run/nixos/switch-to-configuration.lock"

# Built-ins and the programs of the header alone: while the system under it is replaced, nothing else is sure to work.
# Names are relative: a folder that was made anew under the same name is another guard's. 9 is the lock of who acts, 8
# that of who watches; neither is left to a child, which might outlive this shell.
SCRIPT = """\
cd "$folder" || exit 1
exec 8>>watch 9>>lock
"$flock" -n 8 || exit 0
looks=0 over=0
while [ ! -e acting ]; do
  [ -e armed ] || exit 0
  if [ "$looks" -ge "$last_looks" ]; then break; fi
  if [ ! -e back ] && [ "$over" -ge "$back_looks" ]; then break; fi
  "$sleep" "$look_s" 8>&- 9>&-
  looks=$((looks + 1))
  # Until the switch has ended, or should have, no new agent can come.
  if [ -e "$switch/exit" ] || [ "$looks" -ge "$switch_looks" ]; then over=$((over + 1)); fi
done
# An agent that goes back, or confirms, is waited for; the kernel lets go of the lock of one that is killed.
"$flock" 9 || exit 1
[ -e armed ] || exit 0
# A full disk keeps it from nothing: all files are there already.
why=not-back; [ ! -e back ] || why=not-confirmed
[ -e acting ] || "$mv" "$why" acting 8>&- 9>&-
exec >>output 2>&1 </dev/null
if [ ! -e "$switch/exit" ] && read -r pid <"$switch/started" && [ "/proc/$pid/cwd" -ef "$switch" ]; then
  # The switch hangs. Its process group: proc_pid_stat(5), field 5.
  read -r line <"/proc/$pid/stat" && set -- ${line##*) } && kill -KILL "-$3"
fi
# A switch back that an agent began before it died is waited for.
busy=0
while [ -e "$lock" ] && [ "$busy" -lt "$switch_looks" ] && ! "$flock" -n "$lock" "$sh" -c : 8>&- 9>&-; do
  busy=$((busy + 1)); "$sleep" "$look_s" 8>&- 9>&-
done
tries=0 code=1
while [ "$tries" -lt "$back_tries" ]; do
  set_profile 8>&- 9>&-
  "$timeout" -s KILL "$switch_s" "$previous/bin/switch-to-configuration" "$verb" 8>&- 9>&-
  code=$?
  # 4: it is switched, and units failed.
  case $code in 0 | 4) break ;; esac
  tries=$((tries + 1))
  "$sleep" "$look_s" 8>&- 9>&-
done
echo "$code end" >ended
exec 9>&-
# The agent of this system: one that crashed too often is not started by a switch.
if [ -n "$systemctl" ]; then "$systemctl" reset-failed "$agent" 8>&-; "$systemctl" --no-block start "$agent" 8>&-; fi
"""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a guard watches over: which update, the way back, and how patient it is."""

    update: str
    """Name of the update's switch."""
    previous: str
    verb: Literal["switch", "test"]
    """How it goes back: from a trial the profile is untouched."""
    switch: Path
    """Folder of the switch (`agent.jobs`)."""
    switch_s: float
    """So long a switch may take."""
    back_s: float
    """So long after it an agent must have come back."""
    latest_s: float
    """So long after arming it must be over, whatever comes."""


class Guard:
    """The one guard of a device, known by its folder."""

    def __init__(self, folder: Path, host: Host) -> None:
        self.folder = folder
        self._host = host

    def prepare(self, plan: Plan, tools: dict[str, str]) -> tuple[str, ...]:
        """Make the folder anew, whole before it is armed; give the command that watches. Raises: OSError."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, mode=0o700)
        # Nothing here has to outlast this boot, and so nothing waits for the disk; `armed` comes last.
        files = {
            "guard": self._script(plan, tools),
            "update": plan.update,
            "not-back": NOT_BACK,
            "not-confirmed": NOT_CONFIRMED,
            "output": "",
            "armed": self._host.boot_id(),
        }
        for name, text in files.items():
            (self.folder / name).write_text(text)
        return tools["sh"], str(self.folder / "guard")

    def guards(self, update: str) -> bool:
        """Tell whether this boot's guard of an update is armed and its shell lives."""
        return self._is_of(update) and self._read("armed") == self._host.boot_id() and self.watches()

    def watches(self) -> bool:
        """Tell whether the guard's shell lives: it holds a lock as long as it does."""
        try:
            with (self.folder / "watch").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def note_back(self) -> None:
        """Tell the guard that an agent judges the new system: from now on it waits until the latest time."""
        with suppress(OSError):
            if (self.folder / "armed").exists():
                (self.folder / "back").touch()

    def acted(self, update: str) -> str:
        """Say why the guard of an update goes back, or has; empty when it does not."""
        return self._read("acting").strip() if self._is_of(update) else ""

    def went_back(self, update: str) -> bool:
        """Tell whether the guard's own going back of an update ended well."""
        return self._is_of(update) and self._read("ended") in {"0 end\n", "4 end\n"}

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Hold the lock of who acts, if it can be had at once; the kernel lets go of it, whatever happens."""
        if not self.folder.is_dir():
            yield True
            return
        with (self.folder / "lock").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def take_off(self) -> None:
        """Take the guard off; only who holds the lock may. Needs no space on the disk. Raises: OSError."""
        (self.folder / "armed").unlink(missing_ok=True)

    def release(self) -> None:
        """Take the guard off, and forget what it did; only who holds the lock may. Raises: OSError."""
        self.take_off()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _is_of(self, update: str) -> bool:
        return self._read("update") == update

    def _read(self, name: str) -> str:
        try:
            return (self.folder / name).read_text()[:1_000]
        except (OSError, UnicodeDecodeError):
            return ""

    def _script(self, plan: Plan, tools: dict[str, str]) -> str:
        host = self._host
        words = {
            "folder": str(self.folder),
            "previous": str(host.at(plan.previous)),
            "verb": plan.verb,
            "switch": str(plan.switch),
            "lock": str(host.at(SWITCH_LOCK)),
            "look_s": f"{LOOK_S:g}",
            "switch_s": f"{plan.switch_s:.0f}",
            "switch_looks": _looks(plan.switch_s),
            "back_looks": _looks(plan.back_s),
            "last_looks": _looks(plan.latest_s),
            "back_tries": str(BACK_TRIES),
            "agent": AGENT_UNIT,
            **tools,
        }
        _, *arguments = commands.set_profile(plan.previous, str(host.profile()))
        profile = ":" if plan.verb == "test" else f'"$nix_env" {shlex.join(arguments)}'
        header = "".join(f"{name}={shlex.quote(word)}\n" for name, word in words.items())
        return f"{header}set_profile() {{ {profile}; }}\n{SCRIPT}"


def find_tools(host: Host, previous: str) -> dict[str, str]:
    """Find the guard's programs in a system, whose garbage collector root keeps them. Raises: UserError.

    By their names there and not by the files behind them: one file can be many programs, told apart by its name. What
    the system has not is taken from where the agent's own programs are, which are of its closure, too.
    """
    tools = {"systemctl": ""}
    for name in ("sh", "flock", "sleep", "timeout", "mv", "nix-env", *(("systemctl",) if host.has_systemd() else ())):
        packages = host.resolve(f"{previous}/sw/bin")
        own = packages / name if packages is not None else None
        inside = own is not None and host.resolve(f"{previous}/sw/bin/{name}") is not None
        found = str(own) if inside else shutil.which(name)
        if not found:
            raise UserError(f"no way back without the agent: neither the running system nor PATH has {name}")
        tools[name.replace("-", "_")] = found
    return tools


def _looks(span_s: float) -> str:
    return str(math.ceil(span_s / LOOK_S))
