"""The program's own log goes to a rotating file while the console has the screen; anything else paints over it."""

import contextlib
import logging
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path

MAX_BYTES = 1_000_000
KEPT = 3


@contextlib.contextmanager
def log_to_file(path: Path | None) -> Iterator[None]:
    """Send the root logger to `path`, or nowhere without one, and put back what was there."""
    root = logging.getLogger()
    before = root.handlers[:]
    handler: logging.Handler = logging.NullHandler()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=KEPT, encoding="utf-8", delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.handlers[:] = [handler]
    try:
        yield
    finally:
        root.handlers[:] = before
        handler.close()
