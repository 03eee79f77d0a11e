"""The terminal driver, which can tell whether the terminal is still busy with what was written before.

Over a slow link frames pile up in the driver's queue, and a key is answered only after all of them. The console
skips a refresh while the queue holds anything. A terminal is as large as it says itself.
"""

import os

from textual.drivers.linux_driver import LinuxDriver


class PatientDriver(LinuxDriver):
    """Textual's driver for Linux and macOS, counting the writes that wait."""

    def _get_terminal_size(self) -> tuple[int, int]:
        """Ask the terminal itself: COLUMNS and LINES in the environment do not change when it is resized."""
        try:
            size = os.get_terminal_size(self.fileno)
        except OSError:
            return super()._get_terminal_size()
        return (size.columns, size.lines) if all(size) else super()._get_terminal_size()

    @property
    def waiting_writes(self) -> int:
        """How many writes the terminal has not taken yet; 0 where this Textual keeps them elsewhere."""
        # Private in Textual 8; a test fails when it moves, and then a busy terminal is only slower.
        queue = getattr(getattr(self, "_writer_thread", None), "_queue", None)
        size = getattr(queue, "qsize", None)
        return int(size()) if callable(size) else 0
