"""A small pure fleet: keys from seeds, statements with sensible fields, a log that grows with checkpoints.

Everything is deterministic: the same calls make the same bytes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from nixfleet.model.device import EnrollRequest
from nixfleet.model.ids import Digest, Fingerprint, FleetId
from nixfleet.model.statements import (
    Action,
    CacheRef,
    Closure,
    Control,
    Device,
    Grant,
    LogKey,
    LogState,
    Principal,
    Release,
    Revoke,
    RevokeSubject,
    Rollout,
    Root,
    SelectLine,
    Statement,
    StopAt,
    TargetLine,
    Wave,
)
from nixfleet.model.views import EnrollView
from nixfleet.model.wire import Signed
from nixfleet.trust.leaf import Leaf
from nixfleet.trust.lines import LineTree
from nixfleet.trust.merkle import EMPTY_ROOT, Tree
from nixfleet.trust.note import Checkpoint, origin, sign_checkpoint
from nixfleet.trust.replay import State, Verdict, replay
from nixfleet.trust.reports import prove_key, sign_enroll
from nixfleet.trust.sshsig import SecretKey
from nixfleet.trust.statements import NAMESPACE_APPROVE, Malformed, digest, encode, namespace_of, parse

T0 = 1_800_000_000
"""When every made fleet begins, in unix seconds."""
YEAR_S = 31_536_000
CACHE = CacheRef(url="/cache", key="acme-1:" + "A" * 43 + "=")
DIGEST = "d" * 64


def key(name: str) -> SecretKey:
    """Make the key of this name: always the same."""
    made = SecretKey.from_seed(hashlib.sha256(f"key {name}".encode()).digest())
    _MADE[made.public.text] = made
    return made


_MADE: dict[str, SecretKey] = {}


def proof_of(payload: bytes) -> Signed | None:
    """Let the key that a device statement names ask to be that device, if it is one of the keys made here."""
    try:
        statement = parse(payload)
    except Malformed:
        return None
    secret = _MADE.get(statement.key) if isinstance(statement, Device) else None
    return prove_key(statement, secret) if isinstance(statement, Device) and secret is not None else None


def fingerprint(name: str) -> Fingerprint:
    """Return the fingerprint of a named key."""
    return Fingerprint(key(name).public.fingerprint)


def device_id(name: str) -> str:
    """Return the id of a named device."""
    return hashlib.sha256(f"device {name}".encode()).hexdigest()[:32]


def store_path(name: str) -> str:
    """Return a well-formed store path for a system of this name."""
    alphabet = "0123456789abcdfghijklmnpqrsvwxyz"
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:20], "big")
    return "/nix/store/" + "".join(alphabet[(number >> (5 * place)) & 31] for place in range(32)) + f"-{name}"


def closure(name: str) -> Closure:
    """Make a closure for a system of this name."""
    return Closure(path=store_path(name), system="x86_64-linux", digest=DIGEST, nar_size=1_000)


def target_line(device: str, system: str) -> TargetLine:
    """Make the line of a named device for a named system."""
    return TargetLine(
        device=device_id(device), path=store_path(system), system="x86_64-linux", digest=DIGEST, nar_size=1_000
    )


def principal(name: str, *keys: str) -> Principal:
    """Make a principal with named keys, by default one of the same name."""
    return Principal(name=name, keys=tuple(key(one).public.text for one in keys or (name,)))


def asking(fleet: str, name: str, by: str = "", device: str = "", **fields: Any) -> EnrollView:
    """Make the request of a named device as a coordinator shows it, signed by its key or another named one."""
    secret = key(by or name)
    made: dict[str, Any] = {"device": device_id(device or name), "name": name, "key": secret.public.text, **fields}
    signed = sign_enroll(EnrollRequest(v=1, fleet=fleet, at=T0, **made), secret)
    made |= {"tags": fields.get("tags", {}), "fingerprint": secret.public.fingerprint}
    return EnrollView(**made, payload=signed.payload, signature=signed.signature)


class Fleet:
    """A growing log with its statements; the root principal is `admin` unless others are given.

    Methods sign and append; each returns the payload's digest. `verdicts` has one verdict per entry.
    """

    def __init__(self, *admins: str, threshold: int = 1, at: int = T0, **root: Any) -> None:
        self.now = at
        self.tree = Tree()
        self.entries: list[tuple[bytes, bytes]] = []
        self.verdicts: list[Verdict] = []
        self.log_key = key("log")
        self.epoch = 0
        self.fleet = ""
        self.admins = admins or ("admin",)
        self.root_statement = self._root(threshold=threshold, **root)
        payload = encode(self.root_statement)
        self.fleet = digest(payload)
        self.state = State(FleetId(self.fleet))
        self.append(payload, namespace_of(self.root_statement), self.admins[0])

    def _root(self, **fields: Any) -> Root:
        made: dict[str, Any] = {
            "version": 1,
            "protocol": 1,
            "urls": ("http://127.0.0.1:7070",),
            "principals": tuple(principal(name) for name in self.admins),
            "threshold": 1,
            "log": LogKey(key=self.log_key.public.text, epoch=self.epoch),
            "caches": (CACHE,),
        }
        return Root(**{**self.header(self.admins[0]), **made, **fields})

    @property
    def size(self) -> int:
        """How many entries the log has."""
        return len(self.entries)

    @property
    def log(self) -> LogState:
        """The log's size and root: the base of what is signed next."""
        return LogState(size=self.size, root=(self.tree.root() if self.size else EMPTY_ROOT).hex())

    @property
    def checkpoint(self) -> bytes:
        """The signed checkpoint over the whole log."""
        return self.checkpoint_at(self.size)

    def checkpoint_at(self, size: int) -> bytes:
        """Sign a checkpoint over the first entries."""
        return sign_checkpoint(Checkpoint(origin(self.fleet, self.epoch), size, self.tree.root(size)), self.log_key)

    def header(self, by: str) -> dict[str, Any]:
        """Return the header's fields for a named signer, now."""
        return {"v": 1, "fleet": self.fleet, "by": key(by).public.fingerprint, "at": self.now, "base": self.log}

    def leaf(self, payload: bytes, namespace: str, by: str) -> bytes:
        """Sign a payload into a leaf at the present log time."""
        return Leaf(self.now, hashlib.sha512(payload).digest(), key(by).sign(namespace, payload)).pack()

    def append(self, payload: bytes, namespace: str, by: str) -> Digest:
        """Sign a payload in a namespace and append it, whatever the verdict."""
        return self.append_leaf(self.leaf(payload, namespace, by), payload)

    def append_leaf(self, leaf: bytes, payload: bytes) -> Digest:
        """Append a ready leaf, whatever the verdict."""
        self.verdicts.append(replay(self.state, self.size, leaf, payload))
        self.tree.append(leaf)
        self.entries.append((leaf, payload))
        return digest(payload)

    def submit(self, statement: Statement, by: str = "admin") -> Digest:
        """Sign a statement as it is and append it one second later."""
        self.now += 1
        return self.append(encode(statement), namespace_of(statement), by)

    def approve(self, of: Digest, by: str) -> Verdict:
        """Append a further signature over an earlier payload."""
        self.now += 1
        payload = next(payload for _, payload in self.entries if digest(payload) == of)
        self.append(payload, NAMESPACE_APPROVE, by)
        return self.verdicts[-1]

    def root(self, by: str = "admin", **fields: Any) -> Digest:
        """Append the next root version, like the one before but for these fields."""
        before = msgspec.structs.asdict(self.root_statement)
        header = {**self.header(by), "version": self.root_statement.version + 1}
        self.root_statement = Root(**{**before, **header, **fields})
        return self.submit(self.root_statement, by)

    def grant(
        self,
        to: str,
        /,
        *actions: Action,
        by: str = "admin",
        select: Mapping[str, Sequence[str]] | None = None,
        **fields: Any,
    ) -> str:
        """Append a grant to a principal with the key of its name; returns the grant's id."""
        made = {
            "id": hashlib.sha256(f"grant {self.size}".encode()).hexdigest()[:32],
            "parent": None,
            "to": principal(to),
            "actions": actions,
            "select": {tag: tuple(values) for tag, values in (select or {}).items()},
            "not_before": T0 - 60,
            "not_after": T0 + YEAR_S,
        }
        statement = Grant(**{**self.header(by), **made, **fields})
        self.submit(statement, by)
        return statement.id

    def revoke(self, *, grant: str | None = None, key_name: str | None = None, by: str = "admin") -> Digest:
        """Append the end of a grant or of a named key."""
        ended = RevokeSubject(grant=grant, key=fingerprint(key_name) if key_name else None)
        return self.submit(Revoke(**self.header(by), subject=ended), by)

    def device(self, name: str, /, by: str = "admin", **fields: Any) -> Digest:
        """Append the next version of a named device, whose key is `name`; keeps what is not given."""
        record = self.state.devices.get(device_id(name))
        made: dict[str, Any] = {
            "device": device_id(name),
            "version": 1,
            "name": name,
            "key": key(name).public.text,
            "tags": {},
            "state": "active",
        }
        if record is not None:
            old = record.statement
            made |= {one: getattr(old, one) for one in ("name", "key", "tags", "state", "until")}
            made["version"] = old.version + 1
        return self.submit(Device(**{**self.header(by), **made, **fields}), by)

    def release(
        self, name: str, /, devices: Mapping[str, str] | None = None, by: str = "admin", **fields: Any
    ) -> tuple[Digest, LineTree | None]:
        """Append a release: device lines when given as {device: system}, else one selector line for all."""
        lines = LineTree([target_line(one, system) for one, system in devices.items()]) if devices else None
        made: dict[str, Any] = {"name": name, "caches": (CACHE,)}
        if lines is None:
            made["lines"] = (SelectLine(select={}, closure=closure(name)),)
        else:
            made["targets"] = lines.targets
        return self.submit(Release(**{**self.header(by), **made, **fields}), by), lines

    def rollout_statement(self, release: Digest | None, by: str = "admin", **fields: Any) -> Rollout:
        """Make, but do not append, a rollout of a release to everything at once."""
        made: dict[str, Any] = {
            "kind": "deploy",
            "release": release,
            "select": {},
            "waves": (Wave(members="100%"),),
            "max_in_flight": 100,
            "stop_at": StopAt(count=1),
            "soak_s": 0,
            "device_timeout_s": 3_600,
            "not_after": T0 + YEAR_S,
        }
        return Rollout(**{**self.header(by), **made, **fields})

    def rollout(self, release: Digest | None, by: str = "admin", **fields: Any) -> Digest:
        """Append a rollout of a release to everything at once, but for the fields given."""
        return self.submit(self.rollout_statement(release, by, **fields), by)

    def control(self, rollout: Digest, verb: str, by: str = "admin", **fields: Any) -> Digest:
        """Append a control with the `seq` that is due."""
        known = self.state.rollouts.get(rollout)
        made: dict[str, Any] = {"rollout": rollout, "seq": known.controls + 1 if known else 1, "verb": verb}
        return self.submit(Control(**{**self.header(by), **made, **fields}), by)
