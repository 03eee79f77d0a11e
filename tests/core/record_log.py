"""Makes a log with every kind of statement and of fault, and writes it down with the verdicts of today's replay.

`python -m tests.core.record_log` writes `tests/core/logs/protocol-N.jsonl`, once for each protocol, when it is new.
A file that is there is never written again: it says what the software of its day judged, and all later software has to.
"""

import base64
import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from tests.factories import T0, YEAR_S, Fleet, device_id, fingerprint, key, principal

from nixfleet.model.ids import PROTOCOL, Digest
from nixfleet.model.statements import CacheRef, Rule, StopAt, Wave
from nixfleet.trust.leaf import Leaf
from nixfleet.trust.replay import Follow, Hold, Idle, State, choose
from nixfleet.trust.statements import NAMESPACE_APPROVE, digest
from nixfleet.trust.words import verdict_words

FOLDER = Path(__file__).parent / "logs"
PROD = {"env": ["prod"]}
OTHER_CACHE = CacheRef(url="https://cache.example.org", key="other-1:" + "B" * 43 + "=")


@dataclass(frozen=True)
class Recording:
    """A log, and what each device was to follow at some of its sizes (`now` is the time there)."""

    fleet: Fleet
    choices: tuple[dict[str, Any], ...]


def recorded() -> Recording:
    """Make the log: two root principals and their rules first, then people, devices, updates, faults, and the end."""
    fleet = Fleet("admin", "second", threshold=2, at=T0)
    found = []
    for part in (_roots, _grants, _devices, _updates, _bounds, _faults, _envelopes, _ends):
        part(fleet)
        found.append({"size": fleet.size, "now": fleet.now, "devices": choices(fleet.state, fleet.now)})
    return Recording(fleet, tuple(found))


def both(fleet: Fleet, made: Any) -> Any:
    """Let the second root principal sign the newest entry as well; gives back what was made."""
    fleet.approve(digest(fleet.entries[-1][1]), "second")
    return made


def _roots(fleet: Fleet) -> None:
    """Let root 1 wait for its second signature; a version in two steps, one that is superseded, and wrong ones."""
    fleet.device("early")
    fleet.approve(Digest(fleet.fleet), "second")
    rules = (
        Rule(select={"env": ("prod",)}, actions=("deploy", "device", "control"), approvals=1, note_required=True),
        Rule(select={"env": ("prod",)}, actions=("deploy",), max_in_flight=2, min_soak_s=60),
        Rule(select={"env": ("prod",)}, actions=("revoke",), approvals=1),
    )
    in_force = fleet.root_statement
    loser = fleet.root("admin", urls=("http://loser",))
    fleet.root_statement = in_force
    both(
        fleet, fleet.root("admin", rules=rules, principals=(principal("admin", "admin", "spare"), principal("second")))
    )
    fleet.approve(loser, "second")
    fleet.approve(loser, "stranger")
    in_force = fleet.root_statement
    for fields in ({"version": 7}, {"threshold": 1}, {"urls": ()}, {"log": in_force.log, "version": 2}):
        _tampered(fleet, **fields)
    fleet.root("nobody", urls=("http://nobody",))
    fleet.root_statement = in_force


def _tampered(fleet: Fleet, by: str = "admin", **fields: Any) -> None:
    """Append a next root with fields that the strict writer would not let pass."""
    tree = {**msgspec.to_builtins(fleet.root_statement), **msgspec.to_builtins(fleet.header(by)), "version": 3}
    raw(fleet, {**tree, **msgspec.to_builtins(fields)}, "nixfleet-root-v1", by)


def raw(fleet: Fleet, tree: Any, namespace: str, by: str = "admin") -> None:
    """Sign whatever it is, one second later."""
    fleet.now += 1
    fleet.append(tree if isinstance(tree, bytes) else json.dumps(tree).encode(), namespace, by)


