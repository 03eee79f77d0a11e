"""The log keys that a coordinator holds: the one in use, and one that the next root may name in its place.

Both are read at the start, so that a root changes the key between one checkpoint and the next. It must never sign with
a key that the root in force does not name.
"""

from pathlib import Path

from nixfleet.errors import Untrusted, UserError
from nixfleet.model.statements import Root
from nixfleet.server.settings import DATABASE, LOG_KEY, NEXT_LOG_KEY, ServerSettings
from nixfleet.trust.note import Checkpoint, open_checkpoint
from nixfleet.trust.sshsig import PublicKey, SecretKey, parse_public_key


class LogKeys:
    """One key, or two while the log changes from one to the other."""

    def __init__(self, *held: SecretKey) -> None:
        """Hold keys, of which there is at least one."""
        self._held = held

    @classmethod
    def read(cls, settings: ServerSettings) -> "LogKeys":
        """Read them from the data folder. Raises: UserError."""
        path, following = settings.data_dir / LOG_KEY, settings.data_dir / NEXT_LOG_KEY
        if path.exists() or not following.exists():
            return cls(_read(path, settings), *([_read(following, settings)] if following.exists() else []))
        return cls(_read(following, settings))

    def holds(self, public: PublicKey) -> bool:
        """Tell whether one of them has this public key."""
        return any(key.public == public for key in self._held)

    def of(self, root: Root) -> SecretKey:
        """Give the key that a root names. Raises: UserError when it is not here."""
        public = parse_public_key(root.log.key)
        for key in self._held:
            if key.public == public:
                return key
        raise UserError("log.key is not the log key that the fleet's root names: put the right one back")

    def open(self, note: bytes, origin: str) -> Checkpoint:
        """Open a checkpoint that one of them has signed. Raises: Untrusted."""
        refused = Untrusted("no key")
        for key in self._held:
            try:
                return open_checkpoint(note, key.public, origin)
            except Untrusted as error:
                refused = error
        raise refused


def _read(path: Path, settings: ServerSettings) -> SecretKey:
    try:
        return SecretKey.from_openssh(path.read_text())
    except FileNotFoundError as error:
        if (settings.data_dir / DATABASE).exists():
            raise UserError(f"{path} is gone, and nobody else can sign this fleet's log: bring it back") from error
        raise UserError(f"{settings.data_dir} holds no fleet: begin one with 'nixfleet init NAME --url URL'") from error
    except (OSError, UnicodeDecodeError, UserError, Untrusted) as error:
        raise UserError(f"{path}: {error}") from error
