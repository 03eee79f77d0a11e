"""The way to a coordinator for agent, console and CLI: typed API, verified mirror of the log, signed acts, pushes.

Must never trust what it carries: whatever matters is verified by `nixfleet.trust` before anyone acts on it.
"""

import sys

# httpx imports its own command line (click, rich, pygments) wherever these are installed: 5 MB and a fifth of the
# agent's start. A name that stands for None cannot be imported (Python's import system), and httpx allows for that.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # typeshed leaves the None out