def _grants(fleet: Fleet) -> None:
    """Make a chain of three, an auditor, a token and approvers; and all in which a grant can be void."""
    top = both(fleet, fleet.grant("org", "release", "deploy", "rollback", "control", "grant", "device", depth=2))
    team = fleet.grant("team", "deploy", "grant", by="org", parent=top, depth=1, select=PROD, max_devices=5)
    fleet.grant("ci", "deploy", by="team", parent=team, select=PROD, max_devices=2, not_after=T0 + 90_000)
    for wrong in (
        {"select": {}, "max_devices": 5},
        {"select": PROD, "max_devices": 6},
        {"select": PROD, "max_devices": 5, "depth": 1},
        {"select": PROD, "max_devices": 5, "not_after": T0 + 2 * YEAR_S},
        {"select": PROD, "max_devices": 5, "parent": "0" * 32},
        {"select": PROD, "max_devices": 5, "id": top},
    ):
        fleet.grant("wrong", "deploy", by="team", **{"parent": team, **wrong})
    fleet.grant("wrong", "enroll", by="team", parent=team, select=PROD, max_devices=5)
    fleet.grant("wrong", "deploy", by="ci", parent=team, select=PROD, max_devices=1)
    fleet.grant("wrong", "deploy", by="org")
    fleet.grant("waits", "deploy")
    both(fleet, fleet.grant("auditor"))
    both(fleet, fleet.grant("checker", "approve"))
    both(fleet, fleet.grant("elsewhere", "approve", select={"env": ["dev"]}))
    both(fleet, fleet.grant("ops", "release", "deploy", "rollback", "control", "device", "enroll", "revoke"))
    both(fleet, fleet.grant("token", "enroll", select={"env": ["dev"]}, max_uses=1))
    both(fleet, fleet.grant("later", "deploy", not_before=T0 + YEAR_S // 2))


def _devices(fleet: Fleet) -> None:
    """Enrol by right, by token and by none; change tags, holds and keys, with approvals asked for and given."""
    fleet.device("web-01", by="ops", tags={"env": "prod"})
    fleet.device("web-02", by="ops", tags={"env": "prod"})
    fleet.device("dev-01", by="token", tags={"env": "dev"})
    fleet.device("dev-02", by="token", tags={"env": "dev"})
    fleet.device("dev-03", by="token", tags={"env": "dev", "more": "tags"})
    fleet.device("dev-04", by="auditor")
    fleet.device("dev-05", by="admin")
    fleet.approve(fleet.device("dev-06", by="admin"), "second")
    fleet.device("dev-01", by="ops", tags={"env": "dev", "site": "berlin"})
    fleet.device("web-01", by="ops", tags={"env": "dev"})
    moved = fleet.device("web-02", by="ops", tags={"env": "prod", "site": "oslo"}, note="T-1")
    fleet.approve(moved, "elsewhere")
    fleet.approve(moved, "ops")
    fleet.approve(moved, "checker")
    fleet.device("dev-01", by="dev-01", key=key("dev-01-new").public.text)
    fleet.device("dev-01", by="dev-01", state="retired")
    fleet.device("dev-01", by="ops", version=9)
    fleet.device("dev-06", by="ops", state="held", until=T0 + 9_999)
    fleet.device("dev-06", by="ops", state="active", until=None)


def _updates(fleet: Fleet) -> None:
    """Release by selector and by device; roll out with approvals, without, and back; control what is there."""
    release, _ = fleet.release("v1", by="ops")
    fleet.release("elsewhere", by="ops", caches=(OTHER_CACHE,))
    fleet.release("unheard", by="auditor")
    lines, _ = fleet.release("v2", {"web-01": "v2", "web-02": "v2"}, by="org")
    usual: dict[str, Any] = {"max_in_flight": 1, "soak_s": 60, "note": "T-2", "stop_at": StopAt(percent=10, at_least=2)}
    first = fleet.rollout(release, "ops", **usual)
    fleet.approve(first, "checker")
    fleet.approve(first, "checker")
    dev = fleet.rollout(release, "ops", select={"env": ("dev",)})
    fleet.rollout(lines, "ci", select={"env": ("prod",)}, **usual)
    waved = fleet.rollout(
        lines,
        "org",
        select={"env": ("prod",)},
        waves=(Wave(members={"env": ("prod",)}), Wave(members="100%", gate="signed")),
        **usual,
    )
    fleet.rollout(release, "later")
    fleet.rollout(release, "checker")
    fleet.rollout(None, "ops", kind="rollback", of=first)
    fleet.rollout(None, "ops", kind="rollback", of=Digest("e" * 64))
    for verb in ("pause", "resume"):
        fleet.control(dev, verb, by="ops")
    fleet.control(dev, "pause", by="ops", seq=1)
    fleet.control(dev, "retry", by="ops", devices="failed")
    fleet.control(dev, "retry", by="ops", devices=(device_id("dev-06"),))
    fleet.control(Digest("d" * 64), "pause", by="ops")
    fleet.control(dev, "pause", by="checker")
    advance = fleet.control(waved, "advance", by="org", wave=2, note="T-3")
    fleet.approve(advance, "checker")
    fleet.control(waved, "advance", by="org", wave=9, note="T-3")
    fleet.control(waved, "cancel", by="admin", note="T-3")


def _bounds(fleet: Fleet) -> None:
    """Go to where rights end: names that others gave, tags that bring a rollout, a revocation that rules bind."""
    lab = both(fleet, fleet.grant("lab", "release", "deploy", "grant", select={"env": ["lab"]}, depth=1))
    fleet.grant("two", by="lab", parent=lab, select={"env": ["lab"]}, to=principal("two", "ops", "checker"))
    release, _ = fleet.release("v3", by="ops")
    usual: dict[str, Any] = {"max_in_flight": 1, "soak_s": 60, "note": "T-5"}
    fleet.approve(fleet.rollout(release, "ops", select={"env": ("prod",)}, **usual), "checker")
    both(fleet, fleet.grant("tagger", "device"))
    lab_release, _ = fleet.release("lab", by="lab")
    fleet.rollout(lab_release, "lab")
    fleet.device("dev-06", by="tagger", tags={"env": "lab"})
    fleet.device("dev-06", by="tagger", tags={"site": "oslo"})
    fleet.device("dev-06", by="ops", tags={"env": "lab"})
    fleet.device("dev-06", by="ops", tags={})
    both(fleet, fleet.grant("short", "deploy", select=PROD))
    short = next(id_ for id_, one in fleet.state.grants.items() if one.principal == "short")
    fleet.approve(fleet.revoke(grant=short, by="ops"), "checker")
    both(fleet, fleet.grant("short", "deploy", select={"env": ["dev"]}))
    fleet.revoke(grant=list(fleet.state.grants)[-1], by="ops")


def _faults(fleet: Fleet) -> None:
    """Append what is void by its leaf: none, no signature, a wrong namespace, a stranger, a repeat, time back."""
    again = fleet.entries[-1]
    sha512 = hashlib.sha512(b"{}").digest()
    fleet.append_leaf(b"no  leaf" + sha512, b"{}")
    fleet.append_leaf(Leaf(fleet.now, sha512, b"no signature").pack(), b"{}")
    fleet.append(b"{}", "nixfleet-unheard-of-v1", "admin")
    fleet.append(b"{}", "nixfleet-rollout-v1", "stranger")
    spoiled = bytearray(fleet.leaf(b"{}", "nixfleet-rollout-v1", "ops"))
    spoiled[-1] ^= 1
    fleet.append_leaf(bytes(spoiled), b"{}")
    fleet.append_leaf(*again)
    fleet.append(again[1], NAMESPACE_APPROVE, "auditor")
    fleet.append(b'{"nothing": "of these"}', NAMESPACE_APPROVE, "checker")
    fleet.now -= 60
    fleet.grant("past", "deploy")
    fleet.now += 60


def _envelopes(fleet: Fleet) -> None:
    """Append what is well signed, and void for its payload: malformed, too new, for others, of another time or base."""
    sound = json.loads(_payload(fleet, "rollout"))
    sound |= msgspec.to_builtins(fleet.header("ops"))
    namespace = "nixfleet-rollout-v1"
    for change in (
        {"v": PROTOCOL + 1},
        {"surprise": 1},
        {"soak_s": 1.5},
        {"fleet": "f" * 64},
        {"by": fingerprint("org")},
        {"at": fleet.now - 90_000},
        {"at": fleet.now + 1_000},
        {"base": {"size": fleet.size + 5, "root": "a" * 64}},
        {"base": {"size": 3, "root": "a" * 64}},
        {"type": "unheard"},
        {"not_after": 0},
    ):
        raw(fleet, {**sound, **change}, namespace, "ops")
    raw(fleet, sound, "nixfleet-release-v1", "ops")
    raw(fleet, sound, "nixfleet-grant-v1", "admin")
    for text in (b"", b"[]", b'{"type":"rollout","type":"root"}', b"\xff", b"[" * 99):
        raw(fleet, text, namespace, "ops")
    for kind in ("grant", "revoke", "release"):
        raw(fleet, {**json.loads(_payload(fleet, kind, default="{}")), "surprise": 1}, f"nixfleet-{kind}-v1", "org")
    raw(fleet, b"{}", f"nixfleet-device-v1@{device_id('web-01')}", "ops")
    raw(fleet, b"{ }", f"nixfleet-control-v1@{next(iter(fleet.state.rollouts))[:32]}", "ops")


def _payload(fleet: Fleet, kind: str, default: str = "") -> str:
    """Give the newest payload of a type that was signed as such."""
    for leaf, payload in reversed(fleet.entries):
        if f"nixfleet-{kind}-v1".encode() in leaf and payload.startswith(f'{{"type":"{kind}"'.encode()):
            return payload.decode()
    return default


def _ends(fleet: Fleet) -> None:
    """End grants, keys and a root principal, with what that cuts off; dates; then a last root."""
    fleet.revoke(grant="0" * 32, by="ops")
    team = next(id_ for id_, one in fleet.state.grants.items() if one.principal == "org/team")
    fleet.revoke(grant=team, by="auditor")
    fleet.revoke(grant=team, by="org")
    fleet.revoke(grant=team, by="org")
    fleet.rollout(None, "ci", kind="rollback", of=next(iter(fleet.state.rollouts)))
    fleet.revoke(key_name="later", by="later")
    fleet.revoke(key_name="second", by="admin")
    fleet.revoke(key_name="elsewhere", by="auditor")
    fleet.approve(fleet.revoke(key_name="ci", by="ops"), "checker")
    fleet.revoke(key_name="ci", by="ops")
    both(fleet, fleet.revoke(key_name="checker", by="spare"))
    fleet.now += 100_000
    fleet.device("dev-06", by="ops", tags={"site": "oslo"})
    fleet.rollout(next(iter(fleet.state.releases)), "ops", select={"env": ("dev",)})
    fleet.device("web-02", by="ops", state="retired", note="T-4")
    fleet.device("dev-06", by="ops", state="retired")
    fleet.device("dev-06", by="ops", state="active")
    fleet.revoke(key_name="admin", by="spare")
    fleet.grant("late", "deploy", by="admin")
    fleet.device("dev-07", by="ops")
    fleet.admins = ("spare", "second")
    both(fleet, fleet.root("spare", principals=(principal("spare"), principal("second"), principal("third"))))


def choices(state: State, now: int) -> dict[str, str]:
    """Say for each device what it should follow, or why nothing: rights at use are a part of the protocol, too."""
    return {record.statement.name: _choice(state, device, now) for device, record in state.devices.items()}


def _choice(state: State, device: str, now: int) -> str:
    # As of a device that has a line in each release with lines, and has confirmed nothing yet.
    match choose(state, device, now, covers=lambda one: one.statement.kind == "deploy"):
        case Follow(rollout=one):
            return f"follow {one.digest}"
        case Hold(kind=kind, rollout=one):
            return f"hold {kind} {one.digest if one is not None else ''}".rstrip()
        case Idle(skipped=skipped):
            return " ".join(["idle", *(f"{skip.kind}:{skip.rollout.digest[:8]}" for skip in skipped)])


def written(recording: Recording) -> str:
    """Write a log down: its head, then each entry with its verdict and the reason as it was put in that day's words."""
    fleet = recording.fleet
    head = {
        "fleet": fleet.fleet,
        "protocol": PROTOCOL,
        "checkpoint": fleet.checkpoint.decode(),
        "choices": recording.choices,
    }
    lines = [json.dumps(head)]
    for (leaf, payload), verdict in zip(fleet.entries, fleet.verdicts, strict=True):
        word, why = verdict_words(verdict)
        packed = {"leaf": base64.b64encode(leaf).decode(), "payload": base64.b64encode(payload).decode()}
        lines.append(json.dumps({**packed, "verdict": word, "why": why}))
    return "\n".join(lines) + "\n"


def main(say: Callable[[str], object] = print) -> int:
    """Write the log of this protocol, unless there is one."""
    path = FOLDER / f"protocol-{PROTOCOL}.jsonl"
    if path.exists():
        say(f"{path.name} is there; it is never written again")
        return 1
    path.write_text(written(recorded()))
    say(f"{path.name} is written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
