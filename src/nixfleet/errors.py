"""The error tree: one root, few leaves, split by who must act.

    NixfleetError               anything this program raises on purpose
    ├── UserError               the input or the setup is wrong; the person at hand can mend it   (exit 2)
    ├── Refused                 authority says no: a right, an approval or a rule is missing      (exit 3)
    ├── Untrusted               a signature, digest, proof or the log does not hold               (exit 4)
    ├── Unreachable             the other side does not answer, or not in time                    (exit 5)
    ├── Conflict                somebody was faster: the state moved, read it again               (exit 1)
    └── NixFailed               a Nix command failed; carries argv, exit code and last lines      (exit 1)

Every text is one sentence that says what is wrong and, where there is a way on, what to do next.
A module may refine a leaf where a caller must tell cases apart (`trust.view.Fork` is `Untrusted`, `nix.NixError` is
`NixFailed`); none adds a branch. A broken invariant is an ``assert`` instead. Foreign exceptions never cross the module
that owns their library.
"""

from typing import ClassVar


class NixfleetError(Exception):
    """Anything this program raises on purpose; its text is meant to be read by a person."""

    exit_code: ClassVar[int] = 1


class UserError(NixfleetError):
    """The input or the setup is wrong, and the person at hand can mend it."""

    exit_code = 2


class Refused(NixfleetError):
    """Authority says no: a right, an approval or a rule is missing."""

    exit_code = 3


class Untrusted(NixfleetError):
    """A signature, a digest, a proof or the log itself does not hold."""

    exit_code = 4


class Unreachable(NixfleetError):
    """The other side does not answer, or not in time."""

    exit_code = 5


class Conflict(NixfleetError):
    """Somebody was faster: the state this act was based on has moved; read it again and retry."""


class NixFailed(NixfleetError):
    """A Nix command failed."""

    def __init__(self, argv: tuple[str, ...], exit_code: int, lines: tuple[str, ...], reason: str) -> None:
        """Keep what was run, how it ended (a process exit code), its last lines, and the classified reason."""
        super().__init__(reason)
        self.argv = argv
        self.process_exit = exit_code
        self.lines = lines
        self.reason = reason
