"""The console in a real terminal (tmux): it paints, it takes keys, and it leaves the terminal as it was."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60

pytestmark = pytest.mark.skipif(
    shutil.which("tmux") is None and not os.environ.get("NIXFLEET_REQUIRE_ALL"), reason="needs tmux"
)


class Tmux:
    """A tmux server of its own, with one window in which a shell runs the console and then tells how it ended."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def do(self, *words: str) -> str:
        """Run a tmux command."""
        command = ["tmux", "-f", "/dev/null", "-S", str(self._socket), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    @property
    def screen(self) -> str:
        """What the terminal shows."""
        return self.do("capture-pane", "-p")

    async def until(self, holds: Callable[[str], bool]) -> str:
        """Look at the terminal until it shows something; fails after the deadline with what it shows."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not holds(screen := self.screen):  # noqa: ASYNC110 - a terminal tells nobody when it has changed
                    await asyncio.sleep(0.05)
                return screen
        except TimeoutError:
            raise AssertionError(f"the terminal shows:\n{self.screen}") from None


@asynccontextmanager
async def terminal(folder: Path, module: str = "tests.tui.console_ports") -> AsyncIterator[tuple[Tmux, int]]:
    """Open the console in tmux at 100 by 30, wait until it is live, and give its process id."""
    pid_file = folder / "pid"
    program = (
        f"import os, pathlib, sys; from {module} import main; "
        f"pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid())); sys.exit(main())"
    )
    script = folder / "run.sh"
    script.write_text(
        f'trap : INT\n{sys.executable} -c "{program}"\n'
        'echo "ended $? $(stty -a | grep -o -e -icanon || echo sane)"\nread line\n'
    )
    tmux = Tmux(folder / "tmux")
    environment = ["-e", f"PYTHONPATH={ROOT}:{ROOT / 'src'}", "-e", "LC_ALL=C.UTF-8", "-e", f"KEY={folder / 'key'}"]
    environment += ["-e", "PAGER=less", "-e", "SSH_ASKPASS=", "-e", "DISPLAY=", "-e", "COLUMNS=80", "-e", "LINES=24"]
    tmux.do("-u", "new-session", "-d", "-x", "100", "-y", "30", *environment, "sh", str(script))
    try:
        await tmux.until(lambda screen: "● live" in screen and "nas-berlin-02" in screen)
        yield tmux, int(pid_file.read_text())
    finally:
        tmux.do("kill-server")


async def test_the_console_lives_in_a_real_terminal(tmp_path: Path) -> None:
    """It paints what happens, takes keys, and on q gives back terminal and exit code."""
    async with terminal(tmp_path) as (tmux, _):
        first = next(line for line in tmux.screen.splitlines() if "kiosk-berlin-04" in line)
        await tmux.until(lambda screen: "kiosk-berlin-04" in screen and first not in screen)
        tmux.do("send-keys", "2", "j", "Enter")
        await tmux.until(lambda screen: "wave 2  10%" in screen)
        tmux.do("send-keys", "q")
        await tmux.until(lambda screen: "ended 0 sane" in screen)
        assert "0" == tmux.do("display-message", "-p", "#{alternate_on}").strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_leaves_the_terminal_sane(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM and SIGINT end it by the front door: main screen, cooked input, exit code 128 + n."""
    async with terminal(tmp_path) as (tmux, pid):
        os.kill(pid, number)
        await tmux.until(lambda screen: f"ended {128 + number} sane" in screen)
        assert "0" == tmux.do("display-message", "-p", "#{alternate_on}").strip()


async def test_suspended_it_gives_the_screen_back_and_paints_it_whole_afterwards(tmp_path: Path) -> None:
    """Ctrl+Z stops it with the shell's screen in place; continued, it paints every line anew and takes keys."""
    async with terminal(tmp_path) as (tmux, pid):
        tmux.do("send-keys", "C-z")
        await tmux.until(lambda _: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        assert "0" == tmux.do("display-message", "-p", "#{alternate_on}").strip()
        os.kill(pid, signal.SIGCONT)
        await tmux.until(lambda screen: "● live" in screen and "1 Devices" in screen and "q Quit" in screen)
        tmux.do("send-keys", "2")
        await tmux.until(lambda screen: "nas-2219" in screen and "standing" in screen)


async def test_a_window_made_tiny_and_large_again(tmp_path: Path) -> None:
    """Down to 20 by 5 it asks for room, whatever COLUMNS and LINES say; back at its size everything is there."""
    async with terminal(tmp_path) as (tmux, _):
        tmux.do("resize-window", "-x", "20", "-y", "5")
        await tmux.until(lambda screen: "terminal larger" in screen and "live" not in screen)
        tmux.do("resize-window", "-x", "100", "-y", "30")
        await tmux.until(lambda screen: "● live" in screen and "nas-berlin-02" in screen and "q Quit" in screen)


def _asks(times: int, screen: str) -> bool:
    """Tell whether the passphrase was asked for so many times; the shell's screen still shows the earlier ones."""
    return screen.count("Enter passphrase") == times and "kiosk-2304" not in screen


async def test_a_passphrase_is_asked_on_the_terminal(tmp_path: Path) -> None:
    """ssh-keygen asks with the screen away; wrong and given up are told, right signs, and the screen is back."""
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "right one", "-f", str(tmp_path / "key")]
    await asyncio.to_thread(subprocess.run, argv, check=True, timeout=10)
    async with terminal(tmp_path, "tests.tui.console_signing") as (tmux, _):
        tmux.do("send-keys", "2", "j")
        for asked, typed in enumerate((("C-c",), ("wrong", "Enter")), start=1):
            tmux.do("send-keys", "P")
            await tmux.until(lambda screen: "Pause kiosk-2304?" in screen)
            tmux.do("send-keys", "y")
            await tmux.until(partial(_asks, asked))
            tmux.do("send-keys", *typed)
            await tmux.until(lambda screen: "could not sign" in screen and "kiosk-2304" in screen)
        tmux.do("send-keys", "P")
        await tmux.until(lambda screen: "Pause kiosk-2304?" in screen)
        tmux.do("send-keys", "y")
        await tmux.until(partial(_asks, 3))
        tmux.do("send-keys", "-l", "right one")
        tmux.do("send-keys", "Enter")
        await tmux.until(lambda screen: "Done: pause." in screen and "● live" in screen)
        tmux.do("send-keys", "q")
        await tmux.until(lambda screen: "ended 0 sane" in screen)


async def test_the_pager_has_the_terminal_and_gives_it_back(tmp_path: Path) -> None:
    """Less shows the table; after it the console is there again and takes keys."""
    if shutil.which("less") is None:
        pytest.skip("needs less")
    async with terminal(tmp_path) as (tmux, _):
        tmux.do("send-keys", "o")
        await tmux.until(lambda screen: "web-oslo-03" in screen and "● live" not in screen)
        tmux.do("send-keys", "q")
        await tmux.until(lambda screen: "● live" in screen)
        tmux.do("send-keys", "2")
        await tmux.until(lambda screen: "nas-2219" in screen and "standing" in screen)


async def test_a_terminal_that_cannot_place_its_cursor_is_refused(tmp_path: Path) -> None:
    """With TERM=dumb there is one line and exit code 2, and nothing is made."""
    tmux = Tmux(tmp_path / "tmux")
    command = f"HOME={tmp_path} TERM=dumb {sys.executable} -m nixfleet console; echo ended $?; read line"
    tmux.do("-u", "new-session", "-d", "-x", "120", "-y", "30", "-e", f"PYTHONPATH={ROOT / 'src'}", "sh", "-c", command)
    try:
        screen = await tmux.until(lambda screen: "ended" in screen)
        assert ["TERM=dumb cannot", "ended 2"] == [word for word in ("TERM=dumb cannot", "ended 2") if word in screen]
    finally:
        tmux.do("kill-server")
    made = await asyncio.to_thread(lambda: [path for path in tmp_path.rglob("*") if path.is_file()])
    assert [] == made
